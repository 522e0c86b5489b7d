//! Kinds that come while the server runs, are served whole, and go again.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proa_api::field::{FieldErrors, Path};
use proa_kinds::meta::{self, NameFormat};
use proa_kinds::schema::Schema;
use proa_kinds::{Kind, Proposal, Rules, ScalePaths, SelectableField, Subresource, Text, Write, columns};
use serde::Deserialize;

use super::*;

const GROUP: &str = "tests.example.com";
const VERSION: &str = "/apis/tests.example.com/v1";
const WIDGETS: &str = "/apis/tests.example.com/v1/namespaces/default/widgets";

/// A row that is made of nothing that the program knows.
fn row(kind: &str, plural: &str) -> Kind {
    let api_version = format!("{GROUP}/v1");
    let schema = Schema::custom(&api_version, kind, &schema());
    let rules = SizeRules { api_version, kind: kind.to_owned(), schema: schema.clone() };
    let text = |text: &str| Text::from(text.to_owned());
    let size = "/spec/size".to_owned();
    let paths = ScalePaths {
        spec_replicas: text("/spec/size"),
        status_replicas: text("/status/size"),
        selector: text("/status/selector"),
    };
    Kind {
        short_names: vec![text("wd")],
        has_generation: true,
        columns: vec![
            columns::name(),
            columns::column(text("Size"), "integer", text("How large it is."), move |object, _| {
                columns::number(object, &size).into()
            }),
            columns::age(),
        ],
        selectable_fields: vec![SelectableField::at("spec.color", text("/spec/color"))],
        ..Kind::new((GROUP, "v1"), (kind, plural), schema, Arc::new(rules))
    }
    .with([Subresource::status(), Subresource::scale(paths)])
}

fn schema() -> Value {
    let object = |properties: Value| json!({ "type": "object", "properties": properties });
    let mut schema = object(json!({
        "apiVersion": { "type": "string" }, "kind": { "type": "string" }, "metadata": { "type": "object" },
        "spec": object(json!({
            "color": { "type": "string", "description": "Its color." },
            "size": { "type": "integer", "description": "How large it is." },
        })),
        "status": object(json!({ "size": { "type": "integer" }, "selector": { "type": "string" } })),
    }));
    schema["description"] = "Something of a size.".into();
    schema
}

/// Rules on the JSON itself: a size that is not below zero, and one unless told.
struct SizeRules {
    api_version: String,
    kind: String,
    schema: Schema,
}

struct Sized {
    kind: String,
    old: Option<ObjectMeta>,
    meta: ObjectMeta,
    object: Value,
}

impl Rules for SizeRules {
    fn tidy(&self, mut object: Value) -> Result<Value, Refusal> {
        object["apiVersion"] = self.api_version.as_str().into();
        object["kind"] = self.kind.as_str().into();
        Ok(object)
    }

    fn decode(&self, write: Write<'_>, object: Value) -> Result<Box<dyn Proposal>, Refusal> {
        if let Some(why) = self.schema.misfit(&object) {
            return Err(Refusal::bad_request(why));
        }
        let meta = |object: &Value| {
            ObjectMeta::deserialize(&object["metadata"])
                .map_err(|error| Refusal::bad_request(error.to_string()))
        };
        let old = match write {
            Write::Create => None,
            Write::Update(old, _) | Write::Connect(old) => Some(meta(old)?),
        };
        Ok(Box::new(Sized { kind: self.kind.clone(), old, meta: meta(&object)?, object }))
    }
}

impl Proposal for Sized {
    fn default(&mut self) {
        if self.object["spec"]["size"].is_null() {
            self.object["spec"]["size"] = 1.into();
        }
    }

    fn prepare(&mut self) {
        match &self.old {
            None => meta::prepare_create(&mut self.meta),
            Some(old) => meta::prepare_update(old, &mut self.meta),
        }
    }

    fn validate(&self) -> Result<(), Refusal> {
        let mut errors = FieldErrors::new();
        match &self.old {
            None => meta::validate(&self.meta, NameFormat::Subdomain, true, &mut errors),
            Some(old) => meta::validate_update(old, &self.meta, &mut errors),
        }
        let size = self.object["spec"]["size"].as_i64().unwrap_or(0);
        if size < 0 {
            errors.invalid(&Path::root("spec").field("size"), size, "must not be below zero");
        }
        let name = self.meta.name.as_deref().unwrap_or_default();
        if errors.is_empty() { Ok(()) } else { Err(Refusal::invalid(GROUP, &self.kind, name, &errors)) }
    }

    fn value(&self) -> Result<Value, Refusal> {
        let mut value = self.object.clone();
        value["metadata"] = json!(self.meta);
        Ok(value)
    }

