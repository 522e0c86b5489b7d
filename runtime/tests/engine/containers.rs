//! OCI containers.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use proa_runtime::engine::{Sandbox, reap};
use proa_sandbox::cgroup::{Cgroup, Version};
use proa_sandbox::protocol::{Mount, Payload, Reply, Request, Security};

use crate::confinement::mount;
use crate::tests;
use crate::world::{LIMIT, World, assert_nothing_left, wait_for};

tests![
    runs_and_logs,
    isolated_as_containerd_does,
    pods_have_their_weight,
    nobody_waits_for_a_processor_to_die,
    user_and_capabilities,
    mounts_and_read_only_root,
    works_in_its_volume,
    shares_memory_with_its_pod,
    has_what_it_mounts_over_devices,
    cannot_be_started,
    out_of_memory,
    killed_from_outside,
    stopped_by_signals,
    real_time_signals_are_as_others,
    runs_commands,
    gets_a_terminal,
    many_layers,
    adopted_by_another_agent,
    ends_with_its_sandbox,
    start_times,
];

async fn runs_and_logs(world: Arc<World>) {
    let pod = world.pod().await;
    let script = "pwd; cat /etc/motd; echo $HOSTNAME $GREETING; echo oops >&2; printf end; exit 3";
    let (exit, log) = pod.run(world.shell(&pod, "c-0", script)).await;
    assert_eq!((exit.code, exit.signal, exit.reason.as_str()), (3, 0, "Error"));
    let of =
        |stream: &str| log.lines().filter(|line| line.starts_with(stream)).collect::<Vec<_>>().join("\n");
    assert_eq!(
        of("stdout"),
        "stdout F /work/dir\nstdout F from the top layer\nstdout F web-0 ahoy\nstdout P end"
    );
    assert_eq!(of("stderr"), "stderr F oops");
    let (exit, _) = pod.run(world.shell(&pod, "c-1", "true")).await;
    assert_eq!((exit.code, exit.reason.as_str()), (0, "Completed"));
    let (_, log) = pod.run(world.shell(&pod, "c-2", "ulimit -Sn")).await;
    assert_eq!(log.trim(), "stdout F 500", "not the sandbox's own limit");
    pod.ask(Request::Remove { id: "c-2".to_owned() }).await;
    // Remembered until it is forgotten, and its place can then be taken again.
    assert_eq!(pod.states().await.iter().map(|state| state.id.as_str()).collect::<Vec<_>>(), ["c-0", "c-1"]);
    for id in ["c-0", "c-1"] {
        assert!(matches!(pod.ask(Request::Remove { id: id.to_owned() }).await, Reply::Done));
    }
    assert!(pod.states().await.is_empty());
    assert!(!pod.dir.join("containers/c-0").exists());
    pod.run(world.shell(&pod, "c-0", "true")).await;
    pod.stop().await;
}

async fn isolated_as_containerd_does(world: Arc<World>) {
    let pod = world.pod().await;
    let script = "
        echo pid $$; hostname; ls /proc/acpi /sys/firmware 2>/dev/null | head -1
        touch /sys/x 2>/dev/null || echo sys is read-only
        echo 1 2>/dev/null > /proc/sys/kernel/panic || echo proc is read-only
        grep Seccomp: /proc/self/status; grep NoNewPrivs /proc/self/status; grep SigBlk /proc/self/status
        grep SigIgn /proc/self/status
        mount -t tmpfs none /tmp 2>/dev/null || echo no mounts
        for f in /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; do cat $f 2>/dev/null; done
        ls /dev/null /dev/shm -d; mount | grep -c ' / '
    ";
    let mut container = world.shell(&pod, "c-0", script);
    container.resources.memory_bytes = Some(64 << 20);
    let (exit, log) = pod.run(container).await;
    assert_eq!(exit.code, 0, "{log}");
    let said: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("stdout F ")).collect();
    for want in [
        "pid 1",
        "web-0",
        "sys is read-only",
        "proc is read-only",
        "Seccomp:\t2",
        "NoNewPrivs:\t0",
        "SigBlk:\t0000000000000000",
        "SigIgn:\t0000000000000000",
        "no mounts",
        "67108864",
        "/dev/null",
    ] {
        assert!(said.contains(&want), "{want} not in {said:#?}");
    }
    pod.stop().await;
}

