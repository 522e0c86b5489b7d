//! The pages on scheduling of the Kubernetes documentation, walked through with a real kubectl on
//! one node: taints and tolerations, node labels, cordons, ports, scarce resources, gates,
//! profiles, priority and preemption, affinity between pods and topology spread. What users read
//! in `FailedScheduling` is compared word for word.

mod cluster;

use std::fs;

use cluster::Cluster;
use serde_json::{Value, json};

/// What preemption adds where no pod's leaving would help.
const NOT_HELPFUL: &str = " preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
/// What it adds where there are only pods that matter as much.
const NO_VICTIMS: &str =
    " preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";

/// A pod that waits for SIGTERM, with further fields of its spec.
fn pod(name: &str, labels: Value, spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "hello-container:1",
            "command": ["/bin/busybox", "sh", "-c", "trap exit TERM; /bin/busybox sleep 1000 & wait"]}]}});
    for (field, value) in spec.as_object().expect("an object") {
        match field.as_str() {
            "resources" | "ports" | "command" => pod["spec"]["containers"][0][field] = value.clone(),
            _ => pod["spec"][field] = value.clone(),
        }
    }
    pod
}

/// A cluster and the name of its node.
struct Lab {
    cluster: Cluster,
    node: String,
}

impl Lab {
    fn start(flags: &[&str]) -> Lab {
        let cluster = Cluster::start_with(flags);
        cluster.pack_examples();
        let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
        Lab { cluster, node }
    }

    fn create(&self, objects: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.cluster.apply(&list.to_string());
    }

    /// A pod without labels of its own.
    fn run(&self, name: &str, spec: Value) {
        self.create(&[pod(name, json!({}), spec)]);
    }

    fn ready(&self, pods: &[&str]) {
        let names: Vec<String> = pods.iter().map(|name| format!("pod/{name}")).collect();
        let mut arguments = vec!["wait", "--for=condition=Ready", "--timeout=60s"];
        arguments.extend(names.iter().map(String::as_str));
        self.cluster.kubectl(&arguments);
    }

    fn messages(&self, object: &str, reason: &str) -> String {
        let field = format!("involvedObject.name={object},reason={reason}");
        let path = r#"jsonpath={range .items[*]}{.message}{"\n"}{end}"#;
        self.cluster.kubectl(&["get", "events", "--field-selector", &field, "-o", path])
    }

    fn event(&self, object: &str, reason: &str, text: &str) {
        self.cluster.wait(&format!("{reason} of {object}: {text}"), || {
            self.messages(object, reason).lines().any(|line| line == text)
        });
    }

    /// The pod has no node, for this reason, in its condition and in an Event.
    fn unschedulable(&self, pod: &str, text: &str) {
        self.event(pod, "FailedScheduling", text);
        let pod = self.cluster.get("pod", pod);
        let condition = condition(&pod, "PodScheduled");
        assert_eq!(
            (&pod["status"]["phase"], &condition["reason"], &condition["message"]),
            (&"Pending".into(), &"Unschedulable".into(), &text.into())
        );
    }

    /// `kubectl VERB NODE …`, and what it must say.
    fn says(&self, arguments: &[&str], expected: &str) {
        assert_eq!(self.cluster.kubectl(arguments), format!("node/{} {expected}\n", self.node));
    }

    fn gone(&self, pod: &str) {
        self.cluster.wait(&format!("{pod} to go"), || self.cluster.get("pod", pod).is_null());
    }

    fn delete(&self, pods: &[&str]) {
        self.cluster.kubectl(&[&["delete", "pod", "--now"], pods].concat());
    }

    /// Thousandths of a CPU that make `percent` of the node, as a container's request.
    fn cpu(&self, percent: u64) -> Value {
        let node = self.cluster.get("node", &self.node);
        let cpu = node["status"]["allocatable"]["cpu"].as_str().expect("a quantity").to_owned();
        let millis = match cpu.strip_suffix('m') {
            Some(millis) => millis.parse::<u64>(),
            None => cpu.parse::<u64>().map(|cpus| cpus * 1000),
        };
        json!({"requests": {"cpu": format!("{}m", millis.expect("a number") * percent / 100)}})
    }
}

