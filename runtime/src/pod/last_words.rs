//! The message that a run of a container left at its `terminationMessagePath`.
//!
//! The file is the container's to write: it may be endless, or nothing that can be read.
//! Source: <https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/>.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The longest message of one container.
const MESSAGE_MAX_BYTES: u64 = 4096;
/// The longest messages of all containers of a pod together.
const POD_MAX_BYTES: usize = 12 << 10;

/// The end of a file that holds a message, if there is one.
pub fn read(path: &Path) -> Option<String> {
    let mut options = File::options();
    let mut file = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path).ok()?;
    let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    file.seek(SeekFrom::Start(metadata.len().saturating_sub(MESSAGE_MAX_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(MESSAGE_MAX_BYTES).read_to_end(&mut bytes).ok()?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    // What is no UTF-8 has become longer.
    text.truncate(text.floor_char_boundary(usize::try_from(MESSAGE_MAX_BYTES).unwrap_or(usize::MAX)));
    Some(text).filter(|text| !text.is_empty())
}

/// Cuts a message to its share of what the status of a pod with so many containers may hold.
pub fn cut(message: &mut String, containers: usize) {
    message.truncate(message.floor_char_boundary(POD_MAX_BYTES / containers.max(1)));
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_end_of_a_file_is_the_message() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for (name, content, message) in [
            ("short", "done".to_owned(), Some("done".to_owned())),
            ("empty", String::new(), None),
            ("exact", "x".repeat(4096), Some("x".repeat(4096))),
            ("long", format!("{}{}", "a".repeat(9000), "b".repeat(4096)), Some("b".repeat(4096))),
        ] {
            fs::write(path(name), content).unwrap();
            assert_eq!(read(&path(name)), message, "{name}");
        }
        let sparse = File::create(path("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        std::os::unix::fs::FileExt::write_at(&sparse, b"end", (1 << 40) - 3).unwrap();
        let message = read(&path("sparse")).unwrap();
        assert!(message.len() == 4096 && message.ends_with("\0end"));
        fs::write(path("binary"), [0xff; 8000]).unwrap();
        assert!(read(&path("binary")).unwrap().len() <= 4096);
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        symlink(path("short"), path("link")).unwrap();
        for name in ["fifo", "link", "missing", "."] {
            assert_eq!(read(&path(name)), None, "{name}");
        }
    }

    #[test]
    fn the_messages_of_a_pod_share_its_status() {
        for (containers, length) in [(0, 4096), (1, 4096), (3, 4096), (4, 3072), (12, 1024)] {
            let mut message = "x".repeat(4096);
            cut(&mut message, containers);
            assert_eq!(message.len(), length, "{containers}");
        }
        let mut message = "ä".repeat(2048);
        cut(&mut message, 5);
        assert_eq!(message.len(), 2456, "2457 would be half a letter");
    }
}
