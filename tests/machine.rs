//! Several clusters on one machine: what is whose, and what `proa down` of one leaves to the others.

mod cluster;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cluster::pod::{lasting, pack, ready, shell};
use cluster::{Cluster, PROA, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Ranges and ports that another cluster on the machine leaves free.
const BESIDE: [&str; 5] = [
    "--cluster-cidr=10.52.0.0/16",
    "--service-cidr=10.53.0.0/16",
    "--api-listen=127.0.0.1:7443",
    "--ingress-http=127.0.0.1:7080",
    "--ingress-https=127.0.0.1:7444",
];

fn serve(cluster: &Cluster) -> String {
    pack(cluster);
    let page = "echo page > /tmp/index.html; exec httpd -f -p 8080 -h /tmp";
    let mut pod = lasting("serves", json!([shell(page, json!({}))]));
    pod["metadata"]["labels"] = json!({"app": "serves"});
    cluster::pod::apply(cluster, &[pod]);
    ready(cluster, &["serves"]);
    cluster.kubectl(&["expose", "pod", "serves", "--port=80", "--target-port=8080"]);
    cluster.wait("endpoints", || {
        let slices = cluster.list("endpointslices", "kubernetes.io/service-name=serves");
        slices.iter().any(|slice| slice["endpoints"][0]["conditions"]["ready"] == true)
    });
    format!("{}:80", cluster.get("service", "serves")["spec"]["clusterIP"].as_str().expect("an address"))
}

fn container(cluster: &Cluster) -> Value {
    cluster.get("pod", "serves")["status"]["containerStatuses"][0].clone()
}

/// The sandboxes of a cluster: process and directory.
fn sandboxes(cluster: &Cluster) -> BTreeSet<(String, String)> {
    let dir = cluster.data_dir().display().to_string();
    let of = |pid: String| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<String> = line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into()).collect();
        let [_, role, at, ..] = words.as_slice() else { return None };
        (role == "sandbox" && at.starts_with(&dir)).then(|| (pid, at.clone()))
    };
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    processes.filter_map(|entry| of(entry.file_name().to_string_lossy().into_owned())).collect()
}

/// What stands after `proa` in the names of what a cluster has on its machine.
fn id(cluster: &Cluster) -> String {
    let text = fs::read_to_string(cluster.data_dir().join("node.json")).expect("its names");
    let kept: Value = serde_json::from_str(&text).expect("JSON");
    kept["id"].as_str().expect("an id").to_owned()
}

fn links(cluster: &Cluster) -> String {
    let output = cluster.command("/sbin/ip").args(["-o", "link"]).output().expect("ip").stdout;
    String::from_utf8_lossy(&output).into_owned()
}

/// A cgroup's directories under all controllers.
fn cgroups(path: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let controllers = fs::read_dir(root).expect("cgroups").flatten().map(|entry| entry.path());
    let all = controllers.chain([root.to_owned()]).map(|dir| dir.join(path.trim_start_matches('/')));
    all.filter(|dir| dir.join("cgroup.procs").exists()).collect()
}

#[test]
fn down_of_one_cluster_leaves_the_other() {
    let mut one = Cluster::start();
    let mut other = one.start_beside(&BESIDE);
    assert_eq!(one.node_name(), other.node_name());
    let addresses = [serve(&one), serve(&other)];
    for (cluster, address) in [(&one, &addresses[0]), (&other, &addresses[1])] {
        assert_eq!(cluster.http(address, "serves", "/").expect("an answer").1, "page\n");
    }
    let before = (container(&other), sandboxes(&other));
    assert_eq!(before.1.len(), 1);

    one.proa(&["down"]);
    assert!(one.ended().success());
    assert_eq!((container(&other), sandboxes(&other)), before);
    assert_eq!(other.http(&addresses[1], "serves", "/").expect("an answer").1, "page\n");
    assert!(sandboxes(&one).is_empty());
    let (gone, stays) = (id(&one), id(&other));
    let found = links(&one);
    assert!(!found.contains(&gone) && found.contains(&stays), "{gone} is left, or not {stays}: {found}");
    assert!(cgroups(&format!("/proa/{gone}")).is_empty() && !cgroups(&format!("/proa/{stays}")).is_empty());

    // Both come back under their names, one with its pods and the other to them.
    one.up();
    one.wait("an answer", || one.http(&addresses[0], "serves", "/").is_ok_and(|answer| answer.1 == "page\n"));
    other.stop(Signal::SIGTERM);
    other.up();
    ready(&other, &["serves"]);
    assert_eq!((container(&other), sandboxes(&other)), before);
    assert_eq!((id(&one), id(&other)), (gone, stays));

    // A copy of a data directory is not what it was copied from.
    let copy = other.scratch().join("copy");
    let copied = other.command("/bin/cp").arg("-a").arg(other.data_dir()).arg(&copy).status();
    assert!(copied.is_ok_and(|status| status.success()));
    let down = other.command(PROA).arg("down").arg("--data-dir").arg(&copy).output().expect("proa starts");
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    assert_eq!((container(&other), sandboxes(&other)), before);
    assert_eq!(other.http(&addresses[1], "serves", "/").expect("an answer").1, "page\n");
}

