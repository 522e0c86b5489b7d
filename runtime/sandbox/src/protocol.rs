//! What the node agent and a sandbox say to each other.
//!
//! The sandbox listens on a Unix stream socket, `DIR/sandbox.sock`, where `DIR` is its directory
//! (`DATA/run/sandboxes/<pod uid>`). Every message is one line of JSON. The agent sends
//! [`Request`]s and gets one [`Reply`] for each, in order; after [`Request::Watch`] the
//! connection carries [`Event`]s instead. Several connections may be open at a time. The agent
//! may vanish and come back: the sandbox goes on, and remembers how every container ended.
//!
//! The agent that comes back may be of another version of Proa than the sandbox. Either side ignores
//! fields that it does not know, and a field that comes new has a default that means what was meant
//! before; an agent skips [`Event`]s that it does not know. What a version has written is kept in
//! `runtime/sandbox/fixtures`, and all later ones read it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::wasm_config::{RequestLimits, User, WasmShape};

/// The version of what is said here. It counts up when something comes new, so that an agent can tell
/// what a sandbox does not know yet.
pub const VERSION: u32 = 1;

/// How a sandbox is set up; the file `DIR/sandbox.json` that `proa sandbox DIR` reads at start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// [`VERSION`] of the agent that has written it, which is the sandbox's own.
    #[serde(default)]
    pub version: u32,
    /// `metadata.uid` of the pod.
    pub pod_uid: String,
    /// Namespace and name, for messages.
    pub pod: String,
    /// Host name inside the pod.
    pub hostname: String,
    /// Share the node's network namespace instead of making one.
    pub host_network: bool,
    /// Share the node's System V and POSIX IPC instead of having its own.
    pub host_ipc: bool,
    /// Cgroup of the pod, relative to each controller's root: `/proa/<id of the node's data directory>/pod<uid>`.
    pub cgroup: String,
    /// All containers see each other's processes, under a first process that is nobody's.
    pub share_process_namespace: bool,
    /// Where `proa-wasm` lies, if it does: the directory that this program came from.
    pub programs: PathBuf,
    /// Kernel parameters of the pod's namespaces, as `(net.core.somaxconn, 1024)`. Any other ends
    /// the start.
    pub sysctls: Vec<(String, String)>,
    /// Limits of the pod's cgroup: for all containers together, and the sandbox itself.
    #[serde(default)]
    pub resources: Resources,
    /// How many descriptors a process of a container may have open before it asks for more (the soft
    /// limit); without it, as many as the sandbox itself.
    #[serde(default)]
    pub descriptors: Option<u64>,
}

/// What the agent asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    /// Makes and starts a container. Answered when its program runs; for an HTTP component, when it
    /// accepts connections, so that a pod may be called ready at once. A container that was made
    /// but could not be started is [`Reply::Failed`] with reason `RunContainerError`, and is known
    /// from then on as ended with `StartError`; one that could not be made is forgotten.
    Start(Box<Container>),
    /// Sends a signal to a container's first process, or to all its processes.
    Signal {
        /// The container's id.
        id: String,
        /// Signal number.
        signal: i32,
        /// To every process of the container.
        all: bool,
    },
    /// Forgets an ended container and removes what it left: its cgroup, mounts and state.
    Remove {
        /// The container's id.
        id: String,
    },
    /// Runs a command in a running OCI container, as the container's own user, and answers when it
    /// has ended.
    Exec {
        /// The container's id.
        id: String,
        /// Program and arguments.
        args: Vec<String>,
        /// Killed after so many milliseconds; 0 for never.
        timeout_ms: u64,
    },
    /// Runs a command in a running OCI container for somebody who is there: answered with
    /// [`Reply::Streams`] when it runs, and with [`Reply::Executed`] when it has ended. Closing the
    /// connection before that hangs up: SIGHUP for all of the command's session, SIGKILL later.
    Command {
        /// The container's id.
        id: String,
        /// Program and arguments.
        args: Vec<String>,
        /// With a standard input; without one it reads nothing.
        stdin: bool,
        /// With a standard output; without one what it writes is lost.
        stdout: bool,
        /// With a standard error; without one what it writes is lost.
        stderr: bool,
        /// With a terminal instead of the three.
        tty: bool,
    },
    /// Joins the streams of a container's first process: answered with [`Reply::Streams`], and
    /// with [`Reply::Done`] when the container has ended. A copy of all that it writes from now on
    /// goes to whoever is attached; one who does not read holds the container up.
    Attach {
        /// The container's id.
        id: String,
        /// To its standard input, if it has one.
        stdin: bool,
        /// To its standard output, or all its output if it has a terminal.
        stdout: bool,
        /// To its standard error.
        stderr: bool,
    },
    /// Makes a TCP socket in the pod's network namespace, not connected: answered with
    /// [`Reply::Streams`].
    Socket {
        /// For IPv6 instead of IPv4.
        v6: bool,
    },
    /// Reports every container.
    List,
    /// Reports every container now and each change from now on, as [`Event`]s.
    Watch,
    /// Kills all containers, removes all that the sandbox made, and ends it.
    Stop,
}

