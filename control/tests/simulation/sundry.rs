//! The rest of what a cluster holds: ReplicationControllers, ClusterRoles that gather others,
//! Endpoints made by hand, bootstrap tokens, requests for certificates, pods that bring claims
//! along, and a namespace that comes and goes with all that is in it.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::SignedDuration;
use proa_control::registry::Caller;
use proa_kinds::Part;
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};

use super::api::{reference, text};
use super::{NODES, World};

const ROLE: &str = "rbac.authorization.k8s.io/v1 ClusterRole";
const RBAC: &str = "rbac.authorization.k8s.io/v1";
/// The namespace that comes and goes.
const OTHER: &str = "other";

impl World {
    /// A user or an operator changes something.
    pub fn disturb_sundry(&mut self) {
        match self.random.below(12) {
            0..3 => self.change_replication_controller(),
            3 => self.change_role(),
            4..6 => self.change_endpoints(),
            6 => self.add_token(),
            7 => self.ask_for_certificate(),
            8 => self.change_bringer(),
            _ => self.change_namespace(),
        }
    }

    fn change_replication_controller(&mut self) {
        let kind = "v1 ReplicationController";
        let replicas = self.random.below(4);
        let Some(controller) = self.api.get(kind, "default", "rc").cloned() else {
            let template = json!({
                "metadata": {"labels": {"app": "rc"}},
                "spec": {"containers": [{"name": "c", "image": "v0"}]},
            });
            let body =
                json!({"metadata": {"name": "rc"}, "spec": {"replicas": replicas, "template": template}});
            self.api.create("v1", "ReplicationController", "default", body).unwrap();
            return;
        };
        if controller["metadata"]["deletionTimestamp"].is_string() {
            return;
        }
        match self.random.below(6) {
            0 => {
                let policy = ["Background", "Foreground", "Orphan"][self.random.below(3)];
                self.api.delete(&reference(&controller), Some(policy), None);
            }
            1 => self.relabel("rc"),
            _ => {
                let mut new = controller.clone();
                new["spec"]["replicas"] = replicas.into();
                self.api.update(&reference(&controller), Part::Main, new).unwrap();
            }
        }
    }

    /// A pod is taken aside to be looked at; its controller has to let it go and to replace it.
    fn relabel(&mut self, app: &str) {
        let pod = self.api.list("v1 Pod").find(|p| p["metadata"]["labels"]["app"] == app).cloned();
        if self.api.list("v1 Pod").filter(|p| p["metadata"]["labels"]["app"] == "aside").count() > 1 {
            return;
        }
        if let Some(pod) = pod {
            let mut new = pod.clone();
            new["metadata"]["labels"]["app"] = "aside".into();
            self.api.update(&reference(&pod), Part::Main, new).unwrap();
        }
    }

    fn change_role(&mut self) {
        let rule = |verb: &str| json!([{"apiGroups": [""], "resources": ["pods"], "verbs": [verb]}]);
        if self.api.get(ROLE, "", "all").is_none() {
            let selector = json!({"matchLabels": {"to": "all"}});
            let body =
                json!({"metadata": {"name": "all"}, "aggregationRule": {"clusterRoleSelectors": [selector]}});
            self.api.create(RBAC, "ClusterRole", "", body).unwrap();
            return;
        }
        let name = ["all", "p1", "p2"][self.random.below(3)];
        let verb = ["get", "list", "watch"][self.random.below(3)];
        match self.api.get(ROLE, "", name).cloned() {
            None => {
                let meta = json!({"name": name, "labels": {"to": "all"}});
                self.api
                    .create(RBAC, "ClusterRole", "", json!({"metadata": meta, "rules": rule(verb)}))
                    .unwrap();
            }
            Some(role) if name != "all" && self.random.one_in(3) => {
                self.api.delete(&reference(&role), None, None);
            }
            Some(role) => {
                let mut new = role.clone();
                new["rules"] = rule(verb);
                self.api.update(&reference(&role), Part::Main, new).unwrap();
            }
        }
    }

