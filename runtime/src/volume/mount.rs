//! Mounts that the agent makes on the node, all below a pod's directory, and their removal.
//!
//! The kernel names them without links, and parts of the data directory may be links to another disk:
//! paths are looked up before they are compared. What is taken for a directory of the pod's own while
//! something is mounted there would be removed with what others have in it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, move_mount};
use tokio::sync::Semaphore;

use super::beneath::{by_fd, locate};

/// What a directory in a volume has of the volume's mode: permissions, and the bit by which new
/// entries belong to the volume's group. The kubelet takes the same.
const INHERITED: u32 = 0o2777;

/// Mounts a tmpfs of this mode and group on `dir` unless one is there already.
pub fn tmpfs(dir: &Path, mode: u32, group: Option<u32>, size_bytes: Option<i64>) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    if is_point(dir)? {
        return Ok(());
    }
    let mut options = format!("mode={mode:o}");
    options.extend(group.map(|group| format!(",gid={group}")));
    options.extend(size_bytes.map(|bytes| format!(",size={bytes}")));
    memory(dir, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, &options)
}

/// Mounts a tmpfs, which is not even swapped out where the kernel can do that (Linux 6.4).
pub fn memory(dir: &Path, flags: MsFlags, options: &str) -> io::Result<()> {
    let tmpfs = |options: &str| mount(Some("tmpfs"), dir, Some("tmpfs"), flags, Some(options));
    match tmpfs(&format!("{options},noswap")) {
        Err(nix::Error::EINVAL) => Ok(tmpfs(options)?),
        mounted => Ok(mounted?),
    }
}

/// True if something is mounted on `path`, which need not exist.
pub fn is_point(path: &Path) -> io::Result<bool> {
    let Some(real) = real(path)? else { return Ok(false) };
    Ok(points()?.contains(&real))
}

