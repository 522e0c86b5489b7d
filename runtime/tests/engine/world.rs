//! What the tests share: a root file system, compiled guests, and pods to put them in.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use proa_runtime::engine::{Compiled, Sandbox, wasm};
use proa_sandbox::protocol::{
    Container, ContainerState, Event, Exit, Mount, Payload, Reply, Request, RequestLimits, Resources,
    SandboxConfig, Security,
};
use sha2::{Digest, Sha256};

/// How long anything may take before a test gives up on it.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Cgroup that the tests' pods are in.
pub const CGROUP: &str = "/proa-test";

/// Fixtures of the whole run.
pub struct World {
    dir: tempfile::TempDir,
    pods: AtomicU32,
    /// Where the guests were built.
    pub guests: PathBuf,
    /// A command, and an HTTP component.
    pub command: Compiled,
    pub http: Compiled,
    /// The same of WASI 0.3.
    pub command_p3: Compiled,
    pub http_p3: Compiled,
    /// An HTTP component with a large table.
    pub tables: Compiled,
    /// A core module that exits with 42.
    pub core: Compiled,
}

impl World {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let built = build_guests();
        let core = dir.path().join("exit.wasm");
        fs::write(&core, EXIT_42).expect("a module");
        let cache = dir.path().join("wasm");
        busybox(&dir.path().join("layers/base"));
        fs::create_dir_all(dir.path().join("layers/top/etc")).expect("a layer");
        fs::write(dir.path().join("layers/top/etc/motd"), "from the top layer\n").expect("a file");
        Self {
            command: compile(&built.join("command.wasm"), &cache).await,
            http: compile(&built.join("http.wasm"), &cache).await,
            command_p3: compile(&built.join("examples/command_p3.wasm"), &cache).await,
            http_p3: compile(&built.join("examples/http_p3.wasm"), &cache).await,
            tables: compile(&built.join("tables.wasm"), &cache).await,
            core: compile(&core, &cache).await,
            pods: AtomicU32::new(0),
            guests: built,
            dir,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn cache(&self) -> PathBuf {
        self.path("wasm")
    }

    /// A pod with its sandbox, loopback up.
    pub async fn pod(&self) -> Pod {
        let uid = format!("{}-{}", std::process::id(), self.pods.fetch_add(1, Ordering::Relaxed));
        let config = SandboxConfig {
            version: proa_sandbox::protocol::VERSION,
            pod_uid: uid.clone(),
            pod: format!("default/test-{uid}"),
            hostname: "web-0".to_owned(),
            host_network: false,
            cgroup: format!("{CGROUP}/pod{uid}"),
            host_ipc: false,
            share_process_namespace: false,
            resources: Resources {
                pids: Some(200),
                cpu_shares: Some(300),
                cpu_quota: Some(400_000),
                ..Resources::default()
            },
            descriptors: Some(500),
            programs: proa_sandbox::sealed::directory(),
            sysctls: vec![("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())],
        };
        let dir = self.path(&format!("sandboxes/{uid}"));
        let begin = Instant::now();
        let sandbox = Sandbox::start(&dir, &config).await.expect("a sandbox");
        let pod = Pod {
            sandbox,
            dir,
            cgroup: config.cgroup,
            logs: self.path("logs").join(uid),
            started_in: begin.elapsed(),
        };
        in_netns(&pod.sandbox.netns(), loopback_up);
        pod
    }

    /// A busybox container that runs a shell script.
    pub fn shell(&self, pod: &Pod, id: &str, script: &str) -> Container {
        let layers =
            ["base", "top"].map(|layer| self.path("layers").join(layer).display().to_string()).to_vec();
        let scratch = pod.dir.join("containers").join(id).display().to_string();
        let payload =
            Payload::Oci { layers, scratch, security: Box::new(Security::default()), volumes: Vec::new() };
        pod.container(id, &["sh", "-c", script], payload)
    }

    /// A Wasm container.
    pub fn wasm(&self, pod: &Pod, id: &str, what: &Compiled, port: u16, args: &[&str]) -> Container {
        let compiled = what.path.display().to_string();
        let payload = Payload::Wasm {
            compiled,
            shape: what.shape,
            port,
            grace_period_seconds: 2,
            user: None,
            requests: RequestLimits::default(),
            seccomp_unconfined: false,
            drop_capabilities: Vec::new(),
        };
        pod.container(id, &[&["guest"], args].concat(), payload)
    }
}

/// One pod under test.
pub struct Pod {
    pub sandbox: Sandbox,
    pub dir: PathBuf,
    pub cgroup: String,
    pub logs: PathBuf,
    pub started_in: Duration,
}

impl Pod {
    fn container(&self, id: &str, args: &[&str], payload: Payload) -> Container {
        Container {
            id: id.to_owned(),
            args: args.iter().map(ToString::to_string).collect(),
            env: vec![("GREETING".to_owned(), "ahoy".to_owned())],
            cwd: "/work/dir".to_owned(),
            log_path: self.logs.join(format!("{id}.log")).display().to_string(),
            log_max_bytes: 10 << 20,
            log_max_files: 4,
            mounts: Vec::<Mount>::new(),
            resources: Resources { oom_score_adj: 100, ..Resources::default() },
            tty: false,
            stdin: false,
            stdin_once: false,
            payload,
        }
    }

    pub async fn ask(&self, request: Request) -> Reply {
        tokio::time::timeout(LIMIT, self.sandbox.request(request)).await.expect("in time").expect("an answer")
    }

    pub async fn start(&self, container: Container) {
        match self.ask(Request::Start(Box::new(container))).await {
            Reply::Done => {}
            other => panic!("not started: {other:?}"),
        }
    }

    /// Starts a container and waits for its end.
    pub async fn run(&self, container: Container) -> (Exit, String) {
        let id = container.id.clone();
        self.start(container).await;
        (self.exit(&id).await, self.log(&id))
    }

    pub async fn exit(&self, id: &str) -> Exit {
        let events = self.sandbox.watch().await.expect("a watch");
        wait_for(events, id).await
    }

    pub async fn states(&self) -> Vec<ContainerState> {
        match self.ask(Request::List).await {
            Reply::Containers { containers, .. } => containers,
            other => panic!("{other:?}"),
        }
    }

    pub async fn pid(&self, id: &str) -> i32 {
        self.states().await.into_iter().find(|state| state.id == id).map_or(0, |state| state.pid)
    }

    /// The text of a container's log, without times, as `stdout F text`.
    pub fn log(&self, id: &str) -> String {
        let text = fs::read_to_string(self.logs.join(format!("{id}.log"))).unwrap_or_default();
        text.lines().map(|line| format!("{}\n", &line[31..])).collect()
    }

    /// Waits until the log has this in it.
    pub async fn said(&self, id: &str, what: &str) {
        let deadline = Instant::now() + LIMIT;
        while !self.log(id).contains(what) {
            assert!(Instant::now() < deadline, "{what:?} not in {:?}", self.log(id));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Asks an HTTP server in the pod.
    pub fn get(&self, port: u16, path: &str) -> Result<(u16, String), std::io::Error> {
        let path = path.to_owned();
        in_netns(&self.sandbox.netns(), move || {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
            let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            // Chunks, where a body has them, have a line each before and after.
            let body = body.lines().filter(|line| u32::from_str_radix(line, 16).is_err() && !line.is_empty());
            Ok((status, body.collect::<Vec<_>>().join("\n")))
        })
    }

    /// A connection to a server in the pod.
    pub fn connect(&self, port: u16) -> TcpStream {
        let connect = move || TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        let stream = in_netns(&self.sandbox.netns(), connect);
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        stream
    }

    /// Sends these bytes to a server in the pod, and nothing more.
    pub fn send(&self, port: u16, bytes: &str) -> TcpStream {
        let mut stream = self.connect(port);
        stream.write_all(bytes.as_bytes()).expect("sent");
        stream
    }

    /// Ends the pod and checks that nothing of it is left.
    pub async fn stop(self) {
        let pid = self.sandbox.pid();
        self.sandbox.stop().await.expect("stopped");
        assert_nothing_left(&self.dir, &self.cgroup);
        let deadline = Instant::now() + LIMIT;
        while Path::new(&format!("/proc/{pid}/ns/net")).exists() {
            assert!(Instant::now() < deadline, "sandbox {pid} is still there");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

pub async fn wait_for(events: impl Stream<Item = Event>, id: &str) -> Exit {
    let mut events = std::pin::pin!(events);
    let found = tokio::time::timeout(LIMIT, async {
        while let Some(Event::Container(state)) = events.next().await {
            if let Some(exit) = state.exit.filter(|_| state.id == id) {
                return exit;
            }
        }
        panic!("the sandbox went away before {id} ended");
    });
    found.await.expect("an exit in time")
}

pub fn assert_nothing_left(dir: &Path, cgroup: &str) {
    assert!(!dir.exists(), "{} is still there", dir.display());
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(&dir.display().to_string()), "{mounts}");
    for controller in fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        let left = controller.path().join(cgroup.trim_start_matches('/'));
        assert!(!left.exists(), "{} is still there", left.display());
    }
}

/// Runs something in a network namespace, on a thread that ends with it.
pub fn in_netns<T: Send + 'static>(netns: &Path, work: impl FnOnce() -> T + Send + 'static) -> T {
    let file = fs::File::open(netns).expect("a network namespace");
    std::thread::spawn(move || {
        nix::sched::setns(file.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).expect("to enter it");
        work()
    })
    .join()
    .expect("no panic")
}

/// What the node's network does for a pod.
fn loopback_up() {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // SAFETY: an interface request is plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request lives through the call.
    let set = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// All that comes on a connection until it ends, however it ends.
pub fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn busybox(root: &Path) {
    for dir in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
        fs::create_dir_all(root.join(dir)).expect("a directory");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static");
    for applet in [
        "sh", "cat", "echo", "sleep", "id", "date", "ls", "mount", "grep", "head", "tail", "httpd", "nc",
        "wget", "dd", "hostname", "touch", "kill", "ps",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("a link");
    }
    fs::write(root.join("bin/not-a-program"), "neither ELF nor script").expect("a file");
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").expect("a file");
}

fn build_guests() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("wasm/tests/guests");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
    let built = std::process::Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--target", "wasm32-wasip2", "--bins", "--examples"])
        .current_dir(source)
        .env("CARGO_TARGET_DIR", &target)
        .env_remove("RUSTFLAGS")
        .status()
        .expect("cargo");
    assert!(built.success(), "the guests do not build");
    target.join("wasm32-wasip2/release")
}

pub fn digest(module: &Path) -> String {
    let digest = Sha256::digest(fs::read(module).expect("a module"));
    format!("sha256:{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

pub async fn compile(module: &Path, cache: &Path) -> Compiled {
    wasm::compile(module, &digest(module), "default", cache).await.expect("a compiled module")
}

/// A core module on WASI 0.1, by hand: imports `proc_exit` and calls it with 42 from `_start`.
const EXIT_42: &[u8] = b"\0asm\x01\0\0\0\
    \x01\x08\x02\x60\x01\x7f\0\x60\0\0\
    \x02\x24\x01\x16wasi_snapshot_preview1\x09proc_exit\0\0\
    \x03\x02\x01\x01\
    \x05\x03\x01\0\x01\
    \x07\x13\x02\x06_start\0\x01\x06memory\x02\0\
    \x0a\x08\x01\x06\0\x41\x2a\x10\0\x0b";
