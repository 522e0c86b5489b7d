//! Two nodes: `proa up` and `proa agent` in network namespaces of their own with one cable between
//! them, and no way out.

mod cluster;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use cluster::{Cluster, PROA, wait_for};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const SERVER: &str = "https://192.0.2.1:6443";

/// A second machine.
struct Agent {
    dir: tempfile::TempDir,
    name: String,
    holder: Child,
    proa: Option<Child>,
}

impl Agent {
    /// A machine that is connected to the cluster's first one.
    fn new(cluster: &Cluster) -> Agent {
        let holder = Command::new("/usr/bin/unshare")
            .args(["--net", "--mount", "--propagation", "private", "/bin/sleep", "infinity"])
            .spawn()
            .expect("unshare starts");
        let agent = Agent {
            dir: tempfile::Builder::new().prefix("proa-test-").tempdir().expect("a temporary directory"),
            name: format!("t{}-second", std::process::id()),
            holder,
            proa: None,
        };
        let ours = fs::read_link("/proc/self/ns/net").expect("own namespace");
        let namespace = format!("/proc/{}/ns/net", agent.holder.id());
        wait_for("the second machine", || fs::read_link(&namespace).is_ok_and(|n| n != ours));
        let peer = agent.holder.id().to_string();
        run(cluster.command("/sbin/ip").args(["link", "set", "cable", "netns", &peer]));
        for arguments in [
            &["link", "set", "lo", "up"][..],
            &["addr", "add", "192.0.2.2/24", "dev", "cable"],
            &["link", "set", "cable", "up"],
        ] {
            run(agent.command("/sbin/ip").args(arguments));
        }
        agent
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A command on the second machine.
    fn command(&self, program: &str) -> Command {
        let namespaces: Vec<File> = ["mnt", "net"]
            .iter()
            .map(|ns| File::open(format!("/proc/{}/ns/{ns}", self.holder.id())).expect("the holder lives"))
            .collect();
        let dir = self.dir.path().to_owned();
        let mut command = Command::new(program);
        // SAFETY: between fork and exec the child only makes system calls on what it was given.
        unsafe {
            command.pre_exec(move || {
                for namespace in &namespaces {
                    setns(namespace.as_fd(), CloneFlags::empty())?;
                }
                Ok(nix::unistd::chdir(&dir)?)
            });
        }
        command
    }

    fn agent(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(PROA);
        command
            .args(["agent", "--server", SERVER, "--node-name", &self.name])
            .args(["--log", "info,proa_runtime=debug", "--data-dir"])
            .arg(self.data_dir())
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Starts the agent, which must be stopped before it is started again.
    fn start(&mut self, arguments: &[&str]) {
        let log = File::options().create(true).append(true).open(self.dir.path().join("agent.log"));
        let log = log.expect("a log file");
        let mut command = self.agent(arguments);
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        assert!(self.proa.replace(command.spawn().expect("proa starts")).is_none());
    }

    fn stop(&mut self, signal: Signal) {
        let mut child = self.proa.take().expect("the agent runs");
        kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), signal).expect("the agent runs");
        child.wait().expect("own child");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default()
    }

