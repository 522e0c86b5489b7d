//! Talking to what runs: `kubectl exec`, `attach`, `cp`, `port-forward` and `run -it`, by every
//! kubectl that the machine has, because each generation speaks another protocol: SPDY for all up
//! to 1.29, WebSocket for exec since 1.30 and for forwarded ports since 1.31. Client libraries
//! speak WebSocket in ways of their own; two of them are driven by `clients/streams.py`.

mod cluster;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use cluster::{Cluster, wait_for};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::RngCore;
use serde_json::json;

/// Every kubectl there is: the machine's own, those that lie beside it with a version in their
/// name, and Debian's 1.20 from `make setup`.
fn kubectls() -> Vec<PathBuf> {
    if let Some(paths) = std::env::var_os("PROA_TEST_KUBECTLS") {
        return std::env::split_paths(&paths).collect();
    }
    let old = cluster::target_dir().join("tools/kubectl-1.20/usr/bin/kubectl");
    assert!(old.exists(), "{} is missing: run `make setup`", old.display());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = std::env::split_paths(&path).map(|dir| dir.join("kubectl")).find(|file| file.exists());
    let own = own.expect("kubectl is installed").canonicalize().expect("a file");
    let beside = fs::read_dir(own.parent().expect("a directory")).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = beside
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("kubectl.1."))
        .map(|entry| entry.path())
        .collect();
    found.extend([old, own]);
    found.sort();
    found
}

/// A cluster with a container that stays, one that reads, and a Wasm server.
fn start() -> Cluster {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let root = cluster.scratch().join("box");
    for dir in ["bin", "tmp", "www"] {
        fs::create_dir_all(root.join(dir)).expect("a directory");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    let list = Command::new("/bin/busybox").arg("--list").output().expect("busybox runs").stdout;
    for applet in text(&list).lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).expect("a link");
    }
    fs::write(root.join("www/index.html"), "from the container\n").expect("a page");
    let root = root.to_str().expect("UTF-8");
    cluster.proa(&["image", "pack", root, "-t", "box:1", "--cmd", "sh"]);
    let pod = |name: &str, containers: serde_json::Value| {
        let spec = json!({"containers": containers, "terminationGracePeriodSeconds": 0});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
    };
    let server =
        json!({"name": "c", "image": "box:1", "command": ["httpd", "-f", "-p", "8080", "-h", "/www"]});
    let reader = json!({"name": "c", "image": "box:1", "command": ["cat"], "stdin": true});
    let wasm = json!({"name": "w", "image": "hello-wasm:1", "ports": [{"containerPort": 8080}]});
    let sleeper = json!({"name": "d", "image": "box:1", "command": ["sleep", "3600"]});
    cluster.apply(&pod("box", json!([server])));
    cluster.apply(&pod("reader", json!([reader])));
    cluster.apply(&pod("wasm", json!([wasm, sleeper])));
    for pod in ["box", "reader", "wasm"] {
        cluster.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=60s"]);
    }
    cluster
}

#[test]
fn every_kubectl_talks_to_what_runs() {
    let mut cluster = start();
    for kubectl in kubectls() {
        eprintln!("{}", kubectl.display());
        cluster = cluster.with_kubectl(&kubectl);
        let began = open_things(&cluster);
        commands(&cluster);
        input(&cluster);
        terminal(&cluster);
        copies(&cluster);
        attached(&cluster);
        attached_to_wasm(&cluster);
        run_and_remove(&cluster);
        ports(&cluster);
        a_client_that_vanishes(&cluster);
        refusals(&cluster);
        cluster.wait("everything to be closed again", || open_things(&cluster) <= began);
    }
}

#[test]
fn client_libraries_talk_to_what_runs() {
    let cluster = start();
    let began = open_things(&cluster);
    cluster.python("streams.py");
    cluster.wait("everything to be closed again", || open_things(&cluster) <= began);
}

