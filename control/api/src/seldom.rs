//! What may come up many times a second is said now and then.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two times that it is said.
const PAUSE: Duration = Duration::from_secs(60);

/// When something was said last.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// It was never said.
    pub const fn new() -> Self {
        Seldom(Mutex::new(None))
    }

    /// True if it is to be said now, which then counts as done.
    pub fn is_due(&self, now: Instant) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = said.is_none_or(|said| now.duration_since(said) >= PAUSE);
        if is_due {
            *said = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_a_minute() {
        let (seldom, begin) = (Seldom::new(), Instant::now());
        let said = (0..600).filter(|tenths| seldom.is_due(begin + Duration::from_millis(100) * *tenths));
        assert_eq!(said.count(), 1);
        assert!(seldom.is_due(begin + PAUSE));
        assert!(!seldom.is_due(begin + PAUSE));
    }
}
