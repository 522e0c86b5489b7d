//! A real cluster for one test: the real binary with a data directory, a node name and network and
//! mount namespaces of its own. The network namespace has nothing but loopback at first and never
//! a default route, so no packet can leave the machine.
//!
//! Dropping a [`Cluster`] stops it and removes all it made, also after a failed assertion.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod pod;
pub mod stranger;
pub mod workload;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long anything may take before a test calls it broken.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The program.
pub const PROA: &str = env!("CARGO_BIN_EXE_proa");

/// The process that keeps the namespaces of a machine.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A cluster and what it needs to be taken down again.
pub struct Cluster {
    dir: tempfile::TempDir,
    node_name: String,
    holder: Arc<Holder>,
    proa: Option<Child>,
    program: PathBuf,
    kubectl: PathBuf,
    flags: Vec<String>,
}

impl Cluster {
    /// Starts a cluster and waits until its API is ready.
    pub fn start() -> Cluster {
        Self::start_with(&[])
    }

    /// [`Cluster::start`] with further flags of `proa up`.
    pub fn start_with(flags: &[&str]) -> Cluster {
        Self::start_after(flags, |_| {})
    }

    /// [`Cluster::start_with`] after its machine has been made ready.
    pub fn start_after(flags: &[&str], ready: impl FnOnce(&Cluster)) -> Cluster {
        Self::start_in(&std::env::temp_dir(), flags, ready)
    }

