//! RuntimeClass: a name for how containers are run, with what that costs and where it can be had.
//!
//! <https://kubernetes.io/docs/concepts/containers/runtime-class/>. What runs a container follows
//! from its image, so the handler makes no difference here; overhead and scheduling do, and are
//! merged into pods at their admission.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::api::node::v1::RuntimeClass;
use proa_api::field::{FieldErrors, Path};

use super::pod;
use crate::columns::{age, column, name, text};
use crate::rules::{TypedRules, row};
use crate::syntax::{self, IMMUTABLE, report};
use crate::{Kind, meta};

/// The rules of RuntimeClasses.
pub struct RuntimeClasses;

/// The row of RuntimeClasses.
pub fn kind() -> Kind {
    Kind {
        unconditional_update: false,
        columns: vec![
            name(),
            column("Handler", "string", "The runtime that containers ask for.", |o, _| {
                text(o, "/handler").into()
            }),
            age(),
        ],
        ..row::<RuntimeClasses>()
    }
}

impl TypedRules for RuntimeClasses {
    type Object = RuntimeClass;
    const NAMESPACED: bool = false;

    fn validate(class: &RuntimeClass, errors: &mut FieldErrors) {
        report(syntax::label(&class.handler), &Path::root("handler"), &class.handler, errors);
        let (overhead, scheduling) = (Path::root("overhead"), Path::root("scheduling"));
        if let Some(fixed) = class.overhead.as_ref().and_then(|o| o.pod_fixed.as_ref()) {
            let limits = ResourceRequirements { limits: Some(fixed.clone()), ..Default::default() };
            pod::requirements(Some(&limits), &overhead.field("podFixed"), errors);
        }
        let Some(wanted) = &class.scheduling else { return };
        meta::labels(wanted.node_selector.as_ref(), &scheduling.field("nodeSelector"), errors);
        let tolerations = wanted.tolerations.as_deref().unwrap_or_default();
        let path = scheduling.field("tolerations");
        pod::tolerations(tolerations, &path, errors);
        let mut seen = BTreeSet::new();
        for (i, toleration) in tolerations.iter().enumerate() {
            if !seen.insert((pod::toleration_key(toleration), toleration.toleration_seconds)) {
                let value = serde_json::to_value(toleration).unwrap_or_default();
                errors.duplicate(&path.index(i), value);
            }
        }
    }

    fn validate_update(old: &RuntimeClass, new: &RuntimeClass, errors: &mut FieldErrors) {
        if old.handler != new.handler {
            errors.invalid(&Path::root("handler"), new.handler.as_str(), IMMUTABLE);
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals, update_refusals};

    const BASE: &str =
        "{apiVersion: node.k8s.io/v1, kind: RuntimeClass, handler: spin, overhead: {podFixed: {cpu: 0.1}}}";

    #[test]
    fn rules() {
        created(
            BASE,
            expect![[r#"
                apiVersion: node.k8s.io/v1
                kind: RuntimeClass
                handler: spin
                metadata:
                  name: x
                overhead:
                  podFixed:
                    cpu: 100m
            "#]],
        );
        refusals(
            BASE,
            &[
                "{handler: ''}",
                "{handler: a/b}",
                "{overhead: {podFixed: {cpu: -1}}}",
                "{scheduling: {nodeSelector: {a b: c}, tolerations: [{operator: Exists}, {operator: Exists}]}}",
            ],
            expect![[r#"
                handler: Invalid value: "": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
                handler: Invalid value: "a/b": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
                overhead.podFixed.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0
                scheduling.nodeSelector: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
                scheduling.tolerations[1]: Duplicate value: {"operator":"Exists"}
            "#]],
        );
        update_refusals(
            BASE,
            &["{handler: other}", "{overhead: null}"],
            expect![[r#"
                handler: Invalid value: "other": field is immutable
                accepted: {"overhead":null}
            "#]],
        );
    }
}
