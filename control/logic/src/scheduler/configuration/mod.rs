//! Configuration: the [`Settings`] in a `KubeSchedulerConfiguration` file.
//!
//! Fields: <https://kubernetes.io/docs/reference/config-api/kube-scheduler-config.v1/>. The file
//! is read by the command line and arrives here as JSON. What Proa does not know, or knows and
//! does not do, is refused by name: a setting without effect would be worse than none.

mod args;
mod plugins;
mod read;

use jiff::SignedDuration;
use serde_json::Value;

use super::plugins::stock_profile;
use super::profile::Profile;
use super::queue::BackOff;
use super::settings::Settings;
use read::Fields;

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";

/// The settings in a configuration; else what is wrong with it, with the path of the field.
///
/// # Errors
/// One text for the first thing that is wrong.
pub fn settings(value: &Value) -> Result<Settings, String> {
    let mut fields = Fields::of(value, "")?;
    for (field, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        match fields.text(field)?.as_deref() {
            Some(found) if found == expected => {}
            Some(found) => {
                return Err(format!("{field}: Unsupported value: {found:?}: supported values: {expected:?}"));
            }
            None => return Err(format!("{field}: Required value")),
        }
    }
    let percentage = percentage(&mut fields)?;
    let back_off = back_off(&mut fields)?;
    let mut profiles = Vec::new();
    for (value, path) in fields.list("profiles")? {
        profiles.push(profile(value, &path, percentage)?);
    }
    fields.nothing_more()?;
    if profiles.is_empty() {
        let mut stock = stock_profile(proa_api::names::DEFAULT_SCHEDULER);
        stock.percentage_of_nodes_to_score = percentage;
        profiles.push(stock);
    }
    for (place, profile) in profiles.iter().enumerate() {
        if profiles[..place].iter().any(|other| other.name == profile.name) {
            return Err(format!("profiles[{place}].schedulerName: Duplicate value: {:?}", profile.name));
        }
    }
    Ok(Settings { profiles, back_off })
}

fn profile(value: &Value, path: &str, percentage_of_all: Option<i64>) -> Result<Profile, String> {
    let mut fields = Fields::of(value, path)?;
    let name = fields.text("schedulerName")?;
    let mut profile = stock_profile(name.as_deref().unwrap_or(proa_api::names::DEFAULT_SCHEDULER));
    profile.percentage_of_nodes_to_score = percentage(&mut fields)?.or(percentage_of_all);
    if let Some((value, path)) = fields.object("plugins") {
        plugins::apply(value, &path, &mut profile)?;
    }
    let mut seen: Vec<String> = Vec::new();
    for (value, path) in fields.list("pluginConfig")? {
        let mut config = Fields::of(value, &path)?;
        let name = config.text("name")?.ok_or_else(|| format!("{path}.name: Required value"))?;
        if seen.contains(&name) {
            return Err(format!("{path}: Duplicate value: {name:?}"));
        }
        if let Some((value, path)) = config.object("args") {
            args::apply(&name, value, &path, &mut profile.args)?;
        }
        config.nothing_more()?;
        seen.push(name);
    }
    fields.nothing_more()?;
    Ok(profile)
}

fn percentage(fields: &mut Fields<'_>) -> Result<Option<i64>, String> {
    let percentage = fields.number("percentageOfNodesToScore", 0, 100, "not in valid range [0-100]")?;
    Ok(percentage.filter(|p| *p > 0))
}

fn back_off(fields: &mut Fields<'_>) -> Result<BackOff, String> {
    let stock = BackOff::default();
    let above = "must be greater than 0";
    let initial = fields.number("podInitialBackoffSeconds", 1, i64::from(i32::MAX), above)?;
    let max = fields.number("podMaxBackoffSeconds", 1, i64::from(i32::MAX), above)?;
    let initial = initial.map_or(stock.initial, SignedDuration::from_secs);
    let max = max.map_or(stock.max, SignedDuration::from_secs);
    if max < initial {
        return Err(format!(
            "podMaxBackoffSeconds: Invalid value: {}: must be greater than or equal to PodInitialBackoffSeconds",
            max.as_secs()
        ));
    }
    Ok(BackOff { initial, max })
}

#[cfg(test)]
mod tests {
    use super::super::args::{ResourceWeight, Strategy};
    use super::super::plugin::Plugin;
    use super::*;