async fn pods_have_their_weight(world: Arc<World>) {
    let pod = world.pod().await;
    let cgroup = Cgroup::at(&pod.cgroup);
    let (file, want) = match cgroup.version() {
        Version::V1 => ("cpu.shares", "300"),
        Version::V2 => ("cpu.weight", "12"),
    };
    let found = fs::read_to_string(cgroup.directory("cpu").join(file)).expect("a weight");
    assert_eq!(found.trim(), want);
    pod.stop().await;
}

async fn nobody_waits_for_a_processor_to_die(world: Arc<World>) {
    let pod = world.pod().await;
    let quota = |cgroup: &Cgroup| {
        let file = match cgroup.version() {
            Version::V1 => "cpu.cfs_quota_us",
            Version::V2 => "cpu.max",
        };
        let text = fs::read_to_string(cgroup.directory("cpu").join(file)).expect("a quota");
        text.split_whitespace().next().and_then(|number| number.parse::<i64>().ok()).filter(|n| *n > 0)
    };
    let of_pod = Cgroup::at(&pod.cgroup);
    let start = async |id: &str| {
        let mut container = world.shell(&pod, id, "sleep 1000");
        container.resources.cpu_quota = Some(10_000);
        pod.start(container).await;
    };
    start("c-0").await;
    assert_eq!((quota(&of_pod), quota(&of_pod.child("c-0"))), (Some(400_000), Some(10_000)));
    let kill = Request::Signal { id: "c-0".to_owned(), signal: libc::SIGKILL, all: true };
    assert!(matches!(pod.ask(kill).await, Reply::Done));
    pod.exit("c-0").await;
    assert_eq!((quota(&of_pod), quota(&of_pod.child("c-0"))), (None, None));
    start("c-1").await;
    assert_eq!((quota(&of_pod), quota(&of_pod.child("c-1"))), (Some(400_000), Some(10_000)));
    pod.stop().await;
}

async fn user_and_capabilities(world: Arc<World>) {
    let pod = world.pod().await;
    let with = |id: &str, security: Security| {
        let mut container =
            world.shell(&pod, id, "id; grep CapEff /proc/self/status; grep CapBnd /proc/self/status");
        if let Payload::Oci { security: target, .. } = &mut container.payload {
            **target = security;
        }
        container
    };
    let (_, log) = pod.run(with("root-0", Security::default())).await;
    assert!(log.contains("uid=0(root) gid=0 groups=0\n") || log.contains("groups=0"), "{log}");
    // The fourteen that containerd gives; without making device nodes where nothing guards them.
    assert!(log.contains("CapBnd:\t00000000a80425fb") || log.contains("CapBnd:\t00000000a00425fb"), "{log}");
    let user = Security { uid: 1000, gid: 2000, additional_gids: vec![3000], ..Security::default() };
    let (_, log) = pod.run(with("user-0", user)).await;
    assert!(log.contains("uid=1000 gid=2000 groups=2000,3000"), "{log}");
    assert!(log.contains("CapEff:\t0000000000000000"), "{log}");
    let none = Security {
        drop_capabilities: vec!["ALL".to_owned()],
        no_new_privileges: true,
        ..Security::default()
    };
    let (_, log) = pod.run(with("none-0", none)).await;
    assert!(log.contains("CapBnd:\t0000000000000000"), "{log}");
    let privileged = Security { privileged: true, ..Security::default() };
    let (exit, log) = pod.run(with("all-0", privileged)).await;
    assert_eq!(exit.code, 0, "{log}");
    assert!(!log.contains("CapEff:\t00000000a80425fb"), "{log}");
    pod.stop().await;
}

async fn mounts_and_read_only_root(world: Arc<World>) {
    let pod = world.pod().await;
    let volume = world.path("volume");
    fs::create_dir_all(&volume).expect("a volume");
    fs::write(volume.join("in"), "given\n").expect("a file");
    let mut container = world.shell(
        &pod,
        "c-0",
        "cat /data/in; echo made > /data/out; touch /ro/x || echo ro; touch /x || echo root is ro; cat /etc/one",
    );
    let source = volume.display().to_string();
    container.mounts = vec![
        Mount {
            source: source.clone(),
            target: "/data".to_owned(),
            read_only: false,
            recursive_read_only: false,
        },
        Mount { source, target: "/ro".to_owned(), read_only: true, recursive_read_only: false },
        Mount {
            source: volume.join("in").display().to_string(),
            target: "/etc/one".to_owned(),
            read_only: true,
            recursive_read_only: false,
        },
    ];
    if let Payload::Oci { security, .. } = &mut container.payload {
        security.read_only_root = true;
    }
    let (_, log) = pod.run(container).await;
    for want in ["stdout F given\n", "stdout F ro\n", "stdout F root is ro\n"] {
        assert!(log.contains(want), "{log}");
    }
    assert_eq!(log.matches("given").count(), 2, "{log}");
    assert_eq!(fs::read_to_string(volume.join("out")).expect("a file"), "made\n");
    pod.stop().await;
}

