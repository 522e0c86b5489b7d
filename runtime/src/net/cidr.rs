//! An IPv4 range in CIDR form, as the flags and the node's `podCIDR` write it.
//!
//! Pure; used by everything in this module and by whoever fills a `NetworkConfig`.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IPv4 range such as `10.42.0.0/24`. The host bits of the address are always zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Net {
    network: Ipv4Addr,
    prefix: u8,
}

impl Ipv4Net {
    /// The range of `prefix` bits around `address`; `None` for a prefix over 32.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        if prefix > 32 {
            return None;
        }
        Some(Self { network: Ipv4Addr::from_bits(address.to_bits() & mask_bits(prefix)), prefix })
    }

    /// The first address, which names the range.
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    /// The number of leading bits that all addresses share.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The leading bits as a mask, `255.255.255.0` for a /24.
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask_bits(self.prefix))
    }

    /// How many addresses the range has.
    pub fn size(&self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }

    /// Whether `address` lies in the range.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask_bits(self.prefix) == self.network.to_bits()
    }

    /// Whether the two ranges share an address.
    pub fn overlaps(&self, other: &Ipv4Net) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// The address `offset` places after the first one; `None` outside the range.
    pub fn nth(&self, offset: u32) -> Option<Ipv4Addr> {
        (u64::from(offset) < self.size()).then(|| Ipv4Addr::from_bits(self.network.to_bits() + offset))
    }
}

fn mask_bits(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl fmt::Debug for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Ipv4Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || format!("{text:?} is not an IPv4 range such as 10.42.0.0/16");
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address: Ipv4Addr = address.parse().map_err(|_| invalid())?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
        Self::new(address, prefix).ok_or_else(invalid)
    }
}

impl TryFrom<String> for Ipv4Net {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Ipv4Net> for String {
    fn from(range: Ipv4Net) -> Self {
        range.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_measures() {
        for (text, shown, size) in [
            ("10.42.0.0/16", "10.42.0.0/16", 65536),
            ("10.42.3.9/24", "10.42.3.0/24", 256),
            ("1.2.3.4/32", "1.2.3.4/32", 1),
            ("0.0.0.0/0", "0.0.0.0/0", 1 << 32),
        ] {
            let range: Ipv4Net = text.parse().unwrap();
            assert_eq!((range.to_string().as_str(), range.size()), (shown, size));
        }
        for text in ["", "10.42.0.0", "10.42.0.0/33", "10.42.0/16", "10.42.0.0/-1", "fd00::/8"] {
            assert!(text.parse::<Ipv4Net>().is_err(), "{text}");
        }
    }

    #[test]
    fn knows_what_it_holds() {
        let range: Ipv4Net = "10.42.1.0/24".parse().unwrap();
        assert!(range.contains("10.42.1.255".parse().unwrap()));
        assert!(!range.contains("10.42.2.0".parse().unwrap()));
        assert_eq!(range.nth(1), Some("10.42.1.1".parse().unwrap()));
        assert_eq!(range.nth(256), None);
        assert!(range.overlaps(&"10.42.0.0/16".parse().unwrap()));
        assert!(!range.overlaps(&"10.43.0.0/16".parse().unwrap()));
    }
}
