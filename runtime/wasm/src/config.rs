//! What one run of `proa-wasm` is told: a JSON document whose path is its only argument.
//!
//! The sandbox writes it, `proa-wasm` reads it. The file is compiled into both crates, so that the
//! sandbox need not depend on wasmtime and the two cannot disagree. It holds data only.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What a Wasm file is, seen from its exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WasmShape {
    /// Exports `wasi:http/incoming-handler` (0.2) or `wasi:http/handler` (0.3).
    Http,
    /// Exports `wasi:cli/run`.
    Command,
    /// A core module with `_start` on WASI 0.1.
    CoreModule,
}

/// One directory the guest may open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preopen {
    /// Directory on the node.
    pub source: String,
    /// The name the guest knows it by.
    pub target: String,
    /// The guest may not write there.
    pub read_only: bool,
}

/// A file put over another one, for this process alone: the pod's `/etc/resolv.conf` and `/etc/hosts`,
/// so that name lookups follow them, and files that a guest finds in one of its directories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOverlay {
    /// File on the node that is shown instead.
    pub source: String,
    /// File that is covered: one of those two, or one that lies directly in the source of a preopen. It
    /// is made if there is none.
    pub target: String,
    /// Nobody may write there.
    pub read_only: bool,
}

/// Whose rights the process has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// What requests to an HTTP component may take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestLimits {
    /// Milliseconds that one request may take from the moment it is given to an instance until its
    /// answer is sent; 0 for no limit.
    pub timeout_ms: u64,
    /// Most bytes of memory that one instance may have; `None` for what it starts with and half of
    /// the container's limit.
    pub instance_memory_bytes: Option<u64>,
    /// Address that the node's health checks come from, if they are to be told from other requests.
    pub node_address: Option<IpAddr>,
}

/// Everything about one Wasm container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunConfig {
    /// The compiled artifact.
    pub compiled: String,
    /// How it is run.
    pub shape: WasmShape,
    /// Arguments the guest sees, its own name first.
    pub args: Vec<String>,
    /// Environment the guest sees.
    pub env: Vec<(String, String)>,
    /// Working directory reported to the guest.
    pub cwd: String,
    /// Directories the guest may open.
    pub preopens: Vec<Preopen>,
    /// Files put over others.
    pub files: Vec<FileOverlay>,
    /// Limit of the container's cgroup in bytes, which a guest's memory stays below; `None` for no limit but the cgroup's.
    pub memory_bytes: Option<u64>,
    /// Port an HTTP component is served on, on every address of the pod.
    pub port: u16,
    /// What requests to an HTTP component may take.
    #[serde(default)]
    pub requests: RequestLimits,
    /// Without a filter of system calls.
    #[serde(default)]
    pub seccomp_unconfined: bool,
    /// Capabilities that root shall not keep, as `CAP_CHOWN`; `CAP_ALL` for all.
    #[serde(default)]
    pub drop_capabilities: Vec<String>,
    /// Seconds an HTTP component may go on after SIGTERM.
    pub grace_period_seconds: u64,
    /// Whom the process runs as, if not as root.
    pub user: Option<User>,
    /// An open pipe for [`Report`] lines, if somebody listens.
    pub report_fd: Option<i32>,
}

/// What `proa-wasm` tells its parent over the report pipe, one JSON document per line. The pipe
/// closes with the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum Report {
    /// An HTTP component accepts connections; a command is about to run.
    Ready,
    /// Why the process is about to end, where its exit code alone does not say it.
    End {
        /// `OOMKilled` or `Error`.
        reason: String,
        /// For people.
        message: String,
    },
}
