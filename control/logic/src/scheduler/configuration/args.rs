//! The `pluginConfig` of a profile.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::read::Fields;
use crate::scheduler::args::{Args, BalancedArgs, FitArgs, ResourceWeight, Strategy};

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";

/// Reads the arguments of a plugin.
pub fn apply(name: &str, value: &Value, path: &str, args: &mut Args) -> Result<(), String> {
    let mut fields = Fields::of(value, path)?;
    let kind = format!("{name}Args");
    for (field, expected) in [("apiVersion", API_VERSION), ("kind", kind.as_str())] {
        if let Some(found) = fields.text(field)?.filter(|found| found != expected) {
            return Err(format!(
                "{path}.{field}: Unsupported value: {found:?}: supported values: {expected:?}"
            ));
        }
    }
    match name {
        "NodeResourcesFit" => fit(&mut fields, &mut args.fit)?,
        "NodeResourcesBalancedAllocation" => balanced(&mut fields, &mut args.balanced)?,
        "PodTopologySpread" => spread(&mut fields, args)?,
        "InterPodAffinity" => inter_pod_affinity(&mut fields, args)?,
        "NodeAffinity" => {
            if let Some((value, path)) = fields.object("addedAffinity") {
                args.node_affinity.added_affinity = Some(typed(value, &path)?);
            }
        }
        "DefaultPreemption" => preemption(&mut fields, args)?,
        other => return Err(format!("{path}: Forbidden: {other} takes no arguments in Proa's scheduler")),
    }
    fields.nothing_more()
}

fn fit(fields: &mut Fields<'_>, args: &mut FitArgs) -> Result<(), String> {
    args.ignored_resources = fields.texts("ignoredResources")?;
    args.ignored_resource_groups = fields.texts("ignoredResourceGroups")?;
    if let Some((place, group)) =
        args.ignored_resource_groups.iter().enumerate().find(|(_, group)| group.contains('/'))
    {
        let path = fields.path("ignoredResourceGroups");
        return Err(format!(
            "{path}[{place}]: Invalid value: {group:?}: resource group name can't contain '/'"
        ));
    }
    let Some((value, path)) = fields.object("scoringStrategy") else { return Ok(()) };
    let mut strategy = Fields::of(value, &path)?;
    let kind = strategy.text("type")?;
    let resources = strategy.list("resources")?;
    if !resources.is_empty() {
        args.resources = weights(resources, i64::from(u8::MAX))?;
    }
    let shape = strategy.object("requestedToCapacityRatio");
    args.strategy = match kind.as_deref() {
        None | Some("LeastAllocated") => Strategy::LeastAllocated,
        Some("MostAllocated") => Strategy::MostAllocated,
        Some("RequestedToCapacityRatio") => match shape {
            Some((value, path)) => Strategy::RequestedToCapacityRatio(points(value, &path)?),
            None => return Err(format!("{path}.requestedToCapacityRatio.shape: Required value")),
        },
        Some(other) => {
            return Err(format!(
                "{path}.type: Unsupported value: {other:?}: supported values: \"LeastAllocated\", \
                 \"MostAllocated\", \"RequestedToCapacityRatio\""
            ));
        }
    };
    strategy.nothing_more()
}

fn points(value: &Value, path: &str) -> Result<Vec<(i64, i64)>, String> {
    let mut fields = Fields::of(value, path)?;
    let mut points: Vec<(i64, i64)> = Vec::new();
    for (value, path) in fields.list("shape")? {
        let mut point = Fields::of(value, &path)?;
        let utilization = point.number("utilization", 0, 100, "not in valid range [0-100]")?.unwrap_or(0);
        let score = point.number("score", 0, 10, "not in valid range [0-10]")?.unwrap_or(0);
        point.nothing_more()?;
        if points.last().is_some_and(|(before, _)| *before >= utilization) {
            return Err(format!(
                "{path}.utilization: Invalid value: {utilization}: utilization values must be sorted in increasing order"
            ));
        }
        points.push((utilization, score));
    }
    fields.nothing_more()?;
    match points.is_empty() {
        true => Err(format!("{path}.shape: Required value: at least one point must be specified")),
        false => Ok(points),
    }
}

