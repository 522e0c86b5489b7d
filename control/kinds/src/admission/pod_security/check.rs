//! The table of checks, the pod as they see it, and what they find.
//!
//! <https://kubernetes.io/docs/concepts/security/pod-security-standards/>. Each check stands in
//! `baseline` or `restricted`, with the words of a stock server.

use k8s_openapi::api::core::v1::{
    Container, EphemeralContainer, Pod, PodSecurityContext, PodSpec, SecurityContext,
};

use super::{Level, LevelVersion, baseline, restricted};

/// Something that a pod asks for and may not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// In short: `privileged`.
    pub reason: &'static str,
    /// Where, and what should be there.
    pub detail: String,
}

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

/// A pod as checks see it.
pub struct Subject<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its spec.
    pub spec: &'a PodSpec,
    /// Its containers of all sorts, those that begin first first.
    pub containers: Vec<One<'a>>,
    /// The minor version of the standards; the latest is above all.
    pub minor: u32,
}

/// A container of any sort.
#[derive(Clone, Copy)]
pub struct One<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it asks for.
    pub context: Option<&'a SecurityContext>,
    /// The rest, which ephemeral containers do not have.
    pub whole: Option<&'a Container>,
}

impl<'a> Subject<'a> {
    fn of(pod: &'a Pod, spec: &'a PodSpec, minor: u32) -> Self {
        let plain =
            |c: &'a Container| One { name: &c.name, context: c.security_context.as_ref(), whole: Some(c) };
        let ephemeral = |c: &'a EphemeralContainer| One {
            name: &c.name,
            context: c.security_context.as_ref(),
            whole: None,
        };
        let first = spec.init_containers.iter().flatten().map(plain);
        let last = spec.ephemeral_containers.iter().flatten().map(ephemeral);
        let containers = first.chain(spec.containers.iter().map(plain)).chain(last).collect();
        Subject { pod, spec, containers, minor }
    }

    /// What the pod asks for as a whole.
    pub fn context(&self) -> Option<&'a PodSecurityContext> {
        self.spec.security_context.as_ref()
    }

    /// The names of the containers of which this holds.
    pub fn names(&self, test: impl Fn(&One<'a>) -> bool) -> Vec<&'a str> {
        self.containers.iter().filter(|one| test(one)).map(|one| one.name).collect()
    }

    /// True for pods that only Windows nodes run, of which some is not asked since version 1.25.
    pub fn is_windows(&self) -> bool {
        self.minor >= 25 && self.spec.os.as_ref().is_some_and(|os| os.name == "windows")
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