/// Bind-mounts `path`, which lies below `root`, on `target`. The path is resolved beneath the
/// root by the kernel, because a container may have put links into the volume; what does not
/// exist is made as directories with the volume's mode, so that who may write to it may write
/// there too. What is mounted below the path is not bound with it, as with the kubelet.
pub fn bind_beneath(root: &Path, path: &str, target: &Path) -> io::Result<()> {
    let root = open(root, OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY, Mode::empty())?;
    let found = match locate(&root, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_dirs(&root, path)?;
            locate(&root, path)?
        }
        found => found?,
    };
    unmount_below(target)?;
    let source = by_fd(&found);
    prepare(target, std::fs::metadata(&source)?.is_dir())?;
    let tree = proa_sandbox::tree::of(&source, false)?;
    Ok(move_mount(tree, c"", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Unmounts all that is mounted on `dir` or below it, the latest first, and nothing anywhere else: what is
/// unmounted in a mount goes from all that share it (mount_namespaces(7)), so none is shared by then.
pub fn unmount_below(dir: &Path) -> io::Result<()> {
    let Some(dir) = real(dir)? else { return Ok(()) };
    let below: Vec<PathBuf> = points()?.into_iter().filter(|point| point.starts_with(&dir)).collect();
    for point in &below {
        unless_gone(mount(None::<&str>, point, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>))?;
    }
    below.iter().rev().try_for_each(|point| unless_gone(umount2(point, MntFlags::MNT_DETACH)))
}

/// Somebody else was faster.
fn unless_gone(done: nix::Result<()>) -> io::Result<()> {
    match done {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Unmounts all below `dir` and removes it. Not an error if it is not there; an error before anything
/// is removed if something stays mounted.
pub fn remove_tree(dir: &Path) -> io::Result<()> {
    let Some(dir) = real(dir)? else { return Ok(()) };
    unmount_below(&dir)?;
    if let Some(point) = points()?.into_iter().find(|point| point.starts_with(&dir)) {
        let text = format!("{} is still mounted", point.display());
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
    }
    proa_sandbox::remove::remove_tree(&dir)
}

/// The same, away from the threads that serve others: containers may have left millions of files.
pub async fn remove(dir: PathBuf) -> io::Result<()> {
    let removed = tokio::task::spawn_blocking(move || remove_tree(&dir)).await;
    removed.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Directories that have been set aside are removed so many at a time.
static REMOVALS: Semaphore = Semaphore::const_new(4);

/// Empties the place of a directory at once, and removes what was there when it is its turn: nobody waits
/// for the millions of files that another's containers may have left. What is still there when this
/// process ends lies beside it, under a name that no pod has.
pub fn set_aside(dir: &Path) -> io::Result<()> {
    let Some(dir) = real(dir)? else { return Ok(()) };
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let aside = dir.with_file_name(format!("{name}.{:x}", rand::random::<u64>()));
    std::fs::rename(&dir, &aside)?;
    tokio::spawn(async move {
        let _turn = REMOVALS.acquire().await;
        if let Err(error) = remove(aside.clone()).await {
            tracing::warn!(%error, path = %aside.display(), "what was set aside could not be removed");
        }
    });
    Ok(())
}

/// The path without links; `None` if there is nothing.
fn real(path: &Path) -> io::Result<Option<PathBuf>> {
    match path.canonicalize() {
        Ok(real) => Ok(Some(real)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn make_dirs(root: &OwnedFd, path: &str) -> io::Result<()> {
    let mode = std::fs::metadata(by_fd(root))?.permissions().mode() & INHERITED;
    let mut done = PathBuf::new();
    for part in Path::new(path).components() {
        let parent =
            if done.as_os_str().is_empty() { None } else { Some(locate(root, &done.to_string_lossy())?) };
        let at = parent.as_ref().unwrap_or(root);
        match nix::sys::stat::mkdirat(at, part.as_os_str(), Mode::S_IRWXU) {
            Ok(()) => {
                // Apart from its making, because of the umask; a link put in its place is not followed.
                let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY;
                let made = openat(at, part.as_os_str(), flags, Mode::empty())?;
                std::fs::set_permissions(by_fd(&made), std::fs::Permissions::from_mode(mode))?;
            }
            Err(nix::Error::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        done.push(part);
    }
    Ok(())
}

fn prepare(target: &Path, dir: bool) -> io::Result<()> {
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match (dir, target.exists()) {
        (true, _) => std::fs::create_dir_all(target),
        (false, true) => Ok(()),
        (false, false) => std::fs::File::create(target).map(drop),
    }
}

/// Mount points of this process, in the order they were made.
pub fn points() -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    let field = |line: &[u8]| Some(unescape(line.split(|b| *b == b' ').nth(4)?));
    Ok(table.split(|b| *b == b'\n').filter_map(field).collect())
}

/// The kernel writes a blank as `\040`, and three other characters likewise.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsStr::from_bytes(&out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_in_mount_points() {
        assert_eq!(unescape(b"/a\\040b\\134c"), PathBuf::from("/a b\\c"));
        assert_eq!(unescape(b"/plain"), PathBuf::from("/plain"));
    }

    /// As on a machine with systemd, where every mount is shared, in a namespace of its own. What was bound
    /// by a version that let the node's mounts be shared with is unmounted like any other.
    #[test]
    fn what_is_bound_is_not_the_nodes() {
        const INSIDE: &str = "PROA_TEST_SHARED_MOUNTS";
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: needs root");
        }
        if std::env::var_os(INSIDE).is_none() {
            let program = std::env::current_exe().unwrap();
            let mut command = std::process::Command::new("unshare");
            command.args(["--mount", "--propagation", "shared"]).arg(program).env(INSIDE, "1");
            let name = "volume::mount::tests::what_is_bound_is_not_the_nodes";
            let out = command.args(["--exact", name, "--nocapture"]).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (node, pod) = (dir.path().join("node"), dir.path().join("pod"));
        let file = |name: &str| node.join("lib").join(name).join("file");
        let mounted = |name: &str| {
            tmpfs(&node.join("lib").join(name), 0o755, None, None).unwrap();
            std::fs::write(file(name), "").unwrap();
        };
        tmpfs(&node, 0o755, None, None).unwrap();
        mounted("before");
        let (target, earlier) = (pod.join("0"), pod.join("1"));
        std::fs::create_dir_all(&earlier).unwrap();
        let shared = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&node.join("lib")), &earlier, None::<&str>, shared, None::<&str>).unwrap();
        bind_beneath(&node, "lib", &target).unwrap();
        mounted("after");
        assert!(earlier.join("after/file").exists(), "the mounts are shared");
        for name in ["before", "after"] {
            assert!(target.join(name).is_dir() && !target.join(name).join("file").exists(), "{name}");
        }
        bind_beneath(&node, "lib", &target).unwrap();
        assert!(file("before").exists() && file("after").exists(), "the container is started again");
        remove_tree(&pod).unwrap();
        assert!(file("before").exists() && file("after").exists() && !pod.exists(), "the pod is gone");
        unmount_below(&node).unwrap();
    }

    #[tokio::test]
    async fn nobody_waits_for_what_is_set_aside() {
        let parent = tempfile::tempdir().unwrap();
        let count = || std::fs::read_dir(parent.path()).unwrap().count();
        let dir = parent.path().join("pod");
        let all = REMOVALS.acquire_many(4).await.unwrap();
        for _ in 0..2 {
            std::fs::create_dir_all(dir.join("a/b")).unwrap();
            set_aside(&dir).unwrap();
            assert!(!dir.exists());
        }
        set_aside(&dir).unwrap();
        assert_eq!(count(), 2, "it is nobody's turn");
        drop(all);
        while count() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    #[test]
    fn a_link_cannot_leave_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        let root = open(dir.path(), OFlag::O_PATH, Mode::empty()).unwrap();
        assert!(locate(&root, "out/passwd").is_err());
        assert!(locate(&root, "../x").is_err());
        assert!(locate(&root, "in").is_ok());
        make_dirs(&root, "a/b").unwrap();
        assert!(dir.path().join("a/b").is_dir());
    }

    #[test]
    fn a_directory_in_a_volume_has_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let mode =
            |path: &str| std::fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o7777;
        let set = |mode| std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let root = open(dir.path(), OFlag::O_PATH, Mode::empty()).unwrap();
        set(0o2777);
        make_dirs(&root, "a/b").unwrap();
        assert_eq!((mode("a"), mode("a/b")), (0o2777, 0o2777));
        set(0o1750);
        make_dirs(&root, "a/c").unwrap();
        assert_eq!((mode("a"), mode("a/c") & 0o777), (0o2777, 0o750), "what is there already stays");
    }
}
