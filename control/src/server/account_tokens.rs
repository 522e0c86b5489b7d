//! Secrets of type `kubernetes.io/service-account-token`: filled with a token of the account that
//! they name, and removed with it.
//!
//! <https://kubernetes.io/docs/concepts/configuration/secret/#serviceaccount-token-secrets>
//! Watches Secrets and accounts and looks at all such Secrets after each change: there are few,
//! as pods have tokens of their own. It makes nothing but what somebody asked for with a Secret.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::StreamExt;
use proa_api::Refusal;
use proa_api::selector::FieldSelector;
use proa_kinds::{Kind, Part};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::pki::Pki;
use crate::pki::token::LegacyClaims;
use crate::registry::{Caller, DeleteOptions, ListOptions, Registry, WatchOptions, WriteOptions};
use crate::store::Object;

/// The user in whose name they are written.
const USER: &str = "system:serviceaccount:kube-system:token-controller";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// A watch that has ended is started anew after this long.
const RETRY: Duration = Duration::from_secs(1);
/// What was refused is tried again with the next change, and after this long.
const RETRY_REFUSED: Duration = Duration::from_secs(60);

/// Keeps the Secrets until the server stops.
pub async fn keep(registry: Registry, pki: Arc<Pki>, shutdown: CancellationToken) {
    let Some(keeper) = Keeper::new(registry, pki) else { return };
    while !shutdown.is_cancelled() {
        tokio::select! {
            () = keeper.follow() => {}
            () = shutdown.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

#[derive(Clone)]
struct Keeper {
    registry: Registry,
    pki: Arc<Pki>,
    caller: Caller,
    secrets: Arc<Kind>,
    accounts: Arc<Kind>,
}

impl Keeper {
    fn new(registry: Registry, pki: Arc<Pki>) -> Option<Keeper> {
        let table = registry.kinds();
        let secrets = table.by_kind("v1", "Secret")?.clone();
        let accounts = table.by_kind("v1", "ServiceAccount")?.clone();
        Some(Keeper { registry, pki, caller: Caller::system(USER), secrets, accounts })
    }

    /// Looks at all Secrets now and after each change, until a watch ends. One that is refused, such as
    /// an immutable one, holds up no other.
    async fn follow(&self) {
        let Ok(fields) = FieldSelector::parse("type=kubernetes.io/service-account-token") else { return };
        let of_secrets = WatchOptions { fields: fields.clone(), ..WatchOptions::default() };
        let secrets = self.registry.watch(&self.secrets, None, of_secrets);
        let accounts = self.registry.watch(&self.accounts, None, WatchOptions::default());
        let (Ok(secrets), Ok(accounts)) = (secrets, accounts) else { return };
        let mut changes = futures::stream::select(secrets, accounts).ready_chunks(64);
        let mut refused = BTreeMap::new();
        loop {
            let list = ListOptions { fields: fields.clone(), ..ListOptions::default() };
            let Ok(list) = self.registry.list(&self.secrets, None, &list) else { return };
            let before = std::mem::take(&mut refused);
            for secret in &list.items {
                let Err(refusal) = self.reconcile(secret).await else { continue };
                let text = refusal.to_string();
                if before.get(&secret.uid) != Some(&text) {
                    tracing::warn!(secret = %secret.key, refusal = text, "a token could not be kept");
                }
                refused.insert(secret.uid.clone(), text);
            }
            let retry = async {
                if refused.is_empty() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(RETRY_REFUSED).await;
            };
            tokio::select! {
                change = changes.next() => if change.is_none() {
                    return;
                },
                () = retry => {}
            }
        }
    }

    async fn reconcile(&self, secret: &Object) -> Result<(), Refusal> {
        if secret.deleting {
            return Ok(());
        }
        let value = secret.value();
        let (namespace, name) = (&*secret.key.namespace, &*secret.key.name);
        let annotation = |key: &str| value["metadata"]["annotations"][key].as_str().unwrap_or_default();
        let account = self.registry.get(&self.accounts, namespace, annotation(ACCOUNT)).ok();
        let uid = annotation(ACCOUNT_UID);
        let Some(account) = account.filter(|account| uid.is_empty() || uid == &*account.uid) else {
            let options = DeleteOptions { uid: Some(secret.uid.to_string()), ..DeleteOptions::default() };
            let gone = self.registry.delete(&self.caller, &self.secrets, namespace, name, &options).await;
            return ignore_lost(gone.map(|_| ()));
        };
        let current = self.is_current(&value, &account);
        if current {
            return Ok(());
        }
        let keeper = self.clone();
        let change = move |current: &Value| keeper.filled(current, &account);
        let options = WriteOptions::default();
        let written = self
            .registry
            .patch(&self.caller, &self.secrets, namespace, name, Part::Main, change, &options)
            .await;
        ignore_lost(written.map(|_| ()))
    }

    fn is_current(&self, secret: &Value, account: &Object) -> bool {
        self.wanted(secret, account)
            .iter()
            .all(|(pointer, wanted)| secret.pointer(pointer).and_then(Value::as_str) == Some(wanted.as_str()))
            && !secret["data"]["token"].as_str().unwrap_or_default().is_empty()
    }

    /// What must stand where, but for the token.
    fn wanted(&self, secret: &Value, account: &Object) -> [(&'static str, String); 3] {
        let namespace = secret["metadata"]["namespace"].as_str().unwrap_or_default();
        [
            ("/data/ca.crt", BASE64.encode(self.pki.ca_pem())),
            ("/data/namespace", BASE64.encode(namespace)),
            ("/metadata/annotations/kubernetes.io~1service-account.uid", account.uid.to_string()),
        ]
    }

    /// The Secret with all that belongs into it. A token that is there stays.
    fn filled(&self, secret: &Value, account: &Object) -> Result<Value, Refusal> {
        let mut filled = secret.clone();
        let [(_, ca), (_, namespace), (_, uid)] = self.wanted(secret, account);
        if !filled["data"].is_object() {
            filled["data"] = json!({});
        }
        filled["data"]["ca.crt"] = ca.into();
        filled["data"]["namespace"] = namespace.into();
        filled["metadata"]["annotations"][ACCOUNT_UID] = uid.into();
        if filled["data"]["token"].as_str().unwrap_or_default().is_empty() {
            let name = secret["metadata"]["name"].as_str().unwrap_or_default();
            let key = &account.key;
            let claims = LegacyClaims::new(&key.namespace, name, &key.name, &account.uid);
            let token = self.pki.signer().sign(&claims).map_err(Refusal::internal)?;
            filled["data"]["token"] = BASE64.encode(token).into();
        }
        Ok(filled)
    }
}

/// What has changed meanwhile wakes this again.
fn ignore_lost(done: Result<(), Refusal>) -> Result<(), Refusal> {
    match done {
        Err(refusal) if matches!(refusal.code(), 404 | 409) => Ok(()),
        other => other,
    }
}