    fn read(yaml: &str) -> Result<Settings, String> {
        let head = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{yaml}");
        settings(&serde_yaml::from_str(&head).unwrap())
    }

    fn refused(yaml: &str, expected: &str) {
        assert_eq!(read(yaml).unwrap_err(), expected, "{yaml}");
    }

    #[test]
    fn nothing_said_is_the_stock_profile() {
        assert_eq!(read("").unwrap(), Settings::default());
        let settings = read(
            "percentageOfNodesToScore: 20\npodInitialBackoffSeconds: 3\nprofiles: [{schedulerName: a}, {}]",
        );
        let settings = settings.unwrap();
        assert_eq!(settings.back_off.initial, SignedDuration::from_secs(3));
        let names: Vec<&str> = settings.profiles.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["a", "default-scheduler"]);
        assert_eq!(settings.profiles[0].percentage_of_nodes_to_score, Some(20));
    }

    #[test]
    fn plugins_are_turned_off_and_weighed() {
        let settings = read(
            "profiles: [{plugins: {score: {disabled: [{name: NodeAffinity}], enabled: [{name: TaintToleration, weight: 7}]},
                postFilter: {disabled: [{name: '*'}]}, multiPoint: {disabled: [{name: NodePorts}]}}}]",
        );
        let profile = settings.unwrap().profiles.remove(0);
        let has = |plugin| profile.score.iter().find(|(p, _)| *p == plugin).map(|(_, weight)| *weight);
        assert_eq!((has(Plugin::NodeAffinity), has(Plugin::TaintToleration)), (None, Some(7)));
        assert!(
            profile.filter.contains(&Plugin::NodeAffinity) && !profile.filter.contains(&Plugin::NodePorts)
        );
        assert!(!profile.preempts);
        let only = read(
            "profiles: [{plugins: {multiPoint: {disabled: [{name: '*'}], enabled: [{name: NodeResourcesFit, weight: 3}]}}}]",
        );
        let profile = only.unwrap().profiles.remove(0);
        assert_eq!(profile.filter, [Plugin::NodeResourcesFit]);
        assert_eq!(profile.score, [(Plugin::NodeResourcesFit, 3)]);
        assert!(!profile.preempts);
    }

    #[test]
    fn arguments_are_read() {
        let settings = read(
            "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: RequestedToCapacityRatio,
                resources: [{name: example.com/gpu, weight: 5}],
                requestedToCapacityRatio: {shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]}}}},
              {name: InterPodAffinity, args: {hardPodAffinityWeight: 9}},
              {name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: []}}]}]",
        );
        let args = settings.unwrap().profiles.remove(0).args;
        assert_eq!(args.fit.strategy, Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 10)]));
        assert_eq!(args.fit.resources, [ResourceWeight { name: "example.com/gpu".to_owned(), weight: 5 }]);
        assert_eq!(args.inter_pod_affinity.hard_pod_affinity_weight, 9);
        assert_eq!(args.spread.default_constraints, Some(vec![]));
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        refused("parallelism: 4", "parallelism: Forbidden: not supported by Proa's scheduler");
        refused("profile: []", "profile: Forbidden: unknown field");
        refused("profiles: [{}, {}]", "profiles[1].schedulerName: Duplicate value: \"default-scheduler\"");
        refused(
            "percentageOfNodesToScore: 101",
            "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]",
        );
        refused(
            "profiles: [{plugins: {filter: {enabled: [{name: Mine}]}}}]",
            "profiles[0].plugins.filter.enabled[0].name: Invalid value: \"Mine\": not a plugin that Proa has",
        );
        refused(
            "profiles: [{plugins: {bind: {disabled: [{name: '*'}]}}}]",
            "profiles[0].plugins.bind: Forbidden: cannot be changed in Proa's scheduler",
        );
        refused(
            "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: Best}}}]}]",
            "profiles[0].pluginConfig[0].args.scoringStrategy.type: Unsupported value: \"Best\": supported values: \
             \"LeastAllocated\", \"MostAllocated\", \"RequestedToCapacityRatio\"",
        );
        refused(
            "profiles: [{pluginConfig: [{name: NodeAffinity, args: {addedAffinity: {preferred: []}}}]}]",
            "profiles[0].pluginConfig[0].args.addedAffinity: Invalid value: has a field that is not known",
        );
    }
}
