//! One container, from the order to create it to its first instruction, beside the runtimes that
//! Debian packages. All run the same program in a root file system of the same files with the
//! same configuration: the one that the sandbox has written for its own container.
//!
//! The program's first act is to write to a FIFO that is mounted into the container.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use proa_sandbox::protocol::{Container, Mount, Payload, Reply, Request, Resources, SandboxConfig, Security};
use serde_json::{Value, json};

use crate::Places;
use crate::report::{Figure, Goal, Report, percentile};

const ROUNDS: usize = 30;
const PEERS: [(&str, &str); 2] = [("crun", "container_start_crun_p50"), ("runc", "container_start_runc_p50")];
/// One container may take this long.
const LIMIT: Duration = Duration::from_secs(10);
/// Milliseconds between two looks whether a runtime that says nothing still runs.
const LOOK_AGAIN: u16 = 100;

pub fn measure(places: &Places, report: &mut Report) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("proa-bench-").tempdir_in(&places.dir)?;
    let bench = Bench::set_up(&places.proa, dir.path())?;
    let mut own = Vec::new();
    let mut sandbox = Sandbox::start(&bench)?;
    // The first container is for its configuration; what it finds cold does not count.
    sandbox.start_container(&bench, 0)?;
    let config = fs::read(bench.scratch(0).join("config.json")).context("the configuration")?;
    let config: Value = serde_json::from_slice(&config)?;
    let mut peers = Vec::new();
    for peer in PEERS {
        peers.extend(report.check(peer.1, Peer::find(&bench, peer, &config)));
    }
    for round in 1..=ROUNDS {
        own.push(sandbox.start_container(&bench, round)?);
        sandbox.remove(round)?;
        for peer in &mut peers {
            let sample = peer.run(&bench, &config, round)?;
            peer.samples.push(sample);
        }
    }
    drop(sandbox);
    let p50 = percentile(&mut own, 50.0);
    let mut fastest = None;
    for mut peer in peers {
        let value = percentile(&mut peer.samples, 50.0);
        report.add(Figure::new(peer.figure, value, "ms", Goal::None));
        if fastest.is_none_or(|(_, other)| value < other) {
            fastest = Some((peer.program, value));
        }
    }
    let figure = |goal| Figure::new("container_start_p50", p50, "ms", goal);
    report.add(match fastest {
        Some((program, value)) => figure(Goal::AtMost(value)).beside(program, value),
        None => figure(Goal::None),
    });
    Ok(())
}

/// Another runtime, by its command line.
struct Peer {
    program: &'static str,
    figure: &'static str,
    path: PathBuf,
    hide_version_2: bool,
    samples: Vec<f64>,
}

impl Peer {
    /// The peer as it runs here. crun refuses a machine with cgroups of both versions; it runs there
    /// where those of version 2 are hidden from it.
    fn find(bench: &Bench, (program, figure): (&'static str, &'static str), config: &Value) -> Result<Peer> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let usual = ["/usr/sbin", "/usr/bin"].map(PathBuf::from);
        let path = std::env::split_paths(&path)
            .chain(usual)
            .map(|dir| dir.join(program))
            .find(|file| file.is_file())
            .with_context(|| format!("{program} is not installed: apt-get install {program}"))?;
        let mut peer = Peer { program, figure, path, hide_version_2: false, samples: Vec::new() };
        let Err(error) = peer.run(bench, config, 0) else { return Ok(peer) };
        if program != "crun" {
            return Err(error);
        }
        eprintln!("bench: {error:#}; version 2 is hidden from it");
        peer.hide_version_2 = true;
        peer.run(bench, config, 0)?;
        Ok(peer)
    }

    /// Milliseconds from the start of the runtime to the first instruction.
    fn run(&self, bench: &Bench, config: &Value, round: usize) -> Result<f64> {
        let (program, bundle) = (self.program, bench.dir.join("peer"));
        let mut config = config.clone();
        config["root"]["path"] = json!(bundle.join("rootfs"));
        config["linux"]["cgroupsPath"] = json!(format!("{}-{program}-{round}", bench.cgroup));
        fs::write(bundle.join("config.json"), config.to_string())?;
        let id = format!("proa-bench-{}-{round}", std::process::id());
        let errors = bench.dir.join("peer-errors");
        let mut command = Command::new(&self.path);
        command.arg("--root").arg(bench.dir.join("peer-state"));
        command.args(["run", "--bundle"]).arg(&bundle).arg(id);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&errors)?);
        let _hidden = self.hide_version_2.then(Hidden::mount).transpose()?;
        let start = Instant::now();
        let mut child = command.spawn()?;
        let elapsed = bench.first_instruction(start, || child.try_wait().is_ok_and(|ended| ended.is_none()));
        if elapsed.is_err() {
            let _ = child.kill();
        }
        let status = child.wait()?;
        let said = fs::read_to_string(errors).unwrap_or_default();
        ensure!(status.success(), "{program} ended with {status}: {}", said.trim());
        elapsed
    }
}

/// Something empty over the cgroups of version 2, in this program's own mount namespace.
struct Hidden;

const VERSION_2: &str = "/sys/fs/cgroup/unified";

impl Hidden {
    fn mount() -> Result<Hidden> {
        let (kind, none) = (Some("tmpfs"), None::<&str>);
        mount(kind, VERSION_2, kind, MsFlags::empty(), none).context(VERSION_2)?;
        Ok(Hidden)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Err(error) = umount2(VERSION_2, MntFlags::MNT_DETACH) {
            eprintln!("bench: {VERSION_2} stays hidden: {error}");
        }
    }
}

