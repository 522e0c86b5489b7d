//! What a pod asks for and is limited to, resource by resource, as it was written.
//!
//! Read by `quota` and `limit_range`. The rules are those of `proa_api::resources`, which
//! counts in integers for the scheduler; here what users are told must read as they wrote it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proa_api::quantity::Written;

/// Amounts by the name of the resource.
pub type Amounts = BTreeMap<String, Written>;

/// Which of the two lists of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// What it is sure to get.
    Requests,
    /// What it gets at most.
    Limits,
}

/// The amounts in a map of quantities; what is none, which validation keeps out, is left out.
pub fn amounts(map: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    let parsed =
        |(name, quantity): (&String, &Quantity)| Some((name.clone(), Written::parse(&quantity.0).ok()?));
    map.into_iter().flatten().filter_map(parsed).collect()
}

/// One of the lists of a container or pod.
pub fn of(resources: Option<&ResourceRequirements>, list: List) -> Amounts {
    amounts(resources.and_then(|resources| match list {
        List::Requests => resources.requests.as_ref(),
        List::Limits => resources.limits.as_ref(),
    }))
}

/// Adds the amounts of `other`.
pub fn add(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let sum = total.get(name).map_or(*amount, |own| *own + *amount);
        total.insert(name.clone(), sum);
    }
}

fn raise(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let most = total.get(name).map_or(*amount, |own| own.max(*amount));
        total.insert(name.clone(), most);
    }
}

/// The amounts of a whole pod.
pub fn total(spec: &PodSpec, list: List) -> Amounts {
    let of_container = |container: &Container| of(container.resources.as_ref(), list);
    let mut sidecars = Amounts::new();
    let mut initial = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let mut needs = of_container(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, &needs);
            raise(&mut initial, &sidecars);
        } else {
            add(&mut needs, &sidecars);
            raise(&mut initial, &needs);
        }
    }
    let mut total = sidecars;
    for container in &spec.containers {
        add(&mut total, &of_container(container));
    }
    raise(&mut total, &initial);
    total.extend(of(spec.resources.as_ref(), list));
    let overhead = amounts(spec.overhead.as_ref());
    match list {
        List::Requests => add(&mut total, &overhead),
        // What is not limited is not limited by what running it costs.
        List::Limits => {
            let limited = overhead.into_iter().filter(|(name, _)| total.contains_key(name)).collect();
            add(&mut total, &limited);
        }
    }
    total
}
