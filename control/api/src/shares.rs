//! What there is only so much of, and of which nobody gets more than a share: the others are to find
//! something left.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A number of things that are lent to holders of some kind.
#[derive(Debug)]
pub struct Shares<K: Ord> {
    all: usize,
    each: usize,
    lent: Mutex<Lent<K>>,
}

#[derive(Debug)]
struct Lent<K> {
    /// Of each no more than there is for one.
    all: usize,
    /// By who holds them; nobody who holds none.
    holders: BTreeMap<K, usize>,
}

/// One of them or more, until it is dropped.
#[derive(Debug)]
pub struct Share<K: Ord> {
    of: Arc<Shares<K>>,
    holder: K,
    /// Changed only while [`Shares::lent`] is locked.
    amount: AtomicUsize,
}

impl<K: Ord + Clone> Shares<K> {
    /// So many for all together, and for each.
    pub fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Shares {
            all,
            each: each.max(1),
            lent: Mutex::new(Lent { all: 0, holders: BTreeMap::new() }),
        })
    }

    /// One for this holder, if there is one left.
    pub fn take(self: &Arc<Self>, holder: K) -> Option<Share<K>> {
        self.take_many(holder, 1)
    }

    /// So many for this holder, if they are left.
    pub fn take_many(self: &Arc<Self>, holder: K, amount: usize) -> Option<Share<K>> {
        let share = Share { of: Arc::clone(self), holder, amount: AtomicUsize::new(0) };
        share.grow(amount).then_some(share)
    }
}

impl<K: Ord + Clone> Share<K> {
    /// Takes so many more, if they are left. Who holds nothing else may have as many as it likes
    /// before all are lent: one that is larger than a share is not refused for ever. To the others
    /// it is no more than a share.
    pub fn grow(&self, amount: usize) -> bool {
        let (mut lent, each) = (self.of.lent(), self.of.each);
        let held = lent.holders.get(&self.holder).copied().unwrap_or(0);
        let Some(wanted) = held.checked_add(amount) else { return false };
        let is_only_one = held == self.amount.load(Ordering::Relaxed);
        let all = lent.all - held.min(each) + wanted.min(each);
        if all > self.of.all || (wanted > each && !is_only_one) {
            return false;
        }
        lent.all = all;
        lent.holders.insert(self.holder.clone(), wanted);
        self.amount.fetch_add(amount, Ordering::Relaxed);
        true
    }
}

impl<K: Ord> Shares<K> {
    fn lent(&self) -> MutexGuard<'_, Lent<K>> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord> Share<K> {
    /// Gives so many of it back.
    pub fn shrink(&self, amount: usize) {
        let (mut lent, each) = (self.of.lent(), self.of.each);
        self.amount.fetch_sub(amount, Ordering::Relaxed);
        let Some(held) = lent.holders.get_mut(&self.holder) else { return };
        let (before, left) = (*held, *held - amount);
        *held = left;
        lent.all = lent.all - before.min(each) + left.min(each);
        if left == 0 {
            lent.holders.remove(&self.holder);
        }
    }
}

impl<K: Ord> Drop for Share<K> {
    fn drop(&mut self) {
        let amount = *self.amount.get_mut();
        self.shrink(amount);
    }
}

/// Room for the connections of listeners. A client may have a quarter of it.
#[derive(Clone, Debug)]
pub struct Room {
    open: Arc<Shares<IpAddr>>,
    waiting: Arc<Shares<IpAddr>>,
}

/// What a connection takes of a [`Room`].
#[derive(Debug)]
pub struct Guest {
    /// Held as long as the connection is open.
    pub open: Share<IpAddr>,
    /// Held until something has been asked over it.
    pub waiting: Share<IpAddr>,
}

impl Room {
    /// For so many connections that are open, and so many of them over which nothing has been asked yet.
    pub fn new(open: usize, waiting: usize) -> Self {
        let shares = |all: usize| Shares::new(all, all.div_ceil(4));
        Room { open: shares(open), waiting: shares(waiting) }
    }

    /// For one more connection of the client with this address, if there is room.
    pub fn take(&self, peer: IpAddr) -> Option<Guest> {
        let client = client(peer);
        Some(Guest { open: self.open.take(client)?, waiting: self.waiting.take(client)? })
    }

    /// For a request that is one of many over its connection, and costs as much as a connection.
    pub fn take_request(&self, peer: IpAddr) -> Option<Share<IpAddr>> {
        self.open.take(client(peer))
    }
}

/// Who holds what a client with this address takes: whoever has one IPv6 address has a whole /64
/// (RFC 6177).
pub fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_what_is_left_for_others() {
        let shares = Shares::new(4, 2);
        let take = |holder| shares.take(holder);
        let ann = [take("ann").unwrap(), take("ann").unwrap()];
        assert!(take("ann").is_none());
        let others = ["bob", "eve"].map(|holder| take(holder).unwrap());
        assert!(take("joe").is_none(), "all are lent");
        drop(ann);
        let joe = take("joe").unwrap();
        drop((others, joe));
        let lent = shares.lent();
        assert_eq!((lent.all, lent.holders.len()), (0, 0));
    }

    #[test]
    fn amounts() {
        let shares = Shares::new(100, 40);
        let take = |holder, amount| shares.take_many(holder, amount);
        let large = take("ann", 70).expect("the only one");
        assert!(take("ann", 1).is_none());
        let bob = take("bob", 20).unwrap();
        assert!(bob.grow(20) && !bob.grow(usize::MAX));
        let eve = take("eve", 20).expect("what is larger than a share is one to the others");
        assert!(take("joe", 1).is_none() && !eve.grow(1), "all are lent");
        large.shrink(20);
        assert!(take("joe", 1).is_none() && take("ann", 1).is_none(), "it is still larger");
        large.shrink(20);
        assert!(eve.grow(10) && take("joe", 1).is_none());
        drop(large);
        assert!(eve.grow(10) && take("eve", 1).is_none());
        drop((bob, eve));
        let lent = shares.lent();
        assert_eq!((lent.all, lent.holders.len()), (0, 0));
    }

    #[test]
    fn who_has_asked_still_takes_room() {
        let room = Room::new(8, 4);
        let (eve, bob) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let first = room.take(eve).unwrap();
        assert!(room.take(eve).is_none(), "one may wait");
        drop(first.waiting);
        let second = room.take(eve).unwrap();
        drop(second.waiting);
        assert!(room.take(eve).is_none(), "two may be open");
        assert!(room.take(bob).is_some());
        drop(first.open);
        assert!(room.take(eve).is_some());
    }

    #[test]
    fn clients() {
        for (address, who) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8::1:2:3:4", "2001:db8::"),
        ] {
            assert_eq!(client(address.parse().unwrap()), who.parse::<IpAddr>().unwrap());
        }
    }
}