fn balanced(fields: &mut Fields<'_>, args: &mut BalancedArgs) -> Result<(), String> {
    let resources = fields.list("resources")?;
    if !resources.is_empty() {
        args.resources = weights(resources, 1)?;
    }
    Ok(())
}

fn weights(items: Vec<(&Value, String)>, most: i64) -> Result<Vec<ResourceWeight>, String> {
    let most = most.min(100);
    let why = if most == 1 { "must be 1" } else { "not in valid range [1-100]" };
    let weight = |(value, path): (&Value, String)| {
        let mut fields = Fields::of(value, &path)?;
        let name = fields.text("name")?.ok_or_else(|| format!("{path}.name: Required value"))?;
        let weight = fields.number("weight", 1, most, why)?.unwrap_or(1);
        fields.nothing_more()?;
        Ok(ResourceWeight { name, weight })
    };
    items.into_iter().map(weight).collect()
}

fn spread(fields: &mut Fields<'_>, args: &mut Args) -> Result<(), String> {
    let mut constraints = Vec::new();
    for (value, path) in fields.list("defaultConstraints")? {
        let constraint: k8s_openapi::api::core::v1::TopologySpreadConstraint = typed(value, &path)?;
        if constraint.label_selector.is_some() {
            let why = "constraint must not define a selector, as they are deduced for each pod";
            return Err(format!("{path}.labelSelector: Forbidden: {why}"));
        }
        if constraint.max_skew <= 0 {
            return Err(format!(
                "{path}.maxSkew: Invalid value: {}: not in valid range (0, inf)",
                constraint.max_skew
            ));
        }
        if constraint.topology_key.is_empty() {
            return Err(format!("{path}.topologyKey: Required value: can not be empty"));
        }
        constraints.push(constraint);
    }
    let path = fields.path("defaultingType");
    args.spread.default_constraints = match fields.text("defaultingType")?.as_deref() {
        None | Some("System") if constraints.is_empty() => None,
        None | Some("System") => {
            return Err(format!("{path}: Invalid value: \"System\": when .defaultConstraints are not empty"));
        }
        Some("List") => Some(constraints),
        Some(other) => {
            return Err(format!(
                "{path}: Unsupported value: {other:?}: supported values: \"List\", \"System\""
            ));
        }
    };
    Ok(())
}

fn inter_pod_affinity(fields: &mut Fields<'_>, args: &mut Args) -> Result<(), String> {
    let args = &mut args.inter_pod_affinity;
    if let Some(weight) = fields.number("hardPodAffinityWeight", 0, 100, "not in valid range [0-100]")? {
        args.hard_pod_affinity_weight = weight;
    }
    if let Some(ignore) = fields.flag("ignorePreferredTermsOfExistingPods")? {
        args.ignore_preferred_terms_of_existing_pods = ignore;
    }
    Ok(())
}

fn preemption(fields: &mut Fields<'_>, args: &mut Args) -> Result<(), String> {
    let args = &mut args.preemption;
    if let Some(percentage) =
        fields.number("minCandidateNodesPercentage", 0, 100, "not in valid range [0, 100]")?
    {
        args.min_candidate_nodes_percentage = percentage;
    }
    let most = i64::from(i32::MAX);
    if let Some(absolute) =
        fields.number("minCandidateNodesAbsolute", 0, most, "not in valid range [0, inf)")?
    {
        args.min_candidate_nodes_absolute = absolute;
    }
    if args.min_candidate_nodes_percentage == 0 && args.min_candidate_nodes_absolute == 0 {
        return Err(format!(
            "{}: Invalid value: 0: both minCandidateNodesPercentage and minCandidateNodesAbsolute cannot be zero",
            fields.path("minCandidateNodesPercentage")
        ));
    }
    Ok(())
}

/// A value of the Kubernetes model that says nothing the model does not know.
fn typed<T: DeserializeOwned + Serialize>(value: &Value, path: &str) -> Result<T, String> {
    let typed: T =
        serde_json::from_value(value.clone()).map_err(|error| format!("{path}: Invalid value: {error}"))?;
    match serde_json::to_value(&typed).is_ok_and(|again| again == *value) {
        true => Ok(typed),
        false => Err(format!("{path}: Invalid value: has a field that is not known")),
    }
}
