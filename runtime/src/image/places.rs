//! So many at a time, and of one owner no more than a share: whoever wants much waits for itself, and
//! leaves others a place.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Places for all.
pub(super) struct Places {
    all: Semaphore,
    share: usize,
    /// The share of each owner that has or wants a place.
    owners: Mutex<BTreeMap<String, Weak<Semaphore>>>,
}

/// A place, while it is held.
pub(super) struct Place {
    _of_all: SemaphorePermit<'static>,
    _of_share: OwnedSemaphorePermit,
}

impl Places {
    /// So many, of which one owner has no more than a share.
    pub(super) const fn new(places: usize, share: usize) -> Self {
        Self { all: Semaphore::const_new(places), share, owners: Mutex::new(BTreeMap::new()) }
    }

    /// Waits for a place.
    pub(super) async fn take(&'static self, owner: &str) -> Place {
        let of_share = self.share_of(owner).acquire_owned().await.expect("it is never closed");
        let of_all = self.all.acquire().await.expect("it is never closed");
        Place { _of_all: of_all, _of_share: of_share }
    }

    fn share_of(&self, owner: &str) -> Arc<Semaphore> {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = owners.get(owner).and_then(Weak::upgrade) {
            return known;
        }
        owners.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(self.share));
        owners.insert(owner.to_owned(), Arc::downgrade(&share));
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn one_owner_has_no_more_than_a_share() {
        static PLACES: Places = Places::new(4, 2);
        let take = |owner| Box::pin(PLACES.take(owner)).now_or_never();
        let mut own: Vec<_> = (0..2).map(|_| take("a").expect("a share")).collect();
        let mut third = Box::pin(PLACES.take("a"));
        assert!(third.as_mut().now_or_never().is_none(), "more than a share");
        let others = [take("b").expect("a place"), take("c").expect("a place")];
        assert!(take("d").is_none(), "there is no place");
        own.pop();
        assert!(third.as_mut().now_or_never().is_some(), "the share is free again");
        drop((own, others));
        assert!(take("d").is_some());
        assert_eq!(PLACES.owners.lock().unwrap().len(), 1, "who wants nothing is forgotten");
    }
}
