//! A pod as the checks see it, and what one of them finds.

use k8s_openapi::api::core::v1::{
    Container, EphemeralContainer, Pod, PodSecurityContext, PodSpec, SecurityContext,
};

/// Something that a pod asks for and may not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// In short: `privileged`.
    pub reason: &'static str,
    /// Where, and what should be there.
    pub detail: String,
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
    pub fn of(pod: &'a Pod, spec: &'a PodSpec, minor: u32) -> Self {
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
