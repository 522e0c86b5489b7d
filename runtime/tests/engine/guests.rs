//! Wasm containers.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proa_runtime::engine::{CompileError, wasm};
use proa_sandbox::protocol::{Mount, Payload, Reply, Request, User, WasmShape};

use crate::tests;
use crate::world::{LIMIT, World, digest};

tests![
    shapes_are_seen,
    what_cannot_run_is_refused,
    only_what_nothing_provides_is_missing,
    imports_are_looked_at_before_code,
    small_modules_pass_large_ones,
    quick_modules_pass_slow_ones,
    one_compilation_for_all,
    compilations_end_with_their_node,
    command_runs_and_logs,
    wasi_0_3_runs,
    core_module_keeps_its_exit_code,
    trap_is_an_error,
    command_out_of_memory,
    command_is_interrupted,
    http_is_served,
    http_drains,
    port_in_use,
    directories,
    links_lead_nowhere,
    guests_have_a_root_of_their_own,
    both_kinds_on_one_network,
    wasm_process_killed,
    system_calls_are_filtered,
    listen_times,
];

async fn shapes_are_seen(world: Arc<World>) {
    assert_eq!(world.command.shape, WasmShape::Command);
    assert_eq!(world.http.shape, WasmShape::Http);
    assert_eq!(world.command_p3.shape, WasmShape::Command);
    assert_eq!(world.http_p3.shape, WasmShape::Http);
    assert_eq!(world.core.shape, WasmShape::CoreModule);
}

async fn what_cannot_run_is_refused(world: Arc<World>) {
    let compile = async |name: &str, bytes: &[u8]| {
        let file = world.path(name);
        fs::write(&file, bytes).expect("a module");
        wasm::compile(&file, &digest(&file), "default", &world.cache()).await.expect_err("an error")
    };
    // A component that imports two interfaces with a function each. One, of the first patch
    // release, is here, though the function's type is another; the other is on no node.
    let mut wants = b"\0asm\x0d\0\x01\0".to_vec();
    for (name, function) in
        [("wasi:keyvalue/store@0.2.0", "get"), ("wasi:random/insecure@0.2.0", "get-insecure-random-u64")]
    {
        let instance = [&b"\x01\x42\x02\x01\x40\0\x01\0\x04\0"[..], &text(function), b"\x01\0"].concat();
        let import = [&b"\x01\0"[..], &text(name), &[5, (name.len() == 26).into()]].concat();
        for (id, section) in [(7, instance), (10, import)] {
            wants.extend_from_slice(&[id, section.len() as u8]);
            wants.extend_from_slice(&section);
        }
    }
    let error = compile("store.wasm", &wants).await;
    let CompileError::MissingImports { names } = error else { panic!("{error}") };
    assert_eq!(names, ["wasi:keyvalue/store@0.2.0"]);
    let error = compile("broken.wasm", b"\0asm\x01\0\0\0\x01\xff").await;
    assert!(matches!(error, CompileError::Invalid(_)), "{error}");
    let error = compile("text.wasm", b"hello").await;
    assert_eq!(error.to_string(), "invalid WebAssembly: not a WebAssembly module");
    let error = compile("empty.wasm", b"\0asm\x01\0\0\0").await;
    assert_eq!(error.to_string(), "invalid WebAssembly: the module exports no _start");
    let left: Vec<_> =
        fs::read_dir(world.cache()).expect("a cache").flatten().map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("tmp")), "{left:?}");
}

async fn only_what_nothing_provides_is_missing(world: Arc<World>) {
    // A real guest, of whose many imports one gets a name of which there is none. The others are
    // here, though of other patch releases, and use one another's types.
    let mut bytes = fs::read(world.guests.join("command.wasm")).expect("a guest");
    let (name, other) = (b"wasi:cli/environment@", b"wasi:cli/environmint@");
    let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(name)).collect();
    assert!(!places.is_empty(), "the guest has an environment");
    for at in places {
        bytes[at..at + other.len()].copy_from_slice(other);
    }
    let file = world.path("mint.wasm");
    fs::write(&file, bytes).expect("a module");
    let error = wasm::compile(&file, &digest(&file), "default", &world.cache()).await.expect_err("an error");
    let CompileError::MissingImports { names } = error else { panic!("{error}") };
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(names[0].starts_with("wasi:cli/environmint@"), "{names:?}");
}

