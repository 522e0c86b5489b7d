//! What a RuntimeClass adds to the pods that name it: its overhead and where it can be had.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#runtimeclass>.
//! Nodes find out from its image what runs a container. So the names that are usual elsewhere are
//! taken without an object of that name, and make no difference.

use k8s_openapi::api::node::v1;
use proa_api::Refusal;
use proa_api::names::RUNTIME_HANDLERS;
use proa_api::quantity::canonical;
use proa_kinds::Kind;
use serde_json::{Map, Value, json};

use crate::store::Store;
use crate::write::stage::{Attempt, Operation, Stage, Verdict};

/// Merges the class that a new pod names into it.
pub struct RuntimeClass;

impl Stage for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn concerns(&self, kind: &Kind) -> bool {
        kind.is("", "Pod")
    }

    fn mutates(&self, _kind: &Kind) -> bool {
        true
    }

    fn mutate<'a>(&'a self, attempt: &'a Attempt<'_>, new: &'a mut Value) -> Verdict<'a> {
        match attempt.operation {
            Operation::Create => merge(attempt.store, attempt.kind, new).into(),
            _ => Verdict::PASSED,
        }
    }
}

fn merge(store: &Store, kind: &Kind, pod: &mut Value) -> Result<(), Refusal> {
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let forbidden = |why: String| Err(Refusal::forbidden(kind.resource(), &pod_name, why));
    // A body without a spec is for validation to refuse.
    let Some(spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) else { return Ok(()) };
    let class = match spec["runtimeClassName"].as_str() {
        None => None,
        Some(name) => match store.collection("runtimeclasses.node.k8s.io").get("", name) {
            Some(object) => Some(object.decode::<v1::RuntimeClass>().map_err(Refusal::internal)?),
            None if RUNTIME_HANDLERS.contains(&name) => None,
            None => return forbidden(format!("pod rejected: RuntimeClass {name:?} not found")),
        },
    };
    let class = class.unwrap_or_default();
    let fixed = class.overhead.and_then(|overhead| overhead.pod_fixed);
    let said = amounts(&spec["overhead"]);
    match fixed.filter(|fixed| !fixed.is_empty()) {
        Some(fixed) => {
            let fixed = json!(fixed);
            if !said.is_empty() && said != amounts(&fixed) {
                let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
                return forbidden(why.to_owned());
            }
            spec["overhead"] = fixed;
        }
        None if !said.is_empty() => {
            let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            return forbidden(why.to_owned());
        }
        None => {}
    }
    let Some(scheduling) = class.scheduling else { return Ok(()) };
    for (key, value) in scheduling.node_selector.into_iter().flatten() {
        if !spec["nodeSelector"].is_object() {
            spec["nodeSelector"] = json!({});
        }
        let own = &mut spec["nodeSelector"][&key];
        if let Some(said) = own.as_str().filter(|said| *said != value) {
            return forbidden(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; \
                 pod.spec.nodeSelector[{key}] = {said}"
            ));
        }
        *own = value.into();
    }
    for toleration in scheduling.tolerations.into_iter().flatten() {
        if !spec["tolerations"].is_array() {
            spec["tolerations"] = json!([]);
        }
        let toleration = json!(toleration);
        if let Some(own) = spec["tolerations"].as_array_mut().filter(|own| !own.contains(&toleration)) {
            own.push(toleration);
        }
    }
    Ok(())
}

/// A map of quantities with each in its canonical form.
fn amounts(map: &Value) -> Map<String, Value> {
    let members = map.as_object().into_iter().flatten();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    members
        .map(|(name, value)| {
            let text = text(value);
            (name.clone(), canonical(&text).unwrap_or(text).into())
        })
        .collect()
}
