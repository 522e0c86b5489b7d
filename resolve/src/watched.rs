//! What is made of files, and made anew when one of them has changed.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How often at most the files are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What was made of files last.
pub struct Watched<T>(Mutex<Current<T>>);

struct Current<T> {
    value: Option<T>,
    looked: Option<Instant>,
    modified: Vec<Option<SystemTime>>,
}

impl<T> Default for Watched<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Watched<T> {
    /// Nothing is made yet.
    pub const fn new() -> Self {
        Watched(Mutex::new(Current { value: None, looked: None, modified: Vec::new() }))
    }
}

impl<T: Clone> Watched<T> {
    /// What `make` makes of these files, which are the same each time.
    pub fn get(
        &self,
        files: &[impl AsRef<Path>],
        now: Instant,
        make: impl FnOnce() -> Option<T>,
    ) -> Option<T> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.is_some_and(|looked| now.duration_since(looked) < LOOK_AGAIN) {
            return current.value.clone();
        }
        let modified =
            files.iter().map(|file| file.as_ref().metadata().and_then(|meta| meta.modified()).ok());
        let modified: Vec<_> = modified.collect();
        if current.looked.is_none() || modified != current.modified {
            current.modified = modified;
            current.value = make();
        }
        current.looked = Some(now);
        current.value.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("resolv.conf");
        let (watched, begin) = (Watched::new(), Instant::now());
        let get = |seconds| {
            let now = begin + Duration::from_secs(seconds);
            watched.get(&[&file], now, || std::fs::read_to_string(&file).ok())
        };
        let write = |text: &str, modified| {
            std::fs::write(&file, text).unwrap();
            std::fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
        };
        let modified = SystemTime::now();
        assert_eq!(get(0), None);
        write("a", modified);
        assert_eq!(get(4), None, "it was looked at not long ago");
        assert_eq!(get(5).as_deref(), Some("a"));
        write("b", modified);
        assert_eq!(get(10).as_deref(), Some("a"), "it is as old");
        write("b", modified - Duration::from_secs(1));
        assert_eq!(get(15).as_deref(), Some("b"));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(get(20), None);
    }
}