/// The answer to one request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Reply {
    /// Done.
    Done,
    /// Every container the sandbox knows.
    Containers {
        /// The sandbox's [`VERSION`].
        #[serde(default)]
        version: u32,
        /// In the order they were started.
        containers: Vec<ContainerState>,
    },
    /// A command in a container has ended.
    Executed {
        /// Its exit code, 128 + signal if a signal ended it.
        exit_code: i32,
        /// What it wrote, at most 16 KiB, standard output and error together.
        output: String,
    },
    /// Descriptors come with this message, in this order (`SCM_RIGHTS`).
    Streams {
        /// What each of them is.
        streams: Vec<Stream>,
    },
    /// Not done.
    Failed {
        /// Constant per kind of failure: `CreateContainerError`, `RunContainerError`,
        /// `ContainerNotFound`, `ContainerNotRunning`, `ExecError`, `ExecNotSupported`,
        /// `AttachError`, `SocketError`, `DeadlineExceeded`, `KillContainerError`, `InvalidRequest`.
        reason: String,
        /// What went wrong, for people.
        message: String,
    },
}

/// What a descriptor from the sandbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// To write into a process's standard input.
    Stdin,
    /// To read its standard output from.
    Stdout,
    /// To read its standard error from.
    Stderr,
    /// A command's terminal: read from, written to, resized.
    Terminal,
    /// A container's terminal: written to and resized. What it shows comes as `Stdout`.
    Keyboard,
    /// A TCP socket.
    Socket,
}

/// What a watching agent hears.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A container as it is now: one for each at first, then one for each change.
    Container(ContainerState),
}

/// One container, as the agent wants it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Container {
    /// Unique in the pod over all restarts: `<name>-<attempt>`.
    pub id: String,
    /// Program and arguments; for Wasm the arguments the guest sees, its own name first.
    pub args: Vec<String>,
    /// Environment, in order.
    pub env: Vec<(String, String)>,
    /// Working directory inside the container.
    pub cwd: String,
    /// Standard output and error are written here in CRI format
    /// (<https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md>).
    pub log_path: String,
    /// The log is rotated when it grows over this.
    pub log_max_bytes: u64,
    /// Rotated files kept beside the current one: `<log>.1` is the newest of them.
    pub log_max_files: u32,
    /// Directories and files of the node seen inside the container.
    pub mounts: Vec<Mount>,
    /// Limits of the container's cgroup.
    pub resources: Resources,
    /// A terminal instead of pipes.
    pub tty: bool,
    /// Its standard input is open, for whoever attaches; without this it is empty.
    #[serde(default)]
    pub stdin: bool,
    /// Its standard input ends with the first who has attached to it.
    #[serde(default)]
    pub stdin_once: bool,
    /// What runs.
    pub payload: Payload,
}

/// One mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mount {
    /// Path on the node.
    pub source: String,
    /// Path in the container. For Wasm: the guest's name of the preopened directory.
    pub target: String,
    /// Not writable from inside.
    pub read_only: bool,
    /// Nor is what is mounted further in. Of Wasm's directories that is always so.
    #[serde(default)]
    pub recursive_read_only: bool,
}