/// A working directory is made where the program finds it.
async fn works_in_its_volume(world: Arc<World>) {
    let pod = world.pod().await;
    let volume = world.path("work");
    fs::create_dir_all(&volume).expect("a volume");
    let mut container = world.shell(&pod, "c-0", "pwd; touch here");
    container.mounts = vec![mount(&volume, "/data")];
    container.cwd = "/data/app/in".to_owned();
    let (exit, log) = pod.run(container.clone()).await;
    assert_eq!((exit.code, log.as_str()), (0, "stdout F /data/app/in\n"));
    assert!(volume.join("app/in/here").exists());
    (container.id, container.cwd) = ("c-1".to_owned(), "/data/no".to_owned());
    container.mounts[0].read_only = true;
    let Reply::Failed { message, .. } = pod.ask(Request::Start(Box::new(container))).await else { panic!() };
    assert!(message.contains("/data/no") && message.contains("Read-only file system"), "{message}");
    assert!(!volume.join("no").exists());
    pod.stop().await;
}

/// As long as the pod lasts, and with nobody else: not with another pod and not with the node, unless that
/// is asked for.
async fn shares_memory_with_its_pod(world: Arc<World>) {
    let (pod, other) = (world.pod().await, world.pod().await);
    let name = format!("proa-{}", std::process::id());
    let of_node = Path::new("/dev/shm").join(&name);
    let script = format!("echo of the pod > /dev/shm/{name}; grep /dev/shm /proc/mounts; ls -ld /dev/shm");
    let (_, log) = pod.run(world.shell(&pod, "a-0", &script)).await;
    for want in ["rw,nosuid,nodev,noexec,", ",size=65536k", "drwxrwxrwt "] {
        assert!(log.contains(want), "{want} not in {log}");
    }
    assert!(matches!(pod.ask(Request::Remove { id: "a-0".to_owned() }).await, Reply::Done));
    assert!(!of_node.exists());
    fs::write(&of_node, "of the node\n").expect("a file");
    let cat = format!("cat /dev/shm/{name}; touch /dev/shm/user-$(id -u)");
    let with = |pod, id: &str, wanted: Security| {
        let mut container = world.shell(pod, id, &cat);
        let Payload::Oci { security, .. } = &mut container.payload else { unreachable!() };
        **security = wanted;
        container
    };
    let user = Security { uid: 1000, gid: 1000, ..Security::default() };
    let (_, of_other_container) = pod.run(with(&pod, "b-0", user)).await;
    let (_, of_other_pod) = other.run(with(&other, "a-0", Security::default())).await;
    let host_ipc = Security { uid: 1000, gid: 1000, host_ipc: true, ..Security::default() };
    let (_, with_node) = pod.run(with(&pod, "c-0", host_ipc)).await;
    for file in [of_node, "/dev/shm/user-1000".into()] {
        fs::remove_file(file).expect("there");
    }
    assert_eq!(of_other_container, "stdout F of the pod\n");
    assert!(of_other_pod.contains("No such file"), "{of_other_pod}");
    assert_eq!(with_node, "stdout F of the node\n");
    let (_, log) = pod.run(world.shell(&pod, "d-0", "ls /dev/shm/user-1000")).await;
    assert_eq!(log, "stdout F /dev/shm/user-1000\n");
    for pod in [pod, other] {
        pod.stop().await;
    }
}

