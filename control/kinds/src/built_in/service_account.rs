//! ServiceAccount: who a pod is to the API server.

use k8s_openapi::api::core::v1::ServiceAccount;

use crate::columns::{age, column, count, name};
use crate::rules::{TypedRules, row};
use crate::{Kind, Subresource};

/// The rules of ServiceAccounts.
pub struct ServiceAccounts;

/// The row of ServiceAccounts.
pub fn kind() -> Kind {
    Kind {
        short_names: vec!["sa".into()],
        columns: vec![
            name(),
            column("Secrets", "string", "Number of secrets that pods of this account may use.", |o, _| {
                count(o, "/secrets").into()
            }),
            age(),
        ],
        ..row::<ServiceAccounts>()
    }
    .with([Subresource::action(
        "token",
        Some(("authentication.k8s.io", "v1", "TokenRequest")),
        &["create"],
    )])
}

impl TypedRules for ServiceAccounts {
    type Object = ServiceAccount;
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals};

    const BASE: &str = "{apiVersion: v1, kind: ServiceAccount, imagePullSecrets: [{name: s}]}";

    #[test]
    fn rules() {
        created(
            BASE,
            expect![[r#"
            apiVersion: v1
            kind: ServiceAccount
            imagePullSecrets:
            - name: s
            metadata:
              name: x
              namespace: default
        "#]],
        );
        refusals(
            BASE,
            &["{metadata: {name: A}}"],
            expect![[r#"
            metadata.name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        "#]],
        );
    }
}