    fn stored(&self) -> Result<Value, Refusal> {
        self.value()
    }
}

impl Fixture {
    async fn with_widgets() -> Fixture {
        let fixture = Fixture::start().await;
        fixture.server.registry().insert(row("Widget", "widgets"));
        fixture
    }

    async fn widget(&self, name: &str, spec: Value) -> Answer {
        self.post(WIDGETS, json!({ "metadata": { "name": name, "labels": { "a": name } }, "spec": spec }))
            .await
    }

    async fn patch(&self, path: &str, type_: &str, body: Value) -> Answer {
        let media = format!("application/{type_}");
        self.ask("PATCH", path, &[("content-type", media.as_str())], body.to_string()).await
    }

    async fn made(&self, path: &str, body: Value) -> Value {
        let made = self.post(path, body).await;
        assert_eq!(made.code, 201, "{path}: {}", made.text);
        made.json()
    }

    /// Waits until an answer is as it should be in the end.
    async fn wait(&self, path: &str, what: &str, is_so: impl Fn(&Answer) -> bool) {
        let looked = async {
            while !is_so(&self.get(path).await) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), looked)
            .await
            .unwrap_or_else(|_| panic!("{path}: {what}"));
    }
}

#[tokio::test]
async fn objects_of_a_kind_that_came() {
    let f = Fixture::with_widgets().await;
    let made = f.widget("a", json!({ "color": "red" })).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let mut events = watch(&f, &format!("{WIDGETS}?watch=1"), "").await;
    let (made, one) = (made.json(), format!("{WIDGETS}/a"));
    assert_eq!(made["spec"], json!({ "color": "red", "size": 1 }));
    assert_eq!((&made["kind"], &made["metadata"]["generation"]), (&json!("Widget"), &json!(1)));
    assert_eq!(f.get(&one).await.json(), made);
    assert_eq!(f.widget("b", json!({ "size": "x" })).await.code, 400);
    let text =
        "Widget.tests.example.com \"b\" is invalid: spec.size: Invalid value: -1: must not be below zero";
    f.widget("b", json!({ "size": -1 })).await.refused(422, text);
    let strict = json!({ "metadata": { "name": "b" }, "spec": { "sise": 1 } });
    let strict = f.post(&format!("{WIDGETS}?fieldValidation=Strict"), strict).await;
    assert!(strict.code == 400 && strict.text.contains("spec.sise"), "{}", strict.text);

    let merged = f.patch(&one, "merge-patch+json", json!({ "spec": { "size": 2 } })).await.json();
    assert_eq!((&merged["spec"]["size"], &merged["metadata"]["generation"]), (&json!(2), &json!(2)));
    let operations = json!([{ "op": "replace", "path": "/spec/size", "value": 3 }]);
    assert_eq!(f.patch(&one, "json-patch+json", operations).await.json()["spec"]["size"], 3);
    for type_ in ["strategic-merge-patch+json", "apply-patch+yaml"] {
        assert_eq!(f.patch(&one, type_, json!({ "spec": { "size": 4 } })).await.code, 415, "{type_}");
    }

    // Each part is written by itself.
    let both = json!({ "spec": { "size": 9 }, "status": { "size": 1, "selector": "a=b" } });
    let status = f.patch(&format!("{one}/status"), "merge-patch+json", both.clone()).await.json();
    assert_eq!((&status["spec"]["size"], &status["status"]["size"]), (&json!(3), &json!(1)));
    let whole = f.patch(&one, "merge-patch+json", json!({ "status": { "size": 7 } })).await.json();
    assert_eq!(whole["status"]["size"], 1);
    assert_eq!(f.widget("s", both["spec"].clone()).await.json().get("status"), None);
    let scale = f.get(&format!("{one}/scale")).await.json();
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(3), &json!("a=b")));
    let scaled =
        f.patch(&format!("{one}/scale"), "merge-patch+json", json!({ "spec": { "replicas": 5 } })).await;
    assert_eq!(scaled.json()["spec"]["replicas"], 5, "{}", scaled.text);
    assert_eq!(f.ask("DELETE", &format!("{one}/status"), &[], "").await.code, 405);

    let red = f.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dred")).await.json();
    assert_eq!((&red["kind"], red["items"].as_array().unwrap().len()), (&json!("WidgetList"), 1));
    let table = f.ask("GET", WIDGETS, &[("accept", TABLE)], "").await.json();
    let titles: Vec<&Value> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|column| &column["name"]).collect();
    assert_eq!(titles, ["Name", "Size", "Age"]);
    assert_eq!(table["rows"][0]["cells"][1], 5);
    assert_eq!(f.ask("DELETE", &one, &[], "").await.code, 200);
    let mut types = Vec::new();
    while types.last() != Some(&json!("DELETED")) {
        types.push(events.next().await.unwrap()["type"].clone());
    }
    // Five changes of the one, and the coming of the other.
    assert_eq!(types.len(), 7, "{types:?}");
    f.server.shutdown().await;
}