fn condition(object: &Value, type_: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|c| c["type"] == type_).unwrap_or(Value::Null)
}

/// <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>.
#[test]
fn taints_keep_pods_away_and_send_them_away() {
    let lab = Lab::start(&[]);
    let node = lab.node.as_str();
    let tolerates =
        |toleration: Value| json!({"tolerations": [toleration], "terminationGracePeriodSeconds": 1});
    lab.says(&["taint", "nodes", node, "key1=value1:NoSchedule"], "tainted");
    let again = lab.cluster.kubectl_fails(&["taint", "nodes", node, "key1=value2:NoSchedule"]);
    assert!(
        again.contains(&format!(
            "node {node} already has key1 taint(s) with same effect(s) and --overwrite is false"
        )),
        "{again}"
    );
    lab.create(&[
        pod("plain", json!({}), json!({})),
        pod("other", json!({}), tolerates(json!({"key": "key1", "value": "value2", "effect": "NoSchedule"}))),
        pod("equal", json!({}), tolerates(json!({"key": "key1", "value": "value1", "effect": "NoSchedule"}))),
        pod("exists", json!({}), tolerates(json!({"key": "key1", "operator": "Exists"}))),
    ]);
    lab.ready(&["equal", "exists"]);
    let untolerated = "0/1 nodes are available: 1 node(s) had untolerated taint {key1: value1}.";
    lab.unschedulable("plain", &format!("{untolerated}{NOT_HELPFUL}"));
    lab.unschedulable("other", &format!("{untolerated}{NOT_HELPFUL}"));
    let described = lab.cluster.kubectl(&["describe", "node", node]);
    assert!(described.contains("Taints:             key1=value1:NoSchedule\n"), "{described}");

    // Another value lets another pod in; without the taint there is room for everyone. A taint
    // that only asks to be avoided keeps nobody from the only node.
    lab.says(&["taint", "nodes", node, "key1=value2:NoSchedule", "--overwrite"], "modified");
    lab.ready(&["other"]);
    lab.says(&["taint", "nodes", node, "key1:PreferNoSchedule"], "tainted");
    lab.says(&["taint", "nodes", node, "key1:NoSchedule-"], "untainted");
    lab.ready(&["plain"]);
    lab.says(&["taint", "nodes", node, "key1-"], "untainted");
    let unknown = lab.cluster.kubectl_fails(&["taint", "nodes", node, "key1-"]);
    assert!(unknown.contains("taint \"key1\" not found"), "{unknown}");

    // NoExecute sends away who does not tolerate it, at once or after a time.
    let no_execute = |seconds: Value| json!({"key": "key2", "operator": "Equal", "value": "v", "effect": "NoExecute", "tolerationSeconds": seconds});
    lab.create(&[
        pod("always", json!({}), tolerates(no_execute(Value::Null))),
        pod("long", json!({}), tolerates(no_execute(json!(3600)))),
        pod("brief", json!({}), tolerates(no_execute(json!(2)))),
    ]);
    lab.ready(&["always", "long", "brief"]);
    lab.says(&["taint", "nodes", node, "key2=v:NoExecute"], "tainted");
    ["plain", "other", "equal", "exists", "brief"].iter().for_each(|pod| lab.gone(pod));
    for gone in ["plain", "brief"] {
        lab.event(gone, "TaintManagerEviction", &format!("Marking for deletion Pod default/{gone}"));
    }
    lab.run("late", json!({}));
    lab.unschedulable(
        "late",
        &format!("0/1 nodes are available: 1 node(s) had untolerated taint {{key2: v}}.{NOT_HELPFUL}"),
    );
    lab.ready(&["always", "long"]);
    // Nodes that do not answer are tolerated for five minutes, and taints of others stay when
    // the node's own come and go.
    let tolerations = lab.cluster.get("pod", "late")["spec"]["tolerations"].to_string();
    for key in ["not-ready", "unreachable"] {
        let expected = format!(
            r#"{{"effect":"NoExecute","key":"node.kubernetes.io/{key}","operator":"Exists","tolerationSeconds":300}}"#
        );
        assert!(tolerations.contains(&expected), "{tolerations}");
    }
    lab.says(&["cordon", node], "cordoned");
    let taints = || lab.cluster.get("node", node)["spec"]["taints"].to_string();
    lab.cluster.wait("the taint of the cordon", || taints().contains("node.kubernetes.io/unschedulable"));
    assert!(taints().contains("key2"));
    lab.says(&["uncordon", node], "uncordoned");
    lab.says(&["taint", "nodes", node, "key2=v:NoExecute-"], "untainted");
    lab.ready(&["late"]);
}