async fn imports_are_looked_at_before_code(world: Arc<World>) {
    // Two functions are imported; `fd_write` is there. The body of the module's own is nonsense.
    let mut wants = b"\0asm\x01\0\0\0\x01\x0c\x02\x60\0\0\x60\x04\x7f\x7f\x7f\x7f\x01\x7f".to_vec();
    let wasi = text("wasi_snapshot_preview1");
    let import = [&[2][..], &wasi, &text("fd_write"), &[0, 1], &wasi, &text("fd_wish"), &[0, 0]].concat();
    for (id, section) in [
        (2, import),
        (3, vec![1, 0]),
        (7, [&[1][..], &text("_start"), &[0, 2]].concat()),
        (10, vec![1, 4, 0, 0xff, 0xff, 0x0b]),
    ] {
        wants.extend_from_slice(&[id, section.len() as u8]);
        wants.extend_from_slice(&section);
    }
    let file = world.path("wants.wasm");
    fs::write(&file, wants).expect("a module");
    let digest = digest(&file);
    for again in [false, true] {
        let error = wasm::compile(&file, &digest, "default", &world.cache()).await.expect_err("an error");
        let CompileError::MissingImports { names } = error else { panic!("{error}") };
        assert_eq!(names, ["wasi_snapshot_preview1.fd_wish"]);
        if !again {
            // What was found is known by the digest: nobody reads the file again.
            fs::remove_file(&file).expect("the module");
        }
    }
}

async fn small_modules_pass_large_ones(world: Arc<World>) {
    let write = |name: &str, functions: u32| {
        let file = world.path(name);
        fs::write(&file, idle(functions)).expect("a module");
        file
    };
    let (large, small) = (write("large.wasm", 24_000), write("small.wasm", 1));
    let cache = world.cache();
    let (large_digest, small_digest) = (digest(&large), digest(&small));
    let large = wasm::compile(&large, &large_digest, "default", &cache);
    let small = wasm::compile(&small, &small_digest, "default", &cache);
    let (large, small) = (std::pin::pin!(large), std::pin::pin!(small));
    // Asked in this order, the large one has its turn first.
    match futures::future::select(large, small).await {
        futures::future::Either::Right((small, _)) => assert!(small.is_ok(), "{small:?}"),
        futures::future::Either::Left((large, _)) => panic!("the large one was first: {large:?}"),
    }
}

/// Small, and slow to compile: it makes way for one that is quick.
async fn quick_modules_pass_slow_ones(world: Arc<World>) {
    let write = |name: &str, bytes: &[u8]| {
        let file = world.path(name);
        fs::write(&file, bytes).expect("a module");
        file
    };
    let (slow, quick) = (write("slow.wasm", &tangled(10_000)), write("quick.wasm", &idle(2)));
    let cache = world.cache();
    let (slow_digest, quick_digest) = (digest(&slow), digest(&quick));
    let slow = wasm::compile(&slow, &slow_digest, "default", &cache);
    let quick = wasm::compile(&quick, &quick_digest, "default", &cache);
    let (slow, quick) = (std::pin::pin!(slow), std::pin::pin!(quick));
    match futures::future::select(slow, quick).await {
        futures::future::Either::Right((quick, _)) => assert!(quick.is_ok(), "{quick:?}"),
        futures::future::Either::Left((slow, _)) => panic!("the slow one was first: {slow:?}"),
    }
}

/// A core module with so many functions that do little, the first of which is `_start`.
fn idle(functions: u32) -> Vec<u8> {
    let mut body = vec![0];
    body.extend_from_slice(&b"\x41\0\x1a".repeat(15));
    body.push(0x0b);
    module(functions, &body)
}

/// One with one function of so many branches, over so many variables that few are ever the same.
fn tangled(branches: u32) -> Vec<u8> {
    const VARIABLES: u32 = 40_000;
    let mut body = [&[1][..], &leb128(VARIABLES), &[0x7f]].concat();
    for branch in 0..branches {
        let (a, b) = (branch * 7919 % VARIABLES, (branch * 104_729 + 1) % VARIABLES);
        let [a, b, sum] = [a, b, (a + b) % VARIABLES].map(leb128);
        body.extend(
            [&[0x20][..], &a, &[0x04, 0x40, 0x20], &b, &[0x20], &a, &[0x6a, 0x21], &sum, &[0x0b]].concat(),
        );
    }
    body.push(0x0b);
    module(1, &body)
}