#[test]
fn a_data_directory_may_be_a_link() {
    let mut cluster = Cluster::start_after(&[], |cluster| {
        let elsewhere = cluster.scratch().join("elsewhere");
        fs::create_dir(&elsewhere).expect("a directory");
        std::os::unix::fs::symlink(elsewhere, cluster.data_dir()).expect("a link");
    });
    let address = serve(&cluster);
    let before = container(&cluster);
    let mounts = |cluster: &Cluster| {
        let output = cluster.command("/bin/cat").arg("/proc/mounts").output().expect("cat").stdout;
        String::from_utf8_lossy(&output).lines().filter(|line| line.contains("elsewhere")).count()
    };
    let mounted = mounts(&cluster);
    cluster.stop(Signal::SIGTERM);
    cluster.up();
    ready(&cluster, &["serves"]);
    cluster
        .wait("an answer", || cluster.http(&address, "serves", "/").is_ok_and(|answer| answer.1 == "page\n"));
    assert_eq!((container(&cluster), mounts(&cluster)), (before, mounted));
    cluster.proa(&["down"]);
    cluster.ended();
    assert_eq!(mounts(&cluster), 0);
}

#[test]
fn a_second_cluster_needs_ranges_of_its_own() {
    let one = Cluster::start();
    let mut command = one.command(PROA);
    command.args(["up", "--node-name", one.node_name(), "--data-dir"]).arg(one.scratch().join("second"));
    let output = command.args(BESIDE.iter().skip(1)).output().expect("proa starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let wanted = format!("which has the address 10.42.0.1 on proa{}", id(&one));
    assert!(!output.status.success() && said.contains(&wanted), "{said}");
    let data = one.scratch().join("second");
    assert!(one.command(PROA).arg("down").arg("--data-dir").arg(data).status().expect("proa").success());
    one.kubectl(&["get", "nodes"]);
}

/// A process in a cgroup of the hierarchies that the node's own cgroup is in.
fn sleeper(cgroup: &str, like: &str) -> Child {
    let child = Command::new("/bin/sleep").arg("1000").stdout(Stdio::null()).spawn().expect("sleep");
    let enter = |dir: &PathBuf| {
        let root = dir.to_str().expect("UTF-8").trim_end_matches(like).to_owned();
        let dir = Path::new(&root).join(cgroup.trim_start_matches('/'));
        fs::create_dir_all(&dir).expect("a cgroup");
        // Some controllers, such as cpuset, take nobody before they are set up.
        fs::write(dir.join("cgroup.procs"), child.id().to_string()).is_ok()
    };
    assert!(cgroups(like).iter().filter(|dir| enter(dir)).count() > 0);
    child
}

#[test]
fn what_an_earlier_version_named_otherwise_is_removed() {
    let mut cluster = Cluster::start();
    let address = serve(&cluster);
    let uid = cluster.get("pod", "serves")["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let old = format!("/proa/{}", cluster.node_name());
    let like = format!("/proa/{}", id(&cluster));
    let plant = |cluster: &Cluster| {
        // It had this directory on the disk.
        let script = "cp -a run/. old && umount -l run && cp -a old/. run && rm -r old";
        let mut shell = cluster.command("/bin/sh");
        let data = cluster.data_dir();
        let moved = shell.args(["-c", &format!("cd {} && {script}", data.display())]).status();
        assert!(moved.is_ok_and(|status| status.success()), "{script}");
        let record = json!({"cgroup": old, "bridge": "proa0"}).to_string();
        fs::write(cluster.data_dir().join("run/node.json"), record).expect("a file");
        // The range would be refused as long as this has its address.
        for arguments in ["link add proa0 type bridge", "address add 10.42.0.1/32 dev proa0"] {
            let done = cluster.command("/sbin/ip").args(arguments.split(' ')).status();
            assert!(done.is_ok_and(|s| s.success()), "ip {arguments}");
        }
    };
    let mut others = sleeper(&format!("{old}/podof-another"), &like);
    for goes_down in [false, true] {
        let before = sandboxes(&cluster);
        let mut ours = sleeper(&format!("{old}/pod{uid}"), &like);
        cluster.stop(Signal::SIGTERM);
        plant(&cluster);
        if goes_down {
            cluster.proa(&["down"]);
        }
        cluster.up();
        cluster.wait("a new sandbox", || sandboxes(&cluster).difference(&before).count() == 1);
        wait_for("the old process to end", || ours.try_wait().expect("own child").is_some());
        assert!(!links(&cluster).contains("proa0:"), "{}", links(&cluster));
        assert!(cgroups(&format!("{old}/pod{uid}")).is_empty());
        assert!(others.try_wait().expect("own child").is_none(), "another's pod has ended");
        cluster.wait("an answer", || {
            cluster.http(&address, "serves", "/").is_ok_and(|answer| answer.1 == "page\n")
        });
    }
    others.kill().expect("it runs");
    others.wait().expect("own child");
    let left = cgroups(&format!("{old}/podof-another")).into_iter().chain(cgroups(&old));
    left.for_each(|dir| fs::remove_dir(dir).expect("nobody is in it"));
}

/// Processes that are held where SIGKILL does not reach them, as by a disk that does not answer.
struct Frozen(PathBuf);

impl Frozen {
    fn new(pids: &BTreeSet<String>) -> Option<Frozen> {
        let dir = Path::new("/sys/fs/cgroup/freezer").join(format!("proa-test-{}", std::process::id()));
        if !Path::new("/sys/fs/cgroup/freezer/cgroup.procs").exists() {
            return None;
        }
        fs::create_dir(&dir).expect("a cgroup");
        for pid in pids {
            fs::write(dir.join("cgroup.procs"), pid).expect("it enters");
        }
        let frozen = Frozen(dir);
        frozen.set("FROZEN");
        Some(frozen)
    }

    fn set(&self, state: &str) {
        fs::write(self.0.join("freezer.state"), state).expect("the freezer");
        let is = || fs::read_to_string(self.0.join("freezer.state")).is_ok_and(|now| now.trim() == state);
        wait_for("the freezer", is);
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.set("THAWED");
        let empty = || fs::read_to_string(self.0.join("cgroup.procs")).is_ok_and(|pids| pids.is_empty());
        wait_for("the processes to end", empty);
        fs::remove_dir(&self.0).expect("it is empty");
    }
}

#[test]
fn down_waits_and_then_names_what_does_not_end() {
    let mut cluster = Cluster::start();
    serve(&cluster);
    let group = format!("/proa/{}", id(&cluster));
    let pod = cluster.get("pod", "serves")["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let processes = fs::read_to_string(
        cgroups(&format!("{group}/pod{pod}/c0-0")).first().expect("the container's").join("cgroup.procs"),
    );
    let processes: BTreeSet<String> =
        processes.expect("a cgroup").lines().map(|line| line.trim().to_owned()).collect();
    let Some(frozen) = Frozen::new(&processes) else {
        assert!(std::env::var_os("CI").is_none(), "no freezer of cgroup version 1");
        eprintln!("SKIPPED: only the freezer of cgroup version 1 keeps processes from SIGKILL");
        return;
    };
    let output = cluster.proa_output(&["down"]);
    cluster.ended();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let pid = processes.first().expect("a process");
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("Device or resource busy"), "{said}");
    assert!(said.contains(&format!("process {pid} (httpd, state D (disk sleep)) does not end")), "{said}");
    assert!(said.contains(&group), "{said}");

    // Whoever lets go in time is waited for.
    let mut command = cluster.command(PROA);
    command.arg("down").arg("--data-dir").arg(cluster.data_dir()).stderr(Stdio::piped());
    let down = command.spawn().expect("proa starts");
    let locks = || fs::read_to_string("/proc/locks").expect("the kernel's locks");
    wait_for("down to be at it", || locks().contains(&format!(" POSIX  ADVISORY  WRITE {} ", down.id())));
    drop(frozen);
    let output = down.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(cgroups(&group).is_empty());
}

#[test]
fn down_names_who_uses_its_directory() {
    let mut cluster = Cluster::start();
    serve(&cluster);
    let run = cluster.data_dir().join("run");
    let script = format!("cd {} && exec sleep 1000", run.display());
    let mut user = cluster.command("/bin/sh").args(["-c", &script]).spawn().expect("a shell");
    let cwd = PathBuf::from(format!("/proc/{}/cwd", user.id()));
    wait_for("it to be there", || fs::read_link(&cwd).is_ok_and(|cwd| cwd == run));
    let output = cluster.proa_output(&["down"]);
    cluster.ended();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let wanted = format!(
        "unmount {}: Device or resource busy: process {} (sleep) uses it\n",
        run.display(),
        user.id()
    );
    assert!(!output.status.success() && said.ends_with(&wanted), "{said}");
    assert!(sandboxes(&cluster).is_empty(), "the rest is done all the same");
    user.kill().expect("it runs");
    user.wait().expect("own child");
    cluster.proa(&["down"]);
    let mounts = cluster.command("/bin/cat").arg("/proc/mounts").output().expect("cat").stdout;
    assert!(!String::from_utf8_lossy(&mounts).contains(run.to_str().expect("UTF-8")));
}

/// The kernel names what is mounted without links: what it does not find there must not be taken for
/// a directory of the pod's, and removed with what others have in it.
#[test]
fn volumes_may_lie_on_another_disk() {
    let cluster = Cluster::start_after(&[], |cluster| {
        let (data, elsewhere) = (cluster.data_dir(), cluster.scratch().join("elsewhere"));
        for dir in [&data, &elsewhere] {
            fs::create_dir(dir).expect("a directory");
        }
        std::os::unix::fs::symlink(elsewhere, data.join("volumes")).expect("a link");
    });
    pack(&cluster);
    let precious = cluster.scratch().join("precious");
    fs::create_dir_all(precious.join("in")).expect("a directory");
    fs::write(precious.join("in/file"), "kept\n").expect("a file");
    let mount = json!({"volumeMounts": [{"name": "precious", "mountPath": "/d", "subPath": "in"}]});
    let mut pod = lasting("reads", json!([shell("cat /d/file; exec sleep 1000", mount)]));
    let volume = json!({"name": "precious", "hostPath": {"path": precious}});
    pod["spec"]["volumes"].as_array_mut().expect("volumes").push(volume);
    cluster::pod::apply(&cluster, &[pod]);
    ready(&cluster, &["reads"]);
    cluster.wait("its log", || cluster.kubectl(&["logs", "reads"]) == "kept\n");
    let mounts = || {
        let output = cluster.command("/bin/cat").arg("/proc/mounts").output().expect("cat").stdout;
        String::from_utf8_lossy(&output).lines().filter(|line| line.contains("elsewhere")).count()
    };
    assert!(mounts() > 0);
    cluster.kubectl(&["delete", "pod", "reads"]);
    let left = || fs::read_dir(cluster.scratch().join("elsewhere")).expect("a directory").count();
    cluster.wait("its volumes to be gone", || left() == 0);
    assert_eq!(mounts(), 0);
    assert_eq!(fs::read_to_string(precious.join("in/file")).expect("what is not the pod's"), "kept\n");
}