/// A program that says one thing and ends has ended before kubectl is attached, or is ending; one
/// that stays has said it. Heard it must be, once, however busy the machine is.
#[test]
fn who_attaches_first_hears_what_was_said_before() {
    let cluster = start();
    let pod = |name: &str, script: &str| {
        let container =
            json!({"name": "c", "image": "box:1", "command": ["sh", "-c", script], "stdin": true});
        let spec = json!({"containers": [container], "terminationGracePeriodSeconds": 0});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
    };
    cluster.apply(&pod("early", "echo early; printf 'a prompt> '; exec cat"));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/early", "--timeout=60s"]);
    let hear = |typed: &str| {
        let mut command = cluster.kubectl_command();
        command.args(["attach", "-q", "-i", "early"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Guard(command.spawn().expect("kubectl starts"));
        let mut stdin = child.0.stdin.take().expect("piped");
        let mut stdout = BufReader::new(child.0.stdout.take().expect("piped"));
        let mut heard = String::new();
        writeln!(stdin, "{typed}").expect("kubectl reads");
        while !heard.ends_with(&format!("{typed}\n")) {
            assert_ne!(stdout.read_line(&mut heard).expect("text"), 0, "{heard}");
        }
        heard
    };
    assert_eq!(hear("first"), "early\na prompt> first\n");
    assert_eq!(hear("second"), "second\n", "who comes later hears it from then on");

    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::spin_loop()
                }
            });
        }
        for round in 0..8 {
            let (name, word) = (format!("round-{round}"), format!("word-{round}"));
            let arguments =
                ["run", &name, "--rm", "-i", "--restart=Never", "--image=box:1", "--", "echo", &word];
            let output = cluster.kubectl_output(&arguments);
            assert_eq!(text(&output.stdout).matches(&word).count(), 1, "{output:?}");
        }
        let arguments =
            ["run", "much", "--rm", "-i", "--restart=Never", "--image=box:1", "--", "seq", "20000"];
        let output = text(&cluster.kubectl_output(&arguments).stdout);
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        let lines = output.lines().filter(|line| line.parse::<u32>().is_ok()).count();
        assert_eq!(lines, 20_000, "{}", output.get(..200).unwrap_or(&output));
    });
}

fn commands(cluster: &Cluster) {
    let script = "echo out; echo err >&2; exit 7";
    let output = cluster.kubectl_output(&["exec", "box", "--", "sh", "-c", script]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(7), "out\n".to_owned()), "{output:?}");
    assert_eq!(text(&output.stderr), "err\ncommand terminated with exit code 7\n");
    assert_eq!(
        cluster.kubectl(&["exec", "box", "--", "sh", "-c", "echo $0 'a  b' $#", "x&y", "z"]),
        "x&y a  b 1\n"
    );
    // What goes on by itself does not keep the client.
    assert_eq!(cluster.kubectl(&["exec", "box", "--", "sh", "-c", "sleep 5 & echo left"]), "left\n");
    let output = cluster.kubectl(&["exec", "box", "--", "sh", "-c", "cat /bin/busybox /bin/busybox"]);
    assert!(output.len() > 1 << 20, "{} bytes", output.len());
}

