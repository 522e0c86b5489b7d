//! Writes the default roles and bindings at each start, before anybody is let in.
//!
//! What they are is in [`proa_kinds::rbac::bootstrap`]. What is there and complete costs a read.

use futures::future::try_join_all;
use proa_api::Refusal;
use proa_kinds::rbac::bootstrap::{RETIRED, bindings, brought_up, is_own, roles};
use proa_kinds::{Kind, Part};
use serde_json::Value;

use crate::registry::{Caller, DeleteOptions, Registry, WriteOptions};

/// The user in whose name they are written.
const USER: &str = "system:apiserver";
const API_VERSION: &str = "rbac.authorization.k8s.io/v1";

/// Makes the default objects that are missing, completes the others, and removes what is none any
/// more.
pub async fn ensure(registry: &Registry) -> Result<(), Refusal> {
    let table = registry.kinds();
    // All at once, so that they share a commit.
    for (kind, objects) in [("ClusterRole", roles()), ("ClusterRoleBinding", bindings())] {
        let row = table
            .by_kind(API_VERSION, kind)
            .ok_or_else(|| Refusal::internal(format!("{kind} is not in the table of kinds")))?;
        for name in RETIRED {
            retire(registry, row, name).await?;
        }
        try_join_all(objects.into_iter().map(|wanted| ensure_one(registry, row, wanted))).await?;
    }
    Ok(())
}

async fn ensure_one(registry: &Registry, kind: &Kind, wanted: Value) -> Result<(), Refusal> {
    let caller = Caller::system(USER);
    let options = WriteOptions { field_manager: USER.to_owned(), ..WriteOptions::default() };
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let Ok(found) = registry.get(kind, "", &name) else {
        return create(registry, &caller, kind, wanted, &options).await;
    };
    let found = found.value();
    if is_own(&found) {
        return Ok(());
    }
    if found.get("roleRef") != wanted.get("roleRef") {
        // A binding's role cannot change.
        registry.delete(&caller, kind, "", &name, &DeleteOptions::default()).await?;
        return create(registry, &caller, kind, wanted, &options).await;
    }
    if brought_up(&found, &wanted).is_none() {
        return Ok(());
    }
    let change = move |current: &Value| Ok(brought_up(current, &wanted).unwrap_or_else(|| current.clone()));
    registry.patch(&caller, kind, "", &name, Part::Main, change, &options).await.map(|_| ())
}

async fn retire(registry: &Registry, kind: &Kind, name: &str) -> Result<(), Refusal> {
    match registry.delete(&Caller::system(USER), kind, "", name, &DeleteOptions::default()).await {
        Err(refusal) if refusal.code() != 404 => Err(refusal),
        _ => Ok(()),
    }
}

async fn create(
    registry: &Registry,
    caller: &Caller,
    kind: &Kind,
    object: Value,
    options: &WriteOptions,
) -> Result<(), Refusal> {
    match registry.create(caller, kind, "", object, options).await {
        Err(refusal) if refusal.reason() != "AlreadyExists" => Err(refusal),
        _ => Ok(()),
    }
}
