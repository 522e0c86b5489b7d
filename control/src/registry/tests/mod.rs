//! The verbs on the built-in kinds, as clients see them.

mod views;

use futures::StreamExt;
use proa_kinds::{Part, built_in};
use serde_json::json;

use super::*;
use crate::watch::WatchItem;

struct World {
    registry: Registry,
    caller: Caller,
    _dir: tempfile::TempDir,
}

const PLAIN: WriteOptions =
    WriteOptions { dry_run: false, field_manager: String::new(), warnings: Warnings::NONE };
const DRY: WriteOptions =
    WriteOptions { dry_run: true, field_manager: String::new(), warnings: Warnings::NONE };

impl World {
    async fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let registry = Registry::open(&path, built_in::table(), RegistryConfig::default()).unwrap();
        let world = World { registry, caller: Caller::system("test"), _dir: dir };
        world.create("v1", "Namespace", json!({"metadata": {"name": "default"}})).await;
        world
    }

    fn kind(&self, api_version: &str, kind: &str) -> Arc<Kind> {
        self.registry.kinds().by_kind(api_version, kind).unwrap().clone()
    }

    async fn try_create(&self, api_version: &str, kind: &str, body: Value) -> Result<Arc<Object>, Refusal> {
        let kind = self.kind(api_version, kind);
        let namespace = body["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
        self.registry.create(&self.caller, &kind, &namespace, body, &PLAIN).await
    }

    async fn create(&self, api_version: &str, kind: &str, body: Value) -> Value {
        self.try_create(api_version, kind, body).await.unwrap().value()
    }

    async fn update(&self, kind: (&str, &str), part: Part, body: Value) -> Result<Value, Refusal> {
        let kind = self.kind(kind.0, kind.1);
        let name = body["metadata"]["name"].as_str().unwrap().to_owned();
        let registry = &self.registry;
        let made = registry.update(&self.caller, &kind, "default", &name, part, body, &PLAIN).await;
        made.map(|object| object.value())
    }

    async fn delete(
        &self,
        kind: (&str, &str),
        name: &str,
        options: DeleteOptions,
    ) -> Result<Outcome, Refusal> {
        self.registry.delete(&self.caller, &self.kind(kind.0, kind.1), "default", name, &options).await
    }

    fn get(&self, kind: (&str, &str), name: &str) -> Option<Value> {
        self.registry.get(&self.kind(kind.0, kind.1), "default", name).ok().map(|object| object.value())
    }
}

const CONFIG_MAP: (&str, &str) = ("v1", "ConfigMap");
const POD: (&str, &str) = ("v1", "Pod");
const DEPLOYMENT: (&str, &str) = ("apps/v1", "Deployment");

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn deployment(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"app": name}},
        "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        },
    }})
}

#[tokio::test]
async fn create_sets_what_the_server_sets() {
    let world = World::new().await;
    let made = world
        .create(
            "v1",
            "ConfigMap",
            json!({"metadata": {
            "name": "a", "uid": "mine", "creationTimestamp": "2001-01-01T00:00:00Z",
            "managedFields": [{"manager": "x"}], "deletionTimestamp": "2001-01-01T00:00:00Z",
        }, "data": {"k": "v"}}),
        )
        .await;
    let metadata = &made["metadata"];
    assert_eq!((made["apiVersion"].as_str(), made["kind"].as_str()), (Some("v1"), Some("ConfigMap")));
    assert_eq!(metadata["namespace"], "default");
    assert_ne!(metadata["uid"], "mine");
    assert!(metadata["creationTimestamp"].as_str().unwrap() > "2020");
    assert!(metadata.get("deletionTimestamp").is_none() && metadata.get("managedFields").is_none());
    assert!(metadata.get("generation").is_none());
    assert!(metadata["resourceVersion"].as_str().unwrap().parse::<u64>().is_ok());
    let made = world.create("apps/v1", "Deployment", deployment("d")).await;
    assert_eq!(made["metadata"]["generation"], 1);
}

