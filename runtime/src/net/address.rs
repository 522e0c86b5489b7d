//! Which pod addresses of this node are taken.
//!
//! Pure. `Network` fills it at start from the links and routes that exist, so there is no file that
//! could disagree with the kernel, and asks it for a free address on each attach.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::cidr::Ipv4Net;

/// Offsets within the range that pods never get: the network itself and the gateway.
const RESERVED: u32 = 2;

/// The addresses of one node's pod range and who holds them.
#[derive(Debug)]
pub struct AddressPool {
    range: Ipv4Net,
    /// The offset that is tried first. It only moves forward and round, so an address that was given
    /// back is the last to be used again: peers may still have connections to its former holder.
    next: u32,
    by_owner: BTreeMap<String, Ipv4Addr>,
    by_address: BTreeMap<Ipv4Addr, String>,
}

impl AddressPool {
    /// A pool in which nothing is taken.
    pub fn new(range: Ipv4Net) -> Self {
        Self { range, next: RESERVED, by_owner: BTreeMap::new(), by_address: BTreeMap::new() }
    }

    /// Records an address that is already in use, and goes on behind it.
    pub fn adopt(&mut self, owner: &str, address: Ipv4Addr) {
        if !self.range.contains(address) {
            return;
        }
        self.next = address.to_bits() - self.range.network().to_bits() + 1;
        self.by_owner.insert(owner.to_owned(), address);
        self.by_address.insert(address, owner.to_owned());
    }

    /// The address that `owner` holds.
    pub fn held_by(&self, owner: &str) -> Option<Ipv4Addr> {
        self.by_owner.get(owner).copied()
    }

    /// Gives `owner` an address: the one it holds, or the next free one. `None` when all are taken.
    pub fn take(&mut self, owner: &str) -> Option<Ipv4Addr> {
        if let Some(address) = self.held_by(owner) {
            return Some(address);
        }
        // The last address of the range is its broadcast address.
        let end = u32::try_from(self.range.size() - 1).unwrap_or(u32::MAX);
        if end <= RESERVED {
            return None;
        }
        for step in 0..end - RESERVED {
            let offset = RESERVED + (self.next.max(RESERVED) - RESERVED + step) % (end - RESERVED);
            let Some(address) = self.range.nth(offset) else { continue };
            if !self.by_address.contains_key(&address) {
                self.adopt(owner, address);
                return Some(address);
            }
        }
        None
    }

    /// Takes back what `owner` holds.
    pub fn release(&mut self, owner: &str) {
        if let Some(address) = self.by_owner.remove(owner) {
            self.by_address.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn gives_each_owner_one_address_and_reuses_it_last() {
        let mut pool = AddressPool::new("10.42.0.0/29".parse().unwrap());
        assert_eq!(pool.take("a"), Some(address("10.42.0.2")));
        assert_eq!(pool.take("a"), Some(address("10.42.0.2")));
        assert_eq!(pool.take("b"), Some(address("10.42.0.3")));
        pool.release("a");
        let rest: Vec<_> = ["c", "d", "e", "f", "g"].iter().map(|o| pool.take(o)).collect();
        assert_eq!(
            rest,
            [
                Some(address("10.42.0.4")),
                Some(address("10.42.0.5")),
                Some(address("10.42.0.6")),
                Some(address("10.42.0.2")),
                None
            ]
        );
    }

    #[test]
    fn goes_on_behind_adopted_addresses() {
        let mut pool = AddressPool::new("10.42.0.0/24".parse().unwrap());
        pool.adopt("old", address("10.42.0.7"));
        pool.adopt("elsewhere", address("10.99.0.7"));
        assert_eq!(pool.held_by("old"), Some(address("10.42.0.7")));
        assert_eq!(pool.held_by("elsewhere"), None);
        assert_eq!(pool.take("new"), Some(address("10.42.0.8")));
    }

    #[test]
    fn tiny_ranges_hold_nobody() {
        for range in ["10.42.0.0/32", "10.42.0.0/31", "10.42.0.0/30"] {
            let mut pool = AddressPool::new(range.parse().unwrap());
            let first = pool.take("a");
            assert_eq!(first.is_some(), range.ends_with("/30"), "{range}");
            assert_eq!(pool.take("b"), None);
        }
    }
}
