//! One process per data directory: `proa up` and `proa agent` hold a lock on a file in it as long as
//! they run, and `proa down` finds them by it.
//!
//! It is a lock of the kernel's (`fcntl`): it tells whose it is, and goes with its process however
//! that ends.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a cluster may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Held until it is dropped. The file must not be opened a second time in this process: closing any
/// of its descriptors gives the lock away.
pub struct Lock(#[expect(dead_code, reason = "the lock lives as long as it is open")] File);

/// Takes the lock of a data directory.
pub fn take(data_dir: &Path) -> Result<Lock> {
    let file = open(data_dir)?;
    match fcntl(&file, FcntlArg::F_SETLK(&whole(libc::F_WRLCK))) {
        Ok(_) => Ok(Lock(file)),
        Err(Errno::EAGAIN | Errno::EACCES) => {
            let by = holder(&file)?.map_or_else(String::new, |pid| format!(" (process {pid})"));
            bail!(
                "{} is in use by another proa{by}: stop that one, or choose another --data-dir",
                data_dir.display()
            )
        }
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", data_dir.display())),
    }
}

/// Stops the process that holds the lock of a data directory, if there is one. Returns with the lock,
/// so that no other starts meanwhile.
pub fn stop_holder(data_dir: &Path) -> Result<Option<Lock>> {
    if !data_dir.exists() {
        return Ok(None);
    }
    let file = open(data_dir)?;
    let deadline = Instant::now() + STOP_LIMIT;
    let mut told = None;
    loop {
        if fcntl(&file, FcntlArg::F_SETLK(&whole(libc::F_WRLCK))).is_ok() {
            return Ok(Some(Lock(file)));
        }
        let pid = holder(&file)?;
        if let Some(pid) = pid.filter(|pid| told != Some(*pid)) {
            told = Some(pid);
            match kill(pid, Signal::SIGTERM) {
                // It has just ended, and the lock with it.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot stop proa (process {pid})"));
                }
            }
        }
        ensure!(
            Instant::now() < deadline,
            "proa (process {}) does not stop: end it with SIGKILL and run `proa down` again",
            pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string())
        );
        std::thread::sleep(POLL);
    }
}

fn open(data_dir: &Path) -> Result<File> {
    let path = data_dir.join("lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options.open(&path).with_context(|| format!("cannot open {}", path.display()))
}

/// Who holds the lock: nobody, or a process that this one cannot see, is `None`.
fn holder(file: &File) -> Result<Option<Pid>> {
    let mut found = whole(libc::F_WRLCK);
    fcntl(file, FcntlArg::F_GETLK(&mut found)).context("cannot look at the lock")?;
    let held = i32::from(found.l_type) != libc::F_UNLCK;
    Ok((held && found.l_pid > 0).then(|| Pid::from_raw(found.l_pid)))
}

fn whole(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
