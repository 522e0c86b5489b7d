//! Lease: who holds something, and until when: node heartbeats and leader election.

use k8s_openapi::api::coordination::v1::Lease;
use proa_api::field::{FieldErrors, Path};

use crate::columns::{age, column, name, text};
use crate::rules::{TypedRules, row};
use crate::syntax::{self, report};
use crate::{Durability, Kind};

/// The rules of Leases.
pub struct Leases;

/// The row of Leases.
pub fn kind() -> Kind {
    Kind {
        unconditional_update: false,
        durability: Durability::Lazy,
        columns: vec![
            name(),
            column("Holder", "string", "The identity of the holder of the lease.", |o, _| {
                text(o, "/spec/holderIdentity").into()
            }),
            age(),
        ],
        ..row::<Leases>()
    }
}

impl TypedRules for Leases {
    type Object = Lease;

    fn default(lease: &mut Lease) {
        lease.spec.get_or_insert_default();
    }

    fn validate(lease: &Lease, errors: &mut FieldErrors) {
        let Some(spec) = &lease.spec else { return };
        let path = Path::root("spec");
        if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
            errors.invalid(&path.field("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        if let Some(transitions) = spec.lease_transitions.filter(|transitions| *transitions < 0) {
            errors.invalid(&path.field("leaseTransitions"), transitions, syntax::NOT_NEGATIVE);
        }
        if let Some(strategy) = spec.strategy.as_deref().filter(|strategy| !strategy.is_empty()) {
            let faults = syntax::qualified_name(strategy);
            if !strategy.contains('/') && strategy != "OldestEmulationVersion" {
                let text = "must be a domain-prefixed key (such as \"acme.io/foo\")";
                errors.invalid(&path.field("strategy"), strategy, text);
            }
            report(faults, &path.field("strategy"), strategy, errors);
        }
        let preferred = spec.preferred_holder.as_deref().unwrap_or_default();
        if !preferred.is_empty() && spec.strategy.as_deref().unwrap_or_default().is_empty() {
            errors.forbidden(
                &path.field("preferredHolder"),
                "may only be specified when `strategy` is defined",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals};

    const BASE: &str = "{apiVersion: coordination.k8s.io/v1, kind: Lease}";

    #[test]
    fn rules() {
        created(
            &BASE.replace('}', ", spec: {renewTime: '2030-01-01T00:00:00.123456Z'}}"),
            expect![[r#"
            apiVersion: coordination.k8s.io/v1
            kind: Lease
            metadata:
              name: x
              namespace: default
            spec:
              renewTime: 2030-01-01T00:00:00.123456Z
        "#]],
        );
        refusals(
            BASE,
            &[
                "{spec: {leaseDurationSeconds: 0, leaseTransitions: -1}}",
                "{spec: {preferredHolder: a}}",
                "{spec: {strategy: plain}}",
            ],
            expect![[r#"
                spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0
                spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0
                spec.preferredHolder: Forbidden: may only be specified when `strategy` is defined
                spec.strategy: Invalid value: "plain": must be a domain-prefixed key (such as "acme.io/foo")
            "#]],
        );
    }
}