#[tokio::test]
async fn create_refuses() {
    let world = World::new().await;
    world.create("v1", "ConfigMap", json!({"metadata": {"name": "a"}})).await;
    for (body, code, text) in [
        (json!({"metadata": {"name": "a"}}), 409, "configmaps \"a\" already exists"),
        (
            json!({"metadata": {}}),
            422,
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
        ),
        (
            json!({"metadata": {"name": "b", "resourceVersion": "3"}}),
            400,
            "resourceVersion should not be set on objects to be created",
        ),
        (json!({"metadata": {"name": "b", "namespace": "nowhere"}}), 404, "namespaces \"nowhere\" not found"),
        (json!([]), 400, "the body is not a ConfigMap object"),
        (json!({"metadata": 3}), 400, "the metadata of the body is not an object"),
    ] {
        let refusal = world.try_create("v1", "ConfigMap", body.clone()).await.unwrap_err();
        assert_eq!((refusal.code(), refusal.to_string().as_str()), (code, text), "{body}");
    }
    let kind = world.kind("v1", "ConfigMap");
    let body = json!({"metadata": {"name": "b", "namespace": "other"}});
    let refusal = world.registry.create(&world.caller, &kind, "default", body, &PLAIN).await.unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the namespace of the provided object does not match the namespace sent on the request"
    );
}

#[tokio::test]
async fn generated_names_and_dry_runs() {
    let world = World::new().await;
    let made = world.create("v1", "ConfigMap", json!({"metadata": {"generateName": "web-"}})).await;
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
    let kind = world.kind("v1", "ConfigMap");
    let body = json!({"metadata": {"name": "dry"}});
    let dry = world.registry.create(&world.caller, &kind, "default", body, &DRY).await.unwrap().value();
    assert!(dry["metadata"]["uid"].is_string() && dry["metadata"].get("resourceVersion").is_none());
    assert!(world.get(CONFIG_MAP, "dry").is_none());
    let body = json!({"metadata": {"name": name}, "data": {"x": "y"}});
    let registry = &world.registry;
    let dry = registry.update(&world.caller, &kind, "default", name, Part::Main, body, &DRY).await.unwrap();
    assert_eq!(dry.value()["data"]["x"], "y");
    assert!(world.get(CONFIG_MAP, name).unwrap().get("data").is_none());
}

