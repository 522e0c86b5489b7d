//! The table of checks, and what they find.
//!
//! <https://kubernetes.io/docs/concepts/security/pod-security-standards/>. Each check stands in
//! `baseline` or `restricted`, with the words of a stock server.

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::policy::{Level, LevelVersion};
use super::subject::{Subject, Violation};
use super::{baseline, restricted};

/// What was found, in the order of the checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found(Vec<Violation>);

impl Found {
    /// True if the pod is good.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Only what is wrong.
    pub fn reasons(&self) -> String {
        self.0.iter().map(|violation| violation.reason).collect::<Vec<_>>().join(", ")
    }

    /// What is wrong, and where.
    pub fn details(&self) -> String {
        let each = self.0.iter().map(|violation| format!("{} ({})", violation.reason, violation.detail));
        each.collect::<Vec<_>>().join(", ")
    }
}

/// A check, and where it counts.
struct Check {
    level: Level,
    /// The first minor version that has it, and the first that has it no more.
    versions: std::ops::Range<u32>,
    /// From this version on the restricted level has a stricter one in its place.
    replaced_from: Option<u32>,
    check: fn(&Subject<'_>) -> Option<Violation>,
}

const EVER: u32 = u32::MAX;

const fn check(level: Level, since: u32, check: fn(&Subject<'_>) -> Option<Violation>) -> Check {
    Check { level, versions: since..EVER, replaced_from: None, check }
}

const fn replaced(from: u32, check: Check) -> Check {
    Check { replaced_from: Some(from), ..check }
}

/// All checks, in the order in which what they find is told.
const CHECKS: &[Check] = &[
    check(Level::Baseline, 0, baseline::app_armor_profile),
    replaced(22, check(Level::Baseline, 0, baseline::capabilities)),
    check(Level::Baseline, 0, baseline::host_namespaces),
    replaced(0, check(Level::Baseline, 0, baseline::host_path_volumes)),
    check(Level::Baseline, 0, baseline::host_ports),
    check(Level::Baseline, 34, baseline::probe_hosts),
    check(Level::Baseline, 0, baseline::privileged),
    check(Level::Baseline, 0, baseline::proc_mount),
    check(Level::Baseline, 0, baseline::se_linux_options),
    Check {
        level: Level::Baseline,
        versions: 0..19,
        replaced_from: None,
        check: baseline::seccomp_annotations,
    },
    replaced(19, check(Level::Baseline, 19, baseline::seccomp_profile)),
    check(Level::Baseline, 0, baseline::sysctls),
    check(Level::Baseline, 0, baseline::windows_host_process),
    check(Level::Restricted, 8, restricted::allow_privilege_escalation),
    check(Level::Restricted, 22, restricted::capabilities),
    check(Level::Restricted, 0, restricted::volumes),
    check(Level::Restricted, 0, restricted::run_as_non_root),
    check(Level::Restricted, 23, restricted::run_as_user),
    check(Level::Restricted, 19, restricted::seccomp_profile),
];

/// What of a pod is against a level.
pub fn evaluate(mode: LevelVersion, pod: &Pod) -> Found {
    // The latest version is the last before the end.
    let minor = mode.minor.unwrap_or(EVER).min(EVER - 1);
    let empty = PodSpec::default();
    let subject = Subject::of(pod, pod.spec.as_ref().unwrap_or(&empty), minor);
    let counts = |check: &&Check| {
        let replaced =
            mode.level == Level::Restricted && check.replaced_from.is_some_and(|from| minor >= from);
        check.level <= mode.level && check.versions.contains(&minor) && !replaced
    };
    Found(CHECKS.iter().filter(counts).filter_map(|check| (check.check)(&subject)).collect())
}

/// True for annotations that said which profiles containers have, before fields did.
pub fn is_profile_annotation(key: &str) -> bool {
    let prefixes = [
        baseline::APP_ARMOR_ANNOTATION,
        baseline::SECCOMP_POD_ANNOTATION,
        baseline::SECCOMP_CONTAINER_ANNOTATION,
    ];
    prefixes.iter().any(|prefix| key.starts_with(prefix))
}