/// The page's profile without scores, and one whose pods all have a node affinity.
const PROFILES: &str = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles:\n\
    - schedulerName: default-scheduler\n\
    - schedulerName: no-scoring-scheduler\n  plugins: {preScore: {disabled: [{name: '*'}]}, score: {disabled: [{name: '*'}]}}\n\
    - schedulerName: foo-scheduler\n  pluginConfig:\n  - name: NodeAffinity\n    args: {addedAffinity: {\
      requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [\
      {key: scheduler-profile, operator: In, values: [foo]}]}]}}}\n";

/// <https://kubernetes.io/docs/tasks/configure-pod-container/assign-pods-nodes/>, the pages on
/// node affinity, cordons, extended resources and multiple schedulers, and
/// <https://kubernetes.io/docs/reference/scheduling/config/#multiple-profiles>.
#[test]
fn nodes_are_chosen_by_label_room_and_scheduler() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), PROFILES).expect("profiles");
    let lab = Lab::start(&["--scheduler-config", file.path().to_str().expect("UTF-8")]);
    let node = lab.node.as_str();
    let affinity = |key: &str, value: Value| json!({"affinity": {"nodeAffinity": {key: value}}});
    let disk =
        |kind: &str| json!({"matchExpressions": [{"key": "disktype", "operator": "In", "values": [kind]}]});
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    // An extended resource is what somebody says that the node has.
    let four = r#"[{"op": "add", "path": "/status/capacity/example.com~1dongle", "value": "4"}]"#;
    lab.says(&["patch", "node", node, "--subresource=status", "--type=json", "-p", four], "patched");
    let dongles = |n: &str| json!({"resources": {"limits": {"example.com/dongle": n}}});
    lab.create(&[
        pod("selects", json!({}), json!({"nodeSelector": {"disktype": "ssd"}})),
        pod("requires", json!({}), affinity(required, json!({"nodeSelectorTerms": [disk("ssd")]}))),
        pod("wrong", json!({}), affinity(required, json!({"nodeSelectorTerms": [disk("hdd")]}))),
        pod("prefers", json!({}), affinity(preferred, json!([{"weight": 1, "preference": disk("hdd")}]))),
        pod("quick", json!({}), json!({"schedulerName": "no-scoring-scheduler"})),
        pod("foo", json!({}), json!({"schedulerName": "foo-scheduler"})),
        pod("nobodys", json!({}), json!({"schedulerName": "nobody"})),
        pod("greedy", json!({}), json!({"resources": {"requests": {"cpu": "1000"}}})),
        pod("greedier", json!({}), json!({"resources": {"requests": {"cpu": "1000", "memory": "1Pi"}}})),
        pod("rich", json!({}), dongles("5")),
        pod("modest", json!({}), dongles("3")),
    ]);
    let no_match = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    for name in ["selects", "requires", "wrong"] {
        lab.unschedulable(name, &format!("{no_match}{NOT_HELPFUL}"));
    }
    lab.unschedulable(
        "foo",
        &format!(
            "0/1 nodes are available: 1 node(s) didn't match scheduler-enforced node affinity.{NOT_HELPFUL}"
        ),
    );
    // Nobody's leaving gives more than the node has.
    let never = |what: &str| format!("0/1 nodes are available: {what}.{NOT_HELPFUL}");
    lab.unschedulable("greedy", &never("1 Insufficient cpu"));
    lab.unschedulable("greedier", &never("1 Insufficient cpu, 1 Insufficient memory"));
    lab.unschedulable("rich", &never("1 Insufficient example.com/dongle"));
    lab.ready(&["prefers", "quick"]);
    let field = "involvedObject.name=quick,reason=Scheduled";
    let from = lab.cluster.kubectl(&[
        "get",
        "events",
        "--field-selector",
        field,
        "-o",
        "jsonpath={.items[0].source.component}",
    ]);
    assert_eq!(from, "no-scoring-scheduler");

    lab.says(&["label", "nodes", node, "disktype=ssd", "scheduler-profile=foo"], "labeled");
    lab.ready(&["selects", "requires", "foo"]);
    assert!(lab.cluster.kubectl(&["get", "nodes", "--show-labels"]).contains("disktype=ssd"));
    // What is there may stay when the label goes: IgnoredDuringExecution.
    lab.says(&["label", "nodes", node, "disktype-"], "unlabeled");

    lab.says(&["cordon", node], "cordoned");
    assert!(lab.cluster.kubectl(&["get", "nodes"]).contains("Ready,SchedulingDisabled"));
    let named = json!({"nodeName": node, "ports": [{"containerPort": 80, "hostPort": 18080}]});
    lab.create(&[
        pod("waits", json!({}), json!({})),
        pod("named", json!({}), named),
        pod("same-port", json!({}), json!({"ports": [{"containerPort": 8080, "hostPort": 18080}]})),
    ]);
    let cordoned = format!("0/1 nodes are available: 1 node(s) were unschedulable.{NOT_HELPFUL}");
    lab.unschedulable("waits", &cordoned);
    // Whoever names the node does not ask the scheduler, and what runs goes on.
    lab.ready(&["named", "selects"]);
    lab.says(&["uncordon", node], "uncordoned");
    lab.ready(&["waits", "modest"]);
    let taken = |what: &str| format!("0/1 nodes are available: {what}.{NO_VICTIMS}");
    let ports = "1 node(s) didn't have free ports for the requested pod ports";
    lab.unschedulable("same-port", &taken(ports));
    lab.run("next", dongles("2"));
    lab.unschedulable("next", &taken("1 Insufficient example.com/dongle"));
    lab.delete(&["named", "modest"]);
    lab.ready(&["same-port", "next"]);
    let fewer = r#"[{"op": "remove", "path": "/status/capacity/example.com~1dongle"}]"#;
    lab.says(&["patch", "node", node, "--subresource=status", "--type=json", "-p", fewer], "patched");

    // What nobody says to be there any more is not given away.
    lab.cluster.wait("the dongles to go", || {
        lab.cluster.get("node", node)["status"]["allocatable"].get("example.com/dongle").is_none()
    });

    // Nobody has looked at the pod of a scheduler that is not there.
    let nobodys = lab.cluster.get("pod", "nobodys");
    assert_eq!(
        (&nobodys["status"]["phase"], condition(&nobodys, "PodScheduled")),
        (&"Pending".into(), Value::Null)
    );
    let field = "involvedObject.name=nobodys";
    assert_eq!(lab.cluster.kubectl(&["get", "events", "--field-selector", field, "-o", "name"]), "");
}

