//! Whether the node's disk has room: what is free of the file system that holds the data directory,
//! against `--eviction-hard`.
//!
//! Asked by whoever fills the disk or tells of it; `pressure` acts on it. Nothing is asked of the API
//! server, which may be short of the same disk.
//! Source: <https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/>.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;

/// `nodefs.available<10%,nodefs.inodesFree<5%`: the kubelet's defaults for the disk.
pub const EVICTION_HARD: &str = "nodefs.available<10%,nodefs.inodesFree<5%";
/// The condition is shown for so long after there is room again, so that it does not flap.
const TRANSITION: Duration = Duration::from_secs(300);

/// A file system, or what of it is wanted: bytes and inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// In all.
    pub bytes: u64,
    /// What anybody may use.
    pub free_bytes: u64,
    /// In all; 0 where they are not counted.
    pub inodes: u64,
    /// What anybody may use.
    pub free_inodes: u64,
}

/// Less than this is too little.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Least {
    /// Of all there is.
    Percent(f64),
    Amount(u64),
}

/// `--eviction-hard`: less than this is pressure. What is not named is not watched.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Thresholds {
    available: Option<Least>,
    inodes_free: Option<Least>,
}

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `ephemeral-storage`, in bytes.
    Bytes,
    /// `inodes`.
    Inodes,
}

/// That there is too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Of what.
    pub resource: Resource,
    /// So much should be there.
    pub threshold: u64,
    /// So much is.
    pub available: u64,
}

impl Resource {
    /// As messages name it.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Bytes => "ephemeral-storage",
            Resource::Inodes => "inodes",
        }
    }

    /// An amount of it as a quantity.
    pub fn quantity(self, amount: u64) -> String {
        match self {
            Resource::Bytes if amount >= 1024 => format!("{}Ki", amount / 1024),
            _ => amount.to_string(),
        }
    }
}

impl Shortage {
    /// `Threshold quantity: 10Ki, available: 5Ki`
    pub fn amounts(&self) -> String {
        let quantity = |amount| self.resource.quantity(amount);
        format!("Threshold quantity: {}, available: {}", quantity(self.threshold), quantity(self.available))
    }
}

impl Least {
    fn of(self, all: u64) -> u64 {
        match self {
            Least::Percent(percent) => (all as f64 * percent / 100.0) as u64,
            Least::Amount(amount) => amount,
        }
    }
}

impl FromStr for Thresholds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut thresholds = Thresholds::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let known = || format!("{part:?} is not SIGNAL<QUANTITY or SIGNAL<PERCENT%");
            let (signal, least) = part.split_once('<').ok_or_else(known)?;
            let least = match least.strip_suffix('%') {
                Some(percent) => {
                    percent.parse().ok().filter(|p| (0.0..=100.0).contains(p)).map(Least::Percent)
                }
                None => proa_api::quantity::Amount::parse(least)
                    .ok()
                    .and_then(|amount| u64::try_from(amount.units()).ok())
                    .map(Least::Amount),
            };
            let least = Some(least.ok_or_else(known)?);
            match signal {
                "nodefs.available" => thresholds.available = least,
                "nodefs.inodesFree" => thresholds.inodes_free = least,
                _ => return Err(format!("{part:?}: signals are nodefs.available and nodefs.inodesFree")),
            }
        }
        Ok(thresholds)
    }
}

impl Thresholds {
    /// What there is too little of, if there is.
    pub fn shortage(&self, space: &Space) -> Option<Shortage> {
        let check = |resource, least: Option<Least>, all: u64, available: u64| {
            let threshold = least.filter(|_| all > 0)?.of(all);
            (available < threshold).then_some(Shortage { resource, threshold, available })
        };
        check(Resource::Bytes, self.available, space.bytes, space.free_bytes)
            .or_else(|| check(Resource::Inodes, self.inodes_free, space.inodes, space.free_inodes))
    }
}

/// The disk of the node.
pub struct Disk {
    dir: PathBuf,
    thresholds: Thresholds,
    /// When it was last found short.
    short_at: Mutex<Option<Instant>>,
}

impl Disk {
    /// The disk that holds this directory.
    pub fn new(dir: PathBuf, thresholds: Thresholds) -> Self {
        Disk { dir, thresholds, short_at: Mutex::default() }
    }

    /// What there is; `None` if the kernel does not say.
    pub fn space(&self) -> Option<Space> {
        let found = statvfs(&self.dir).ok()?;
        Some(Space {
            bytes: found.blocks() * found.fragment_size(),
            free_bytes: found.blocks_available() * found.fragment_size(),
            inodes: found.files(),
            free_inodes: found.files_available(),
        })
    }

    /// What there is too little of now.
    pub fn shortage(&self) -> Option<Shortage> {
        let shortage = self.thresholds.shortage(&self.space()?);
        if shortage.is_some() {
            *self.short_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        shortage
    }

    /// True if the node shows `DiskPressure`: it is short, or was so not long ago.
    pub fn is_under_pressure(&self) -> bool {
        let short_at = || *self.short_at.lock().unwrap_or_else(PoisonError::into_inner);
        self.shortage().is_some() || short_at().is_some_and(|at| at.elapsed() < TRANSITION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read() {
        let parse = |text: &str| text.parse::<Thresholds>();
        let all = parse(EVICTION_HARD).unwrap();
        assert_eq!(all.available, Some(Least::Percent(10.0)));
        assert_eq!(all.inodes_free, Some(Least::Percent(5.0)));
        assert_eq!(parse("nodefs.available<1Gi").unwrap().available, Some(Least::Amount(1 << 30)));
        assert_eq!(parse("").unwrap(), Thresholds::default());
        for text in
            ["nodefs.available", "nodefs.available<x", "nodefs.available<101%", "memory.available<1Gi"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_there_is_too_little_of() {
        let all: Thresholds = EVICTION_HARD.parse().unwrap();
        let space = |free_bytes, free_inodes| Space { bytes: 1000, free_bytes, inodes: 1000, free_inodes };
        assert_eq!(all.shortage(&space(100, 50)), None);
        let short = |resource, threshold, available| Some(Shortage { resource, threshold, available });
        assert_eq!(all.shortage(&space(99, 50)), short(Resource::Bytes, 100, 99));
        assert_eq!(all.shortage(&space(100, 49)), short(Resource::Inodes, 50, 49));
        // btrfs counts none.
        assert_eq!(all.shortage(&Space { inodes: 0, free_inodes: 0, ..space(100, 0) }), None);
        assert_eq!(Thresholds::default().shortage(&space(0, 0)), None);
        let shortage = Shortage { resource: Resource::Bytes, threshold: 2048, available: 0 };
        assert_eq!(shortage.amounts(), "Threshold quantity: 2Ki, available: 0");
    }
}
