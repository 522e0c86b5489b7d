//! PodDisruptionBudget: how many of some pods may be taken away on purpose at a time.
//!
//! <https://kubernetes.io/docs/tasks/run-application/configure-pdb/>.

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use proa_api::field::{FieldErrors, Path};
use serde_json::Value;

use super::template;
use crate::columns::{age, column, name, number};
use crate::rules::{TypedRules, row};
use crate::syntax::{NOT_NEGATIVE, one_of};
use crate::{Kind, meta};

const SPEC: Path<'static> = Path::root("spec");
const POLICIES: [&str; 2] = ["AlwaysAllow", "IfHealthyBudget"];

/// The rules of PodDisruptionBudgets.
pub struct PodDisruptionBudgets;

/// The row of PodDisruptionBudgets.
pub fn kind() -> Kind {
    Kind {
        unconditional_update: false,
        short_names: vec!["pdb".into()],
        has_generation: true,
        columns: vec![
            name(),
            column("Min Available", "string", "The pods that must stay available.", |o, _| {
                amount(o, "/spec/minAvailable").into()
            }),
            column("Max Unavailable", "string", "The pods that may be unavailable.", |o, _| {
                amount(o, "/spec/maxUnavailable").into()
            }),
            column("Allowed Disruptions", "integer", "How many pods may go now.", |o, _| {
                number(o, "/status/disruptionsAllowed").into()
            }),
            age(),
        ],
        ..row::<PodDisruptionBudgets>()
    }
}

fn amount(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => "N/A".to_owned(),
    }
}

impl TypedRules for PodDisruptionBudgets {
    type Object = PodDisruptionBudget;
    const HAS_STATUS: bool = true;

    fn default(budget: &mut PodDisruptionBudget) {
        budget.spec.get_or_insert_default();
        budget.status.get_or_insert_default();
    }

    fn validate(budget: &PodDisruptionBudget, errors: &mut FieldErrors) {
        let Some(spec) = &budget.spec else { return };
        if spec.min_available.is_some() && spec.max_unavailable.is_some() {
            let value = serde_json::to_value(spec).unwrap_or_default();
            errors.invalid(&SPEC, value, "minAvailable and maxUnavailable cannot be both set");
        }
        for (field, amount) in
            [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)]
        {
            if let Some(amount) = amount {
                template::int_or_percent(amount, &SPEC.field(field), errors);
                template::at_most_all(amount, &SPEC.field(field), errors);
            }
        }
        if let Some(selector) = &spec.selector {
            meta::label_selector(selector, &SPEC.field("selector"), errors);
        }
        if let Some(policy) = spec.unhealthy_pod_eviction_policy.as_deref() {
            one_of(Some(policy), &POLICIES, &SPEC.field("unhealthyPodEvictionPolicy"), errors);
        }
    }

    fn validate_status_update(
        _old: &PodDisruptionBudget,
        new: &PodDisruptionBudget,
        errors: &mut FieldErrors,
    ) {
        let Some(status) = &new.status else { return };
        let path = Path::root("status");
        let counts = [
            ("disruptionsAllowed", status.disruptions_allowed),
            ("currentHealthy", status.current_healthy),
            ("desiredHealthy", status.desired_healthy),
            ("expectedPods", status.expected_pods),
        ];
        for (field, count) in counts.into_iter().filter(|(_, count)| *count < 0) {
            errors.invalid(&path.field(field), count, NOT_NEGATIVE);
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals, update_refusals};

    const BASE: &str = "{apiVersion: policy/v1, kind: PodDisruptionBudget, \
                        spec: {minAvailable: 50%, selector: {matchLabels: {a: b}}}}";

    #[test]
    fn rules() {
        created(
            BASE,
            expect![[r#"
                apiVersion: policy/v1
                kind: PodDisruptionBudget
                metadata:
                  name: x
                  namespace: default
                spec:
                  minAvailable: 50%
                  selector:
                    matchLabels:
                      a: b
                status:
                  currentHealthy: 0
                  desiredHealthy: 0
                  disruptionsAllowed: 0
                  expectedPods: 0
            "#]],
        );
        refusals(
            BASE,
            &[
                "{spec: {maxUnavailable: 1}}",
                "{spec: {minAvailable: -1}}",
                "{spec: {minAvailable: 101%}}",
                "{spec: {minAvailable: half}}",
                "{spec: {unhealthyPodEvictionPolicy: Never}}",
                "{spec: {selector: {matchExpressions: [{key: a, operator: In}]}}}",
                "{spec: {minAvailable: null, maxUnavailable: 0, selector: {matchLabels: null}}}",
            ],
            expect![[r#"
                spec: Invalid value: {"maxUnavailable":1,"minAvailable":"50%","selector":{"matchLabels":{"a":"b"}}}: minAvailable and maxUnavailable cannot be both set
                spec.minAvailable: Invalid value: -1: must be greater than or equal to 0
                spec.minAvailable: Invalid value: "101%": must not be greater than 100%
                spec.minAvailable: Invalid value: "half": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')
                spec.unhealthyPodEvictionPolicy: Unsupported value: "Never": supported values: "AlwaysAllow", "IfHealthyBudget"
                spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'
                accepted: {"spec":{"minAvailable":null,"maxUnavailable":0,"selector":{"matchLabels":null}}}
            "#]],
        );
        update_refusals(
            BASE,
            &["{spec: {minAvailable: 2}}", "{spec: {selector: {matchLabels: {c: d}}}}"],
            expect![[r#"
                accepted: {"spec":{"minAvailable":2}}
                accepted: {"spec":{"selector":{"matchLabels":{"c":"d"}}}}
            "#]],
        );
    }
}