/// Limits, already in the kernel's units. `None` is no limit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Resources {
    /// CPU shares (cgroup v1 scale, 2 to 262144); converted to a weight on v2.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU per period of 100 ms.
    pub cpu_quota: Option<i64>,
    /// Bytes of memory.
    pub memory_bytes: Option<i64>,
    /// Number of tasks.
    pub pids: Option<i64>,
    /// `oom_score_adj` of the container's processes.
    pub oom_score_adj: i32,
}

/// What a container runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Payload {
    /// An OCI container.
    Oci {
        /// Unpacked layers, lowest first. The sandbox puts an overlay with a fresh upper
        /// directory over them.
        layers: Vec<String>,
        /// Where the overlay's upper and work directories go, on a disk; made at start and
        /// removed with the container. Under the sandbox's own directory it is also removed with a
        /// sandbox that was killed.
        scratch: String,
        /// Process identity and privileges.
        security: Box<Security>,
        /// Directories of the image that may be written to even if its root may not.
        #[serde(default)]
        volumes: Vec<String>,
    },
    /// A compiled Wasm module or component.
    Wasm {
        /// The `.cwasm` file.
        compiled: String,
        /// How it is run.
        shape: WasmShape,
        /// The port an HTTP component is served on.
        port: u16,
        /// Seconds between SIGTERM and the forced end of an HTTP component; a command ends at once.
        grace_period_seconds: u64,
        /// Whom files that the guest makes belong to, if not root.
        user: Option<User>,
        /// What requests to an HTTP component may take.
        #[serde(default)]
        requests: RequestLimits,
        /// No seccomp filter.
        #[serde(default)]
        seccomp_unconfined: bool,
        /// Not left to it even as root, without `CAP_`; `ALL` for all. It never has any but a few.
        #[serde(default)]
        drop_capabilities: Vec<String>,
    },
}

/// The largest id of a user or a group, as with other runtimes. What is above it means something else to
/// some system calls: the last one of 32 bits leaves a process the user that it is, which is root.
pub const ID_MAX: u32 = i32::MAX.cast_unsigned();

impl Payload {
    /// The users and groups that it is to run as.
    pub fn ids(&self) -> Vec<u32> {
        let (uid, gid, groups) = match self {
            Self::Oci { security, .. } => (security.uid, security.gid, security.additional_gids.clone()),
            Self::Wasm { user: Some(user), .. } => (user.uid, user.gid, user.groups.clone()),
            Self::Wasm { user: None, .. } => return Vec::new(),
        };
        [vec![uid, gid], groups].concat()
    }
}

/// Identity and privileges of an OCI container's process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Security {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
    /// Added to the default capabilities, without `CAP_`; `ALL` for all.
    pub add_capabilities: Vec<String>,
    /// Taken from the default capabilities; `ALL` for all.
    pub drop_capabilities: Vec<String>,
    /// All capabilities and devices, nothing masked, no seccomp.
    pub privileged: bool,
    /// The root file system is not writable.
    pub read_only_root: bool,
    /// Setuid programs gain nothing.
    pub no_new_privileges: bool,
    /// No seccomp filter.
    pub seccomp_unconfined: bool,
    /// Share the node's process ids.
    pub host_pid: bool,
    /// See the node's shared memory at `/dev/shm` and its queues at `/dev/mqueue`.
    pub host_ipc: bool,
}

/// A container as the sandbox knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// The id it was started with.
    pub id: String,
    /// Process id of its first process, as the node sees it; 0 when it has ended.
    pub pid: i32,
    /// Start, in milliseconds since the epoch.
    pub started_at_ms: i64,
    /// How it ended, if it has.
    pub exit: Option<Exit>,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code, 128 + signal if a signal ended it.
    pub code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// `Completed`, `Error`, `OOMKilled` or `StartError`.
    pub reason: String,
    /// What is known beyond the reason, such as the text of a trap.
    pub message: String,
    /// End, in milliseconds since the epoch.
    pub finished_at_ms: i64,
}

#[cfg(test)]
mod tests;
