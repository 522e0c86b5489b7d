//! What pods at the level `restricted` must say or leave out, beyond the baseline.

use k8s_openapi::api::core::v1::Volume;

use super::baseline::{self, confines};
use super::subject::{One, Subject, Violation};
use super::words::{containers, plural, quoted, setters, sorted};

/// What a volume may be made of.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn violation(reason: &'static str, detail: String) -> Option<Violation> {
    Some(Violation { reason, detail })
}

pub fn allow_privilege_escalation(subject: &Subject<'_>) -> Option<Violation> {
    let says_no = |one: &One<'_>| one.context.and_then(|c| c.allow_privilege_escalation) == Some(false);
    let names = subject.names(|one| !says_no(one));
    if names.is_empty() || subject.is_windows() {
        return None;
    }
    violation(
        "allowPrivilegeEscalation != false",
        format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names)),
    )
}

pub fn capabilities(subject: &Subject<'_>) -> Option<Violation> {
    if subject.is_windows() {
        return None;
    }
    let drops_all = |one: &One<'_>| {
        let dropped = one.context.and_then(|c| c.capabilities.as_ref()?.drop.as_ref());
        dropped.into_iter().flatten().any(|capability| capability == "ALL")
    };
    let names = subject.names(|one| !drops_all(one));
    let keeping = format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&names));
    let keeping = (!names.is_empty()).then_some(keeping);
    let adding = baseline::adding(subject, &["NET_BIND_SERVICE"]);
    let both: Vec<String> = keeping.into_iter().chain(adding).collect();
    if both.is_empty() { None } else { violation("unrestricted capabilities", both.join("; ")) }
}

/// What a volume is made of, as its field is called.
fn source(volume: &Volume) -> String {
    let value = serde_json::to_value(volume).unwrap_or_default();
    let field =
        value.as_object().into_iter().flatten().map(|(field, _)| field).find(|field| *field != "name");
    // One without any is an emptyDir.
    field.cloned().unwrap_or_else(|| "emptyDir".to_owned())
}

pub fn volumes(subject: &Subject<'_>) -> Option<Violation> {
    let all = subject.spec.volumes.iter().flatten().map(|volume| (volume.name.as_str(), source(volume)));
    let bad: Vec<(&str, String)> = all.filter(|(_, source)| !VOLUMES.contains(&source.as_str())).collect();
    if bad.is_empty() {
        return None;
    }
    let types = sorted(bad.iter().map(|(_, source)| source.as_str()));
    let detail = format!(
        "{} {} {} {} {}",
        plural(bad.len(), "volume", "volumes"),
        quoted(bad.iter().map(|(name, _)| name)),
        plural(bad.len(), "uses", "use"),
        plural(types.len(), "restricted volume type", "restricted volume types"),
        quoted(types)
    );
    violation("restricted volume types", detail)
}

pub fn run_as_non_root(subject: &Subject<'_>) -> Option<Violation> {
    let pod = subject.context().and_then(|c| c.run_as_non_root);
    let own = |one: &One<'_>| one.context.and_then(|c| c.run_as_non_root);
    let explicit = subject.names(|one| own(one) == Some(false));
    if pod == Some(false) || !explicit.is_empty() {
        let who = setters(pod == Some(false), &explicit);
        return violation(
            "runAsNonRoot != true",
            format!("{who} must not set securityContext.runAsNonRoot=false"),
        );
    }
    let silent = subject.names(|one| own(one).is_none());
    if pod == Some(true) || silent.is_empty() {
        return None;
    }
    violation(
        "runAsNonRoot != true",
        format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&silent)),
    )
}

pub fn run_as_user(subject: &Subject<'_>) -> Option<Violation> {
    let pod = subject.context().and_then(|c| c.run_as_user) == Some(0);
    let names = subject.names(|one| one.context.and_then(|c| c.run_as_user) == Some(0));
    if !pod && names.is_empty() {
        return None;
    }
    violation("runAsUser=0", format!("{} must not set runAsUser=0", setters(pod, &names)))
}

pub fn seccomp_profile(subject: &Subject<'_>) -> Option<Violation> {
    if subject.is_windows() {
        return None;
    }
    if let Some(bad) = baseline::seccomp_profile(subject) {
        return Some(bad);
    }
    let pod = subject.context().and_then(|c| c.seccomp_profile.as_ref());
    let silent = subject.names(|one| one.context.is_none_or(|c| c.seccomp_profile.is_none()));
    if pod.is_some_and(|profile| confines(&profile.type_)) || silent.is_empty() {
        return None;
    }
    let who = containers(&silent);
    violation(
        "seccompProfile",
        format!(
            "pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
        ),
    )
}
