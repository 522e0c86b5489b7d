//! `make demo`: brings up a cluster, deploys the three examples and shows their answers through
//! the ingress. The cluster stays up.

#![allow(clippy::print_stdout, reason = "the demo talks to its user")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const DEADLINE: Duration = Duration::from_secs(120);

struct Demo {
    proa: PathBuf,
    target: PathBuf,
    data_dir: PathBuf,
    kubectl: PathBuf,
}

fn main() -> Result<()> {
    let this = std::env::current_exe()?;
    let profile = this.ancestors().nth(2).context("the demo lies in TARGET/<profile>/examples")?;
    let data_dir = std::env::var_os("PROA_DATA_DIR").map_or_else(|| "/var/lib/proa".into(), PathBuf::from);
    let target = profile.parent().context("a target directory")?.to_owned();
    let kubectl = kubectl(&target)?;
    let demo = Demo { proa: profile.join("proa"), target, data_dir, kubectl };
    demo.bring_up()?;
    demo.pack_images()?;
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for name in ["hello-wasm", "hello-container", "together"] {
        let manifest = examples.join(name).join("manifest.yaml");
        demo.kubectl(&["apply".as_ref(), "-f".as_ref(), manifest.as_os_str()])?;
    }
    println!();
    for name in ["hello-wasm", "hello-container", "together"] {
        let host = format!("{name}.localhost");
        let answer = demo.answer(&host)?;
        println!("$ curl -H 'Host: {host}' http://127.0.0.1/\n{answer}");
    }
    println!("The cluster is up. Reach it with:\n\n  {}\n", demo.kubectl_line());
    println!("Stop it with:  {}", demo.down_line());
    Ok(())
}

/// The machine's kubectl, or the one that `make setup` has unpacked.
fn kubectl(target: &Path) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let unpacked = target.join("tools/kubectl-1.20/usr/bin");
    std::env::split_paths(&path)
        .chain([unpacked])
        .map(|dir| dir.join("kubectl"))
        .find(|file| file.is_file())
        .context("there is no kubectl: run `make setup`")
}

impl Demo {
    fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubeconfig")
    }

    fn kubectl_line(&self) -> String {
        format!("{} --kubeconfig {} get pods", self.kubectl.display(), self.kubeconfig().display())
    }

    fn down_line(&self) -> String {
        format!("{} down --data-dir {}", self.proa.display(), self.data_dir.display())
    }

    fn ready(&self) -> bool {
        let ready = self.kubectl_command().args(["get", "--raw", "/readyz"]).output();
        ready.is_ok_and(|o| o.status.success())
    }

    fn bring_up(&self) -> Result<()> {
        if self.kubeconfig().exists() && self.ready() {
            println!("A cluster is up already in {}.", self.data_dir.display());
            return Ok(());
        }
        fs::create_dir_all(&self.data_dir)?;
        let log_path = self.data_dir.join("proa.log");
        let log = File::create(&log_path)?;
        let mut command = Command::new(&self.proa);
        command.arg("up").arg("--data-dir").arg(&self.data_dir).stdin(Stdio::null());
        // A process group of its own: Ctrl-C ends the demo, not the cluster.
        command.stdout(log.try_clone()?).stderr(log).process_group(0);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", self.proa.display()))?;
        wait("the API to be ready", || {
            if let Some(status) = child.try_wait()? {
                bail!("proa up ended with {status}:\n{}", fs::read_to_string(&log_path)?);
            }
            Ok((self.kubeconfig().exists() && self.ready()).then_some(()))
        })?;
        println!("{}", fs::read_to_string(&log_path)?.trim_end());
        Ok(())
    }

    fn pack_images(&self) -> Result<()> {
        let wasm = self.target.join("examples/wasm32-wasip2/release");
        self.proa(&["image", "pack", utf8(&wasm.join("hello-wasm.wasm"))?, "-t", "hello-wasm:1"])?;
        self.proa(&["image", "pack", utf8(&wasm.join("together-front.wasm"))?, "-t", "together-front:1"])?;
        let root = self.data_dir.join("demo-rootfs");
        fs::create_dir_all(root.join("bin"))?;
        fs::create_dir_all(root.join("www"))?;
        fs::copy("/bin/busybox", root.join("bin/busybox")).context("busybox-static is not installed")?;
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/hello-container/www/index.html");
        fs::copy(page, root.join("www/index.html"))?;
        let entrypoint = ["--entrypoint", "/bin/busybox", "--entrypoint", "httpd"];
        let arguments = ["--cmd", "-f", "--cmd", "-p", "--cmd", "8080", "--cmd", "-h", "--cmd", "/www"];
        self.proa(
            &[&["image", "pack", utf8(&root)?, "-t", "hello-container:1"], &entrypoint[..], &arguments]
                .concat(),
        )?;
        fs::remove_dir_all(root)?;
        Ok(())
    }

    fn proa(&self, arguments: &[&str]) -> Result<()> {
        let status =
            Command::new(&self.proa).args(arguments).env("PROA_DATA_DIR", &self.data_dir).status()?;
        ensure!(status.success(), "proa {arguments:?} failed");
        Ok(())
    }

    fn kubectl_command(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    fn kubectl(&self, arguments: &[&std::ffi::OsStr]) -> Result<()> {
        let status = self.kubectl_command().args(arguments).status()?;
        ensure!(status.success(), "kubectl {arguments:?} failed");
        Ok(())
    }

    /// The answer to `GET /` for a host, as soon as there is a good one.
    fn answer(&self, host: &str) -> Result<String> {
        let address = std::env::var("PROA_INGRESS_HTTP").unwrap_or_else(|_| "127.0.0.1:80".to_owned());
        wait(&format!("{host} to answer"), || {
            // HTTP/1.0, so that the answer ends with the connection.
            let request = format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n");
            let mut answer = String::new();
            let asked = TcpStream::connect(&address).and_then(|mut s| {
                s.write_all(request.as_bytes()).and_then(|()| s.read_to_string(&mut answer))
            });
            let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
            Ok(body.filter(|_| asked.is_ok() && answer.split(' ').nth(1) == Some("200")))
        })
    }
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().context("the path is not UTF-8")
}

fn wait<T>(what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        ensure!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