/// <https://kubernetes.io/docs/concepts/scheduling-eviction/pod-scheduling-readiness/>.
#[test]
fn gates_hold_a_pod_back() {
    let lab = Lab::start(&[]);
    let gates = json!([{"name": "example.com/foo"}, {"name": "example.com/bar"}]);
    lab.run("test-pod", json!({"schedulingGates": gates}));
    let table = || lab.cluster.kubectl(&["get", "pod", "test-pod", "--no-headers"]);
    assert_eq!(
        table().split_whitespace().take(3).collect::<Vec<_>>(),
        ["test-pod", "0/1", "SchedulingGated"]
    );
    let patch = |spec: Value| {
        ["patch", "pod", "test-pod", "--type=merge", "-p"]
            .iter()
            .map(|s| (*s).to_owned())
            .chain([json!({"spec": spec}).to_string()])
            .collect::<Vec<_>>()
    };
    let run = |arguments: Vec<String>| {
        lab.cluster.kubectl_output(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let more =
        run(patch(json!({"schedulingGates": [{"name": "example.com/foo"}, {"name": "example.com/new"}]})));
    let error = String::from_utf8_lossy(&more.stderr).into_owned();
    assert!(
        error.contains("only deletion is allowed, but found new scheduling gate 'example.com/new'"),
        "{error}"
    );
    // A gated pod may still become choosier.
    assert!(run(patch(json!({"nodeSelector": {"disktype": "ssd"}}))).status.success());
    assert!(run(patch(json!({"schedulingGates": [{"name": "example.com/bar"}]}))).status.success());
    assert!(table().contains("SchedulingGated"));
    let condition_ = condition(&lab.cluster.get("pod", "test-pod"), "PodScheduled");
    assert_eq!(condition_["reason"], "SchedulingGated", "{condition_}");
    assert_eq!(lab.messages("test-pod", "FailedScheduling"), "");
    assert!(run(patch(json!({"schedulingGates": []}))).status.success());
    let no_match = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    lab.unschedulable("test-pod", &format!("{no_match}{NOT_HELPFUL}"));
    lab.says(&["label", "nodes", &lab.node, "disktype=ssd"], "labeled");
    lab.ready(&["test-pod"]);
}

/// <https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/>.
#[test]
fn the_important_take_the_place_of_others() {
    let lab = Lab::start(&[]);
    for (name, value, policy) in [
        ("high", "1000", "PreemptLowerPriority"),
        ("high-nonpreempting", "1000", "Never"),
        ("middle", "200", "PreemptLowerPriority"),
        ("low", "100", "PreemptLowerPriority"),
    ] {
        let (value, policy) = (format!("--value={value}"), format!("--preemption-policy={policy}"));
        lab.cluster.kubectl(&["create", "priorityclass", name, &value, &policy]);
    }
    let part = |class: &str, percent: u64| json!({"priorityClassName": class, "resources": lab.cpu(percent)});
    // It ends in its own time, so that what happens meanwhile can be seen.
    let mut stubborn = part("low", 60);
    stubborn["command"] = json!(["/bin/busybox", "sleep", "1000"]);
    stubborn["terminationGracePeriodSeconds"] = json!(600);
    lab.run("low", stubborn);
    lab.ready(&["low"]);
    lab.run("polite", part("high-nonpreempting", 60));
    let short = "0/1 nodes are available: 1 Insufficient cpu.";
    lab.unschedulable("polite", &format!("{short} preemption: not eligible due to preemptionPolicy=Never."));
    assert!(lab.cluster.get("pod", "low")["metadata"]["deletionTimestamp"].is_null());

    lab.run("high", part("high", 60));
    let uid = || lab.cluster.get("pod", "high")["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    lab.event("low", "Preempted", &format!("Preempted by pod {} on node {}", uid(), lab.node));
    lab.cluster.wait("the nomination", || {
        lab.cluster.get("pod", "high")["status"]["nominatedNodeName"] == lab.node.as_str()
    });
    lab.event("high", "FailedScheduling", short);
    let low = lab.cluster.get("pod", "low");
    let target = condition(&low, "DisruptionTarget");
    assert_eq!(
        (&target["reason"], &target["message"]),
        (
            &"PreemptionByScheduler".into(),
            &"default-scheduler: preempting to accommodate a higher priority pod".into()
        )
    );
    assert!(low["metadata"]["deletionTimestamp"].is_string());
    let wide = lab.cluster.kubectl(&["get", "pod", "high", "-o", "wide", "--no-headers"]);
    let words: Vec<&str> = wide.split_whitespace().collect();
    assert_eq!((words[2], words[7]), ("Pending", lab.node.as_str()), "{wide}");
    lab.cluster.kubectl(&["delete", "pod", "low", "--now", "--wait=false"]);
    lab.ready(&["high"]);
    // The polite one gets its place when there is one.
    assert!(lab.cluster.get("pod", "polite")["spec"]["nodeName"].is_null());
    lab.delete(&["high"]);
    lab.ready(&["polite"]);
    lab.delete(&["polite"]);

    // A budget is respected where another victim will do, even a more important one; where none
    // will, it is not.
    let labels = |app: &str| json!({"app": app});
    lab.create(&[
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "guard"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "guarded"}}}}),
        pod("guarded", labels("guarded"), part("low", 40)),
        pod("free", labels("free"), part("middle", 40)),
    ]);
    lab.ready(&["guarded", "free"]);
    lab.cluster.wait("the budget to be computed", || {
        let status = lab.cluster.get("pdb", "guard")["status"].clone();
        status["currentHealthy"] == 1 && status["disruptionsAllowed"] == 0
    });
    lab.run("first", part("high", 40));
    lab.ready(&["first"]);
    lab.gone("free");
    lab.ready(&["guarded"]);
    lab.run("second", part("high", 40));
    lab.ready(&["second"]);
    lab.gone("guarded");
}