/// What every container has in `/dev`, its pod may put something else in the place of.
async fn has_what_it_mounts_over_devices(world: Arc<World>) {
    let pod = world.pod().await;
    let (dir, file) = (world.path("over-device"), world.path("over-device-file"));
    fs::create_dir_all(&dir).expect("a directory");
    fs::write(dir.join("in"), "in a directory\n").expect("a file");
    fs::write(&file, "a file\n").expect("a file");
    let script =
        "cat /dev/stdin /dev/tty /dev/fd/in /dev/fd/more; head -c 1 /dev/random >/dev/null && echo random
        head -c 1 /dev/zero >/dev/null && echo zero; touch /dev/full";
    for privileged in [false, true] {
        let mut container = world.shell(&pod, if privileged { "c-1" } else { "c-0" }, script);
        container.mounts = vec![
            mount(&file, "/dev/fd/more"),
            mount(&dir, "/dev/fd/"),
            mount(&file, "/dev/stdin"),
            mount(&file, "/dev//tty"),
            mount(Path::new("/dev/urandom"), "/dev/random"),
            mount(Path::new("/dev/null"), "/dev/null"),
        ];
        let Payload::Oci { security, .. } = &mut container.payload else { unreachable!() };
        **security = Security { privileged, ..Security::default() };
        let (exit, log) = pod.run(container).await;
        assert_eq!(exit.code, 0, "{log}");
        let said: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("stdout F ")).collect();
        assert_eq!(said, ["a file", "a file", "in a directory", "a file", "random", "zero"], "{log}");
    }
    // A link that leads into /proc is no place either.
    let mut container = world.shell(&pod, "c-2", "true");
    container.mounts = vec![mount(&file, "/dev/fd/0")];
    let Reply::Failed { message, .. } = pod.ask(Request::Start(Box::new(container))).await else { panic!() };
    assert!(message.contains("/dev/fd/0"), "{message}");
    pod.stop().await;
}

async fn cannot_be_started(world: Arc<World>) {
    let pod = world.pod().await;
    let mut container = world.shell(&pod, "none-0", "");
    container.args = vec!["nosuch".to_owned()];
    let Reply::Failed { reason, message } = pod.ask(Request::Start(Box::new(container))).await else {
        panic!("it started");
    };
    assert_eq!(reason, "RunContainerError");
    assert_eq!(
        message,
        "unable to start container process: exec: \"nosuch\": executable file not found in $PATH"
    );
    let exit = pod.exit("none-0").await;
    assert_eq!((exit.code, exit.reason.as_str()), (128, "StartError"));

    let mut container = world.shell(&pod, "path-0", "");
    container.args = vec!["/bin/nosuch".to_owned()];
    let Reply::Failed { message, .. } = pod.ask(Request::Start(Box::new(container))).await else { panic!() };
    assert!(
        message.ends_with("exec: \"/bin/nosuch\": stat /bin/nosuch: no such file or directory"),
        "{message}"
    );

    let mut container = world.shell(&pod, "mode-0", "");
    container.args = vec!["/bin/not-a-program".to_owned()];
    let Reply::Failed { message, .. } = pod.ask(Request::Start(Box::new(container))).await else { panic!() };
    assert!(message.ends_with("exec: \"/bin/not-a-program\": permission denied"), "{message}");

    let mut container = world.shell(&pod, "layer-0", "");
    if let Payload::Oci { layers, .. } = &mut container.payload {
        layers.push("/nonexistent/layer".to_owned());
    }
    let Reply::Failed { reason, message } = pod.ask(Request::Start(Box::new(container))).await else {
        panic!()
    };
    assert_eq!(reason, "CreateContainerError");
    assert!(message.contains("layer /nonexistent/layer is not there"), "{message}");
    assert!(!pod.states().await.iter().any(|state| state.id == "layer-0"));

    let mut container = world.shell(&pod, "mount-0", "");
    container.mounts = vec![Mount {
        source: "/nonexistent".to_owned(),
        target: "/data".to_owned(),
        read_only: false,
        recursive_read_only: false,
    }];
    let Reply::Failed { message, .. } = pod.ask(Request::Start(Box::new(container))).await else { panic!() };
    assert!(message.ends_with("\"/nonexistent\": No such file or directory (os error 2)"), "{message}");
    pod.stop().await;
}

async fn out_of_memory(world: Arc<World>) {
    let pod = world.pod().await;
    let mut container = world.shell(&pod, "c-0", "head -c 200000000 /dev/zero | tail");
    container.args = vec!["tail".to_owned(), "/dev/zero".to_owned()];
    container.resources.memory_bytes = Some(16 << 20);
    let (exit, _) = pod.run(container).await;
    assert_eq!((exit.code, exit.signal, exit.reason.as_str()), (137, 9, "OOMKilled"));
    pod.stop().await;
}

