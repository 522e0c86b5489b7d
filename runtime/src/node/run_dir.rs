//! `DATA/run` in memory: what belongs to this run of the machine.
//!
//! Sandboxes keep there what their containers are started with, values of Secrets in their environment
//! among it, which must be on no disk. A reboot empties it, as it ends what it tells of. The mount
//! outlives `proa`, as the sandboxes do; `proa down` takes it away.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};

use crate::node::paths::Paths;
use crate::volume::mount;

/// How long `proa down` waits for whoever uses the directory.
const LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
/// So many of those who use it are named.
const NAMED: usize = 5;

/// True if it is in memory already.
pub fn is_mounted(paths: &Paths) -> io::Result<bool> {
    mount::is_point(&paths.run())
}

/// Removes what lies there on the disk, and puts memory in its place.
pub fn mount_fresh(paths: &Paths) -> io::Result<()> {
    let run = paths.run();
    for entry in std::fs::read_dir(&run).into_iter().flatten() {
        let path = entry?.path();
        if path.is_dir() { mount::remove_tree(&path)? } else { std::fs::remove_file(path)? }
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&run)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount::memory(&run, flags, "mode=0700")
}

/// Takes the memory away, once nobody uses it. The error names who still does after a while.
pub fn unmount(paths: &Paths) -> io::Result<()> {
    let until = Instant::now() + LIMIT;
    while is_mounted(paths)? {
        let run = paths.run().canonicalize()?;
        match umount2(&run, MntFlags::empty()) {
            Err(Errno::EBUSY) if Instant::now() < until => std::thread::sleep(POLL),
            Err(error) => {
                let text = format!("unmount {}: {}: {}", run.display(), error.desc(), users(&run)?);
                return Err(io::Error::new(io::Error::from(error).kind(), text));
            }
            // Another may lie under it.
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Says who uses a mounted directory: processes by a working directory, root or open file, and mounts.
fn users(dir: &Path) -> io::Result<String> {
    let below = mount::points()?.into_iter().filter(|point| point.starts_with(dir) && point != dir);
    let mut found: Vec<String> = below.map(|point| format!("{} is mounted there", point.display())).collect();
    let processes = std::fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
    for process in processes.filter(|process| uses(process, dir)) {
        let pid = process.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
        found.push(format!("process {pid} ({}) uses it", name.trim()));
    }
    found.truncate(NAMED);
    Ok(if found.is_empty() { "no process that can be seen uses it".to_owned() } else { found.join(", ") })
}

/// Whether a process, by its directory under `/proc`, has anything below `dir` open.
fn uses(process: &Path, dir: &Path) -> bool {
    let files = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let links = ["cwd", "root", "exe"].map(|name| process.join(name)).into_iter();
    let mut targets =
        links.chain(files.map(|entry| entry.path())).filter_map(|link| std::fs::read_link(link).ok());
    targets.any(|target: PathBuf| target.starts_with(dir))
}