    /// Endpoints by hand, for a Service that has no selector, or gets one.
    fn change_endpoints(&mut self) {
        let Some(service) = self.api.get("v1 Service", "default", "hand").cloned() else {
            let spec = json!({"ports": [{"port": 80}]});
            let body = json!({"metadata": {"name": "hand"}, "spec": spec});
            self.api.create("v1", "Service", "default", body).unwrap();
            return;
        };
        let endpoints = self.api.get("v1 Endpoints", "default", "hand").cloned();
        let address = format!("192.0.2.{}", 1 + self.random.below(4));
        let subsets = json!([{"addresses": [{"ip": address}], "ports": [{"port": 8080, "protocol": "TCP"}]}]);
        match (endpoints, self.random.below(5)) {
            (_, 0) => {
                let mut new = service.clone();
                let selects = service["spec"]["selector"].is_object();
                new["spec"]["selector"] = if selects { Value::Null } else { json!({"app": "a"}) };
                self.api.update(&reference(&service), Part::Main, new).unwrap();
            }
            (Some(endpoints), 1) => {
                self.api.delete(&reference(&endpoints), None, None);
            }
            (_, 2) if self.random.one_in(3) => {
                self.api.delete(&reference(&service), None, None);
            }
            (Some(endpoints), _) => {
                let mut new = endpoints.clone();
                new["subsets"] = subsets;
                self.api.update(&reference(&endpoints), Part::Main, new).unwrap();
            }
            (None, _) => {
                let body = json!({"metadata": {"name": "hand"}, "subsets": subsets});
                self.api.create("v1", "Endpoints", "default", body).unwrap();
            }
        }
    }

    fn add_token(&mut self) {
        let name = format!("bootstrap-token-aaaaa{}", self.random.below(8));
        if self.api.get("v1 Secret", "kube-system", &name).is_some() {
            return;
        }
        let ends = self.api.now + SignedDuration::from_secs(10 + self.random.below(200) as i64);
        let data =
            json!({"expiration": BASE64.encode(ends.to_string()), "token-id": BASE64.encode(&name[16..])});
        let body = json!({"metadata": {"name": name}, "type": "bootstrap.kubernetes.io/token", "data": data});
        self.api.create("v1", "Secret", "kube-system", body).unwrap();
    }