async fn killed_from_outside(world: Arc<World>) {
    let pod = world.pod().await;
    pod.start(world.shell(&pod, "c-0", "echo up; sleep 1000 & wait")).await;
    pod.said("c-0", "up").await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pod.pid("c-0").await), nix::sys::signal::SIGKILL)
        .expect("sent");
    let exit = pod.exit("c-0").await;
    assert_eq!((exit.code, exit.signal, exit.reason.as_str()), (137, 9, "Error"));
    pod.stop().await;
}

async fn stopped_by_signals(world: Arc<World>) {
    let pod = world.pod().await;
    let script = "trap 'echo got it; exit 5' TERM; echo up; while true; do sleep 0.01; done";
    pod.start(world.shell(&pod, "c-0", script)).await;
    pod.said("c-0", "up").await;
    let signal = Request::Signal { id: "c-0".to_owned(), signal: libc::SIGTERM, all: false };
    assert!(matches!(pod.ask(signal.clone()).await, Reply::Done));
    assert_eq!(pod.exit("c-0").await.code, 5);
    pod.said("c-0", "got it").await;
    let Reply::Failed { reason, .. } = pod.ask(signal).await else { panic!() };
    assert_eq!(reason, "ContainerNotRunning");
    pod.stop().await;
}

/// systemd in a container is stopped by one, and any program may be ended by one.
async fn real_time_signals_are_as_others(world: Arc<World>) {
    let pod = world.pod().await;
    let script = "trap 'exit 6' 37; echo up; while true; do sleep 0.01; done";
    pod.start(world.shell(&pod, "c-0", script)).await;
    pod.said("c-0", "up").await;
    let args = ["sh", "-c", "kill -37 $$"].map(str::to_owned).to_vec();
    let reply = pod.ask(Request::Exec { id: "c-0".to_owned(), args, timeout_ms: 5_000 }).await;
    let Reply::Executed { exit_code, .. } = reply else { panic!("{reply:?}") };
    assert_eq!(exit_code, 128 + 37);
    let reply = pod.ask(Request::Signal { id: "c-0".to_owned(), signal: 37, all: false }).await;
    assert!(matches!(reply, Reply::Done), "{reply:?}");
    assert_eq!(pod.exit("c-0").await.code, 6);
    let reply = pod.ask(Request::Signal { id: "c-0".to_owned(), signal: 65, all: false }).await;
    let Reply::Failed { reason, .. } = reply else { panic!("{reply:?}") };
    assert_eq!(reason, "InvalidRequest");
    pod.stop().await;
}

async fn runs_commands(world: Arc<World>) {
    let pod = world.pod().await;
    pod.start(world.shell(&pod, "c-0", "echo $$ > /tmp/pid; sleep 1000")).await;
    let exec = async |args: &[&str], timeout_ms| {
        let args = args.iter().map(ToString::to_string).collect();
        pod.ask(Request::Exec { id: "c-0".to_owned(), args, timeout_ms }).await
    };
    let reply = exec(
        &["sh", "-c", "echo $GREETING; grep -E 'Seccomp:|CapBnd' /proc/self/status; hostname >&2; exit 4"],
        0,
    )
    .await;
    let Reply::Executed { exit_code, output } = reply else { panic!("{reply:?}") };
    assert_eq!(exit_code, 4, "{output}");
    for want in ["ahoy\n", "web-0\n", "Seccomp:\t2\n", "425fb\n"] {
        assert!(output.contains(want), "{output}");
    }
    let reply = exec(&["sleep", "1000"], 200).await;
    let Reply::Failed { reason, message } = reply else { panic!("{reply:?}") };
    assert_eq!((reason.as_str(), message.as_str()), ("DeadlineExceeded", "command \"sleep 1000\" timed out"));
    let reply = exec(&["nosuch"], 0).await;
    let Reply::Failed { reason, message } = reply else { panic!("{reply:?}") };
    assert_eq!(reason, "ExecError");
    assert!(message.contains("exec: \"nosuch\": executable file not found in $PATH"), "{message}");
    assert!(pod.pid("c-0").await > 0);
    pod.stop().await;
}

async fn gets_a_terminal(world: Arc<World>) {
    let pod = world.pod().await;
    let mut container = world.shell(&pod, "c-0", "test -t 1 && echo a terminal; echo err >&2");
    container.tty = true;
    let (exit, log) = pod.run(container).await;
    assert_eq!(exit.code, 0, "{log}");
    assert_eq!(log, "stdout F a terminal\nstdout F err\n");
    pod.stop().await;
}

