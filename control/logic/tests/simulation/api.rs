//! A model of the API server: objects in memory, the real rules of each kind, a log to watch.
//!
//! Keeps the registry's contract (metadata, generations, finalizers, graceful deletion) in as
//! few lines as it takes, and checks what must hold at every moment.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PodSpec, ResourceQuota};
use proa_api::Refusal;
use proa_api::resources::{Resources, requests};
use proa_kinds::admission::quota::{Claim, Count, is_ignored, settle};
use proa_kinds::{Kind, Part, Table, Write, built_in};
use proa_logic::world::plan::{Reference, Verb};
use serde_json::{Value, json};

/// API version and kind, namespace, name.
pub type Id = (String, String, String);

/// One change, as a watch shows it.
pub struct Entry {
    pub revision: u64,
    pub kind: String,
    pub deleted: bool,
    pub object: Value,
}

pub struct Api {
    table: Table,
    pub objects: BTreeMap<Id, Value>,
    pub log: Vec<Entry>,
    /// When the simulation began.
    pub began: Timestamp,
    pub now: Timestamp,
    counter: u64,
    /// What has come about, and how often.
    pub met: BTreeMap<&'static str, u64>,
}

pub fn kind_name(api_version: &str, kind: &str) -> String {
    format!("{api_version} {kind}")
}

pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

impl Api {
    pub fn new(now: Timestamp) -> Self {
        Api {
            table: built_in::table(),
            objects: BTreeMap::new(),
            log: Vec::new(),
            began: now,
            now,
            counter: 0,
            met: BTreeMap::new(),
        }
    }