#[tokio::test]
async fn update_checks_versions_and_keeps_metadata() {
    let world = World::new().await;
    let made = world.create("v1", "ConfigMap", json!({"metadata": {"name": "a"}, "data": {"k": "1"}})).await;
    let version = made["metadata"]["resourceVersion"].clone();
    // What changes nothing writes nothing.
    let same = world.update(CONFIG_MAP, Part::Main, made.clone()).await.unwrap();
    assert_eq!(same, made);
    let body = json!({"metadata": {"name": "a"}, "data": {"k": "1"}});
    assert_eq!(world.update(CONFIG_MAP, Part::Main, body).await.unwrap(), made);
    let mut next = made.clone();
    next["data"]["k"] = "2".into();
    let next = world.update(CONFIG_MAP, Part::Main, next).await.unwrap();
    assert_eq!(next["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(next["metadata"]["creationTimestamp"], made["metadata"]["creationTimestamp"]);
    let stale = world.update(CONFIG_MAP, Part::Main, made.clone()).await.unwrap_err();
    assert_eq!(
        (stale.code(), stale.to_string().as_str()),
        (
            409,
            "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your \
             changes to the latest version and try again"
        )
    );
    assert_ne!(next["metadata"]["resourceVersion"], version);
    let wrong = json!({"metadata": {"name": "a", "uid": "other"}});
    let conflict = world.update(CONFIG_MAP, Part::Main, wrong).await.unwrap_err();
    assert!(
        conflict
            .to_string()
            .contains("Precondition failed: UID in precondition: other, UID in object meta: ")
    );
    let missing = world.update(CONFIG_MAP, Part::Main, json!({"metadata": {"name": "b"}})).await.unwrap_err();
    assert_eq!(missing.to_string(), "configmaps \"b\" not found");
    let kind = world.kind("v1", "ConfigMap");
    let body = json!({"metadata": {"name": "c"}});
    let named = world.registry.update(&world.caller, &kind, "default", "a", Part::Main, body, &PLAIN).await;
    assert_eq!(
        named.unwrap_err().to_string(),
        "the name of the object (c) does not match the name on the URL (a)"
    );
}

#[tokio::test]
async fn spec_status_and_scale_are_written_apart() {
    let world = World::new().await;
    let made = world.create("apps/v1", "Deployment", deployment("d")).await;
    let mut body = made.clone();
    body["spec"]["replicas"] = 3.into();
    body["status"] = json!({"replicas": 9});
    let spec = world.update(DEPLOYMENT, Part::Main, body).await.unwrap();
    assert_eq!(
        (spec["metadata"]["generation"].as_i64(), spec["status"]["replicas"].as_i64()),
        (Some(2), None)
    );
    let mut body = spec.clone();
    body["spec"]["replicas"] = 7.into();
    body["status"] = json!({"replicas": 2, "observedGeneration": 2});
    let status = world.update(DEPLOYMENT, Part::STATUS, body).await.unwrap();
    assert_eq!(
        (status["spec"]["replicas"].as_i64(), status["status"]["replicas"].as_i64()),
        (Some(3), Some(2))
    );
    assert_eq!(status["metadata"]["generation"], 2);

    let kind = world.kind("apps/v1", "Deployment");
    let object = world.registry.get(&kind, "default", "d").unwrap();
    let mut scale = crate::write::scale::of(&kind, &object).unwrap();
    assert_eq!(
        (&scale["spec"], &scale["status"]),
        (&json!({"replicas": 3}), &json!({"replicas": 2, "selector": "app=d"}))
    );
    scale["spec"]["replicas"] = 5.into();
    let scaled = world.update(DEPLOYMENT, Part::SCALE, scale.clone()).await.unwrap();
    assert_eq!(
        (scaled["spec"]["replicas"].as_i64(), scaled["metadata"]["generation"].as_i64()),
        (Some(5), Some(3))
    );
    assert_eq!(world.update(DEPLOYMENT, Part::SCALE, scale).await.unwrap_err().code(), 409);
    let change = |scale: &Value| {
        let mut scale = scale.clone();
        scale["spec"]["replicas"] = 6.into();
        Ok(scale)
    };
    let registry = &world.registry;
    let patched =
        registry.patch(&world.caller, &kind, "default", "d", Part::SCALE, change, &PLAIN).await.unwrap();
    assert_eq!(patched.value()["spec"]["replicas"], 6);
    let negative = json!({"metadata": {"name": "d"}, "spec": {"replicas": -1}});
    let refusal = world.update(DEPLOYMENT, Part::SCALE, negative).await.unwrap_err();
    assert!(
        refusal.to_string().contains("spec.replicas: Invalid value: -1: must be greater than or equal to 0")
    );
}

#[tokio::test]
async fn racing_patches_all_land() {
    let world = World::new().await;
    world.create("v1", "ConfigMap", json!({"metadata": {"name": "a"}, "data": {}})).await;
    let kind = world.kind("v1", "ConfigMap");
    let tasks: Vec<_> = (0..10)
        .map(|n| {
            let (registry, kind, caller) = (world.registry.clone(), kind.clone(), world.caller.clone());
            tokio::spawn(async move {
                let change = move |old: &Value| {
                    let mut new = old.clone();
                    new["data"][format!("k{n}")] = "v".into();
                    Ok(new)
                };
                registry.patch(&caller, &kind, "default", "a", Part::Main, change, &PLAIN).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(world.get(CONFIG_MAP, "a").unwrap()["data"].as_object().unwrap().len(), 10);
}

#[tokio::test]
async fn delete_checks_preconditions_and_finalizers() {
    let world = World::new().await;
    let made = world
        .create("v1", "ConfigMap", json!({"metadata": {"name": "a", "finalizers": ["example.com/x"]}}))
        .await;
    let uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
    let wrong = DeleteOptions { uid: Some("other".to_owned()), ..DeleteOptions::default() };
    let refusal = world.delete(CONFIG_MAP, "a", wrong).await.unwrap_err();
    assert_eq!(
        refusal.to_string(),
        format!(
            "Operation cannot be fulfilled on configmaps \"a\": Precondition failed: UID in precondition: other, \
             UID in object meta: {uid}"
        )
    );
    let odd = DeleteOptions { propagation_policy: Some("Sideways".to_owned()), ..DeleteOptions::default() };
    assert_eq!(world.delete(CONFIG_MAP, "a", odd).await.unwrap_err().code(), 422);
    let right = DeleteOptions { uid: Some(uid), ..DeleteOptions::default() };
    let Outcome::There(pending) = world.delete(CONFIG_MAP, "a", right.clone()).await.unwrap() else {
        panic!("a finalizer was passed over")
    };
    let mut pending = pending.value();
    assert!(pending["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(pending["metadata"]["deletionGracePeriodSeconds"], 0);
    let again = world.delete(CONFIG_MAP, "a", right).await.unwrap();
    assert_eq!(again.object().value(), pending, "a second delete changes nothing");
    let mut more = pending.clone();
    more["metadata"]["finalizers"] = json!(["example.com/x", "example.com/y"]);
    let refusal = world.update(CONFIG_MAP, Part::Main, more).await.unwrap_err();
    assert!(refusal.to_string().contains("no new finalizers can be added if the object is being deleted"));
    pending["metadata"].as_object_mut().unwrap().remove("finalizers");
    world.update(CONFIG_MAP, Part::Main, pending).await.unwrap();
    assert!(world.get(CONFIG_MAP, "a").is_none());
}

#[tokio::test]
async fn propagation_policies_leave_finalizers() {
    let world = World::new().await;
    for (policy, finalizer) in [("Orphan", "orphan"), ("Foreground", "foregroundDeletion")] {
        world.create("apps/v1", "Deployment", deployment("d")).await;
        let options =
            DeleteOptions { propagation_policy: Some(policy.to_owned()), ..DeleteOptions::default() };
        let Outcome::There(pending) = world.delete(DEPLOYMENT, "d", options).await.unwrap() else { panic!() };
        let mut pending = pending.value();
        assert_eq!(pending["metadata"]["finalizers"], json!([finalizer]));
        assert_eq!(pending["metadata"]["generation"], 2);
        pending["metadata"]["finalizers"] = json!([]);
        world.update(DEPLOYMENT, Part::Main, pending).await.unwrap();
        assert!(world.get(DEPLOYMENT, "d").is_none());
    }
    world.create("apps/v1", "Deployment", deployment("d")).await;
    let background =
        DeleteOptions { propagation_policy: Some("Background".to_owned()), ..DeleteOptions::default() };
    assert!(matches!(world.delete(DEPLOYMENT, "d", background).await.unwrap(), Outcome::Gone(_)));
}

fn grace(seconds: i64) -> DeleteOptions {
    DeleteOptions { grace_period_seconds: Some(seconds), ..DeleteOptions::default() }
}

async fn bind(world: &World, name: &str, node: &str) -> Result<(), Refusal> {
    let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": node}});
    world.registry.bind(&world.caller, "default", name, binding, &PLAIN).await
}

#[tokio::test]
async fn pods_get_time_to_stop() {
    let world = World::new().await;
    world.create("v1", "Pod", pod("unscheduled")).await;
    assert!(matches!(
        world.delete(POD, "unscheduled", DeleteOptions::default()).await.unwrap(),
        Outcome::Gone(_)
    ));
    world.create("v1", "Pod", pod("a")).await;
    bind(&world, "a", "n1").await.unwrap();
    let bound = world.get(POD, "a").unwrap();
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let refusal = bind(&world, "a", "n2").await.unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"n1\""
    );
    assert_eq!(bind(&world, "nobody", "n1").await.unwrap_err().code(), 404);
    let pending = |deleted: Result<Outcome, Refusal>| match deleted.unwrap() {
        Outcome::There(object) => object.value()["metadata"].clone(),
        Outcome::Gone(object) => panic!("{object:?} is gone"),
    };
    let first = pending(world.delete(POD, "a", DeleteOptions::default()).await);
    assert_eq!(first["deletionGracePeriodSeconds"], 30);
    assert_eq!(pending(world.delete(POD, "a", DeleteOptions::default()).await), first);
    assert_eq!(pending(world.delete(POD, "a", grace(40)).await), first, "a grace period never grows");
    let shorter = pending(world.delete(POD, "a", grace(10)).await);
    assert_eq!(shorter["deletionGracePeriodSeconds"], 10);
    let time =
        |metadata: &Value| metadata["deletionTimestamp"].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert_eq!(time(&first).as_second() - time(&shorter).as_second(), 20);
    assert!(matches!(world.delete(POD, "a", grace(0)).await.unwrap(), Outcome::Gone(_)));
    assert!(world.get(POD, "a").is_none());

    let mut done = world.create("v1", "Pod", pod("done")).await;
    bind(&world, "done", "n1").await.unwrap();
    done["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    done["status"] = json!({"phase": "Succeeded"});
    world.update(POD, Part::STATUS, done).await.unwrap();
    assert!(matches!(world.delete(POD, "done", DeleteOptions::default()).await.unwrap(), Outcome::Gone(_)));

    world.create("v1", "Pod", pod("evicted")).await;
    let eviction = json!({"metadata": {"name": "evicted"}, "deleteOptions": {"gracePeriodSeconds": 0}});
    world.registry.evict(&world.caller, "default", "evicted", &eviction, &PLAIN).await.unwrap();
    assert!(world.get(POD, "evicted").is_none());
}

#[tokio::test]
async fn pods_get_a_service_account() {
    let world = World::new().await;
    let made = world.create("v1", "Pod", pod("a")).await;
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    let mut other = pod("b");
    other["spec"]["serviceAccountName"] = "robot".into();
    let refusal = world.try_create("v1", "Pod", other.clone()).await.unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "pods \"b\" is forbidden: error looking up service account default/robot: serviceaccount \"robot\" not found"
    );
    let account = json!({"metadata": {"name": "robot"}, "imagePullSecrets": [{"name": "s"}]});
    world.create("v1", "ServiceAccount", account).await;
    let made = world.create("v1", "Pod", other).await;
    assert_eq!(made["spec"]["imagePullSecrets"], json!([{"name": "s"}]));
}

#[tokio::test]
async fn namespaces_end_in_order() {
    let world = World::new().await;
    const NAMESPACE: (&str, &str) = ("v1", "Namespace");
    let refusal = world.delete(NAMESPACE, "default", DeleteOptions::default()).await.unwrap_err();
    assert_eq!(refusal.to_string(), "namespaces \"default\" is forbidden: this namespace may not be deleted");
    let made = world.create("v1", "Namespace", json!({"metadata": {"name": "x"}})).await;
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(made["status"]["phase"], "Active");
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "x");
    let Outcome::There(pending) = world.delete(NAMESPACE, "x", DeleteOptions::default()).await.unwrap()
    else {
        panic!("the namespace was not held")
    };
    assert_eq!(pending.value()["status"]["phase"], "Terminating");
    let inside = json!({"metadata": {"name": "a", "namespace": "x"}});
    let refusal = world.try_create("v1", "ConfigMap", inside).await.unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "configmaps \"a\" is forbidden: unable to create new content in namespace x because it is being terminated"
    );
    let causes = refusal.0.details.unwrap().causes.unwrap();
    assert_eq!(causes[0].reason.as_deref(), Some("NamespaceTerminating"));
    let mut body = pending.value();
    body["spec"]["finalizers"] = json!([]);
    let update = world.update(NAMESPACE, Part::Main, body.clone()).await.unwrap();
    assert_eq!(update["spec"]["finalizers"], json!(["kubernetes"]), "only finalize changes these");
    let mut stale = body.clone();
    stale["metadata"]["resourceVersion"] = "1".into();
    assert_eq!(world.update(NAMESPACE, Part::FINALIZE, stale).await.unwrap_err().code(), 409);
    world.update(NAMESPACE, Part::FINALIZE, body).await.unwrap();
    assert!(world.get(NAMESPACE, "x").is_none());
}

#[tokio::test]
async fn lists_go_on_where_they_were_cut() {
    let world = World::new().await;
    let kind = world.kind("v1", "ConfigMap");
    for n in 0..25 {
        world
            .create(
                "v1",
                "ConfigMap",
                json!({"metadata": {"name": format!("c{n:02}"), "labels": {"odd": (n % 2).to_string()}}}),
            )
            .await;
    }
    let mut options = ListOptions { limit: 10, ..ListOptions::default() };
    let mut names = Vec::new();
    let mut pages = Vec::new();
    loop {
        let list = world.registry.list(&kind, Some("default"), &options).unwrap();
        names.extend(list.items.iter().map(|item| item.key.name.to_string()));
        pages.push((list.items.len(), list.remaining, list.revision));
        let Some(token) = list.continue_token else { break };
        options.continue_token = Some(token);
        // What changes meanwhile does not show.
        world.delete(CONFIG_MAP, "c24", DeleteOptions::default()).await.ok();
        world.create("v1", "ConfigMap", json!({"metadata": {"generateName": "c2"}})).await;
    }
    let expected: Vec<String> = (0..25).map(|n| format!("c{n:02}")).collect();
    assert_eq!(names, expected);
    let revision = pages[0].2;
    assert_eq!(pages, [(10, Some(15), revision), (10, Some(5), revision), (5, None, revision)]);
    let odd = ListOptions {
        labels: proa_api::selector::Selector::parse("odd=1").unwrap(),
        limit: 5,
        ..ListOptions::default()
    };
    let list = world.registry.list(&kind, None, &odd).unwrap();
    assert_eq!((list.items.len(), list.remaining, list.continue_token.is_some()), (5, None, true));
    let bad = ListOptions { continue_token: Some("nonsense".to_owned()), ..ListOptions::default() };
    assert_eq!(world.registry.list(&kind, None, &bad).unwrap_err().code(), 400);
    let future = ListOptions { resource_version: Some("99999".to_owned()), ..ListOptions::default() };
    assert_eq!(world.registry.list(&kind, None, &future).unwrap_err().code(), 504);
    let exact = ListOptions {
        resource_version: Some(revision.to_string()),
        resource_version_match: Some("Exact".to_owned()),
        ..ListOptions::default()
    };
    assert_eq!(world.registry.list(&kind, None, &exact).unwrap().items.len(), 25);
    let fields = proa_api::selector::FieldSelector::parse("spec.nothing=1").unwrap();
    let refusal =
        world.registry.list(&kind, None, &ListOptions { fields, ..ListOptions::default() }).unwrap_err();
    assert_eq!(refusal.to_string(), "field label not supported: spec.nothing");
}

#[tokio::test]
async fn collections_are_deleted_by_selection() {
    let world = World::new().await;
    for (name, label) in [("a", "1"), ("b", "2"), ("c", "1")] {
        world.create("v1", "ConfigMap", json!({"metadata": {"name": name, "labels": {"l": label}}})).await;
    }
    let list =
        ListOptions { labels: proa_api::selector::Selector::parse("l=1").unwrap(), ..ListOptions::default() };
    let (kind, registry) = (world.kind("v1", "ConfigMap"), &world.registry);
    let dry = DeleteOptions { dry_run: true, ..DeleteOptions::default() };
    let namespace = Some("default");
    assert_eq!(
        registry.delete_collection(&world.caller, &kind, namespace, &list, &dry).await.unwrap().items.len(),
        2
    );
    assert!(world.get(CONFIG_MAP, "a").is_some());
    let options = DeleteOptions::default();
    registry.delete_collection(&world.caller, &kind, namespace, &list, &options).await.unwrap();
    assert!(world.get(CONFIG_MAP, "a").is_none() && world.get(CONFIG_MAP, "b").is_some());
}

#[tokio::test]
async fn services_get_addresses_that_outlive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let open = || Registry::open(&path, built_in::table(), RegistryConfig::default()).unwrap();
    let caller = Caller::system("test");
    let registry = open();
    let table = registry.kinds();
    let (namespace, service) =
        (table.by_kind("v1", "Namespace").unwrap(), table.by_kind("v1", "Service").unwrap());
    let body = json!({"metadata": {"name": "default"}});
    registry.create(&caller, namespace, "", body, &PLAIN).await.unwrap();
    let body = |name: &str, address: &str| {
        let mut body =
            json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        if !address.is_empty() {
            body["spec"]["clusterIP"] = address.into();
        }
        body
    };
    let made = registry.create(&caller, service, "default", body("a", ""), &PLAIN).await.unwrap().value();
    let address = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(address.starts_with("10.43."), "{address}");
    assert!(made["spec"]["ports"][0]["nodePort"].as_i64().unwrap() >= 30_000);
    // An update that leaves out what was given keeps it.
    let kept = registry
        .update(&caller, service, "default", "a", Part::Main, body("a", ""), &PLAIN)
        .await
        .unwrap()
        .value();
    assert_eq!(kept, made);
    drop(registry);
    let registry = open();
    let taken = registry.create(&caller, service, "default", body("b", &address), &PLAIN).await.unwrap_err();
    assert!(taken.to_string().contains("provided IP is already allocated"), "{taken}");
    registry.delete(&caller, service, "default", "a", &DeleteOptions::default()).await.unwrap();
    registry.create(&caller, service, "default", body("b", &address), &PLAIN).await.unwrap();
}

#[tokio::test]
async fn ingresses_get_the_default_class() {
    let world = World::new().await;
    let class = json!({"metadata": {"name": "proa", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
        "spec": {"controller": "proa.dev/ingress"}});
    world.create("networking.k8s.io/v1", "IngressClass", class).await;
    let ingress = json!({"metadata": {"name": "i"}, "spec": {
        "defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}});
    let made = world.create("networking.k8s.io/v1", "Ingress", ingress).await;
    assert_eq!(made["spec"]["ingressClassName"], "proa");
}