    /// An image with nothing but busybox.
    fn pack(&self) {
        let root = self.dir.path().join("rootfs");
        fs::create_dir_all(root.join("bin")).expect("a directory");
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
        let mut command = self.command(PROA);
        command.args(["image", "pack"]).arg(root).args(["-t", "hello-container:1", "--data-dir"]);
        run(command.arg(self.data_dir()).args(["--entrypoint", "/bin/busybox"]));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.proa.is_some() {
            self.stop(Signal::SIGTERM);
        }
        let _ = self.command(PROA).arg("down").arg("--data-dir").arg(self.data_dir()).output();
        if std::thread::panicking() {
            eprintln!("--- agent.log\n{}", self.log());
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A cluster that listens at one end of a cable.
fn connected() -> Cluster {
    let flags = ["--api-listen", "192.0.2.1:6443", "--node-monitor-grace-period", "14s"];
    Cluster::start_after(&flags, |cluster| {
        for arguments in [
            &["link", "add", "cable0", "type", "veth", "peer", "name", "cable"][..],
            &["addr", "add", "192.0.2.1/24", "dev", "cable0"],
            &["link", "set", "cable0", "up"],
        ] {
            run(cluster.command("/sbin/ip").args(arguments));
        }
    })
}

/// What `proa token create` says is to be added to `proa agent`.
fn token(cluster: &Cluster) -> [String; 4] {
    let command = cluster.proa(&["token", "create", "--print-join-command"]);
    let words: Vec<&str> = command.split_whitespace().collect();
    let [_, _, _, server, token @ ..] = &words[..] else { panic!("{command}") };
    assert_eq!(*server, SERVER);
    let token: Vec<String> = token.iter().map(|w| (*w).to_owned()).collect();
    token.try_into().unwrap_or_else(|_| panic!("{command}"))
}

fn is_ready(cluster: &Cluster, node: &str) -> bool {
    condition(&cluster.get("node", node), "Ready") == "True"
}

fn condition(object: &Value, type_: &str) -> String {
    let list = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = list.iter().find(|c| c["type"] == type_).map(|c| c["status"].clone());
    found.and_then(|s| s.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The nodes that pods with this label run on and are ready on.
fn ready_on(cluster: &Cluster, selector: &str) -> Vec<String> {
    let pods = cluster.list("pods", selector);
    let ready = pods.iter().filter(|p| p["metadata"]["deletionTimestamp"].is_null());
    let ready = ready.filter(|p| condition(p, "Ready") == "True");
    let mut nodes: Vec<String> =
        ready.map(|p| p["spec"]["nodeName"].as_str().unwrap_or_default().to_owned()).collect();
    nodes.sort();
    nodes
}

fn workload(kind: &str, name: &str, spec: Value) -> String {
    let container = json!({
        "name": "c", "image": "hello-container:1", "command": ["/bin/busybox", "sh", "-c"],
        "args": ["/bin/busybox echo I am $NODE; exec /bin/busybox httpd -f -p 8080 -h /etc"],
        "env": [{ "name": "NODE", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } }],
    });
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": { "name": name },
        "spec": {
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [container], "terminationGracePeriodSeconds": 1 },
            },
        },
    });
    if let Some(replicas) = spec.get("replicas") {
        object["spec"]["replicas"] = replicas.clone();
    }
    for (member, value) in spec["pod"].as_object().into_iter().flatten() {
        object["spec"]["template"]["spec"][member.as_str()] = value.clone();
    }
    object.to_string()
}

#[test]
fn a_second_node_joins_works_fails_and_comes_back() {
    let mut cluster = connected();
    cluster.pack_examples();
    let mut agent = Agent::new(&cluster);
    agent.pack();
    refusals(&cluster, &agent);

    let token = token(&cluster);
    agent.start(&token.each_ref().map(String::as_str));
    let (first, second) = (cluster.node_name().to_owned(), agent.name.clone());
    cluster.wait("the second node", || is_ready(&cluster, &first) && is_ready(&cluster, &second));
    let node = cluster.get("node", &second);
    assert_eq!(node["spec"]["podCIDR"], "10.42.1.0/24");
    assert_eq!(node["status"]["addresses"][0]["address"], "192.0.2.2");
    assert_eq!(node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], 10250);
    cluster.wait("both certificates", || {
        cluster.kubectl(&["get", "csr"]).matches("Approved,Issued").count() == 2
    });

    work(&cluster, &first, &second);
    only_its_own_secrets(&cluster, &agent);
    restart(&cluster, &mut agent);
    outage(&mut cluster, &agent);
    drain(&cluster, &first, &second);
    loss(&cluster, &mut agent, &first);
}