    /// [`Cluster::start_after`] with all that it has on the disk in this directory.
    pub fn start_in(parent: &Path, flags: &[&str], ready: impl FnOnce(&Cluster)) -> Cluster {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make namespaces and cgroups: run them as root"
        );
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let node_name = format!("t{}-{number}", std::process::id());
        let holder = Command::new("/usr/bin/unshare")
            .args(["--net", "--mount", "--propagation", "private", "/bin/sleep", "infinity"])
            .spawn()
            .expect("unshare starts");
        let mut cluster = Cluster {
            dir: tempfile::Builder::new()
                .prefix("proa-test-")
                .tempdir_in(parent)
                .expect("a temporary directory"),
            node_name,
            holder: Arc::new(Holder(holder)),
            proa: None,
            program: PROA.into(),
            kubectl: "kubectl".into(),
            flags: flags.iter().map(|f| (*f).to_owned()).collect(),
        };
        let ours = fs::read_link("/proc/self/ns/net").expect("own namespace");
        wait_for("the cluster's namespaces", || {
            fs::read_link(format!("/proc/{}/ns/net", cluster.holder.0.id())).is_ok_and(|n| n != ours)
        });
        // The second is the one by which others would reach this machine.
        for arguments in ["link set lo up", "address add 198.51.100.1/32 dev lo"] {
            let done = cluster.command("/sbin/ip").args(arguments.split(' ')).status();
            assert!(done.is_ok_and(|s| s.success()), "ip {arguments}");
        }
        ready(&cluster);
        cluster.up();
        cluster
    }

    /// Starts another cluster on the machine of this one, with the same node name. The flags must give
    /// it ranges and ports of its own.
    pub fn start_beside(&self, flags: &[&str]) -> Cluster {
        let mut cluster = Cluster {
            dir: tempfile::Builder::new().prefix("proa-test-").tempdir().expect("a temporary directory"),
            node_name: self.node_name.clone(),
            holder: Arc::clone(&self.holder),
            proa: None,
            program: PROA.into(),
            kubectl: self.kubectl.clone(),
            flags: flags.iter().map(|f| (*f).to_owned()).collect(),
        };
        cluster.up();
        cluster
    }

    /// The same cluster, spoken to with another kubectl.
    pub fn with_kubectl(mut self, kubectl: &Path) -> Cluster {
        self.kubectl = kubectl.to_owned();
        self
    }

    /// The cluster's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A path of the cluster's machine, with what is mounted there.
    pub fn mounted(&self, path: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.holder.0.id(), path.display()))
    }

    /// A directory for the test's own files.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// Where `proa` is told to panic, if a test has made this directory before the start.
    pub fn failpoints(&self) -> PathBuf {
        self.dir.path().join("failpoints")
    }

    /// The name of the cluster's first node.
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// Process id of `proa up`.
    pub fn pid(&self) -> Pid {
        let child = self.proa.as_ref().expect("the cluster is up");
        Pid::from_raw(i32::try_from(child.id()).expect("a pid"))
    }

    /// Starts `proa up` and waits until `/readyz` says ok.
    pub fn up(&mut self) {
        assert!(self.proa.is_none(), "it is up already");
        let log = File::options().create(true).append(true).open(self.dir.path().join("proa.log"));
        let log = log.expect("a log file");
        let mut command = self.command(&self.program);
        command
            .arg("up")
            .args(["--data-dir".as_ref(), self.data_dir().as_os_str()])
            .args(["--node-name", &self.node_name, "--log", "info,proa_runtime=debug"])
            // How full the disk of the machine is that runs the tests says nothing of the program.
            .env("PROA_EVICTION_HARD", "nodefs.available<100Ki")
            .env("PROA_FAILPOINTS", self.failpoints())
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        self.proa = Some(command.spawn().expect("proa starts"));
        let kubeconfig = self.data_dir().join("kubeconfig");
        wait_for("the API", || {
            let child = self.proa.as_mut().expect("just started");
            if let Some(status) = child.try_wait().expect("own child") {
                panic!("proa up ended with {status}:\n{}", self.log());
            }
            kubeconfig.exists() && self.kubectl_output(&["get", "--raw", "/readyz"]).status.success()
        });
    }

    /// Puts another `proa` in the place of the one that the next start would be of: other files, which
    /// say the same.
    pub fn upgrade(&mut self) {
        let next = self.dir.path().join("next");
        fs::create_dir(&next).expect("a directory");
        for program in ["proa", "proa-wasm"] {
            let from = Path::new(PROA).with_file_name(program);
            fs::copy(&from, next.join(program)).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        }
        self.program = next.join("proa");
    }

    /// Stops `proa up` with a signal and waits for its end. The pods go on.
    pub fn stop(&mut self, signal: Signal) {
        kill(self.pid(), signal).expect("proa runs");
        let mut child = self.proa.take().expect("the cluster is up");
        let deadline = Instant::now() + DEADLINE;
        while child.try_wait().expect("own child").is_none() {
            assert!(Instant::now() < deadline, "proa does not stop on {signal}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the end of a `proa up` that has been killed.
    pub fn stop_after_kill(&mut self) {
        self.ended();
    }

    /// Waits for the end of a `proa up` that somebody else stops.
    pub fn ended(&mut self) -> std::process::ExitStatus {
        self.proa.take().expect("the cluster is up").wait().expect("own child")
    }

    /// A command inside the cluster's namespaces.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let namespaces: Vec<File> = ["mnt", "net"]
            .iter()
            .map(|ns| File::open(format!("/proc/{}/ns/{ns}", self.holder.0.id())).expect("the holder lives"))
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

    /// `proa` with these arguments and this cluster's data directory, which must succeed; its
    /// standard output.
    pub fn proa(&self, arguments: &[&str]) -> String {
        succeed("proa", arguments, &self.proa_output(arguments))
    }

    /// [`Cluster::proa`] whose exit status is the test's to judge.
    pub fn proa_output(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(PROA);
        command.args(arguments).env("PROA_DATA_DIR", self.data_dir()).output().expect("proa starts")
    }

    /// What the node knows of an image.
    pub fn image(&self, name: &str) -> Value {
        serde_json::from_str(&self.proa(&["image", "inspect", name])).expect("JSON")
    }

    /// Runs kubectl; its exit status is the test's to judge.
    pub fn kubectl_output(&self, arguments: &[&str]) -> Output {
        self.kubectl_command().args(arguments).output().expect("kubectl starts")
    }

    /// A kubectl of this cluster, to be given arguments.
    pub fn kubectl_command(&self) -> Command {
        let mut command = self.command(&self.kubectl);
        command
            .env("KUBECONFIG", self.data_dir().join("kubeconfig"))
            .env("HOME", self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs kubectl, which must succeed; its standard output.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        succeed("kubectl", arguments, &self.kubectl_output(arguments))
    }

    /// Runs kubectl, which must fail; its standard error.
    pub fn kubectl_fails(&self, arguments: &[&str]) -> String {
        let output = self.kubectl_output(arguments);
        assert!(!output.status.success(), "kubectl {arguments:?} succeeded: {}", text(&output.stdout));
        text(&output.stderr)
    }

    /// `kubectl VERB -f -` with a manifest.
    pub fn kubectl_stdin(&self, arguments: &[&str], manifest: &str) -> Output {
        let mut command = self.kubectl_command();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl starts");
        child.stdin.take().expect("piped").write_all(manifest.as_bytes()).expect("kubectl reads");
        child.wait_with_output().expect("kubectl ends")
    }

    /// `kubectl apply -f -`, which must succeed.
    pub fn apply(&self, manifest: &str) -> String {
        succeed("kubectl", &["apply"], &self.kubectl_stdin(&["apply", "-f", "-"], manifest))
    }

    /// An object as JSON, `Null` if there is none.
    pub fn get(&self, resource: &str, name: &str) -> Value {
        let output = self.kubectl_output(&["get", resource, name, "-o", "json"]);
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// All objects of a resource in the default namespace that a selector matches.
    pub fn list(&self, resource: &str, selector: &str) -> Vec<Value> {
        let text = self.kubectl(&["get", resource, "-l", selector, "-o", "json"]);
        let mut list: Value = serde_json::from_str(&text).expect("kubectl prints JSON");
        match list["items"].take() {
            Value::Array(items) => items,
            other => panic!("no items: {other}"),
        }
    }

    /// Waits until `condition` holds; panics with what the cluster looks like when it does not.
    pub fn wait(&self, what: &str, condition: impl FnMut() -> bool) {
        if !holds_in_time(condition) {
            let pods = self.kubectl_output(&["get", "pods,deploy,svc,ep,ing", "-A", "-o", "wide"]);
            let events = self.kubectl_output(&["get", "events", "-A"]);
            panic!(
                "waited in vain for {what}\n{}\n{}\n{}",
                text(&pods.stdout),
                text(&events.stdout),
                self.log()
            );
        }
    }

    /// Waits for an Event about an object, with this reason and this in its message.
    pub fn wait_for_event(&self, object: &str, reason: &str, text: &str) {
        let field = format!("involvedObject.name={object},reason={reason}");
        self.wait(&format!("the Event {reason} of {object}: {text}"), || {
            let message = "jsonpath={.items[*].message}";
            self.kubectl(&["get", "events", "--field-selector", &field, "-o", message]).contains(text)
        });
    }

    /// Runs a program of `tests/clients/` with the client libraries from `make setup`; it must
    /// succeed.
    pub fn python(&self, program: &str) -> String {
        let python = target_dir().join("tools/clients/bin/python");
        assert!(python.exists(), "{} is missing: run `make setup`", python.display());
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(program);
        let mut command = self.command(python);
        command.arg(&file).env("KUBECONFIG", self.data_dir().join("kubeconfig")).env("HOME", self.scratch());
        succeed("python", &[program], &command.output().expect("python starts"))
    }

    /// Does `work` in the cluster's network namespace. Sockets stay in the one they are made in.
    pub fn in_network<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = File::open(format!("/proc/{}/ns/net", self.holder.0.id())).expect("the holder lives");
        // A thread of its own, as it changes its namespace for good.
        let thread = std::thread::spawn(move || {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).expect("root");
            work()
        });
        thread.join().expect("no panic")
    }

    /// Listens in the cluster's network namespace.
    pub fn listen(&self, address: SocketAddr) -> TcpListener {
        self.in_network(move || TcpListener::bind(address)).expect("nobody else listens there")
    }

    /// One HTTP/1.1 request from inside the cluster's network namespace: status and body.
    pub fn http(&self, address: &str, host: &str, path: &str) -> Result<(u16, String), String> {
        let address: SocketAddr = address.parse().expect("an address");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = self.in_network(move || -> std::io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        });
        let answer = answer.map_err(|e| e.to_string())?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or("no status")?;
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        Ok((status, if chunked { unchunk(body) } else { body.to_owned() }))
    }

    /// A request through the ingress.
    pub fn ingress(&self, host: &str, path: &str) -> Result<(u16, String), String> {
        self.http("127.0.0.1:80", host, path)
    }

    /// What `proa up` has logged.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("proa.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(80)..].join("\n")
    }

    /// Packs the three examples' images.
    pub fn pack_examples(&self) {
        let wasm = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples");
        let target = target_dir().join("examples/wasm32-wasip2/release");
        for (file, image) in [("hello-wasm", "hello-wasm:1"), ("together-front", "together-front:1")] {
            let file = target.join(format!("{file}.wasm"));
            assert!(file.exists(), "{} is not built: run `make examples`", file.display());
            self.proa(&["image", "pack", file.to_str().expect("UTF-8"), "-t", image]);
        }
        let root = self.dir.path().join("rootfs");
        fs::create_dir_all(root.join("bin")).expect("a directory");
        fs::create_dir_all(root.join("www")).expect("a directory");
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
        fs::copy(wasm.join("hello-container/www/index.html"), root.join("www/index.html")).expect("a page");
        let root = root.to_str().expect("UTF-8");
        let pack = ["image", "pack", root, "-t", "hello-container:1", "--entrypoint", "/bin/busybox"];
        let arguments = ["--entrypoint", "httpd", "--cmd", "-f", "--cmd", "-p", "--cmd", "8080"];
        let page = ["--cmd", "-h", "--cmd", "/www"];
        self.proa(&[&pack[..], &arguments, &page].concat());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut child) = self.proa.take() {
            let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
            let stopped = holds_in_time(|| matches!(child.try_wait(), Ok(Some(_))));
            if !stopped {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        let down = self.command(PROA).arg("down").arg("--data-dir").arg(self.data_dir()).output();
        if let Ok(output) = down
            && !output.status.success()
        {
            eprintln!("proa down: {}", text(&output.stderr));
        }
        if std::thread::panicking() {
            eprintln!("--- proa.log\n{}", self.log());
        }
    }
}

/// Waits until `condition` holds.
pub fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    assert!(holds_in_time(condition), "waited in vain for {what}");
}

/// True as soon as `condition` holds, false at the deadline.
fn holds_in_time(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Where cargo builds.
pub fn target_dir() -> PathBuf {
    // The binary under test lies in TARGET/<profile>/.
    Path::new(PROA).ancestors().nth(2).expect("a target directory").to_owned()
}

pub fn build_guests() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--target", "wasm32-wasip2", "--bins", "--examples"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime/wasm/tests/guests"))
        .env("CARGO_TARGET_DIR", &target)
        .env_remove("RUSTFLAGS")
        .status();
    assert!(built.expect("cargo").success(), "the guests do not build");
    target.join("wasm32-wasip2/release")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeed(program: &str, arguments: &[&str], output: &Output) -> String {
    assert!(
        output.status.success(),
        "{program} {arguments:?} failed with {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn unchunk(body: &str) -> String {
    let (mut rest, mut out) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.split(';').next().unwrap_or("0").trim(), 16).unwrap_or(0);
        if size == 0 || size > after.len() {
            break;
        }
        out.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    out
}
