//! Which images broke the process that pulled them: kept on the disk, so that a node that has just
//! started does not do again at once what it may have fallen over.
//!
//! An image is known here by its repository and the digest of its manifest: what somebody makes of a
//! name alone, with credentials that are no good or another registry's content, is nobody else's loss.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::layout::{file_name, hex_text, read_limited};
use super::reference::repository;
use crate::backoff::{Backoff, go_duration, later, since};

/// No record is larger; its message is bounded where it is made.
const LIMIT_BYTES: u64 = 64 << 10;
/// Images that are remembered.
const LIMIT_RECORDS: usize = 1000;

/// The records of one store, a file for each image.
#[derive(Clone)]
pub(super) struct Failures(PathBuf);

#[derive(Serialize, Deserialize)]
struct Record {
    message: String,
    failed_at: Timestamp,
    delay_seconds: u64,
}

impl Record {
    fn read(path: &Path) -> Option<Record> {
        serde_json::from_slice(&read_limited(path, LIMIT_BYTES).ok()?).ok()
    }

    fn backoff(&self) -> Backoff {
        Backoff { delay: std::time::Duration::from_secs(self.delay_seconds), updated: self.failed_at }
    }

    fn until(&self) -> Timestamp {
        later(self.failed_at, self.backoff().delay)
    }
}

impl Failures {
    /// Those of the store in this directory.
    pub(super) fn of(images: &Path) -> Failures {
        Failures(images.join("failures"))
    }

    /// Where what is known of a manifest lies, which was pulled by this full name.
    fn path(&self, reference: &str, manifest: &str) -> PathBuf {
        let key = format!("{}@{manifest}", repository(reference));
        self.0.join(file_name(&hex_text(Sha256::new_with_prefix(key))))
    }

    /// Why an image must not be pulled yet, and for how long.
    pub(super) fn hold(&self, reference: &str, manifest: &str, now: Timestamp) -> Option<String> {
        let record = Record::read(&self.path(reference, manifest))?;
        // A time that is to come was not written by this clock.
        if record.failed_at > now || record.until() <= now {
            return None;
        }
        let left = std::time::Duration::from_secs(since(record.until(), now).as_secs() + 1);
        Some(format!("{}: not tried again for {}", record.message, go_duration(left)))
    }

    /// Notes that an image broke its process.
    pub(super) fn note(
        &self,
        reference: &str,
        manifest: &str,
        message: &str,
        now: Timestamp,
    ) -> std::io::Result<()> {
        fs::create_dir_all(&self.0)?;
        let path = self.path(reference, manifest);
        let old = Record::read(&path).map(|record| record.backoff());
        self.forget_oldest()?;
        let delay_seconds = Backoff::next(old, now, now).delay.as_secs();
        let record = Record { message: message.to_owned(), failed_at: now, delay_seconds };
        fs::write(path, serde_json::to_vec(&record)?)
    }

    /// Forgets that it did.
    pub(super) fn clear(&self, reference: &str, manifest: &str) {
        // Mostly there is none.
        let _ = fs::remove_file(self.path(reference, manifest));
    }

    fn forget_oldest(&self) -> std::io::Result<()> {
        let mut paths: Vec<_> = fs::read_dir(&self.0)?.flatten().map(|entry| entry.path()).collect();
        if paths.len() < LIMIT_RECORDS {
            return Ok(());
        }
        paths.sort_by_key(|path| Record::read(path).map(|record| record.failed_at));
        paths[..=paths.len() - LIMIT_RECORDS].iter().try_for_each(fs::remove_file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_broke_its_process_waits_longer_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let at = |seconds: i64| Timestamp::from_second(1_000_000 + seconds).unwrap();
        let failures = || Failures(dir.path().join("failures"));
        assert_eq!(failures().hold("r/a:1", "sha256:1", at(0)), None);
        failures().note("r/a:1", "sha256:1", "too large", at(0)).unwrap();
        let text = failures().hold("r/a:1", "sha256:1", at(1)).unwrap();
        assert_eq!(text, "too large: not tried again for 10s");
        assert_eq!(failures().hold("r/a:1", "sha256:2", at(1)), None);
        assert_eq!(failures().hold("r/b:1", "sha256:1", at(1)), None);
        assert!(failures().hold("r/a:2", "sha256:1", at(1)).is_some(), "by another tag");
        assert_eq!(failures().hold("r/a:1", "sha256:1", at(10)), None);
        failures().note("r/a:1", "sha256:1", "too large", at(10)).unwrap();
        assert!(failures().hold("r/a:1", "sha256:1", at(29)).is_some());
        assert_eq!(failures().hold("r/a:1", "sha256:1", at(30)), None);
        assert_eq!(failures().hold("r/a:1", "sha256:1", at(-5)), None, "a clock that went back");
        failures().clear("r/a:1", "sha256:1");
        assert_eq!(failures().hold("r/a:1", "sha256:1", at(11)), None);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let failures = Failures(dir.path().to_owned());
        let at = |seconds: usize| Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap();
        for index in 0..LIMIT_RECORDS + 3 {
            failures.note("r/a:1", &format!("sha256:{index}"), "m", at(index)).unwrap();
        }
        let last = at(LIMIT_RECORDS + 2);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), LIMIT_RECORDS);
        assert!(failures.hold("r/a:1", &format!("sha256:{}", LIMIT_RECORDS + 2), last).is_some());
        assert!(failures.hold("r/a:1", "sha256:0", last).is_none());
    }
}
