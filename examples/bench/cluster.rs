//! A cluster to be measured: the real program with a data directory of its own, removed without a
//! trace at the end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Places;
use crate::client::Access;

/// How long a start or a stop may take.
const LIMIT: Duration = Duration::from_secs(30);

pub struct Cluster {
    dir: tempfile::TempDir,
    proa: PathBuf,
    child: Child,
    /// From the start of the program to the first good answer of `/readyz`.
    pub ready_after: Duration,
    pub access: Access,
}

impl Cluster {
    /// Starts a cluster for the first time in a new directory.
    pub async fn start(places: &Places) -> Result<Cluster> {
        Cluster::start_with(places, &[]).await
    }

    /// The same with more flags.
    pub async fn start_with(places: &Places, flags: &[&str]) -> Result<Cluster> {
        let dir = tempfile::Builder::new().prefix("proa-bench-").tempdir_in(&places.dir)?;
        let log = File::create(dir.path().join("log"))?;
        let start = Instant::now();
        let mut child = Command::new(&places.proa)
            .arg("up")
            .args(["--data-dir".as_ref(), data(dir.path()).as_os_str()])
            .args(["--node-name", &format!("bench-{}", std::process::id()), "--log", "warn"])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", places.proa.display()))?;
        match ready(&mut child, dir.path()).await {
            Ok(access) => {
                let (ready_after, proa) = (start.elapsed(), places.proa.clone());
                Ok(Cluster { dir, proa, child, ready_after, access })
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let log = fs::read_to_string(dir.path().join("log")).unwrap_or_default();
                Err(error.context(log))
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn data_dir(&self) -> PathBuf {
        data(self.dir.path())
    }

    /// A directory for files of the measurement.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// Runs `proa` with these arguments for this cluster.
    pub fn proa(&self, arguments: &[&str]) -> Result<()> {
        let output =
            Command::new(&self.proa).args(arguments).env("PROA_DATA_DIR", self.data_dir()).output()?;
        ensure!(output.status.success(), "proa {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let deadline = Instant::now() + LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Err(error) = self.proa(&["down"]) {
            eprintln!("bench: {error:#}");
        }
    }
}

fn data(dir: &Path) -> PathBuf {
    dir.join("data")
}

async fn ready(child: &mut Child, dir: &Path) -> Result<Access> {
    let deadline = Instant::now() + LIMIT;
    let kubeconfig = data(dir).join("kubeconfig");
    loop {
        if let Some(status) = child.try_wait()? {
            bail!("proa up ended with {status}");
        }
        // The file is written before the port is open, and only whole files can be read.
        if let Ok(access) = Access::read(&kubeconfig)
            && is_ready(&access).await
        {
            return Ok(access);
        }
        ensure!(Instant::now() < deadline, "not ready after {} s", LIMIT.as_secs());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn is_ready(access: &Access) -> bool {
    let Ok(mut connection) = access.connect().await else { return false };
    connection.call(hyper::Method::GET, "/readyz", None).await.is_ok()
}
