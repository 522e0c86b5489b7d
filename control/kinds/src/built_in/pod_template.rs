//! PodTemplate: a pod template on its own, for whoever wants to keep one.
//!
//! Nothing makes pods of it.

use k8s_openapi::api::core::v1::PodTemplate;
use proa_api::field::{FieldErrors, Path};

use super::template;
use crate::columns::{items, join, name, pairs, text};
use crate::rules::{TypedRules, row};
use crate::{Kind, columns::column};

/// The rules of PodTemplates.
pub struct PodTemplates;

/// The row of PodTemplates.
pub fn kind() -> Kind {
    Kind {
        has_generation: true,
        columns: vec![
            name(),
            column("Containers", "string", "Names of each container in the template.", |o, _| {
                join(items(o, "/template/spec/containers").map(|c| text(c, "/name"))).into()
            }),
            column("Images", "string", "Images referenced by each container in the template.", |o, _| {
                join(items(o, "/template/spec/containers").map(|c| text(c, "/image"))).into()
            }),
            column("Pod Labels", "string", "The labels for the pod template.", |o, _| {
                pairs(o.pointer("/template/metadata/labels")).into()
            }),
        ],
        ..row::<PodTemplates>()
    }
}

impl TypedRules for PodTemplates {
    type Object = PodTemplate;

    fn default(object: &mut PodTemplate) {
        template::default(object.template.get_or_insert_default());
    }

    fn validate(object: &PodTemplate, errors: &mut FieldErrors) {
        if let Some(template) = &object.template {
            template::validate_pod(template, &Path::root("template"), errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::refusals;

    #[test]
    fn rules() {
        refusals(
            "{apiVersion: v1, kind: PodTemplate, template: {spec: {containers: [{name: c, image: i}]}}}",
            &["{}", "{template: null}", "{template: {metadata: {labels: {a: b c}}}}"],
            expect![[r#"
                accepted: {}
                template.spec.containers: Required value
                template.metadata.labels: Invalid value: "b c": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
            "#]],
        );
    }
}