    /// A new node asks for its client certificate, and somebody else for the same.
    fn ask_for_certificate(&mut self) {
        let name = format!("csr-{}", self.random.below(3));
        if self.api.get("certificates.k8s.io/v1 CertificateSigningRequest", "", &name).is_some() {
            return;
        }
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, "system:node:new");
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let is_bootstrap = self.random.one_in(2);
        let (user, group) =
            if is_bootstrap { ("system:bootstrap:abcdef", "system:bootstrappers") } else { ("jane", "devs") };
        let spec = json!({
            "request": BASE64.encode(pem), "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"],
        });
        let body = json!({"metadata": {"name": name}, "spec": spec});
        let groups = vec![group.to_owned(), "system:authenticated".to_owned()];
        let caller = Caller { user: user.to_owned(), groups, ..Caller::default() };
        let version = "certificates.k8s.io/v1";
        self.api.create_as(caller, version, "CertificateSigningRequest", "", body).unwrap();
    }

    /// A pod that brings its claim along comes, or goes.
    fn change_bringer(&mut self) {
        if let Some(pod) = self.api.get("v1 Pod", "default", "bringer").cloned() {
            self.api.delete(&reference(&pod), None, None);
            return;
        }
        let template = json!({"spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "local-path",
            "resources": {"requests": {"storage": "1Gi"}},
        }});
        let spec = json!({
            "containers": [{"name": "c", "image": "v0"}],
            "volumes": [{"name": "own", "ephemeral": {"volumeClaimTemplate": template}}],
        });
        // A quota may be in the way.
        let body = json!({"metadata": {"name": "bringer"}, "spec": spec});
        let _pod = self.api.create("v1", "Pod", "default", body);
    }

    /// The other namespace is made, filled, or told to go in the middle of everything.
    fn change_namespace(&mut self) {
        let Some(namespace) = self.api.get("v1 Namespace", "", OTHER).cloned() else {
            self.api.create("v1", "Namespace", "", json!({"metadata": {"name": OTHER}})).unwrap();
            return;
        };
        if namespace["metadata"]["deletionTimestamp"].is_string() {
            return;
        }
        if self.random.one_in(3) {
            self.api.meet("a namespace goes");
            self.api.delete(&reference(&namespace), None, None);
            return;
        }
        let template = json!({
            "metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "v0"}]},
        });
        let mut task = template.clone();
        task["spec"]["restartPolicy"] = "Never".into();
        let selector = json!({"matchLabels": {"app": "x"}});
        let (api_version, kind, spec) = match self.random.below(6) {
            0 => {
                ("apps/v1", "Deployment", json!({"replicas": 2, "selector": selector, "template": template}))
            }
            1 => (
                "apps/v1",
                "StatefulSet",
                json!({"replicas": 2, "serviceName": "x", "selector": selector, "template": template}),
            ),
            2 => ("batch/v1", "Job", json!({"completions": 2, "parallelism": 2, "template": task})),
            3 => ("v1", "Service", json!({"selector": {"app": "x"}, "ports": [{"port": 80}]})),
            4 => ("policy/v1", "PodDisruptionBudget", json!({"minAvailable": 1, "selector": selector})),
            _ => ("v1", "ResourceQuota", json!({"hard": {"pods": "4"}})),
        };
        // One that is there already stays as it is.
        let body = json!({"metadata": {"name": "x"}, "spec": spec});
        let _there_already = self.api.create(api_version, kind, OTHER, body);
    }

    /// What must hold at every step.
    pub fn check_sundry(&self) {
        let mut ranges = BTreeSet::new();
        for node in self.api.list("v1 Node") {
            let range = text(node, "/spec/podCIDR");
            assert!(range.is_empty() || ranges.insert(range), "{range} is given to two nodes");
        }
    }

    /// What must hold when nothing is left to do.
    pub fn check_sundry_at_rest(&self) {
        for node in NODES {
            let node = self.api.get("v1 Node", "", node).expect("all nodes are back");
            assert!(!text(node, "/spec/podCIDR").is_empty(), "no addresses for the pods of {node}");
        }
        for controller in self.api.list("v1 ReplicationController") {
            let uid = &controller["metadata"]["uid"];
            let pods = self.api.list("v1 Pod").filter(|p| p["metadata"]["ownerReferences"][0]["uid"] == *uid);
            let labels: Vec<&str> = pods.map(|p| text(p, "/metadata/labels/app")).collect();
            let wanted = controller["spec"]["replicas"].as_u64().unwrap() as usize;
            assert_eq!(labels, vec!["rc"; wanted], "pods of a ReplicationController");
            assert_eq!(controller["status"]["replicas"], wanted, "{controller:#}");
        }
        if let Some(role) = self.api.get(ROLE, "", "all") {
            let mut wanted: Vec<&Value> = Vec::new();
            for part in self.api.list(ROLE).filter(|r| r["metadata"]["labels"]["to"] == "all") {
                let rules = part["rules"].as_array().into_iter().flatten();
                rules.for_each(|rule| {
                    if !wanted.contains(&rule) {
                        wanted.push(rule)
                    }
                });
            }
            let rules: Vec<&Value> = role["rules"].as_array().into_iter().flatten().collect();
            assert_eq!(rules, wanted, "the gathered rules");
        }
        for secret in self.api.list("v1 Secret") {
            assert!(secret["data"]["expiration"].is_null(), "a token outlives its end: {secret}");
        }
        for request in self.api.list("certificates.k8s.io/v1 CertificateSigningRequest") {
            let is_signed = request["status"]["certificate"].is_string();
            let by_bootstrap = text(request, "/spec/username").starts_with("system:bootstrap:");
            assert_eq!(is_signed, by_bootstrap, "{request:#}");
        }
        self.check_mirror();
    }

    /// Slices show what hand-made Endpoints say, where the Service has no selector.
    fn check_mirror(&self) {
        let manager = "/metadata/labels/endpointslice.kubernetes.io~1managed-by";
        let mirrored = self
            .api
            .list("discovery.k8s.io/v1 EndpointSlice")
            .filter(|s| text(s, manager) == "endpointslicemirroring-controller.k8s.io");
        let shown: Vec<&str> = mirrored
            .flat_map(|s| s["endpoints"].as_array().into_iter().flatten())
            .map(|e| text(e, "/addresses/0"))
            .collect();
        let service = self.api.get("v1 Service", "default", "hand");
        let endpoints = self.api.get("v1 Endpoints", "default", "hand");
        let by_hand = service.is_some_and(|s| s["spec"]["selector"].as_object().is_none_or(|s| s.is_empty()));
        let said = endpoints.filter(|_| by_hand).map(|e| text(e, "/subsets/0/addresses/0/ip"));
        let said: Vec<&str> = said.filter(|ip| !ip.is_empty()).into_iter().collect();
        assert_eq!(shown, said, "mirrored slices");
    }
}