/// A core module of so many functions with this body, the first of which is `_start`.
fn module(functions: u32, body: &[u8]) -> Vec<u8> {
    let body = [&leb128(body.len() as u32), body].concat();
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    for (id, section) in [
        (1, vec![1, 0x60, 0, 0]),
        (3, [leb128(functions), vec![0; functions as usize]].concat()),
        (7, [&[1][..], &text("_start"), &[0, 0]].concat()),
        (10, [leb128(functions), body.repeat(functions as usize)].concat()),
    ] {
        module.push(id);
        module.extend_from_slice(&leb128(section.len() as u32));
        module.extend_from_slice(&section);
    }
    module
}

fn leb128(mut value: u32) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

async fn one_compilation_for_all(world: Arc<World>) {
    let file = world.path("same.wasm");
    // The digest of nothing that was compiled before: a custom section makes it differ.
    let mut bytes = fs::read(world.path("exit.wasm")).expect("a module");
    bytes.extend_from_slice(b"\0\x02\x01x");
    fs::write(&file, bytes).expect("a module");
    let (digest, cache) = (digest(&file), world.path("another-cache"));
    let all =
        futures::future::join_all((0..8).map(|_| wasm::compile(&file, &digest, "default", &cache))).await;
    let first = all[0].as_ref().expect("compiled");
    assert!(all.iter().all(|one| one.as_ref().is_ok_and(|one| one == first)));
    assert_eq!(fs::read_dir(&cache).expect("a cache").count(), 2);
    let begin = Instant::now();
    wasm::compile(&file, &digest, "default", &cache).await.expect("cached");
    assert!(begin.elapsed() < Duration::from_millis(100));
}