    /// Notes that something worth a simulation has come about.
    pub fn meet(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    pub fn revision(&self) -> u64 {
        self.log.last().map_or(0, |e| e.revision)
    }

    /// The last writes, for people.
    pub fn tail(&self, count: usize) -> String {
        let kept: Vec<&Entry> = self.log.iter().filter(|e| !e.kind.ends_with("Lease")).collect();
        let lines = kept[kept.len().saturating_sub(count)..].iter().map(|e| {
            let (o, gone) = (&e.object, if e.deleted { "gone" } else { "" });
            let short = |v: &Value| v.to_string().chars().take(300).collect::<String>();
            let spec =
                [&o["spec"]["replicas"], &o["spec"]["nodeName"], &o["spec"]["taints"]].map(short).join(" ");
            let meta = &o["metadata"];
            format!(
                "{} {} {} {gone} generation {} deleted {} spec {spec} status {}",
                e.revision,
                e.kind,
                text(o, "/metadata/name"),
                meta["generation"],
                meta["deletionTimestamp"],
                short(&o["status"])
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    pub fn time(&self) -> String {
        Timestamp::from_second(self.now.as_second()).unwrap().to_string()
    }

    pub fn list<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        let from = (kind.to_owned(), String::new(), String::new());
        self.objects.range(from..).take_while(move |((k, _, _), _)| k == kind).map(|(_, o)| o)
    }

    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(kind.to_owned(), namespace.to_owned(), name.to_owned()))
    }

    fn kind(&self, api_version: &str, kind: &str) -> std::sync::Arc<Kind> {
        self.table.by_kind(api_version, kind).expect("a built-in kind").clone()
    }

    /// Performs what a plan asks for; gives the kind and revision of what was written.
    pub fn perform(&mut self, verb: &Verb) -> Result<Option<(String, u64)>, Refusal> {
        match verb {
            Verb::Create { api_version, kind, namespace, body } => {
                self.create(api_version, kind, namespace, body.clone()).map(Some)
            }
            Verb::Patch { target, part, guard, change } => {
                let kind = self.kind(&target.api_version, &target.kind);
                let Some(current) = self.find(target).cloned() else { return Ok(None) };
                if guard.absent.as_ref().is_some_and(|r| self.exists(r)) {
                    return Ok(None);
                }
                if let Err(refusal) = guard.check(&target.uid, kind.resource(), &current) {
                    return if refusal.code() == 404 { Ok(None) } else { Err(refusal) };
                }
                let new = change.apply(&current);
                self.update(target, part.clone(), new).map(Some)
            }
            Verb::Delete { target, resource_version, propagation, grace_period_seconds, unless } => {
                if unless.iter().any(|r| self.exists(r)) {
                    return Ok(None);
                }
                let Some(current) = self.find(target) else { return Ok(None) };
                let kind = self.kind(&target.api_version, &target.kind);
                let stale = resource_version
                    .as_deref()
                    .is_some_and(|v| text(current, "/metadata/resourceVersion") != v);
                if text(current, "/metadata/uid") != &*target.uid || stale {
                    return Err(Refusal::stale(kind.resource(), &target.name));
                }
                Ok(self.delete(target, *propagation, *grace_period_seconds))
            }
            Verb::Scale { target, from, to } => {
                let Some(current) = self.find(target).cloned() else { return Ok(None) };
                if current["spec"]["replicas"] != *from {
                    let kind = self.kind(&target.api_version, &target.kind);
                    return Err(Refusal::stale(kind.resource(), &target.name));
                }
                let mut new = current;
                new["spec"]["replicas"] = (*to).into();
                self.update(target, Part::Main, new).map(Some)
            }
            Verb::DeleteAll { .. } => Ok(None),
            Verb::Bind { pod, node } => self.bind(pod, node).map(Some),
            Verb::SignCertificate { request, .. } => {
                let Some(mut new) = self.find(request).cloned() else { return Ok(None) };
                let key = rcgen::KeyPair::generate().unwrap();
                let certificate =
                    rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
                new["status"]["certificate"] = BASE64.encode(certificate.pem()).into();
                self.update(request, Part::STATUS, new).map(Some)
            }
            Verb::Recount { quota } => Ok(self.recount(quota)),
            Verb::Finalize { namespace } => {
                let mut object = self.find(namespace).cloned().unwrap_or_default();
                assert!(
                    !self.objects.keys().any(|(_, ns, _)| *ns == *namespace.name),
                    "finalized while not empty"
                );
                object["spec"] = json!({});
                Ok(Some(self.put_or_remove(&id_of(namespace), object)))
            }
        }
    }

    fn exists(&self, reference: &Reference) -> bool {
        let found = self.find(reference);
        found.is_some_and(|o| reference.uid.is_empty() || text(o, "/metadata/uid") == &*reference.uid)
    }

    fn find(&self, reference: &Reference) -> Option<&Value> {
        self.objects.get(&id_of(reference)).or_else(|| {
            let mut cluster_scoped = id_of(reference);
            cluster_scoped.1.clear();
            self.objects.get(&cluster_scoped)
        })
    }

    pub fn create(
        &mut self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        mut body: Value,
    ) -> Result<(String, u64), Refusal> {
        let row = self.kind(api_version, kind);
        self.counter += 1;
        body["apiVersion"] = api_version.into();
        body["kind"] = kind.into();
        if text(&body, "/metadata/name").is_empty() {
            let name = format!("{}{:05}", text(&body, "/metadata/generateName"), self.counter);
            body["metadata"]["name"] = name.into();
        }
        if row.namespaced {
            let terminating = self
                .get("v1 Namespace", "", namespace)
                .is_none_or(|n| n["metadata"]["deletionTimestamp"].is_string());
            if terminating {
                return Err(Refusal::forbidden(row.resource(), "", "because it is being terminated"));
            }
            body["metadata"]["namespace"] = namespace.into();
        }
        let id =
            (kind_name(api_version, kind), namespace.to_owned(), text(&body, "/metadata/name").to_owned());
        if self.objects.contains_key(&id) {
            return Err(Refusal::already_exists(row.resource(), &id.2));
        }
        // As admission does.
        let protection = match kind {
            "PersistentVolumeClaim" => Some("kubernetes.io/pvc-protection"),
            "PersistentVolume" => Some("kubernetes.io/pv-protection"),
            _ => None,
        };
        if let Some(finalizer) = protection {
            body["metadata"]["finalizers"] = json!([finalizer]);
        }
        // Some rules write the uid elsewhere too.
        body["metadata"]["uid"] = format!("uid-{:05}", self.counter).into();
        let mut object = row.apply_rules(Write::Create, body)?;
        object["metadata"]["creationTimestamp"] = self.time().into();
        if row.has_generation {
            object["metadata"]["generation"] = 1.into();
        }
        let settled = self.settle(&id, None, Some(&object))?;
        let written = self.put(&id, object);
        self.put_settled(settled);
        Ok(written)
    }

    pub fn update(&mut self, target: &Reference, part: Part, new: Value) -> Result<(String, u64), Refusal> {
        let row = self.kind(&target.api_version, &target.kind);
        let id = id_of(target);
        let old = self.objects[&id].clone();
        let mut merged = if part == Part::Main { new.clone() } else { old.clone() };
        merged["status"] = if part == Part::Main { old["status"].clone() } else { new["status"].clone() };
        if merged["status"].is_null() {
            merged.as_object_mut().unwrap().remove("status");
        }
        let mut merged = row.apply_rules(Write::Update(&old, &part), merged)?;
        let kept = ["uid", "creationTimestamp", "generation", "resourceVersion", "deletionTimestamp"];
        for field in kept.into_iter().chain(["deletionGracePeriodSeconds"]) {
            if let Some(value) = old["metadata"].get(field) {
                merged["metadata"][field] = value.clone();
            }
        }
        if row.has_generation && merged["spec"] != old["spec"] {
            merged["metadata"]["generation"] =
                (old["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
        }
        if merged == old {
            return Ok((id.0, text(&old, "/metadata/resourceVersion").parse().unwrap()));
        }
        self.settle(&id, Some(&old), Some(&merged))?;
        Ok(self.put_or_remove(&id, merged))
    }

    fn bind(&mut self, pod: &Reference, node: &str) -> Result<(String, u64), Refusal> {
        let row = self.kind("v1", "Pod");
        let id = id_of(pod);
        let stale = || Refusal::stale(row.resource(), &pod.name);
        let mut object = self.objects.get(&id).cloned().ok_or_else(stale)?;
        if text(&object, "/metadata/uid") != &*pod.uid
            || object["spec"]["nodeName"].is_string()
            || object["metadata"]["deletionTimestamp"].is_string()
        {
            return Err(stale());
        }
        let gates = object["spec"]["schedulingGates"].as_array();
        assert!(gates.is_none_or(Vec::is_empty), "a pod that is held back is bound: {object}");
        self.check_company(&object, node);
        object["spec"]["nodeName"] = node.into();
        let written = self.put(&id, object);
        self.check_node(node);
        Ok(written)
    }

    /// The scheduler never gives away more of a node than there is.
    fn check_node(&self, node: &str) {
        let Some(object) = self.get("v1 Node", "", node) else { return };
        let all = Resources::of(&serde_json::from_value(object["status"]["allocatable"].clone()).unwrap());
        let mut used = Resources::default();
        for pod in self.list("v1 Pod").filter(|p| text(p, "/spec/nodeName") == node) {
            if !["Failed", "Succeeded"].contains(&text(pod, "/status/phase")) {
                used.add(&requests(&serde_json::from_value::<PodSpec>(pod["spec"].clone()).unwrap()));
            }
        }
        let fits = used.cpu_millis <= all.cpu_millis
            && used.memory_bytes <= all.memory_bytes
            && used.pods <= all.pods;
        assert!(fits, "{node} is given away twice: {used:?} of {all:?}");
    }

    /// No pod comes to where one is that it does not stand, or that does not stand it. In this
    /// world all such terms are of single nodes and name labels.
    fn check_company(&self, pod: &Value, node: &str) {
        let repels = |one: &Value, other: &Value| {
            let terms = "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution";
            one.pointer(terms).and_then(Value::as_array).into_iter().flatten().any(|term| {
                let labels = term["labelSelector"]["matchLabels"].as_object();
                labels.into_iter().flatten().all(|(name, value)| other["metadata"]["labels"][name] == *value)
            })
        };
        for other in self.list("v1 Pod").filter(|p| text(p, "/spec/nodeName") == node) {
            let has_ended = ["Failed", "Succeeded"].contains(&text(other, "/status/phase"));
            let apart = other["metadata"]["namespace"] != pod["metadata"]["namespace"];
            assert!(
                has_ended || apart || !repels(pod, other) && !repels(other, pod),
                "{} is put beside {} on {node}:\n{}",
                text(pod, "/metadata/name"),
                text(other, "/metadata/name"),
                self.tail(40)
            );
        }
    }

    pub fn delete(
        &mut self,
        target: &Reference,
        propagation: Option<&str>,
        grace: Option<i64>,
    ) -> Option<(String, u64)> {
        let id = id_of(target);
        let mut object = self.objects.get(&id)?.clone();
        let mut finalizers: Vec<Value> =
            object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let held = match propagation {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        finalizers.extend(held.filter(|f| !finalizers.contains(&json!(f))).map(Value::from));
        if !finalizers.is_empty() {
            object["metadata"]["finalizers"] = json!(finalizers);
        }
        let bound = !text(&object, "/spec/nodeName").is_empty() && id.0 == "v1 Pod";
        let finished = ["Failed", "Succeeded"].contains(&text(&object, "/status/phase"));
        let graceful = bound && !finished && grace != Some(0);
        let first = object["metadata"]["deletionTimestamp"].is_null();
        if id.0 == "v1 Namespace" {
            object["status"]["phase"] = "Terminating".into();
        }
        if first {
            object["metadata"]["deletionTimestamp"] = self.time().into();
        }
        if first || grace == Some(0) {
            object["metadata"]["deletionGracePeriodSeconds"] = if graceful { 30 } else { 0 }.into();
        }
        if object == self.objects[&id] {
            return None;
        }
        Some(self.put_or_remove(&id, object))
    }

    fn put_or_remove(&mut self, id: &Id, object: Value) -> (String, u64) {
        let held =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_array).is_some_and(|l| !l.is_empty());
        let namespace_held = id.0 == "v1 Namespace" && held("/spec/finalizers");
        let releasing = object["metadata"]["deletionTimestamp"].is_string()
            && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
            && !held("/metadata/finalizers")
            && !namespace_held;
        if releasing {
            let mut last = self.objects.remove(id).expect("it is there");
            let settled = self.settle(id, Some(&last), None).expect("what goes is never refused");
            let revision = self.revision() + 1;
            last["metadata"]["resourceVersion"] = revision.to_string().into();
            self.log.push(Entry { revision, kind: id.0.clone(), deleted: true, object: last });
            self.put_settled(settled);
            return (id.0.clone(), revision);
        }
        let settled = self.settle(id, self.objects.get(id), Some(&object)).expect("it was asked before");
        let written = self.put(id, object);
        self.put_settled(settled);
        written
    }

    /// What a write makes of the quotas of its namespace.
    fn settle(&self, id: &Id, old: Option<&Value>, new: Option<&Value>) -> Result<Vec<Value>, Refusal> {
        let (api_version, kind) = id.0.split_once(' ').expect("both");
        let row = self.kind(api_version, kind);
        if !row.namespaced || is_ignored(&row.group, &row.plural) {
            return Ok(Vec::new());
        }
        let claim = |object: &Value| Claim::of(&row.group, &row.plural, object, self.now);
        let (old, new) = (old.map(claim), new.map(claim));
        let mut settled = Vec::new();
        for quota in self.list("v1 ResourceQuota").filter(|q| text(q, "/metadata/namespace") == id.1) {
            let typed: ResourceQuota = serde_json::from_value(quota.clone()).unwrap();
            let status = settle(&typed, old.as_ref(), new.as_ref());
            if let Some(status) = status.map_err(|why| Refusal::forbidden(row.resource(), &id.2, why))? {
                let mut quota = quota.clone();
                quota["status"] = json!(status);
                settled.push(quota);
            }
        }
        Ok(settled)
    }

    fn put_settled(&mut self, settled: Vec<Value>) {
        for quota in settled {
            let id = id_of(&reference(&quota));
            if self.objects.contains_key(&id) {
                self.put(&id, quota);
            }
        }
    }

    /// What a quota holds by all that is there.
    pub fn counted(&self, quota: &ResourceQuota) -> Value {
        let mut count = Count::new(quota);
        for (plural, group) in count.kinds() {
            let row =
                self.table.iter().find(|row| row.plural == plural && row.group == group).expect("a kind");
            let kind = kind_name(&row.api_version(), &row.kind);
            let namespace = quota.metadata.namespace.as_deref().unwrap_or_default();
            for object in self.list(&kind).filter(|o| text(o, "/metadata/namespace") == namespace) {
                count.add(&Claim::of(&group, &plural, object, self.now));
            }
        }
        json!(count.status())
    }

    fn recount(&mut self, quota: &Reference) -> Option<(String, u64)> {
        let object = self.find(quota)?.clone();
        let mut new = object.clone();
        new["status"] = self.counted(&serde_json::from_value(object.clone()).unwrap());
        (new != object).then(|| self.put(&id_of(quota), new))
    }

    fn put(&mut self, id: &Id, mut object: Value) -> (String, u64) {
        let revision = self.revision() + 1;
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        self.objects.insert(id.clone(), object.clone());
        self.log.push(Entry { revision, kind: id.0.clone(), deleted: false, object });
        (id.0.clone(), revision)
    }
}

fn id_of(reference: &Reference) -> Id {
    (
        kind_name(&reference.api_version, &reference.kind),
        reference.namespace.to_string(),
        reference.name.to_string(),
    )
}

/// The reference to an object.
pub fn reference(object: &Value) -> Reference {
    let mut reference = Reference::named(
        text(object, "/apiVersion"),
        text(object, "/kind"),
        text(object, "/metadata/namespace"),
        text(object, "/metadata/name"),
    );
    reference.uid = text(object, "/metadata/uid").into();
    reference
}