#[tokio::test]
async fn what_is_said_of_a_kind_follows_its_row() {
    let f = Fixture::start().await;
    let aggregated =
        [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json")];
    let said = async || {
        let discovery = f.get("/apis").await.text.contains(GROUP);
        let document = f.ask("GET", "/apis", &aggregated, "").await.text.contains("\"resource\":\"widgets\"");
        let index = f.get("/openapi/v3").await.text.contains(GROUP);
        let swagger =
            f.get("/openapi/v2").await.text.contains(&format!("{VERSION}/namespaces/{{namespace}}/widgets"));
        let resources = f.get(VERSION).await.code == 200;
        let schemas = f.get(&format!("/openapi/v3{VERSION}")).await.code == 200;
        let list = f.get(WIDGETS).await.code == 200;
        [discovery, document, index, swagger, resources, schemas, list]
    };
    assert_eq!(said().await, [false; 7]);
    f.server.registry().insert(row("Widget", "widgets"));
    assert_eq!(said().await, [true; 7]);
    let resources = f.get(VERSION).await.json();
    let of = |member: &str| -> Vec<Value> {
        resources["resources"].as_array().unwrap().iter().map(|resource| resource[member].clone()).collect()
    };
    assert_eq!(of("name"), ["widgets", "widgets/scale", "widgets/status"]);
    assert_eq!(of("kind"), ["Widget", "Scale", "Widget"]);
    assert_eq!(of("shortNames")[0], json!(["wd"]));
    // What `kubectl explain` looks for.
    let own = |documents: &Value| {
        let named = json!([{ "group": GROUP, "version": "v1", "kind": "Widget" }]);
        let mut all = documents.as_object().unwrap().values();
        let found = all.find(|schema| schema["x-kubernetes-group-version-kind"] == named).unwrap().clone();
        found["properties"]["spec"]["properties"]["size"]["description"].clone()
    };
    let document = f.get(&format!("/openapi/v3{VERSION}")).await.json();
    assert_eq!(own(&document["components"]["schemas"]), "How large it is.");
    assert_eq!(own(&f.get("/openapi/v2").await.json()["definitions"]), "How large it is.");

    assert_eq!(f.widget("a", json!({})).await.code, 201);
    let mut events = watch(&f, &format!("{WIDGETS}?watch=1"), "").await;
    assert_eq!(events.next().await.unwrap()["type"], "ADDED");
    f.server.registry().remove(GROUP, "v1", "widgets");
    assert!(events.next().await.is_none(), "its watches end");
    assert_eq!(said().await, [false; 7]);
    assert_eq!(f.widget("b", json!({})).await.text, "404 page not found\n");

    f.server.registry().insert(row("Widget", "widgets"));
    assert_eq!(f.get(WIDGETS).await.json()["items"].as_array().unwrap().len(), 1);
    f.server.shutdown().await;
}

#[tokio::test]
async fn a_kind_that_came_is_under_the_roles_as_any() {
    let f = Fixture::with_widgets().await;
    let jane = || Some(Caller::part("jane"));
    let text = "widgets.tests.example.com is forbidden: User \"jane\" cannot list resource \"widgets\" in API \
                group \"tests.example.com\" in the namespace \"default\"";
    f.ask_as(jane(), "GET", WIDGETS, &[], "").await.refused(403, text);
    let group = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let rules = json!([{ "apiGroups": [GROUP], "resources": ["widgets"], "verbs": ["list"] }]);
    f.made(&format!("{group}/roles"), json!({ "metadata": { "name": "w" }, "rules": rules })).await;
    let binding = json!({
        "metadata": { "name": "w" }, "roleRef": { "kind": "Role", "name": "w" },
        "subjects": [{ "kind": "User", "name": "jane" }],
    });
    f.made(&format!("{group}/rolebindings"), binding).await;
    assert_eq!(f.ask_as(jane(), "GET", WIDGETS, &[], "").await.code, 200);
    assert_eq!(f.ask_as(jane(), "GET", &format!("{WIDGETS}/a/status"), &[], "").await.code, 403);
    f.server.shutdown().await;
}

#[tokio::test]
async fn the_controllers_see_a_kind_come_and_go() {
    let f = Fixture::with_widgets().await;
    let owned_by = |name: &str, owner: &Value| {
        let reference = json!({ "apiVersion": owner["apiVersion"], "kind": owner["kind"],
            "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"] });
        json!({ "metadata": { "name": name, "ownerReferences": [reference] } })
    };
    // An owner of the new kind, what it owns, and what that owns.
    let owner = f.made(WIDGETS, json!({ "metadata": { "name": "owner" } })).await;
    let map = f.made(CONFIG_MAPS, owned_by("owned", &owner)).await;
    f.made(WIDGETS, owned_by("last", &map)).await;
    f.ask("DELETE", &format!("{WIDGETS}/owner"), &[], "").await;
    f.wait(&format!("{WIDGETS}/last"), "not collected", |answer| answer.code == 404).await;
    assert_eq!(f.get(&format!("{CONFIG_MAPS}/owned")).await.code, 404);

    // Of a kind that is gone nobody can tell whether the owner is there.
    let owner = f.made(WIDGETS, json!({ "metadata": { "name": "owner" } })).await;
    f.made(CONFIG_MAPS, owned_by("owned", &owner)).await;
    f.server.registry().remove(GROUP, "v1", "widgets");
    let gone = json!({ "apiVersion": format!("{GROUP}/v1"), "kind": "Widget",
        "metadata": { "name": "x", "uid": "7f5a4a3e-0000-4000-8000-000000000000" } });
    f.made(CONFIG_MAPS, owned_by("orphan", &gone)).await;
    // Later work is done meanwhile.
    let fence = f.config_map("fence").await;
    f.made(CONFIG_MAPS, owned_by("behind", &fence)).await;
    f.ask("DELETE", &format!("{CONFIG_MAPS}/fence"), &[], "").await;
    f.wait(&format!("{CONFIG_MAPS}/behind"), "not collected", |answer| answer.code == 404).await;
    for name in ["owned", "orphan"] {
        assert_eq!(f.get(&format!("{CONFIG_MAPS}/{name}")).await.code, 200, "{name}");
    }
    // Once it is back, they can.
    f.server.registry().insert(row("Widget", "widgets"));
    f.wait(&format!("{CONFIG_MAPS}/orphan"), "not collected", |answer| answer.code == 404).await;
    assert_eq!(f.get(&format!("{CONFIG_MAPS}/owned")).await.code, 200);
    f.server.shutdown().await;
}