/// The files all runtimes share.
struct Bench {
    proa: PathBuf,
    dir: PathBuf,
    said: File,
    cgroup: String,
}

impl Bench {
    fn set_up(proa: &Path, dir: &Path) -> Result<Bench> {
        for root in ["layer", "peer/rootfs"] {
            let bin = dir.join(root).join("bin");
            fs::create_dir_all(&bin)?;
            fs::copy("/bin/busybox", bin.join("busybox")).context("busybox-static is not installed")?;
            // Made for the mount, so that no runtime has to.
            File::create(dir.join(root).join("said"))?;
        }
        let fifo = dir.join("said");
        mkfifo(&fifo, Mode::from_bits_truncate(0o622))?;
        // Opened for both, so that it does not end when a writer does.
        let said = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&fifo)?;
        let cgroup = format!("/proa-bench-{}", std::process::id());
        Ok(Bench { proa: proa.to_owned(), dir: dir.to_owned(), said, cgroup })
    }

    fn sandbox_dir(&self) -> PathBuf {
        self.dir.join("sandbox")
    }

    fn scratch(&self, round: usize) -> PathBuf {
        self.sandbox_dir().join(format!("scratch-{round}"))
    }

    /// Waits for the program in the container, as long as `goes_on`; milliseconds since `start`.
    fn first_instruction(&self, start: Instant, mut goes_on: impl FnMut() -> bool) -> Result<f64> {
        let mut fds = [PollFd::new(self.said.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, LOOK_AGAIN)? == 0 {
            ensure!(goes_on(), "the container has ended and its program has not said anything");
            ensure!(start.elapsed() < LIMIT, "the program has not said anything in {} s", LIMIT.as_secs());
        }
        let elapsed = start.elapsed().as_secs_f64() * 1e3;
        let read = (&self.said).read(&mut [0; 64])?;
        ensure!(read == 1, "the program was run {read} times");
        Ok(elapsed)
    }
}

/// A pod's sandbox, spoken to as the node agent does.
struct Sandbox {
    child: Child,
    requests: UnixStream,
    replies: BufReader<UnixStream>,
}

impl Sandbox {
    fn start(bench: &Bench) -> Result<Sandbox> {
        let dir = bench.sandbox_dir();
        fs::create_dir_all(&dir)?;
        let config = SandboxConfig {
            version: proa_sandbox::protocol::VERSION,
            pod_uid: "bench".to_owned(),
            pod: "default/bench".to_owned(),
            hostname: "bench".to_owned(),
            host_network: false,
            cgroup: bench.cgroup.clone(),
            host_ipc: false,
            share_process_namespace: false,
            resources: Resources::default(),
            descriptors: None,
            programs: bench.proa.parent().map(Path::to_owned).unwrap_or_default(),
            sysctls: Vec::new(),
        };
        fs::write(dir.join(proa_sandbox::CONFIG_FILE), serde_json::to_vec(&config)?)?;
        let mut command = Command::new(&bench.proa);
        command.arg("sandbox").arg(&dir).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
        if line.trim() != proa_sandbox::READY {
            let _ = child.kill();
            let _ = child.wait();
            bail!("the sandbox does not start: {line}");
        }
        let requests = UnixStream::connect(dir.join(proa_sandbox::SOCKET_FILE))?;
        requests.set_read_timeout(Some(LIMIT))?;
        let replies = BufReader::new(requests.try_clone()?);
        Ok(Sandbox { child, requests, replies })
    }

    fn ask(&mut self, request: &Request) -> Result<()> {
        self.send(request)?;
        self.reply()
    }

    fn send(&mut self, request: &Request) -> Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        Ok(self.requests.write_all(&line)?)
    }

    fn reply(&mut self) -> Result<()> {
        let mut line = String::new();
        self.replies.read_line(&mut line)?;
        match serde_json::from_str(&line)? {
            Reply::Failed { reason, message } => bail!("{reason}: {message}"),
            _ => Ok(()),
        }
    }

    /// Milliseconds from the request to the first instruction.
    fn start_container(&mut self, bench: &Bench, round: usize) -> Result<f64> {
        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        let program = ["/bin/busybox", "sh", "-c", "echo > /said"];
        let container = Container {
            id: format!("main-{round}"),
            args: program.map(str::to_owned).to_vec(),
            env: Vec::new(),
            cwd: "/".to_owned(),
            log_path: path(bench.dir.join("log")),
            log_max_bytes: 1 << 20,
            log_max_files: 1,
            mounts: vec![Mount {
                source: path(bench.dir.join("said")),
                target: "/said".to_owned(),
                read_only: false,
                recursive_read_only: false,
            }],
            resources: Resources::default(),
            stdin: false,
            stdin_once: false,
            tty: false,
            payload: Payload::Oci {
                layers: vec![path(bench.dir.join("layer"))],
                scratch: path(bench.scratch(round)),
                security: Box::new(Security::default()),
                volumes: Vec::new(),
            },
        };
        let request = Request::Start(Box::new(container));
        let start = Instant::now();
        self.send(&request)?;
        let elapsed = bench.first_instruction(start, || true);
        self.reply()?;
        elapsed
    }

    /// Removes a container as soon as it has ended.
    fn remove(&mut self, round: usize) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        let request = Request::Remove { id: format!("main-{round}") };
        while let Err(error) = self.ask(&request) {
            ensure!(Instant::now() < deadline, "container {round} does not end: {error:#}");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Err(error) = self.ask(&Request::Stop) {
            eprintln!("bench: the sandbox does not stop: {error:#}");
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
