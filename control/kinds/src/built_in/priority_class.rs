//! PriorityClass: a name for how much a pod matters.
//!
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/#priorityclass>.
//! What it means to a pod is decided at the pod's admission.

use k8s_openapi::api::scheduling::v1::PriorityClass;
use proa_api::field::{FieldErrors, Path};
use proa_api::names::SYSTEM_PRIORITY_CLASSES;
use serde_json::Value;

use crate::Kind;
use crate::columns::{age, column, name, number, text};
use crate::rules::{TypedRules, row};
use crate::syntax::{IMMUTABLE, one_of};

/// Names with this prefix are the cluster's own.
const SYSTEM_PREFIX: &str = "system-";
/// The most that a class of a user may be worth.
const USER_MAX: i32 = 1_000_000_000;
const POLICIES: [&str; 2] = ["PreemptLowerPriority", "Never"];

/// The rules of PriorityClasses.
pub struct PriorityClasses;

/// The row of PriorityClasses.
pub fn kind() -> Kind {
    Kind {
        short_names: vec!["pc".into()],
        has_generation: true,
        columns: vec![
            name(),
            column("Value", "integer", "The priority of pods of the class.", |o, _| {
                number(o, "/value").into()
            }),
            column("Global-Default", "boolean", "True if pods without a class have this one.", |o, _| {
                o.pointer("/globalDefault").and_then(Value::as_bool).unwrap_or_default().into()
            }),
            age(),
            column("PreemptionPolicy", "string", "Whether its pods push out others.", |o, _| {
                text(o, "/preemptionPolicy").into()
            }),
        ],
        ..row::<PriorityClasses>()
    }
}

impl TypedRules for PriorityClasses {
    type Object = PriorityClass;
    const NAMESPACED: bool = false;

    fn default(class: &mut PriorityClass) {
        class.global_default = class.global_default.filter(|default| *default);
        class.preemption_policy.get_or_insert_with(|| POLICIES[0].to_owned());
    }

    fn validate(class: &PriorityClass, errors: &mut FieldErrors) {
        let name = class.metadata.name.as_deref().unwrap_or_default();
        if name.starts_with(SYSTEM_PREFIX) {
            if let Some(why) = not_of_the_system(class, name) {
                let text = format!(
                    "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. \
                     error: {why}"
                );
                errors.forbidden(&Path::root("metadata").field("name"), text);
            }
        } else if class.value > USER_MAX {
            let text = format!("maximum allowed value of a user defined priority is {USER_MAX}");
            errors.forbidden(&Path::root("value"), text);
        }
        let path = Path::root("preemptionPolicy");
        one_of(class.preemption_policy.as_deref(), &POLICIES, &path, errors);
    }

    fn validate_update(old: &PriorityClass, new: &PriorityClass, errors: &mut FieldErrors) {
        if old.value != new.value {
            errors.forbidden(&Path::root("value"), "may not be changed in an update.");
        }
        if old.preemption_policy != new.preemption_policy {
            let policy = new.preemption_policy.as_deref();
            errors.invalid(&Path::root("preemptionPolicy"), policy, IMMUTABLE);
        }
    }
}

/// Why a class with a name of the cluster's own is none of them.
fn not_of_the_system(class: &PriorityClass, name: &str) -> Option<String> {
    let Some((_, value, _)) = SYSTEM_PRIORITY_CLASSES.iter().find(|(known, _, _)| *known == name) else {
        return Some(format!("{name} is not a known system priority class"));
    };
    if class.value != *value {
        return Some(format!("value of {name} PriorityClass must be {value}"));
    }
    let default = class.global_default == Some(true);
    default.then(|| format!("globalDefault of {name} PriorityClass must be false"))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals, update_refusals};

    const BASE: &str = "{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, value: 1000}";

    #[test]
    fn rules() {
        created(
            BASE,
            expect![[r#"
                apiVersion: scheduling.k8s.io/v1
                kind: PriorityClass
                metadata:
                  name: x
                preemptionPolicy: PreemptLowerPriority
                value: 1000
            "#]],
        );
        refusals(
            BASE,
            &[
                "{value: 1000000001}",
                "{value: -5, globalDefault: true}",
                "{preemptionPolicy: Sometimes}",
                "{metadata: {name: system-mine}}",
                "{metadata: {name: system-node-critical}}",
                "{metadata: {name: system-node-critical}, value: 2000001000, globalDefault: true}",
                "{metadata: {name: system-cluster-critical}, value: 2000000000}",
            ],
            expect![[r#"
                value: Forbidden: maximum allowed value of a user defined priority is 1000000000
                accepted: {"value":-5,"globalDefault":true}
                preemptionPolicy: Unsupported value: "Sometimes": supported values: "PreemptLowerPriority", "Never"
                metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class
                metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: value of system-node-critical PriorityClass must be 2000001000
                metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: globalDefault of system-node-critical PriorityClass must be false
                accepted: {"metadata":{"name":"system-cluster-critical"},"value":2000000000}
            "#]],
        );
        update_refusals(
            BASE,
            &["{value: 5}", "{preemptionPolicy: Never}", "{description: mine, globalDefault: true}"],
            expect![[r#"
                value: Forbidden: may not be changed in an update.
                preemptionPolicy: Invalid value: "Never": field is immutable
                accepted: {"description":"mine","globalDefault":true}
            "#]],
        );
    }
}
