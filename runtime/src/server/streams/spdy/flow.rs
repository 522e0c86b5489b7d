//! How much a client is ready to take, per stream and as a whole (SPDY/3.1, section 2.6.8).
//!
//! The library that kubectl uses neither says nor counts anything of this, and would wait for ever
//! for a server that keeps to the initial window. So a client has windows from the moment it first
//! speaks of them, by a WINDOW_UPDATE or an initial size among its SETTINGS; what was sent before
//! that counts too.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The window of everything before anybody says otherwise.
const INITIAL: i64 = 64 << 10;
/// No window grows over this.
const MAX: i64 = 0x7fff_ffff;

/// The windows of one client.
#[derive(Debug)]
pub struct Flow {
    windows: Mutex<Windows>,
    changed: Notify,
}

#[derive(Debug)]
struct Windows {
    /// The client has spoken of windows.
    counted: bool,
    initial: i64,
    session: i64,
    streams: BTreeMap<u32, i64>,
}

impl Flow {
    /// At the beginning of a connection.
    pub fn new() -> Self {
        let windows =
            Windows { counted: false, initial: INITIAL, session: INITIAL, streams: BTreeMap::new() };
        Self { windows: Mutex::new(windows), changed: Notify::new() }
    }

    /// A stream begins.
    pub fn begin(&self, stream: u32) {
        let mut windows = self.lock();
        let initial = windows.initial;
        windows.streams.insert(stream, initial);
    }

    /// Nothing more is sent on a stream.
    pub fn end(&self, stream: u32) {
        self.lock().streams.remove(&stream);
    }

    /// Whether something may still be sent on a stream.
    pub fn open(&self, stream: u32) -> bool {
        self.lock().streams.contains_key(&stream)
    }

    /// Waits until something can be sent on a stream, and takes at most `most` bytes of room.
    pub async fn take(&self, stream: u32, most: usize) -> usize {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before the look, so that a change after it is not missed.
            changed.as_mut().enable();
            if let Some(size) = self.lock().take(stream, most) {
                return size;
            }
            changed.await;
        }
    }

    /// The client can take so much more on a stream, or as a whole for 0. Gives whether that is
    /// possible at all.
    pub fn grow(&self, stream: u32, delta: u32) -> bool {
        let mut windows = self.lock();
        windows.counted = true;
        let window = match stream {
            0 => Some(&mut windows.session),
            stream => windows.streams.get_mut(&stream),
        };
        // One that has ended takes no more, whatever its window.
        let possible = window.is_none_or(|window| {
            *window += i64::from(delta);
            *window <= MAX
        });
        drop(windows);
        self.changed.notify_waiters();
        possible
    }

    /// The client wants this to be the window of every stream. Gives whether that is possible.
    pub fn set_initial(&self, size: u32) -> bool {
        let mut windows = self.lock();
        windows.counted = true;
        let difference = i64::from(size) - windows.initial;
        windows.initial = i64::from(size);
        let mut possible = i64::from(size) <= MAX;
        for window in windows.streams.values_mut() {
            *window += difference;
            possible &= *window <= MAX;
        }
        drop(windows);
        self.changed.notify_waiters();
        possible
    }

    fn lock(&self) -> MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Windows {
    fn take(&mut self, stream: u32, most: usize) -> Option<usize> {
        let most = i64::try_from(most).unwrap_or(MAX);
        let Some(window) = self.streams.get_mut(&stream) else { return usize::try_from(most).ok() };
        let size = if self.counted { most.min(*window).min(self.session) } else { most };
        if size <= 0 {
            return None;
        }
        *window -= size;
        self.session -= size;
        usize::try_from(size).ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_client_that_does_not_count_takes_all() {
        let flow = Flow::new();
        flow.begin(1);
        for _ in 0..10 {
            assert_eq!(flow.take(1, 50_000).now_or_never(), Some(50_000));
        }
    }

    #[test]
    fn one_that_counts_is_waited_for() {
        let flow = Flow::new();
        flow.begin(1);
        flow.begin(3);
        assert!(flow.set_initial(100));
        assert_eq!(flow.take(1, 80).now_or_never(), Some(80));
        assert_eq!(flow.take(1, 80).now_or_never(), Some(20));
        assert_eq!(flow.take(1, 80).now_or_never(), None);
        assert_eq!(flow.take(3, 1).now_or_never(), Some(1), "streams have windows of their own");
        assert!(flow.grow(1, 7));
        assert_eq!(flow.take(1, 80).now_or_never(), Some(7));
        assert!(flow.set_initial(50), "which may leave less than nothing");
        assert!(flow.grow(1, 20));
        assert_eq!(flow.take(1, 80).now_or_never(), None);
        assert!(flow.grow(1, 40));
        assert_eq!(flow.take(1, 80).now_or_never(), Some(10));
    }

    #[test]
    fn the_connection_has_a_window_too() {
        let flow = Flow::new();
        flow.begin(1);
        assert_eq!(flow.take(1, 70_000).now_or_never(), Some(70_000));
        assert!(flow.grow(1, 100_000));
        assert_eq!(flow.take(1, 1).now_or_never(), None, "more than the initial window is out");
        assert!(flow.grow(0, 10_000));
        assert_eq!(flow.take(1, 9_999).now_or_never(), Some(10_000 + 65_536 - 70_000));
        assert!(!flow.grow(0, 0x7fff_ffff) || !flow.grow(0, 0x7fff_ffff), "there is an end to it");
    }
}
