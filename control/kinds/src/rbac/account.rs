//! The user names of service accounts, and the groups that come with them.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/>. A name that no
//! account can have is any other user's: `system:serviceaccount:a:b:c` is no account of `a`.

use crate::syntax;

/// What the user names of service accounts begin with.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Namespace and name of the service account that a user is.
pub fn account_of(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    (syntax::label(namespace).is_empty() && syntax::subdomain(name).is_empty()).then_some((namespace, name))
}

/// The groups that a service account is in by its name; none for other users.
pub fn account_groups(user: &str) -> Vec<String> {
    match account_of(user) {
        Some((namespace, _)) => {
            vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
        }
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_users_are_accounts() {
        assert_eq!(account_of("system:serviceaccount:a:b.c"), Some(("a", "b.c")));
        assert_eq!(account_groups("system:serviceaccount:a:b").len(), 2);
        for user in ["a:b:c", "a.b:c", "a", "a:", ":b", "a:B", ""] {
            let user = format!("{SERVICE_ACCOUNT_PREFIX}{user}");
            assert_eq!((account_of(&user), account_groups(&user).len()), (None, 0), "{user}");
        }
        assert_eq!(account_of("a:b"), None);
    }
}
