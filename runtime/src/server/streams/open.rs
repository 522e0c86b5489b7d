//! How many streams may be open: each takes descriptors of the node and of the pod's sandbox.

use std::sync::Arc;

use axum::extract::Request;
use http::StatusCode;
use proa_api::names::STREAMS_HOLDER_HEADER;
use proa_api::shares::{Share, Shares};

use crate::node::descriptors::Allowed;
use crate::node::shown_pods::Shown;

/// What is open on this node. A pod and a user may have a quarter each.
#[derive(Clone)]
pub struct Open {
    pods: Arc<Shares<String>>,
    users: Arc<Shares<String>>,
    /// Connections that are forwarded, by the pod's uid.
    pub connections: Arc<Shares<String>>,
}

/// What one client takes, until it is dropped.
pub struct Taken {
    _pod: Share<String>,
    _user: Share<String>,
}

impl Open {
    /// Nothing yet.
    pub fn new(allowed: &Allowed) -> Self {
        let shares = |all: usize| Shares::new(all, all / 4);
        Self {
            pods: shares(allowed.streams),
            users: shares(allowed.streams),
            connections: shares(allowed.forwarded),
        }
    }

    /// Room for one more client of a pod. Whom it counts for says the API server.
    pub fn take(&self, shown: &Shown, request: &Request) -> Result<Taken, (StatusCode, String)> {
        let uid = shown.pod.metadata.uid.clone().unwrap_or_default();
        let user = request.headers().get(STREAMS_HOLDER_HEADER).map(|user| user.as_bytes());
        let user = String::from_utf8_lossy(user.unwrap_or_default()).into_owned();
        let (pod, user) = (self.pods.take(uid), self.users.take(user));
        let too_many = || {
            let text = "too many streams are open to this pod, by this user or on this node".to_owned();
            (StatusCode::TOO_MANY_REQUESTS, text)
        };
        Ok(Taken { _pod: pod.ok_or_else(too_many)?, _user: user.ok_or_else(too_many)? })
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_and_a_user_have_their_share() {
        let open = Open::new(&Allowed::of(512));
        let take = |pod: &str, user: &str| {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": pod}})).unwrap();
            let shown = Shown { pod: Arc::new(pod), status: Default::default() };
            let request = Request::builder().header(STREAMS_HOLDER_HEADER, user).body(Body::empty()).unwrap();
            open.take(&shown, &request).map_err(|(code, _)| code.as_u16())
        };
        let first: Vec<_> = ["a", "b", "c", "d"].map(|user| take("p", user).unwrap()).into();
        assert_eq!(take("p", "e").err(), Some(429), "a pod's share is taken");
        let second = ["q", "r", "s"].map(|pod| take(pod, "a").unwrap());
        assert_eq!(take("t", "a").err(), Some(429), "a user's share is taken");
        assert!(take("t", "e").is_ok());
        drop((first, second));
        assert!(take("p", "a").is_ok());
    }
}
