//! Asks for a user and a password (RFC 7617) and checks them.
//!
//! Checking is slow by design, so it happens beside the requests, a few at a time, and once for the
//! requests that follow: what has been found right is remembered by a keyed hash.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, Response, StatusCode};
use rustls::crypto::ring;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::access::Auth;
use crate::answer::{refuse, refuse_with};
use crate::body::Body;
use crate::htpasswd;

/// Passwords that are checked at the same time.
const AT_ONCE: usize = 2;
/// And how long others wait for their turn.
const PATIENCE: Duration = Duration::from_secs(5);
/// Right ones that are remembered.
const REMEMBERED: usize = 4096;

type Sum = [u8; 32];

/// What has been found right.
pub struct SignIn {
    turns: Arc<Semaphore>,
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
        SignIn { turns: Arc::new(Semaphore::new(AT_ONCE)), right: Mutex::default(), key }
    }

    /// Nothing if the request may pass; otherwise the answer to it.
    pub async fn check(&self, auth: &Auth, headers: &HeaderMap) -> Result<(), Response<Body>> {
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
        let turn = Arc::clone(&self.turns).acquire_owned();
        let Ok(Ok(turn)) = tokio::time::timeout(PATIENCE, turn).await else {
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