/// The rest of <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/> and
/// <https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/>.
#[test]
fn pods_keep_company_or_distance() {
    let lab = Lab::start(&[]);
    let node = lab.node.as_str();
    lab.says(&["label", "nodes", node, "topology.kubernetes.io/zone=V"], "labeled");
    let term = |app: &str| {
        json!({"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "topology.kubernetes.io/zone",
            "labelSelector": {"matchLabels": {"app": app}}}]})
    };
    let near = |app: &str| json!({"affinity": {"podAffinity": term(app)}});
    let far = |app: &str| json!({"affinity": {"podAntiAffinity": term(app)}});
    let app = |app: &str| json!({"app": app});
    let spread = |key: &str, more: Value| {
        let mut constraint = json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "spread"}}});
        for (field, value) in more.as_object().expect("an object") {
            constraint[field] = value.clone();
        }
        json!({"topologySpreadConstraints": [constraint]})
    };
    let zone = "topology.kubernetes.io/zone";
    lab.create(&[
        pod("web", app("web"), near("cache")),
        pod("soft", app("spread"), spread(zone, json!({"minDomains": 2}))),
        pod("rack", app("rack"), spread("rack", json!({}))),
    ]);
    lab.unschedulable(
        "web",
        &format!("0/1 nodes are available: 1 node(s) didn't match pod affinity rules.{NOT_HELPFUL}"),
    );
    let constraints = "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints";
    lab.unschedulable("rack", &format!("{constraints} (missing required label).{NOT_HELPFUL}"));
    lab.ready(&["soft"]);

    // The first of a series may be alone: nobody matches its affinity but itself.
    lab.create(&[pod(
        "cache",
        app("cache"),
        json!({"affinity": {"podAffinity": term("cache"), "podAntiAffinity": term("store")}}),
    )]);
    lab.ready(&["cache", "web"]);
    lab.create(&[
        pod("not-cache", app("other"), far("cache")),
        pod("store", app("store"), json!({})),
        pod("even", app("spread"), spread(zone, json!({"minDomains": 2}))),
        pod("anyway", app("spread"), spread(zone, json!({"whenUnsatisfiable": "ScheduleAnyway"}))),
    ]);
    let misfit = |text: &str| format!("0/1 nodes are available: 1 node(s) {text}.{NO_VICTIMS}");
    lab.unschedulable("not-cache", &misfit("didn't match pod anti-affinity rules"));
    lab.unschedulable("store", &misfit("didn't satisfy existing pods anti-affinity rules"));
    lab.unschedulable("even", &format!("{constraints}.{NO_VICTIMS}"));
    lab.ready(&["anyway"]);
    lab.says(&["label", "nodes", node, "rack=r1"], "labeled");
    lab.ready(&["rack"]);
    // Those who were in the way make room by going.
    lab.delete(&["cache", "soft", "anyway"]);
    lab.ready(&["not-cache", "store", "even"]);
}

