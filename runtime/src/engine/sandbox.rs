//! A handle on one pod's sandbox: started or found again, asked, watched, stopped.
//!
//! Each request has a connection of its own, so a command that runs for an hour in one container
//! holds up nobody. The sandbox is not a child in more than name: it leads its own session, lives
//! in its pod's cgroup, and goes on when the agent ends.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures::Stream;
use futures::stream::unfold;
use proa_sandbox::protocol::{Event, Reply, Request, SandboxConfig, VERSION};
use proa_sandbox::{CONFIG_FILE, READY, SOCKET_FILE, sealed};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::timeout;

use super::reap::reap;

/// How long a sandbox may take until it can be talked to.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long a sandbox may take to end its containers and itself.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// Why a sandbox could not be started or asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Its directory or its program could not be used.
    #[error("start sandbox: {0}")]
    Start(#[source] io::Error),
    /// It said why it cannot run.
    #[error("{0}")]
    Refused(String),
    /// It did not say anything in time.
    #[error("sandbox {0}: context deadline exceeded")]
    Late(PathBuf),
    /// It is not there, or went away.
    #[error("sandbox {dir} is gone: {source}")]
    Gone {
        /// Its directory.
        dir: PathBuf,
        /// What the socket said.
        #[source]
        source: io::Error,
    },
    /// It sent something that is not in the protocol.
    #[error("sandbox {dir}: {source}")]
    Protocol {
        /// Its directory.
        dir: PathBuf,
        /// What was wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// What it left could not be removed.
    #[error("remove sandbox: {0}")]
    Reap(#[source] io::Error),
}

/// One pod's sandbox. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sandbox {
    dir: PathBuf,
    pid: i32,
}

impl Sandbox {
    /// Starts the sandbox of a pod in `dir`, which is made, as `<this program> sandbox DIR`. When
    /// this returns, its namespaces are there and it answers.
    pub async fn start(dir: &Path, config: &SandboxConfig) -> Result<Self, EngineError> {
        write_config(dir, config).map_err(EngineError::Start)?;
        let log = std::fs::File::create(dir.join("sandbox.log")).map_err(EngineError::Start)?;
        let mut child = Command::new(sealed::program().map_err(EngineError::Start)?)
            .arg0("proa")
            .arg("sandbox")
            .arg(dir)
            .env_clear()
            // Two huge pages for a heap of a few KiB would be most of what a pod weighs.
            .env("MIMALLOC_ALLOW_THP", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(EngineError::Start)?;
        let pid = child.id().map_or(0, u32::cast_signed);
        let mut said = String::new();
        if let Some(out) = child.stdout.take() {
            let mut out = BufReader::new(out).take(4096);
            match timeout(START_LIMIT, out.read_line(&mut said)).await {
                Err(_) => {
                    let _ = child.start_kill();
                    return Err(EngineError::Late(dir.to_owned()));
                }
                Ok(read) => read.map_err(EngineError::Start)?,
            };
        }
        if said.trim() != READY {
            let _ = child.wait().await;
            let message =
                if said.is_empty() { format!("sandbox {}: ended at once", dir.display()) } else { said };
            return Err(EngineError::Refused(message.trim().to_owned()));
        }
        // Reaped when it ends; nobody waits for that.
        tokio::spawn(async move { child.wait().await });
        Ok(Self { dir: dir.to_owned(), pid })
    }

    /// Finds the sandbox that runs in `dir`, after the agent was restarted.
    pub async fn adopt(dir: &Path) -> Result<Self, EngineError> {
        let stream = connect(dir).await?;
        let peer = stream.peer_cred().map_err(|source| EngineError::Gone { dir: dir.to_owned(), source })?;
        let sandbox = Self { dir: dir.to_owned(), pid: peer.pid().unwrap_or(0) };
        // A socket may outlive who listened to it; an answer does not.
        match timeout(START_LIMIT, sandbox.request(Request::List)).await {
            Ok(answer) => {
                if let Reply::Containers { version, .. } = answer?
                    && version != VERSION
                {
                    tracing::info!(version, dir = %dir.display(), "a sandbox of another version goes on");
                }
                Ok(sandbox)
            }
            Err(_) => Err(EngineError::Late(dir.to_owned())),
        }
    }

    /// Process id, as the node sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The pod's network namespace.
    pub fn netns(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid))
    }

    /// Asks for something and awaits the answer. Safe to give up.
    pub async fn request(&self, request: Request) -> Result<Reply, EngineError> {
        let mut stream = self.send(&request).await?;
        let mut line = Vec::new();
        BufReader::new(&mut stream).read_until(b'\n', &mut line).await.map_err(|source| self.gone(source))?;
        if line.is_empty() {
            return Err(self.gone(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&line).map_err(|source| self.protocol(source))
    }

    /// Every container now, then each change, until the sandbox is gone: the stream then ends. What only
    /// later versions say is left out.
    pub async fn watch(&self) -> Result<impl Stream<Item = Event> + Send + use<>, EngineError> {
        let stream = self.send(&Request::Watch).await?;
        Ok(unfold(BufReader::new(stream), async |mut stream| {
            loop {
                let mut line = Vec::new();
                match stream.read_until(b'\n', &mut line).await {
                    Ok(n) if n > 0 => match serde_json::from_slice(&line) {
                        Ok(event) => return Some((event, stream)),
                        Err(error) => tracing::debug!(%error, "a sandbox says what nobody understands"),
                    },
                    _ => return None,
                }
            }
        }))
    }

    /// Ends the sandbox with all it holds, by force if it does not answer, and removes whatever is
    /// left of it.
    pub async fn stop(self) -> Result<(), EngineError> {
        let asked = timeout(STOP_LIMIT, self.request(Request::Stop)).await;
        let clean = matches!(asked, Ok(Ok(Reply::Done)));
        if clean && !self.dir.exists() {
            return Ok(());
        }
        reap(&self.dir).await.map_err(EngineError::Reap)
    }

    pub(super) async fn send(&self, request: &Request) -> Result<UnixStream, EngineError> {
        let mut line = serde_json::to_vec(request).map_err(|source| self.protocol(source))?;
        line.push(b'\n');
        let mut stream = connect(&self.dir).await?;
        stream.write_all(&line).await.map_err(|source| self.gone(source))?;
        Ok(stream)
    }

    fn gone(&self, source: io::Error) -> EngineError {
        EngineError::Gone { dir: self.dir.clone(), source }
    }

    fn protocol(&self, source: serde_json::Error) -> EngineError {
        EngineError::Protocol { dir: self.dir.clone(), source }
    }
}

/// Through the directory's descriptor, because the address of a socket has room for 108 bytes
/// only, and data directories can be deep.
async fn connect(dir: &Path) -> Result<UnixStream, EngineError> {
    let gone = |source| EngineError::Gone { dir: dir.to_owned(), source };
    let opened = std::fs::File::open(dir).map_err(gone)?;
    let path = format!("/proc/self/fd/{}/{SOCKET_FILE}", opened.as_raw_fd());
    UnixStream::connect(path).await.map_err(gone)
}

/// For root alone: a pod's environment passes through here.
fn write_config(dir: &Path, config: &SandboxConfig) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    std::fs::write(dir.join(CONFIG_FILE), serde_json::to_vec(config)?)
}
