//! What each version of Proa has written, agent, sandbox and the process of a Wasm container: later ones
//! read all of it. The files lie in `fixtures/VERSION/`, a document a line.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::*;
use crate::wasm_config::{FileOverlay, Preopen, Report, RunConfig};

fn config() -> SandboxConfig {
    SandboxConfig {
        version: VERSION,
        pod_uid: "u".to_owned(),
        pod: "default/p".to_owned(),
        hostname: "p".to_owned(),
        host_network: false,
        host_ipc: false,
        cgroup: "/proa/n/podu".to_owned(),
        share_process_namespace: true,
        programs: "/usr/bin".into(),
        sysctls: vec![("net.core.somaxconn".to_owned(), "1024".to_owned())],
        resources: resources(),
        descriptors: Some(1024),
    }
}

fn resources() -> Resources {
    Resources {
        cpu_shares: Some(512),
        cpu_quota: Some(50_000),
        memory_bytes: Some(1 << 20),
        pids: Some(100),
        oom_score_adj: 999,
    }
}

fn container(id: &str, payload: Payload) -> Request {
    let mount = Mount {
        source: "/data".to_owned(),
        target: "/mnt".to_owned(),
        read_only: true,
        recursive_read_only: true,
    };
    Request::Start(Box::new(Container {
        id: id.to_owned(),
        args: vec!["sh".to_owned()],
        env: vec![("K".to_owned(), "v".to_owned())],
        cwd: "/".to_owned(),
        log_path: "/pods/0.log".to_owned(),
        log_max_bytes: 10 << 20,
        log_max_files: 5,
        mounts: vec![mount],
        resources: resources(),
        tty: false,
        stdin: true,
        stdin_once: true,
        payload,
    }))
}

fn payloads() -> [Payload; 2] {
    let security = Security {
        uid: 1000,
        gid: 1001,
        additional_gids: vec![1002],
        add_capabilities: vec!["NET_ADMIN".to_owned()],
        drop_capabilities: vec!["ALL".to_owned()],
        read_only_root: true,
        no_new_privileges: true,
        ..Security::default()
    };
    let user = User { uid: 1000, gid: 1001, groups: vec![1002] };
    let requests = RequestLimits {
        timeout_ms: 1000,
        instance_memory_bytes: Some(1 << 20),
        node_address: Some([10, 42, 0, 1].into()),
    };
    [
        Payload::Oci {
            layers: vec!["/layers/a".to_owned()],
            scratch: "/containers/u/c-0".to_owned(),
            security: Box::new(security),
            volumes: vec!["/var/lib".to_owned()],
        },
        Payload::Wasm {
            compiled: "/wasm/a.cwasm".to_owned(),
            shape: WasmShape::Http,
            port: 8080,
            grace_period_seconds: 30,
            user: Some(user),
            requests,
            seccomp_unconfined: true,
            drop_capabilities: vec!["CAP_CHOWN".to_owned()],
        },
    ]
}

fn requests() -> Vec<Request> {
    let id = || "c-0".to_owned();
    let args = || vec!["ls".to_owned(), "/".to_owned()];
    let [oci, wasm] = payloads();
    vec![
        container("c-0", oci),
        container("w-0", wasm),
        Request::Signal { id: id(), signal: 15, all: false },
        Request::Remove { id: id() },
        Request::Exec { id: id(), args: args(), timeout_ms: 1000 },
        Request::Command { id: id(), args: args(), stdin: true, stdout: true, stderr: false, tty: true },
        Request::Attach { id: id(), stdin: true, stdout: true, stderr: false },
        Request::Socket { v6: false },
        Request::List,
        Request::Watch,
        Request::Stop,
    ]
}

fn states() -> Vec<ContainerState> {
    let exit = Exit {
        code: 137,
        signal: 9,
        reason: "OOMKilled".to_owned(),
        message: String::new(),
        finished_at_ms: 2000,
    };
    let running = ContainerState { id: "c-1".to_owned(), pid: 42, started_at_ms: 3000, exit: None };
    vec![ContainerState { id: "c-0".to_owned(), pid: 0, started_at_ms: 1000, exit: Some(exit) }, running]
}