/// Named like a built-in kind, but for its group: nothing may take it for that.
#[tokio::test]
async fn quotas_and_namespaces_tell_kinds_apart_by_their_groups() {
    let f = Fixture::start().await;
    f.server.registry().insert(row("Event", "events"));
    let namespace = |name: &str| format!("/api/v1/namespaces/{name}");
    f.made("/api/v1/namespaces", json!({ "metadata": { "name": "n" } })).await;
    let quotas = format!("{}/resourcequotas", namespace("n"));
    let hard = json!({ "count/events.tests.example.com": "2" });
    f.made(&quotas, json!({ "metadata": { "name": "q" }, "spec": { "hard": hard } })).await;
    f.wait(&format!("{quotas}/q"), "not counted", |answer| answer.json()["status"]["hard"] == hard).await;
    let events = format!("{VERSION}/namespaces/n/events");
    let event =
        |name: &str| json!({ "metadata": { "name": name, "finalizers": ["tests.example.com/held"] } });
    for name in ["a", "b"] {
        f.made(&events, event(name)).await;
    }
    f.post(&events, event("c")).await.refused(
        403,
        "events.tests.example.com \"c\" is forbidden: exceeded quota: q, requested: \
         count/events.tests.example.com=1, used: count/events.tests.example.com=2, limited: \
         count/events.tests.example.com=2",
    );
    let release = json!({ "metadata": { "finalizers": null } });
    f.patch(&format!("{events}/b"), "merge-patch+json", release.clone()).await;
    f.ask("DELETE", &format!("{events}/b"), &[], "").await;
    let used = |count: &'static str| {
        move |answer: &Answer| answer.json()["status"]["used"]["count/events.tests.example.com"] == count
    };
    f.wait(&format!("{quotas}/q"), "not given back", used("1")).await;

    f.ask("DELETE", &namespace("n"), &[], "").await;
    f.wait(&format!("{events}/a"), "not deleted", |answer| {
        answer.json()["metadata"]["deletionTimestamp"].is_string()
    })
    .await;
    assert_eq!(f.get(&namespace("n")).await.code, 200, "something is left in it");
    f.patch(&format!("{events}/a"), "merge-patch+json", release).await;
    f.wait(&namespace("n"), "not finished", |answer| answer.code == 404).await;
    f.server.shutdown().await;
}
