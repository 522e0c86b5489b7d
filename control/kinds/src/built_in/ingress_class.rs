//! IngressClass: which controller serves the Ingresses that name the class.

use k8s_openapi::api::networking::v1::{IngressClass, IngressClassParametersReference};
use proa_api::field::{FieldErrors, Path};

use crate::Kind;
use crate::columns::{age, column, name, text};
use crate::meta::NameFormat;
use crate::rules::{TypedRules, row};
use crate::syntax::{self, IMMUTABLE, report};

const CONTROLLER_MAX_BYTES: usize = 250;

/// The rules of IngressClasses.
pub struct IngressClasses;

/// The row of IngressClasses.
pub fn kind() -> Kind {
    Kind {
        has_generation: true,
        columns: vec![
            name(),
            column(
                "Controller",
                "string",
                "Controller that is responsible for handling this class",
                |o, _| text(o, "/spec/controller").into(),
            ),
            column("Parameters", "string", "A reference to a resource with additional parameters", |o, _| {
                parameters(o).into()
            }),
            age(),
        ],
        ..row::<IngressClasses>()
    }
}

fn parameters(class: &serde_json::Value) -> String {
    let (group, kind, name) = (
        text(class, "/spec/parameters/apiGroup"),
        text(class, "/spec/parameters/kind"),
        text(class, "/spec/parameters/name"),
    );
    match (kind, group) {
        ("", _) => "<none>".to_owned(),
        (kind, "") => format!("{kind}/{name}"),
        (kind, group) => format!("{kind}.{group}/{name}"),
    }
}

impl TypedRules for IngressClasses {
    type Object = IngressClass;
    const NAMESPACED: bool = false;

    fn default(class: &mut IngressClass) {
        let spec = class.spec.get_or_insert_default();
        if let Some(parameters) = &mut spec.parameters {
            parameters.scope.get_or_insert_with(|| "Cluster".to_owned());
        }
    }

    fn validate(class: &IngressClass, errors: &mut FieldErrors) {
        let Some(spec) = &class.spec else { return };
        let path = Path::root("spec");
        let controller = spec.controller.as_deref().unwrap_or_default();
        let at = path.field("controller");
        if controller.len() > CONTROLLER_MAX_BYTES {
            errors.too_long(&at, CONTROLLER_MAX_BYTES);
        }
        match controller.split_once('/') {
            _ if controller.is_empty() => errors.required(&at, ""),
            Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
                report(syntax::subdomain(host), &at, host, errors);
            }
            _ => {
                let text = "must be a domain-prefixed path (such as \"acme.io/foo\")";
                errors.invalid(&at, controller, text);
            }
        }
        if let Some(parameters) = &spec.parameters {
            validate_parameters(parameters, &path.field("parameters"), errors);
        }
    }

    fn validate_update(old: &IngressClass, new: &IngressClass, errors: &mut FieldErrors) {
        let controller = |class: &IngressClass| class.spec.as_ref().and_then(|spec| spec.controller.clone());
        if controller(old) != controller(new) {
            let value = controller(new).unwrap_or_default();
            errors.invalid(&Path::root("spec").field("controller"), value, IMMUTABLE);
        }
    }
}

fn validate_parameters(
    parameters: &IngressClassParametersReference,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if let Some(group) = parameters.api_group.as_deref().filter(|group| !group.is_empty()) {
        report(syntax::subdomain(group), &path.field("apiGroup"), group, errors);
    }
    for (field, value) in [("kind", &parameters.kind), ("name", &parameters.name)] {
        if value.is_empty() {
            errors.required(&path.field(field), "");
        } else {
            report(NameFormat::PathSegment.faults(value, false), &path.field(field), value, errors);
        }
    }
    let namespace = parameters.namespace.as_deref().unwrap_or_default();
    match parameters.scope.as_deref().unwrap_or_default() {
        "" => errors.required(&path.field("scope"), ""),
        "Namespace" if namespace.is_empty() => {
            errors.required(&path.field("namespace"), "`parameters.scope` is set to 'Namespace'")
        }
        "Namespace" => report(syntax::label(namespace), &path.field("namespace"), namespace, errors),
        "Cluster" if parameters.namespace.is_some() => {
            errors.forbidden(&path.field("namespace"), "`parameters.scope` is set to 'Cluster'");
        }
        "Cluster" => {}
        other => errors.not_supported(&path.field("scope"), other, &["Cluster", "Namespace"]),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals, update_refusals};

    const BASE: &str = "{apiVersion: networking.k8s.io/v1, kind: IngressClass, spec: {controller: a.b/c}}";

    #[test]
    fn rules() {
        created(
            &BASE.replace("}}", ", parameters: {kind: K, name: n}}}"),
            expect![[r#"
            apiVersion: networking.k8s.io/v1
            kind: IngressClass
            metadata:
              name: x
            spec:
              controller: a.b/c
              parameters:
                kind: K
                name: n
                scope: Cluster
        "#]],
        );
        refusals(
            BASE,
            &[
                "{metadata: {namespace: n}}",
                "{spec: {controller: ''}}",
                "{spec: {controller: plain}}",
                "{spec: {controller: A.b/c}}",
                "{spec: {parameters: {kind: '', name: a/b}}}",
                "{spec: {parameters: {kind: K, name: n, scope: Namespace}}}",
                "{spec: {parameters: {kind: K, name: n, namespace: n}}}",
                "{spec: {parameters: {kind: K, name: n, scope: World}}}",
            ],
            expect![[r#"
                metadata.namespace: Forbidden: not allowed on this type
                spec.controller: Required value
                spec.controller: Invalid value: "plain": must be a domain-prefixed path (such as "acme.io/foo")
                spec.controller: Invalid value: "A.b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.parameters.kind: Required value
                spec.parameters.name: Invalid value: "a/b": may not contain '/'
                spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'
                spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'
                spec.parameters.scope: Unsupported value: "World": supported values: "Cluster", "Namespace"
            "#]],
        );
        update_refusals(
            BASE,
            &["{spec: {controller: d.e/f}}"],
            expect![[r#"
            spec.controller: Invalid value: "d.e/f": field is immutable
        "#]],
        );
    }
}
