//! Levels and versions of the Pod Security Standards, and which of them a namespace has.
//!
//! <https://kubernetes.io/docs/concepts/security/pod-security-admission/#pod-security-admission-labels-for-namespaces>

use std::collections::BTreeMap;
use std::fmt;

use proa_api::field::{FieldErrors, Path};

/// How much pods may ask for; the later, the less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Anything.
    #[default]
    Privileged,
    /// Nothing that is known to lead out of the pod.
    Baseline,
    /// What hardened pods ask for.
    Restricted,
}

/// A level as one version of Kubernetes had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelVersion {
    /// How much.
    pub level: Level,
    /// The minor version; `None` for the latest.
    pub minor: Option<u32>,
}

/// What a namespace wants of its pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What pods must keep to.
    pub enforce: LevelVersion,
    /// What is noted if they do not.
    pub audit: LevelVersion,
    /// What clients are warned of if they do not.
    pub warn: LevelVersion,
}

/// A label that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    label: &'static str,
    value: String,
    why: &'static str,
}

const LEVEL_FAULT: &str = "must be one of privileged, baseline, restricted";
const VERSION_FAULT: &str = "must be \"latest\" or \"v1.x\"";

impl Default for LevelVersion {
    fn default() -> Self {
        LevelVersion { level: Level::Privileged, minor: None }
    }
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })?;
        match self.minor {
            Some(minor) => write!(f, ":v1.{minor}"),
            None => f.write_str(":latest"),
        }
    }
}

impl Policy {
    /// Reads the labels of a namespace. What cannot be read of what is enforced is the strictest there
    /// is, and of the rest nothing.
    pub fn of(labels: &BTreeMap<String, String>) -> (Policy, Vec<Fault>) {
        let mut faults = Vec::new();
        let mut read = |level: &'static str, version: &'static str, fallback: Level| {
            let value = |label: &str| labels.get(label).map(String::as_str);
            let mut fault = |label, value: &str, why| {
                faults.push(Fault { label, value: value.to_owned(), why });
            };
            let found = value(level).map(|text| {
                parse_level(text).unwrap_or_else(|| {
                    fault(level, text, LEVEL_FAULT);
                    fallback
                })
            });
            let minor = value(version).map(|text| {
                parse_version(text).unwrap_or_else(|| {
                    fault(version, text, VERSION_FAULT);
                    None
                })
            });
            (found, minor)
        };
        let labels = |mode: usize| (LABELS[mode][0], LABELS[mode][1]);
        let ((level, version), (audit, audit_version), (warn, warn_version)) =
            (labels(0), labels(1), labels(2));
        let enforce = read(level, version, Level::Restricted);
        let audit = read(audit, audit_version, Level::Privileged);
        let warn = read(warn, warn_version, Level::Privileged);
        let of = |(level, minor): (Option<Level>, Option<Option<u32>>)| LevelVersion {
            level: level.unwrap_or_default(),
            minor: minor.flatten(),
        };
        let mut policy = Policy { enforce: of(enforce), audit: of(audit), warn: of(warn) };
        // Who does not say otherwise is warned of what is enforced: templates are not refused.
        let is_readable = faults.iter().all(|fault| fault.label != LABELS[0][0]);
        if warn.0.is_none() && is_readable && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if warn.1.is_none() {
                policy.warn.minor = policy.enforce.minor;
            }
        }
        (policy, faults)
    }

    /// True if nothing is asked of pods.
    pub fn is_open(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|mode| mode.level == Level::Privileged)
    }

    /// True if pods that were good enough under `old` may not be so any more.
    pub fn is_stricter_than(&self, old: &Policy) -> bool {
        let (new, old) = (self.enforce, old.enforce);
        new != old && new.level != Level::Privileged && (new.minor != old.minor || new.level > old.level)
    }
}

/// The labels of level and version: of what is enforced, audited, warned of.
const LABELS: [[&str; 2]; 3] = [
    ["pod-security.kubernetes.io/enforce", "pod-security.kubernetes.io/enforce-version"],
    ["pod-security.kubernetes.io/audit", "pod-security.kubernetes.io/audit-version"],
    ["pod-security.kubernetes.io/warn", "pod-security.kubernetes.io/warn-version"],
];

fn parse_level(text: &str) -> Option<Level> {
    match text {
        "privileged" => Some(Level::Privileged),
        "baseline" => Some(Level::Baseline),
        "restricted" => Some(Level::Restricted),
        _ => None,
    }
}

/// The minor version; the inner `None` is the latest.
#[allow(clippy::option_option, reason = "no version and the latest version are two things")]
fn parse_version(text: &str) -> Option<Option<u32>> {
    if text == "latest" {
        return Some(None);
    }
    let digits = text.strip_prefix("v1.")?;
    let canonical =
        digits.bytes().all(|b| b.is_ascii_digit()) && (digits.len() == 1 || !digits.starts_with('0'));
    // A version that no machine can count to is the latest.
    canonical.then(|| digits.parse::<u32>().ok()).filter(|_| !digits.is_empty())
}

/// Tells what is wrong with labels.
pub fn report(faults: &[Fault], errors: &mut FieldErrors) {
    let metadata = Path::root("metadata");
    let labels = metadata.field("labels");
    for fault in faults {
        errors.invalid(&labels.key(fault.label), fault.value.as_str(), fault.why);
    }
}