async fn compilations_end_with_their_node(world: Arc<World>) {
    let (file, output) = (world.path("endless.wasm"), world.path("endless.tmp"));
    fs::write(&file, tangled(10_000)).expect("a module");
    fs::write(&output, "begun").expect("a file");
    let mut child = std::process::Command::new("/proc/self/exe");
    child.arg("compile").arg(&file).arg(&output).stdin(std::process::Stdio::piped());
    let mut child = child.spawn().expect("it starts");
    // As when the node ends, however it does.
    drop(child.stdin.take());
    let deadline = Instant::now() + LIMIT;
    let ended = loop {
        match child.try_wait().expect("a child") {
            Some(ended) => break ended,
            None => assert!(Instant::now() < deadline, "it goes on"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(!ended.success() && !output.exists(), "it was compiled to its end, which takes seconds");
}

async fn command_runs_and_logs(world: Arc<World>) {
    let pod = world.pod().await;
    let (exit, log) = pod.run(world.wasm(&pod, "w-0", &world.command, 0, &["hello", "you"])).await;
    assert_eq!((exit.code, exit.reason.as_str()), (0, "Completed"), "{log}");
    assert!(
        log.contains("stdout F hello you from web-0\n") && log.contains("stderr F GREETING=ahoy\n"),
        "{log}"
    );
    let (exit, _) = pod.run(world.wasm(&pod, "w-1", &world.command, 0, &["exit", "1"])).await;
    assert_eq!((exit.code, exit.reason.as_str()), (1, "Error"));
    let reply =
        pod.ask(Request::Exec { id: "w-0".to_owned(), args: vec!["ls".to_owned()], timeout_ms: 0 }).await;
    let Reply::Failed { reason, .. } = reply else { panic!("{reply:?}") };
    assert_eq!(reason, "ExecNotSupported");
    pod.stop().await;
}

async fn wasi_0_3_runs(world: Arc<World>) {
    let pod = world.pod().await;
    let (exit, log) = pod.run(world.wasm(&pod, "w-0", &world.command_p3, 0, &[])).await;
    assert_eq!((exit.code, log.as_str()), (1, "stdout F a command of 0.3\n"));
    pod.start(world.wasm(&pod, "w-1", &world.http_p3, 8080, &[])).await;
    for _ in 0..200 {
        assert_eq!(pod.get(8080, "/").expect("an answer"), (200, "hello from 0.3".to_owned()));
    }
    pod.stop().await;
}

async fn core_module_keeps_its_exit_code(world: Arc<World>) {
    let pod = world.pod().await;
    let (exit, log) = pod.run(world.wasm(&pod, "w-0", &world.core, 0, &[])).await;
    assert_eq!((exit.code, exit.reason.as_str()), (42, "Error"), "{log}");
    pod.stop().await;
}

async fn trap_is_an_error(world: Arc<World>) {
    let pod = world.pod().await;
    let (exit, log) = pod.run(world.wasm(&pod, "w-0", &world.command, 0, &["trap"])).await;
    assert_eq!((exit.code, exit.reason.as_str()), (134, "Error"));
    assert_eq!(exit.message, "wasm trap: wasm `unreachable` instruction executed");
    assert!(log.contains("unreachable") && log.contains("wasm backtrace"), "{log}");
    pod.stop().await;
}

async fn command_out_of_memory(world: Arc<World>) {
    let pod = world.pod().await;
    let mut container = world.wasm(&pod, "w-0", &world.command, 0, &["eat"]);
    container.resources.memory_bytes = Some(48 << 20);
    let (exit, log) = pod.run(container).await;
    assert_eq!((exit.code, exit.reason.as_str()), (137, "OOMKilled"), "{log}");
    pod.stop().await;
}

async fn command_is_interrupted(world: Arc<World>) {
    let pod = world.pod().await;
    for (id, what, line) in [("w-0", "spin", "spinning"), ("w-1", "sleep", "sleeping")] {
        pod.start(world.wasm(&pod, id, &world.command, 0, &[what])).await;
        pod.said(id, line).await;
        let begin = Instant::now();
        pod.ask(Request::Signal { id: id.to_owned(), signal: libc::SIGTERM, all: false }).await;
        let exit = pod.exit(id).await;
        assert_eq!((exit.code, exit.reason.as_str()), (143, "Error"));
        // Long before its grace is over: it cannot hear.
        assert!(begin.elapsed() < Duration::from_millis(1400), "{:?}", begin.elapsed());
    }
    pod.stop().await;
}

async fn http_is_served(world: Arc<World>) {
    let pod = world.pod().await;
    pod.start(world.wasm(&pod, "w-0", &world.http, 8080, &[])).await;
    // At once: a container that has started listens.
    assert_eq!(pod.get(8080, "/").expect("an answer"), (200, "hello from wasm".to_owned()));
    assert_eq!(pod.get(8080, "/greeting").expect("an answer"), (200, "ahoy".to_owned()));
    assert_eq!(pod.get(8080, "/trap").expect("an answer").0, 500);
    // One request's trap is not the next one's.
    assert_eq!(pod.get(8080, "/").expect("an answer").0, 200);
    pod.said("w-0", "unreachable").await;
    pod.stop().await;
}

async fn http_drains(world: Arc<World>) {
    let pod = world.pod().await;
    pod.start(world.wasm(&pod, "w-0", &world.http, 8080, &[])).await;
    let begin = Instant::now();
    pod.ask(Request::Signal { id: "w-0".to_owned(), signal: libc::SIGTERM, all: false }).await;
    let exit = pod.exit("w-0").await;
    assert_eq!((exit.code, exit.reason.as_str()), (0, "Completed"));
    assert!(begin.elapsed() < Duration::from_secs(1));
    assert!(pod.get(8080, "/").is_err());
    pod.stop().await;
}

async fn port_in_use(world: Arc<World>) {
    let pod = world.pod().await;
    pod.start(world.wasm(&pod, "w-0", &world.http, 8080, &[])).await;
    let (exit, log) = pod.run(world.wasm(&pod, "w-1", &world.http, 8080, &[])).await;
    assert_eq!((exit.code, exit.reason.as_str()), (1, "Error"));
    assert!(exit.message.contains("listen on port 8080: address already in use"), "{}", exit.message);
    assert!(log.contains("listen on port 8080: address already in use"), "{log}");
    pod.stop().await;
}

async fn directories(world: Arc<World>) {
    let pod = world.pod().await;
    let volume = world.path("wasm-volume");
    fs::create_dir_all(&volume).expect("a volume");
    let with = |id: &str, read_only, args: &[&str]| {
        let mut container = world.wasm(&pod, id, &world.command, 0, args);
        let source = volume.display().to_string();
        container.mounts =
            vec![Mount { source, target: "/data".to_owned(), read_only, recursive_read_only: false }];
        container
    };
    let (exit, log) = pod.run(with("w-0", false, &["write", "/data/file", "written"])).await;
    assert_eq!(exit.code, 0, "{log}");
    let (_, log) = pod.run(with("w-1", true, &["read", "/data/file"])).await;
    assert_eq!(log, "stdout P written\n");
    let (exit, log) = pod.run(with("w-2", true, &["write", "/data/file", "again"])).await;
    assert_eq!(exit.code, 1, "{log}");
    let (exit, log) = pod.run(with("w-3", true, &["read", "/etc/passwd"])).await;
    assert_eq!(exit.code, 1, "{log}");
    let mut container = with("w-4", true, &["read", "/one"]);
    container.mounts[0].source = volume.join("file").display().to_string();
    container.mounts[0].target = "/one".to_owned();
    let (exit, log) = pod.run(container.clone()).await;
    assert_eq!((exit.code, log.as_str()), (0, "stdout P written\n"), "a single file");
    let volume_too = Mount {
        source: volume.display().to_string(),
        target: "/v".to_owned(),
        read_only: false,
        recursive_read_only: false,
    };
    container.id = "w-5".to_owned();
    container.mounts[0].target = "/v/deep/one".to_owned();
    container.mounts.push(volume_too);
    let reply = pod.ask(Request::Start(Box::new(container))).await;
    let Reply::Failed { reason, message } = reply else { panic!("{reply:?}") };
    assert_eq!(reason, "CreateContainerError");
    assert!(message.contains("must lie in its topmost directory"), "{message}");
    pod.stop().await;
}

/// Who writes to a volume beside the guest puts a link where a file is to be mounted.
async fn links_lead_nowhere(world: Arc<World>) {
    let pod = world.pod().await;
    let volume = world.path("wasm-links");
    fs::create_dir_all(&volume).expect("a volume");
    let (ours, theirs) = (world.path("ours"), world.path("theirs"));
    fs::write(&ours, "ours").expect("a file");
    fs::write(&theirs, "theirs").expect("a file");
    let mount = |source: &Path, target: &str| Mount {
        source: source.display().to_string(),
        target: target.to_owned(),
        read_only: false,
        recursive_read_only: false,
    };
    for (id, aim) in [("w-0", &ours), ("w-1", &world.core.path)] {
        let link = volume.join(id);
        std::os::unix::fs::symlink(aim, &link).expect("a link");
        let mut container = world.wasm(&pod, id, &world.core, 0, &[]);
        container.mounts = vec![mount(&volume, "/v"), mount(&theirs, &format!("/v/{id}"))];
        let (exit, log) = pod.run(container).await;
        assert_eq!((exit.code, exit.reason.as_str()), (1, "Error"), "{log}");
        assert!(
            exit.message.ends_with(&format!("mount /v/{id}: a link is in its place")),
            "{}",
            exit.message
        );
        assert!(link.is_symlink());
    }
    assert_eq!(fs::read_to_string(&ours).expect("a file"), "ours");
    // A file that is there is covered for the guest alone.
    fs::write(volume.join("file"), "below").expect("a file");
    for (id, name) in [("w-2", "file"), ("w-3", "new")] {
        let mut container = world.wasm(&pod, id, &world.command, 0, &["read", &format!("/v/{name}")]);
        container.mounts = vec![mount(&volume, "/v"), mount(&theirs, &format!("/v/{name}"))];
        let (exit, log) = pod.run(container).await;
        assert_eq!((exit.code, log.as_str()), (0, "stdout P theirs\n"), "{name}");
    }
    assert_eq!(fs::read_to_string(volume.join("file")).expect("a file"), "below");
    assert_eq!(fs::read_to_string(volume.join("new")).expect("a file"), "");
    pod.stop().await;
}

/// What a guest that gets out of Wasm finds: its directories, and no more rights than it has.
async fn guests_have_a_root_of_their_own(world: Arc<World>) {
    let pod = world.pod().await;
    let volume = world.path("wasm-root");
    fs::create_dir_all(&volume).expect("a volume");
    for (id, port, uid, dropped, capabilities) in [
        ("w-0", 8080, 0, "", "000000000000040a"),
        ("w-1", 8081, 1000, "", "0000000000000000"),
        ("w-2", 8082, 0, "fowner", "0000000000000402"),
        ("w-3", 8083, 0, "ALL", "0000000000000000"),
    ] {
        let mut container = world.wasm(&pod, id, &world.http, port, &[]);
        let Payload::Wasm { user, drop_capabilities, .. } = &mut container.payload else { panic!("Wasm") };
        *user = (uid != 0).then(|| User { uid, gid: uid, groups: Vec::new() });
        drop_capabilities.push(dropped.to_owned());
        let source = volume.display().to_string();
        container.mounts =
            vec![Mount { source, target: "/v".to_owned(), read_only: true, recursive_read_only: false }];
        pod.start(container).await;
        assert_eq!(pod.get(port, "/").expect("an answer").0, 200);
        let process = PathBuf::from(format!("/proc/{}", pod.pid(id).await));
        let mut names: Vec<_> = fs::read_dir(process.join("root")).expect("a root").flatten().collect();
        names.sort_by_key(|entry| entry.file_name());
        assert_eq!(names.iter().map(|entry| entry.file_name()).collect::<Vec<_>>(), ["0", "etc"]);
        let status = fs::read_to_string(process.join("status")).expect("a status");
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert!(status.contains(&format!("{set}:\t{capabilities}\n")), "{id}: {status}");
        }
        let mounts = fs::read_to_string(process.join("mountinfo")).expect("mounts");
        let of = |target: &str| mounts.lines().find(|line| line.split(' ').nth(4) == Some(target));
        assert!(
            ["/", "/0"].iter().all(|target| of(target).is_some_and(|line| line.contains(" ro,"))),
            "{mounts}"
        );
        assert!(mounts.lines().count() <= 3, "{mounts}");
    }
    pod.stop().await;
}

async fn both_kinds_on_one_network(world: Arc<World>) {
    let pod = world.pod().await;
    let script = "echo 'hello from a container' > /tmp/index.html; httpd -f -v -p 127.0.0.1:9000 -h /tmp";
    pod.start(world.shell(&pod, "c-0", script)).await;
    pod.start(world.wasm(&pod, "w-0", &world.http, 8080, &[])).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    // From Wasm to the container, over wasi:http.
    while pod.get(8080, "/ask?9000").expect("an answer").1 != "hello from a container" {
        assert!(Instant::now() < deadline, "{:?} {}", pod.get(8080, "/ask?9000"), pod.log("c-0"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // From Wasm to the container, over sockets.
    let (exit, log) = pod.run(world.wasm(&pod, "w-1", &world.command, 0, &["fetch", "127.0.0.1:9000"])).await;
    assert_eq!((exit.code, log.as_str()), (0, "stdout F hello from a container\n"));
    // From a container to Wasm.
    let (exit, log) = pod.run(world.shell(&pod, "c-1", "wget -q -O - http://127.0.0.1:8080/")).await;
    assert_eq!((exit.code, log.as_str()), (0, "stdout F hello from wasm\n"));
    pod.stop().await;
}

async fn wasm_process_killed(world: Arc<World>) {
    let pod = world.pod().await;
    pod.start(world.wasm(&pod, "w-0", &world.http, 8080, &[])).await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pod.pid("w-0").await), nix::sys::signal::SIGKILL)
        .expect("sent");
    let exit = pod.exit("w-0").await;
    assert_eq!((exit.code, exit.signal, exit.reason.as_str()), (137, 9, "Error"));
    pod.stop().await;
}

async fn system_calls_are_filtered(world: Arc<World>) {
    let pod = world.pod().await;
    let mut unconfined = world.wasm(&pod, "w-1", &world.http, 8081, &[]);
    let Payload::Wasm { seccomp_unconfined, .. } = &mut unconfined.payload else { panic!("Wasm") };
    *seccomp_unconfined = true;
    pod.start(world.wasm(&pod, "w-0", &world.http, 8080, &[])).await;
    pod.start(unconfined).await;
    for (id, mode) in [("w-0", "2"), ("w-1", "0")] {
        let tasks = fs::read_dir(format!("/proc/{}/task", pod.pid(id).await)).expect("threads");
        for task in tasks.flatten() {
            let status = fs::read_to_string(task.path().join("status")).expect("a status");
            let filtered = status.lines().find_map(|line| line.strip_prefix("Seccomp:\t"));
            assert_eq!(filtered, Some(mode), "{id}: {status}");
        }
    }
    pod.stop().await;
}

/// A short string of the component model's binary format.
fn text(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

/// Not a check but a measurement, for whoever reads the output.
async fn listen_times(world: Arc<World>) {
    let mut times = Vec::new();
    let pod = world.pod().await;
    for n in 0..10 {
        let begin = Instant::now();
        let id = format!("w-{n}");
        pod.start(world.wasm(&pod, &id, &world.http, 8000 + n, &[])).await;
        times.push(begin.elapsed());
    }
    times.sort();
    eprintln!("  wasm Start to listening: median {:?}", times[times.len() / 2]);
    for (what, pid) in [("sandbox", pod.sandbox.pid()), ("wasm", pod.pid("w-0").await)] {
        let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        for line in memory.lines().filter(|line| line.starts_with("Private_D") || line.starts_with("Pss:")) {
            eprintln!("  {what} {line}");
        }
    }
    pod.stop().await;
}