async fn many_layers(world: Arc<World>) {
    let pod = world.pod().await;
    let mut container = world.shell(&pod, "c-0", "ls / | grep -c layer-; cat /etc/motd");
    if let Payload::Oci { layers, .. } = &mut container.payload {
        for n in 0..60 {
            let layer = world.path(&format!("layers/many/a-rather-long-name-for-a-layer-{n}"));
            fs::create_dir_all(layer.join(format!("layer-{n}"))).expect("a layer");
            layers.push(layer.display().to_string());
        }
    }
    let (_, log) = pod.run(container).await;
    assert_eq!(log, "stdout F 60\nstdout F from the top layer\n");
    pod.stop().await;
}

async fn adopted_by_another_agent(world: Arc<World>) {
    let pod = world.pod().await;
    pod.start(world.shell(&pod, "c-0", "while [ ! -e /data/go ]; do sleep 0.01; done; echo went; exit 6"))
        .await;
    // Nothing of the first handle is used from here on.
    let (first, adopted) = (pod.sandbox.pid(), Sandbox::adopt(&pod.dir).await.expect("adopted"));
    assert_eq!(adopted.pid(), first);
    let events = adopted.watch().await.expect("a watch");
    let Reply::Executed { exit_code: 0, .. } = adopted
        .request(Request::Exec {
            id: "c-0".to_owned(),
            args: ["sh", "-c", "/bin/busybox mkdir /data; touch /data/go"].map(str::to_owned).to_vec(),
            timeout_ms: 0,
        })
        .await
        .expect("an answer")
    else {
        panic!()
    };
    assert_eq!(wait_for(events, "c-0").await.code, 6);
    // The exit is still known to one who comes later.
    let later = Sandbox::adopt(&pod.dir).await.expect("adopted");
    assert_eq!(wait_for(later.watch().await.expect("a watch"), "c-0").await.code, 6);
    assert!(Sandbox::adopt(Path::new("/nonexistent")).await.is_err());
    pod.stop().await;
}

async fn ends_with_its_sandbox(world: Arc<World>) {
    let pod = world.pod().await;
    pod.start(world.shell(&pod, "c-0", "echo up; sleep 1000 & wait")).await;
    pod.start(world.wasm(&pod, "w-0", &world.command, 0, &["sleep"])).await;
    pod.said("c-0", "up").await;
    let pids = [pod.pid("c-0").await, pod.pid("w-0").await];
    let mut events = std::pin::pin!(pod.sandbox.watch().await.expect("a watch"));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pod.sandbox.pid()), nix::sys::signal::SIGKILL)
        .expect("sent");
    // The watch ends, which is how an agent knows.
    while futures::StreamExt::next(&mut events).await.is_some() {}
    reap(&pod.dir).await.expect("reaped");
    assert_nothing_left(&pod.dir, &pod.cgroup);
    let deadline = Instant::now() + LIMIT;
    for pid in pids {
        while alive(pid) {
            assert!(Instant::now() < deadline, "{pid} is still there");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    reap(&pod.dir).await.expect("nothing to do");
}

/// A process that has ended may stay in the table until its parent looks.
fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
}

/// Not a check but a measurement, for whoever reads the output.
async fn start_times(world: Arc<World>) {
    let mut sandbox = Vec::new();
    let mut container = Vec::new();
    let mut first = Vec::new();
    for _ in 0..10 {
        let pod = world.pod().await;
        sandbox.push(pod.started_in);
        let mut shell = world.shell(&pod, "c-0", "");
        shell.args = ["echo", "first"].map(str::to_owned).to_vec();
        let (begin, wall) = (Instant::now(), SystemTime::now());
        pod.start(shell).await;
        container.push(begin.elapsed());
        pod.exit("c-0").await;
        // The log has the time to the nanosecond.
        let log = fs::read_to_string(pod.logs.join("c-0.log")).expect("a log");
        let at: jiff::Timestamp = log.split(' ').next().and_then(|time| time.parse().ok()).expect("a time");
        first.extend(SystemTime::from(at).duration_since(wall));
        pod.stop().await;
    }
    for (what, mut times) in [("sandbox", sandbox), ("container Start", container), ("first output", first)] {
        times.sort();
        eprintln!("  {what}: median {:?}", times[times.len() / 2]);
    }
}
