//! Tells who follows a log when something has happened in the log's directory.
//!
//! There is one inotify instance for all: a user may have few of them, and many directories in one.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use proa_supervise::{Task, keep};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::event::COMPONENT;

const TASK: Task = Task { component: COMPONENT, name: "log-notices" };

/// Watches directories.
pub struct Notices {
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

/// One directory that is watched, until this is dropped.
pub struct Notice {
    shared: Arc<Shared>,
    watch: i32,
    changed: watch::Receiver<()>,
}

struct Shared {
    inotify: AsyncFd<OwnedFd>,
    /// By the kernel's number of the watch.
    watched: Mutex<HashMap<i32, watch::Sender<()>>>,
}

impl Notices {
    /// Starts with no directory.
    pub fn start() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        // SAFETY: an owned descriptor stays the same one until it is dropped, with the `AsyncFd`.
        let inotify = unsafe { AsyncFd::register(inotify) }?;
        let shared = Arc::new(Shared { inotify, watched: Mutex::default() });
        let told = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            keep(TASK, &CancellationToken::new(), || told.tell()).await;
        });
        Ok(Notices { shared, _task: AbortOnDropHandle::new(task) })
    }

    /// Watches a directory.
    pub fn of(&self, directory: &Path) -> io::Result<Notice> {
        let mut watched = self.shared.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF;
        // The number is the same for whoever else watches it.
        let watch = inotify::add_watch(&self.shared.inotify, directory, flags | WatchFlags::ONLYDIR)?;
        let changed = watched.entry(watch).or_insert_with(|| watch::channel(()).0).subscribe();
        Ok(Notice { shared: Arc::clone(&self.shared), watch, changed })
    }
}

impl Notice {
    /// Waits until something has happened since the last time.
    pub async fn changed(&mut self) {
        // The sender is there until nobody watches the directory.
        let _ = self.changed.changed().await;
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        let mut watched = self.shared.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.get(&self.watch).is_some_and(|sender| sender.receiver_count() == 1) {
            watched.remove(&self.watch);
            // The kernel has ended it already if the directory is gone.
            let _ = inotify::remove_watch(&self.shared.inotify, self.watch);
        }
    }
}

impl Shared {
    async fn tell(&self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            self.read()?;
            ready.clear_ready();
        }
    }

    fn read(&self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&self.inotify, &mut buffer);
        loop {
            let (watch, flags) = match events.next() {
                Ok(event) => (event.wd(), event.events()),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                watched.values().for_each(|sender| sender.send_replace(()));
            } else if let Some(sender) = watched.get(&watch) {
                sender.send_replace(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn all_who_watch_a_directory_hear_of_it_until_the_last_has_left() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let notices = Notices::start().unwrap();
        let mut first = notices.of(one.path()).unwrap();
        let mut second = notices.of(one.path()).unwrap();
        let mut elsewhere = notices.of(other.path()).unwrap();
        drop(notices.of(one.path()).unwrap());
        std::fs::write(one.path().join("log"), "x").unwrap();
        let hears = |notice: Notice| async move {
            let mut notice = notice;
            tokio::time::timeout(Duration::from_secs(5), notice.changed()).await.expect("a notice");
            notice
        };
        first = hears(first).await;
        second = hears(second).await;
        let silent = tokio::time::timeout(Duration::from_millis(50), elsewhere.changed());
        assert!(silent.await.is_err());
        let watched = || notices.shared.watched.lock().unwrap().len();
        drop(first);
        assert_eq!(watched(), 2);
        drop((second, elsewhere));
        assert_eq!(watched(), 0);
    }
}