/// Who is not let in.
fn refusals(cluster: &Cluster, agent: &Agent) {
    let [_, token, _, hash] = token(cluster);
    let other = format!("sha256:{}", "0".repeat(64));
    for (arguments, said) in [
        (vec!["--token", &token], "--ca-hash is needed"),
        (vec!["--token", &token, "--ca-hash", &other], "UnknownIssuer"),
        (vec!["--token", "abcdef.0123456789abcdef", "--ca-hash", &hash], "Unauthorized"),
    ] {
        let output = agent.agent(&arguments).output().expect("proa starts");
        assert!(!output.status.success() && text(&output).contains(said), "{}", text(&output));
    }
    cluster.proa(&["token", "delete", &token]);
    assert!(!cluster.proa(&["token", "list"]).contains(&token[..6]));
    let output = agent.agent(&["--token", &token]).output().expect("proa starts");
    assert!(text(&output).contains("Unauthorized"), "a deleted token: {}", text(&output));
}

/// Pods run on both nodes; wherever they are, their logs are read, commands run in them and
/// requests are carried to them.
fn work(cluster: &Cluster, first: &str, second: &str) {
    cluster.apply(&workload("DaemonSet", "everywhere", json!({})));
    let spread = json!([{ "maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": { "matchLabels": { "app": "spread" } } }]);
    let tolerations = json!([
        { "key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2 },
        { "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2 },
    ]);
    let pod = json!({ "topologySpreadConstraints": spread, "tolerations": tolerations });
    cluster.apply(&workload("Deployment", "spread", json!({ "replicas": 4, "pod": pod })));
    let mut both = [first, second];
    both.sort_unstable();
    cluster.wait("a pod of the DaemonSet on each node", || ready_on(cluster, "app=everywhere") == both);
    cluster.wait("two pods of the Deployment on each node", || {
        ready_on(cluster, "app=spread") == [both[0], both[0], both[1], both[1]]
    });
    for pod in cluster.list("pods", "app=everywhere") {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        let node = pod["spec"]["nodeName"].as_str().expect("a node");
        cluster.wait("its log", || {
            String::from_utf8_lossy(&cluster.kubectl_output(&["logs", name]).stdout)
                == format!("I am {node}\n")
        });
        let said = cluster.kubectl(&["exec", name, "--", "/bin/busybox", "sh", "-c", "echo $NODE"]);
        assert_eq!(said, format!("{node}\n"));
        let page = format!("/api/v1/namespaces/default/pods/{name}:8080/proxy/hostname");
        assert_eq!(cluster.kubectl(&["get", "--raw", &page]), format!("{name}\n"));
    }
}

/// With the node's own certificate, what is not its own is out of reach.
fn only_its_own_secrets(cluster: &Cluster, agent: &Agent) {
    cluster.kubectl(&["create", "secret", "generic", "other", "--from-literal=a=b"]);
    let (certificate, key) = {
        let text = fs::read_to_string(agent.data_dir().join("node/client.pem")).expect("its certificate");
        let at = text.find("-----BEGIN PRIVATE KEY").expect("its key");
        let paths = ["c.pem", "k.pem"].map(|name| agent.dir.path().join(name));
        fs::write(&paths[0], &text[..at]).expect("a file");
        fs::write(&paths[1], &text[at..]).expect("a file");
        (paths[0].display().to_string(), paths[1].display().to_string())
    };
    let ca = agent.data_dir().join("node/ca.crt").display().to_string();
    let kubectl = |arguments: &[&str]| {
        let mut command = cluster.kubectl_command();
        command.env("KUBECONFIG", "/dev/null").args(["--server", SERVER, "--certificate-authority", &ca]);
        command.args(["--client-certificate", &certificate, "--client-key", &key]).args(arguments);
        text(&command.output().expect("kubectl starts"))
    };
    let said = kubectl(&["get", "secret", "other"]);
    assert!(said.contains("no relationship found between node") && said.contains("Forbidden"), "{said}");
    assert!(kubectl(&["get", "secrets", "-A"]).contains("Forbidden"));
    assert!(kubectl(&["get", "pods", "-A"]).contains("spec.nodeName field selector"));
    assert!(kubectl(&["label", "node", cluster.node_name(), "a=b"]).contains("Forbidden"));
    assert!(kubectl(&["get", "node", &agent.name]).contains("Ready"));
}

/// The containers that run, by their ids.
fn running(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.list("pods", "app in (everywhere,spread)");
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].to_string();
    let mut ids: Vec<String> = pods.iter().map(id).collect();
    ids.sort();
    ids
}

/// The control plane goes and comes back: pods go on meanwhile, and the agent finds it again.
fn outage(cluster: &mut Cluster, agent: &Agent) {
    let before = running(cluster);
    cluster.stop(Signal::SIGKILL);
    wait_for("the agent to notice", || agent.log().contains("the node could not be kept"));
    cluster.up();
    let lease = || {
        cluster.kubectl(&[
            "get",
            "lease",
            &agent.name,
            "-n",
            "kube-node-lease",
            "-o",
            "jsonpath={.spec.renewTime}",
        ])
    };
    let old = lease();
    cluster.wait("the agent to come back", || lease() != old);
    assert_eq!(running(cluster), before);
    cluster.kubectl(&["delete", "pod", "-l", "app=everywhere"]);
    cluster.wait("new pods on both nodes", || ready_on(cluster, "app=everywhere").len() == 2);
}

/// The agent stops and comes back; its pods do not notice, and it needs no token.
fn restart(cluster: &Cluster, agent: &mut Agent) {
    let before = running(cluster);
    agent.stop(Signal::SIGTERM);
    agent.start(&[]);
    let logged = agent.log().matches("node        ").count();
    cluster.wait("the agent", || agent.log().matches("node        ").count() > logged);
    cluster.wait("its Lease", || is_ready(cluster, &agent.name));
    assert_eq!(running(cluster), before);
}

/// Pods that are drained from the second node go to the first.
fn drain(cluster: &Cluster, first: &str, second: &str) {
    // Spreading would keep the pods of a drained node waiting.
    let change = json!({ "spec": { "template": { "spec": { "topologySpreadConstraints": null } } } });
    cluster.kubectl(&["patch", "deployment", "spread", "-p", &change.to_string()]);
    cluster.kubectl(&["rollout", "status", "deployment/spread", "--timeout=60s"]);
    cluster.kubectl(&["drain", second, "--ignore-daemonsets", "--timeout=60s"]);
    cluster.wait("the pods to move", || ready_on(cluster, "app=spread") == [first; 4]);
    cluster.kubectl(&["uncordon", second]);
}

/// The second machine is lost: its pods are replaced; it is taken back when it returns.
fn loss(cluster: &Cluster, agent: &mut Agent, first: &str) {
    cluster.kubectl(&["cordon", first]);
    cluster.kubectl(&["scale", "deployment/spread", "--replicas=6"]);
    cluster.wait("pods on the second node", || {
        ready_on(cluster, "app=spread").iter().filter(|n| **n == agent.name).count() == 2
    });
    cluster.kubectl(&["uncordon", first]);
    agent.stop(Signal::SIGKILL);
    cluster.wait("the loss to be noticed", || {
        let node = cluster.get("node", &agent.name);
        let taints = node["spec"]["taints"].to_string();
        condition(&node, "Ready") == "Unknown" && taints.contains("node.kubernetes.io/unreachable")
    });
    cluster.wait("pods in their place", || ready_on(cluster, "app=spread") == [first; 6]);
    agent.start(&[]);
    cluster.wait("the node to come back", || {
        let node = cluster.get("node", &agent.name);
        is_ready(cluster, &agent.name) && node["spec"]["taints"].is_null()
    });
    cluster.wait("what was evicted to end", || cluster.list("pods", "app=spread").len() == 6);
}
