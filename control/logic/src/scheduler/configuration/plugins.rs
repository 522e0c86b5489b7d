//! Which plugins a profile turns on and off, and at which extension points.
//!
//! `multiPoint` speaks for all points at which a plugin has something to say; what a point says
//! itself goes before it.

use serde_json::Value;

use super::read::Fields;
use crate::scheduler::plugin::Plugin;
use crate::scheduler::plugins as registry;
use crate::scheduler::profile::Profile;

/// Plugins that do their work wherever they are; they cannot be turned off.
const FIXED: [&str; 3] = ["PrioritySort", "SchedulingGates", "DefaultBinder"];
const PREEMPTION: &str = "DefaultPreemption";
/// Stock plugins that Proa does without. They may be turned off, which they are.
const ABSENT: [&str; 2] = ["DynamicResources", "NodeDeclaredFeatures"];
/// Points that a profile of Proa's cannot change.
const FIXED_POINTS: [&str; 7] =
    ["preEnqueue", "queueSort", "reserve", "permit", "preBind", "bind", "postBind"];

/// What is turned on and off at one point.
#[derive(Default)]
struct Set {
    path: String,
    all_disabled: bool,
    disabled: Vec<String>,
    enabled: Vec<(String, Option<i64>)>,
}

/// Changes the plugins of a profile as `plugins` says.
pub fn apply(value: &Value, path: &str, profile: &mut Profile) -> Result<(), String> {
    let mut fields = Fields::of(value, path)?;
    let multi = set(&mut fields, "multiPoint")?;
    for point in FIXED_POINTS {
        let set = set(&mut fields, point)?;
        let only_fixed = set.enabled.iter().all(|(name, _)| FIXED.contains(&name.as_str()));
        if set.all_disabled && set.enabled.is_empty() || !set.disabled.is_empty() || !only_fixed {
            return Err(format!("{path}.{point}: Forbidden: cannot be changed in Proa's scheduler"));
        }
    }
    let stock: Vec<(Plugin, i64)> = Plugin::ALL.iter().map(|p| (*p, registry::of(*p).weight)).collect();
    let all = merge(stock, &multi, |_| true)?;
    let sets = ["preFilter", "filter", "preScore", "score"].map(|point| set(&mut fields, point));
    let [pre_filter, filter, pre_score, score] = sets;
    let plugins = |list: Vec<(Plugin, i64)>| list.into_iter().map(|(p, _)| p).collect::<Vec<_>>();
    profile.pre_filter = plugins(merge(all.clone(), &pre_filter?, has_pre_filter)?);
    profile.filter = plugins(merge(all.clone(), &filter?, has_filter)?);
    profile.pre_score = plugins(merge(all.clone(), &pre_score?, has_pre_score)?);
    profile.score = merge(all, &score?, has_score)?;
    profile.preempts = preempts(&multi, &set(&mut fields, "postFilter")?)?;
    fields.nothing_more()?;
    together(profile, path)
}

fn has_pre_filter(plugin: Plugin) -> bool {
    registry::of(plugin).pre_filter.is_some()
}

fn has_filter(plugin: Plugin) -> bool {
    registry::of(plugin).filter.is_some()
}

fn has_pre_score(plugin: Plugin) -> bool {
    registry::of(plugin).pre_score.is_some()
}

fn has_score(plugin: Plugin) -> bool {
    registry::of(plugin).score.is_some()
}

/// A plugin's filter relies on what it has worked out before.
fn together(profile: &Profile, path: &str) -> Result<(), String> {
    let halves = [
        ("preFilter", &profile.filter, &profile.pre_filter, has_pre_filter as fn(Plugin) -> bool),
        ("preScore", &profile.score.iter().map(|(p, _)| *p).collect(), &profile.pre_score, has_pre_score),
    ];
    for (point, users, makers, has) in halves {
        if let Some(plugin) = users.iter().find(|p| has(**p) && !makers.contains(p)) {
            return Err(format!(
                "{path}.{point}.disabled: Invalid value: {:?}: cannot be disabled here alone",
                plugin.name()
            ));
        }
    }
    Ok(())
}