fn replies() -> Vec<Reply> {
    let all =
        [Stream::Stdin, Stream::Stdout, Stream::Stderr, Stream::Terminal, Stream::Keyboard, Stream::Socket];
    vec![
        Reply::Done,
        Reply::Containers { version: VERSION, containers: states() },
        Reply::Executed { exit_code: 1, output: "no".to_owned() },
        Reply::Streams { streams: all.to_vec() },
        Reply::Failed { reason: "ContainerNotFound".to_owned(), message: "container c-9".to_owned() },
    ]
}

fn run() -> RunConfig {
    let text = |text: &str| text.to_owned();
    RunConfig {
        compiled: text("/wasm/a.cwasm"),
        shape: WasmShape::Command,
        args: vec![text("guest")],
        env: vec![(text("K"), text("v"))],
        cwd: text("/"),
        preopens: vec![Preopen { source: text("/data"), target: text("/mnt"), read_only: true }],
        files: vec![FileOverlay { source: text("/etc/a"), target: text("/etc/hosts"), read_only: true }],
        memory_bytes: Some(1 << 20),
        port: 8080,
        requests: RequestLimits::default(),
        seccomp_unconfined: false,
        drop_capabilities: vec![text("CAP_ALL")],
        grace_period_seconds: 30,
        user: Some(User { uid: 1, gid: 1, groups: Vec::new() }),
        report_fd: Some(3),
    }
}

fn reports() -> [Report; 2] {
    let end = Report::End { reason: "Error".to_owned(), message: "wasm trap: unreachable".to_owned() };
    [Report::Ready, end]
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn lines(documents: &[impl Serialize]) -> String {
    documents.iter().map(|d| serde_json::to_string(d).unwrap() + "\n").collect()
}

/// What is written changes with its version only. A change makes new files with `UPDATE_EXPECT=1`, beside
/// those of the versions before.
#[test]
fn this_version_writes_what_its_fixtures_hold() {
    let check = |name: &str, text: String| {
        expect_file![fixtures().join(VERSION.to_string()).join(name)].assert_eq(&text);
    };
    check("sandbox.json", lines(&[config()]));
    check("requests.jsonl", lines(&requests()));
    check("replies.jsonl", lines(&replies()));
    check("events.jsonl", lines(&states().into_iter().map(Event::Container).collect::<Vec<_>>()));
    check("run.json", lines(&[run()]));
    check("reports.jsonl", lines(&reports()));
}

#[test]
fn what_any_version_has_written_is_read() {
    let mut versions = 0;
    for version in std::fs::read_dir(fixtures()).unwrap() {
        let dir = version.unwrap().path();
        read::<SandboxConfig>(&dir.join("sandbox.json"));
        read::<Request>(&dir.join("requests.jsonl"));
        read::<Reply>(&dir.join("replies.jsonl"));
        read::<Event>(&dir.join("events.jsonl"));
        read::<RunConfig>(&dir.join("run.json"));
        read::<Report>(&dir.join("reports.jsonl"));
        versions += 1;
    }
    assert_eq!(versions, VERSION);
}

/// Reads all documents of a file, also with fields in them that are of later versions.
#[track_caller]
fn read<T: DeserializeOwned + Debug>(file: &Path) {
    for line in std::fs::read_to_string(file).unwrap().lines() {
        let known: T = serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let mut later: Value = serde_json::from_str(line).unwrap();
        add_unknown(&mut later);
        let read: T = serde_json::from_value(later).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert_eq!(format!("{read:?}"), format!("{known:?}"));
    }
}

/// Puts a field that nobody knows into every object.
fn add_unknown(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(add_unknown);
            fields.insert("a_field_of_a_later_version".to_owned(), serde_json::json!({"x": [1]}));
        }
        Value::Array(items) => items.iter_mut().for_each(add_unknown),
        _ => {}
    }
}