fn input(cluster: &Cluster) {
    let mut bytes = vec![0; 10 << 20];
    rand::rng().fill_bytes(&mut bytes);
    let output = with_input(cluster, &["exec", "-i", "box", "--", "cat"], &bytes);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(output.stdout == bytes, "{} of {} bytes came back, or others", output.stdout.len(), bytes.len());
    // A command that does not read what it is sent ends all the same.
    let output = with_input(cluster, &["exec", "-i", "box", "--", "sh", "-c", "exit 3"], &bytes[..1 << 20]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
}

fn terminal(cluster: &Cluster) {
    let script = "tty; until test \"$(stty size)\" = '30 100'; do sleep 0.1; done; echo sized; cat; exit 4";
    let mut typist = Typist::start(cluster, &["exec", "-i", "-t", "box", "--", "sh", "-c", script]);
    typist.until("sized");
    typist.write(b"typed\r\x04");
    let code = typist.end();
    assert_eq!(code, Some(4), "{}", typist.seen());
    assert!(
        typist.seen().contains("/dev/pts/") && typist.seen().matches("typed").count() == 2,
        "{}",
        typist.seen()
    );
}

fn copies(cluster: &Cluster) {
    let (from, back) = (cluster.scratch().join("from"), cluster.scratch().join("back"));
    let mut bytes = vec![0; 3 << 20];
    rand::rng().fill_bytes(&mut bytes);
    fs::write(&from, &bytes).expect("a file");
    cluster.kubectl(&["cp", path(&from), "box:/tmp/copied"]);
    cluster.kubectl(&["cp", "box:/tmp/copied", path(&back)]);
    assert!(fs::read(&back).expect("it came back") == bytes);
    fs::remove_file(back).expect("a file");
}

fn attached(cluster: &Cluster) {
    let mut command = cluster.kubectl_command();
    command.args(["attach", "-i", "reader"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Guard(command.spawn().expect("kubectl starts"));
    let mut stdin = child.0.stdin.take().expect("piped");
    let mut lines = BufReader::new(child.0.stdout.take().expect("piped")).lines();
    writeln!(stdin, "to the container").expect("kubectl reads");
    assert_eq!(lines.next().expect("a line").expect("text"), "to the container");
    drop(child);
    // The container's input is open still, for the next.
    let phase = cluster.get("pod", "reader");
    assert_eq!(phase["status"]["phase"], "Running");
    assert!(cluster.kubectl(&["logs", "reader"]).contains("to the container\n"), "the log has it too");
}

/// Attaching needs no shell, so it works for Wasm too: each request is a line of its output.
fn attached_to_wasm(cluster: &Cluster) {
    let mut command = cluster.kubectl_command();
    command.args(["attach", "wasm", "-c", "w"]).stdout(Stdio::piped());
    let mut child = Guard(command.spawn().expect("kubectl starts"));
    let stdout = child.0.stdout.take().expect("piped");
    let (send, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(stdout).lines().map_while(Result::ok).for_each(|line| drop(send.send(line)));
    });
    let pod = cluster.get("pod", "wasm");
    let address = format!("{}:8080", pod["status"]["podIP"].as_str().expect("an address"));
    // What was said before somebody attached is for the log only.
    cluster.wait("the output of a request", || {
        cluster.http(&address, "x", "/attached").expect("an answer");
        lines.try_iter().any(|line| line == "GET /attached")
    });
}

fn run_and_remove(cluster: &Cluster) {
    let arguments = ["run", "once", "--rm", "-i", "--restart=Never", "--image=box:1", "--", "sh"];
    let output = with_input(cluster, &arguments, b"echo said $((6*7))\nexit\n");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("said 42\n"), "{output:?}");
    assert!(text(&output.stdout).contains("pod \"once\" deleted"), "{output:?}");

    let arguments = ["run", "once-more", "--rm", "-i", "-t", "--restart=Never", "--image=box:1", "--", "sh"];
    let mut typist = Typist::start(cluster, &arguments);
    typist.until("# ");
    typist.write(b"echo said $((6*7))\rexit 5\r");
    let code = typist.end();
    assert_eq!(code, Some(5), "{}", typist.seen());
    assert!(typist.seen().contains("said 42"), "{}", typist.seen());
    for pod in ["once", "once-more"] {
        cluster.wait("the pod to be removed", || cluster.get("pod", pod).is_null());
    }
}

fn ports(cluster: &Cluster) {
    for (pod, body) in [("box", "from the container\n"), ("wasm", "Hello")] {
        let mut command = cluster.kubectl_command();
        command.args(["port-forward", &format!("pod/{pod}"), ":8080", ":8081"]);
        let mut child =
            Guard(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl starts"));
        let mut lines = BufReader::new(child.0.stdout.take().expect("piped")).lines();
        let mut address = |port: &str| loop {
            let line = lines.next().expect("a line").expect("text");
            if let Some((address, _)) = line.split_once(&format!(" -> {port}"))
                && address.contains("127.0.0.1")
            {
                break address.rsplit(' ').next().expect("an address").to_owned();
            }
        };
        let (served, nobody) = (address("8080"), address("8081"));
        for _ in 0..5 {
            let (code, found) = cluster.http(&served, "x", "/").expect("an answer");
            assert!(code == 200 && found.contains(body), "{pod}: {code} {found}");
        }
        // A port where nobody listens: the client is told which and why.
        assert!(cluster.http(&nobody, "x", "/").is_err());
        let mut stderr = BufReader::new(child.0.stderr.take().expect("piped")).lines();
        let told = stderr.find(|line| line.as_ref().is_ok_and(|l| l.contains("8081")));
        let told = told.expect("an error").expect("text");
        assert!(told.contains("connect: connection refused"), "{told}");
    }
}

fn a_client_that_vanishes(cluster: &Cluster) {
    // One that would stay, its children, and one that does not listen to SIGHUP.
    let script = "trap '' HUP; sleep 98761 & sh -c 'sleep 98762'; true";
    for (arguments, tty) in [(&["exec", "-i"][..], false), (&["exec", "-i", "-t"], true)] {
        let arguments = [arguments, &["box", "--", "sh", "-c", script]].concat();
        let running = || processes(|line| line.contains("sleep 9876")).len();
        assert_eq!(running(), 0);
        let mut typist = tty.then(|| Typist::start(cluster, &arguments));
        let mut plain = (!tty).then(|| {
            let mut command = cluster.kubectl_command();
            Guard(command.args(&arguments).stdin(Stdio::piped()).spawn().expect("kubectl starts"))
        });
        cluster.wait("the command to run", || running() >= 2);
        let child =
            typist.as_mut().map(|t| &mut t.child.0).or(plain.as_mut().map(|p| &mut p.0)).expect("one");
        child.kill().expect("it runs");
        child.wait().expect("own child");
        cluster.wait("the command to be ended", || running() == 0);
    }
}

fn refusals(cluster: &Cluster) {
    let fails = |arguments: &[&str], what: &str| {
        let told = cluster.kubectl_fails(arguments);
        assert!(told.contains(what), "{arguments:?}: {told}");
    };
    fails(
        &["exec", "wasm", "-c", "w", "--", "sh"],
        "a Wasm container holds no programs that could be run in it",
    );
    fails(&["exec", "box", "-c", "nope", "--", "sh"], "container nope is not valid for pod box");
    fails(&["exec", "nobody", "--", "sh"], "pods \"nobody\" not found");
    fails(&["exec", "box", "--", "nothing"], "exec: \"nothing\": executable file not found in $PATH");
}

#[test]
fn a_wasm_command_reads_what_is_typed() {
    let cluster = start();
    let file = cluster::build_guests().join("command.wasm");
    cluster.proa(&["image", "pack", path(&file), "-t", "command:1"]);
    let arguments = ["run", "typed", "--rm", "-i", "--restart=Never", "--image=command:1", "--", "stdin"];
    let output = with_input(&cluster, &arguments, b"hello");
    assert!(text(&output.stdout).contains("5 bytes"), "{output:?}");
}

/// What may not stay open: terminals and descriptors of the node and of the sandboxes, and
/// processes in the containers.
#[derive(Debug, PartialEq, PartialOrd)]
struct Open {
    processes: usize,
    terminals: usize,
    descriptors: usize,
}

fn open_things(cluster: &Cluster) -> Open {
    let dir = cluster.data_dir().display().to_string();
    let sandboxes = processes(|line| line.contains(" sandbox ") && line.contains(&dir));
    let links = |pid: i32| -> Vec<PathBuf> {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        entries.filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
    };
    let own: Vec<PathBuf> = sandboxes.iter().copied().flat_map(links).collect();
    let node = links(cluster.pid().as_raw());
    let is_terminal = |link: &&PathBuf| link.to_string_lossy().contains("ptmx");
    let pipes = node.iter().filter(|link| link.to_string_lossy().starts_with("pipe:")).count();
    Open {
        processes: processes(|line| line.starts_with("sh ") || line.starts_with("cat ")).len(),
        terminals: own.iter().chain(&node).filter(is_terminal).count(),
        descriptors: own.len() + pipes,
    }
}

/// Process ids by what they were started as.
fn processes(wanted: impl Fn(&str) -> bool) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let line = |pid: &i32| {
        let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    };
    // kubectl's own arguments name the command too.
    pids.filter(|pid| Some(line(pid)).is_some_and(|line| !line.contains("kubectl") && wanted(&line)))
        .collect()
}

/// kubectl with a terminal, and somebody who types.
struct Typist {
    child: Guard,
    terminal: File,
    seen: std::sync::Arc<std::sync::Mutex<String>>,
}

impl Typist {
    fn start(cluster: &Cluster, arguments: &[&str]) -> Self {
        let size = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("a terminal");
        let end = || Stdio::from(pty.slave.as_fd().try_clone_to_owned().expect("a second handle"));
        let mut command = cluster.kubectl_command();
        command.args(arguments).stdin(end()).stdout(end()).stderr(end());
        let child = Guard(command.spawn().expect("kubectl starts"));
        drop(command);
        drop(pty.slave);
        let terminal = File::from(pty.master);
        let seen = std::sync::Arc::<std::sync::Mutex<String>>::default();
        let (mut reader, writer) = (terminal.try_clone().expect("a second handle"), seen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n) = reader.read(&mut buffer) {
                if n == 0 {
                    break;
                }
                writer.lock().expect("no panic").push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        Self { child, terminal, seen }
    }

    fn seen(&self) -> String {
        self.seen.lock().expect("no panic").clone()
    }

    fn until(&self, what: &str) {
        let deadline = Instant::now() + cluster::DEADLINE;
        while !self.seen().contains(what) {
            assert!(Instant::now() < deadline, "waited in vain for {what:?}: {}", self.seen());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.terminal.write_all(bytes).expect("kubectl reads");
    }

    fn end(&mut self) -> Option<i32> {
        let mut code = None;
        wait_for("kubectl to end", || {
            code = self.child.0.try_wait().expect("own child").map(|status| status.code());
            code.is_some()
        });
        code.flatten()
    }
}

/// A child that does not outlive its test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

fn with_input(cluster: &Cluster, arguments: &[&str], bytes: &[u8]) -> Output {
    let mut command = cluster.kubectl_command();
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("kubectl starts");
    let mut stdin = child.stdin.take().expect("piped");
    std::thread::scope(|scope| {
        // It may end before it has read all.
        scope.spawn(move || drop(stdin.write_all(bytes)));
        child.wait_with_output().expect("kubectl ends")
    })
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