fn preempts(multi: &Set, post_filter: &Set) -> Result<bool, String> {
    if let Some((name, _)) = post_filter.enabled.iter().find(|(name, _)| name != PREEMPTION) {
        return Err(format!(
            "{}.enabled: Invalid value: {name:?}: not a plugin that Proa has",
            post_filter.path
        ));
    }
    let of = |set: &Set, before: bool| {
        let disabled = set.all_disabled || set.disabled.iter().any(|name| name == PREEMPTION);
        set.enabled.iter().any(|(name, _)| name == PREEMPTION) || (before && !disabled)
    };
    Ok(of(post_filter, of(multi, true)))
}

/// The plugins of `base` that have something to say at the point, changed as the set says.
fn merge(base: Vec<(Plugin, i64)>, set: &Set, has: fn(Plugin) -> bool) -> Result<Vec<(Plugin, i64)>, String> {
    let disabled = |p: Plugin| set.all_disabled || set.disabled.iter().any(|name| name == p.name());
    let of_set = |p: Plugin| set.enabled.iter().find(|(name, _)| name == p.name());
    let mut merged: Vec<(Plugin, i64)> = Vec::new();
    for (plugin, weight) in base.into_iter().filter(|(p, _)| has(*p)) {
        match of_set(plugin) {
            Some((_, own)) => merged.push((plugin, own.unwrap_or(weight))),
            None if disabled(plugin) => {}
            None => merged.push((plugin, weight)),
        }
    }
    for (place, (name, weight)) in set.enabled.iter().enumerate() {
        let path = format!("{}.enabled[{place}].name", set.path);
        let Some(plugin) = Plugin::ALL.iter().copied().find(|p| p.name() == name) else {
            if FIXED.contains(&name.as_str()) || name == PREEMPTION {
                continue;
            }
            return Err(format!("{path}: Invalid value: {name:?}: not a plugin that Proa has"));
        };
        if !has(plugin) {
            return Err(format!("{path}: Invalid value: {name:?}: does not extend this point"));
        }
        if !merged.iter().any(|(p, _)| *p == plugin) {
            merged.push((plugin, weight.unwrap_or(registry::of(plugin).weight)));
        }
    }
    Ok(merged)
}

fn set(fields: &mut Fields<'_>, point: &'static str) -> Result<Set, String> {
    let Some((value, path)) = fields.object(point) else { return Ok(Set::default()) };
    let mut fields = Fields::of(value, &path)?;
    let mut set = Set { path: path.clone(), ..Set::default() };
    for (value, path) in fields.list("disabled")? {
        let (name, _) = plugin(value, &path)?;
        let known = Plugin::ALL.iter().any(|p| p.name() == name)
            || ABSENT.contains(&name.as_str())
            || name == PREEMPTION;
        match name.as_str() {
            "*" => set.all_disabled = true,
            fixed if FIXED.contains(&fixed) => {
                return Err(format!(
                    "{path}.name: Forbidden: {fixed} cannot be disabled in Proa's scheduler"
                ));
            }
            _ if known => set.disabled.push(name),
            _ => return Err(format!("{path}.name: Invalid value: {name:?}: not a plugin that Proa has")),
        }
    }
    for (value, path) in fields.list("enabled")? {
        let (name, weight) = plugin(value, &path)?;
        if set.enabled.iter().any(|(other, _)| *other == name) {
            return Err(format!("{path}.name: Duplicate value: {name:?}"));
        }
        set.enabled.push((name, weight));
    }
    fields.nothing_more()?;
    Ok(set)
}

fn plugin(value: &Value, path: &str) -> Result<(String, Option<i64>), String> {
    let mut fields = Fields::of(value, path)?;
    let name = fields.text("name")?.ok_or_else(|| format!("{path}.name: Required value"))?;
    let weight =
        fields.number("weight", 0, i64::from(i32::MAX) / 100, "must not be negative or too large")?;
    fields.nothing_more()?;
    Ok((name, weight.filter(|w| *w > 0)))
}
