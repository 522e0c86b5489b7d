//! What of the proxy's room each caller may take.

use std::sync::Arc;

use proa_api::Refusal;
use proa_api::shares::{Share, Shares};
use proa_kinds::rbac::SERVICE_ACCOUNT_PREFIX;

use crate::registry::Caller;

/// One of what all callers share.
pub(super) fn take(shares: &Arc<Shares<String>>, caller: &Caller) -> Result<Share<String>, Refusal> {
    shares.take(holder(&caller.user).to_owned()).ok_or_else(|| {
        Refusal::new(429, "TooManyRequests", "too many requests are being proxied, please try again later")
    })
}

/// Whoever may make one service account of a namespace may make many: all of them are one holder.
pub(in crate::http) fn holder(user: &str) -> &str {
    let account = user.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|account| account.rsplit_once(':'));
    account.map_or(user, |(_, name)| &user[..user.len() - name.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders() {
        for (user, expected) in [
            ("ann", "ann"),
            ("system:serviceaccount:ns:a", "system:serviceaccount:ns:"),
            ("system:serviceaccount:ns:b", "system:serviceaccount:ns:"),
            ("system:serviceaccount:ns2:a", "system:serviceaccount:ns2:"),
            ("system:serviceaccount:", "system:serviceaccount:"),
        ] {
            assert_eq!(holder(user), expected);
        }
    }
}
