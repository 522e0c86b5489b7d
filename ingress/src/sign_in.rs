//! Asks for a user and a password (RFC 7617) and checks them.
//!
//! Checking is slow by design, so it happens beside the requests, a few at a time in turns, and once for
//! the requests that follow: what has been found right is remembered by a keyed hash.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, Response, StatusCode};
use proa_api::shares;
use rustls::crypto::ring;
use sha2::{Digest, Sha256};

use crate::access::Auth;
use crate::answer::{refuse, refuse_with};
use crate::body::Body;
use crate::htpasswd;
use crate::turns::{Asker, Turns};

/// Passwords that are checked at the same time, in all and for one namespace, which decides how long one
/// takes.
const AT_ONCE: (usize, usize) = (2, 1);
/// And how long others wait for their turn.
const PATIENCE: Duration = Duration::from_secs(5);
/// Right ones that are remembered.
const REMEMBERED: usize = 4096;

type Sum = [u8; 32];

/// What has been found right.
pub struct SignIn {
    turns: Arc<Turns>,
    right: Mutex<HashSet<Sum>>,
    /// Known to nobody, so that what is remembered tells nothing.
    key: Sum,
}

impl SignIn {
    /// Nothing yet.
    pub fn new() -> Self {
        let mut key = Sum::default();
        let random = ring::default_provider().secure_random.fill(&mut key);
        random.expect("the kernel gives random numbers");
        SignIn { turns: Turns::new(AT_ONCE.0, AT_ONCE.1), right: Mutex::default(), key }
    }

    /// Nothing if the client's request may pass; otherwise the answer to it.
    pub async fn check(
        &self,
        auth: &Auth,
        headers: &HeaderMap,
        client: IpAddr,
    ) -> Result<(), Response<Body>> {
        let mut sent = headers.get_all(AUTHORIZATION).iter();
        let (Some(sent), None) = (sent.next(), sent.next()) else {
            return Err(match headers.contains_key(AUTHORIZATION) {
                true => refuse(StatusCode::BAD_REQUEST, "the request has more than one Authorization header"),
                false => ask(auth),
            });
        };
        let Some((user, password)) = credentials(sent.as_bytes()) else { return Err(ask(auth)) };
        let Some(hash) = auth.passwords.hash(&user) else { return Err(ask(auth)) };
        let sum = self.sum(hash, &password);
        let right = || self.right.lock().unwrap_or_else(PoisonError::into_inner);
        if right().contains(&sum) {
            return Ok(());
        }
        let asker = Asker { namespace: auth.namespace.clone(), client: shares::client(client) };
        let Some(turn) = self.turns.take(asker, PATIENCE).await else {
            let why = "too many passwords are being checked";
            return Err(refuse_with(StatusCode::SERVICE_UNAVAILABLE, why, RETRY_AFTER, "5"));
        };
        let hash = hash.to_owned();
        // The turn ends with the work, not with a client that leaves.
        let checked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            htpasswd::verify(&hash, &password)
        });
        if !checked.await.unwrap_or(false) {
            return Err(ask(auth));
        }
        let mut right = right();
        if right.len() >= REMEMBERED {
            right.clear();
        }
        right.insert(sum);
        Ok(())
    }

    fn sum(&self, hash: &str, password: &[u8]) -> Sum {
        let length = (hash.len() as u64).to_be_bytes();
        Sha256::new()
            .chain_update(self.key)
            .chain_update(length)
            .chain_update(hash)
            .chain_update(password)
            .finalize()
            .into()
    }
}

fn ask(auth: &Auth) -> Response<Body> {
    let realm = auth.realm.replace('\\', "\\\\").replace('"', "\\\"");
    let challenge = format!("Basic realm=\"{realm}\"");
    refuse_with(StatusCode::UNAUTHORIZED, "a user and a password are needed", WWW_AUTHENTICATE, &challenge)
}

fn credentials(header: &[u8]) -> Option<(String, Vec<u8>)> {
    let (scheme, rest) = header.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = STANDARD.decode(rest.trim_ascii()).ok()?;
    let colon = decoded.iter().position(|b| *b == b':')?;
    let user = String::from_utf8(decoded[..colon].to_vec()).ok()?;
    Some((user, decoded[colon + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::htpasswd::Passwords;

    /// A namespace whose passwords take long to check keeps its own clients waiting.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn slow_passwords_of_one_namespace_keep_no_other_waiting() {
        let auth = |namespace: &str, hash: &str| Auth {
            namespace: namespace.to_owned(),
            realm: String::new(),
            passwords: Passwords::of_file(format!("ann:{hash}").as_bytes()),
        };
        // Of a cost at which one check takes far longer than the other namespace's client waits.
        let slow = auth("aaa", "$2b$14$caA4jnKPYUGV2VAOT.8s1.bZPJfrHoFNRtu8p0Gma3NW40MRCVZDO");
        let quick = auth("bbb", "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=");
        let header = |text: &str| {
            let value: http::HeaderValue = format!("Basic {}", STANDARD.encode(text)).parse().unwrap();
            HeaderMap::from_iter([(AUTHORIZATION, value)])
        };
        let sign_in = SignIn::new();
        let (wrong, right) = (header("ann:wrong"), header("ann:secret"));
        let many = (1..=12).map(|n| sign_in.check(&slow, &wrong, [192, 0, 2, n].into()));
        let other = async {
            tokio::task::yield_now().await;
            let checked = sign_in.check(&quick, &right, [192, 0, 2, 100].into());
            tokio::time::timeout(Duration::from_secs(1), checked).await
        };
        tokio::select! {
            biased;
            _ = futures::future::join_all(many) => panic!("the slow ones take long"),
            checked = other => assert!(checked.unwrap().is_ok()),
        }
    }

    #[test]
    fn credentials_of_a_header() {
        let read = |text: &str| credentials(text.as_bytes());
        let given = Some(("Aladdin".to_owned(), b"open:sesame".to_vec()));
        assert_eq!(read("Basic QWxhZGRpbjpvcGVuOnNlc2FtZQ=="), given);
        assert_eq!(read("bASIC  QWxhZGRpbjpvcGVuOnNlc2FtZQ=="), given);
        for wrong in ["", "Basic", "Basic ", "Basic !", "Basic QQ==", "Bearer QWxhZGRpbjpvcGVu"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