/// Whoever names the node in `spec.nodeName` does not ask the scheduler: the node judges alone.
/// <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#nodename>.
#[test]
fn a_node_judges_pods_that_come_past_the_scheduler() {
    let lab = Lab::start(&[]);
    let node = lab.node.as_str();
    let run = |name: &str, mut spec: Value| {
        spec["nodeName"] = node.into();
        lab.run(name, spec);
    };
    let taints = "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
    lab.says(&["taint", "nodes", node, "k=v:NoExecute"], "tainted");
    run("tolerates", json!({"tolerations": [{"key": "k", "operator": "Exists"}]}));
    // The taint sends it away as well, so that it may be gone by now.
    run("tainted", json!({}));
    lab.event("tainted", "TaintToleration", taints);
    lab.ready(&["tolerates"]);
    lab.says(&["taint", "nodes", node, "k-"], "untainted");

    run("has-port", json!({"ports": [{"containerPort": 80, "hostPort": 18081}]}));
    lab.ready(&["has-port"]);
    let allocatable = lab.cluster.get("node", node)["status"]["allocatable"].clone();
    let number = |text: &Value, unit: &str| {
        let text = text.as_str().expect("a quantity");
        text.strip_suffix(unit).unwrap_or(text).parse::<u64>().expect("a number")
    };
    let cpu = number(&allocatable["cpu"], "m");
    let cpu =
        if allocatable["cpu"].as_str().is_some_and(|text| text.ends_with('m')) { cpu } else { cpu * 1000 };
    let memory = number(&allocatable["memory"], "Ki") << 10;
    let short = "Node didn't have enough resource";
    for (name, spec, reason, message) in [
        (
            "same-port",
            json!({"ports": [{"containerPort": 8080, "hostPort": 18081}]}),
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
                .to_owned(),
        ),
        (
            "cpu",
            json!({"resources": {"requests": {"cpu": "1000"}}}),
            "OutOfcpu",
            format!("{short}: cpu, requested: 1000000, used: 0, capacity: {cpu}"),
        ),
        (
            "memory",
            json!({"resources": {"requests": {"memory": "1Pi"}}}),
            "OutOfmemory",
            format!("{short}: memory, requested: {}, used: 0, capacity: {memory}", 1u64 << 50),
        ),
        (
            "selector",
            json!({"nodeSelector": {"disk": "none"}}),
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".to_owned(),
        ),
    ] {
        run(name, spec);
        lab.event(name, reason, &message);
        lab.cluster
            .wait(&format!("{name} to fail"), || lab.cluster.get("pod", name)["status"]["phase"] == "Failed");
        let status = lab.cluster.get("pod", name)["status"].clone();
        let expected = json!([reason, format!("Pod was rejected: {message}")]);
        assert_eq!(json!([status["reason"], status["message"]]), expected, "{name}");
    }
    lab.ready(&["has-port", "tolerates"]);
}

/// Labels of before Kubernetes 1.14, which manifests still select by.
/// <https://kubernetes.io/docs/reference/labels-annotations-taints/#beta-kubernetes-io-arch>.
#[test]
fn nodes_have_the_old_labels_too() {
    let lab = Lab::start(&[]);
    let labels = lab.cluster.get("node", &lab.node)["metadata"]["labels"].clone();
    assert_eq!(
        (&labels["kubernetes.io/os"], &labels["beta.kubernetes.io/os"]),
        (&"linux".into(), &"linux".into())
    );
    assert!(labels["kubernetes.io/arch"].is_string());
    assert_eq!(labels["kubernetes.io/arch"], labels["beta.kubernetes.io/arch"]);
    lab.run("selects", json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}}));
    lab.ready(&["selects"]);
}
