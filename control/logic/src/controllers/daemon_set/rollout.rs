//! The roll-out of a DaemonSet's new template, node by node.
//!
//! Either old pods go first, never more at once than may be unavailable; or new pods come first,
//! never more than the surge, and old ones go as the new ones become available. Pods that are not
//! available anyway are replaced at once.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::fit::Fit;
use super::view::{Site, Steps, View};
use crate::controllers::templates::resolve;
use crate::world::facts::Pod;

/// Adds what the roll-out does next.
pub(super) fn add<'a>(view: &View<'a>, steps: &mut Steps<'a>) {
    if strategy(view) != "RollingUpdate" {
        return;
    }
    let (surge, unavailable) = limits(view);
    if surge > 0 { surge_up(view, surge, steps) } else { replace(view, unavailable, steps) }
}

fn strategy<'a>(view: &View<'a>) -> &'a str {
    let strategy = view.spec.update_strategy.as_ref();
    strategy.and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate")
}

/// True if a new pod may stand beside an old one.
pub(super) fn surges(view: &View<'_>) -> bool {
    strategy(view) == "RollingUpdate" && limits(view).0 > 0
}

/// The surge, and how many pods may be unavailable. Shares round up; if both come to nothing, one
/// pod may be unavailable, or nothing would ever move.
fn limits(view: &View<'_>) -> (usize, usize) {
    let wanted = view.sites.values().filter(|s| s.fit == Fit::Runs).count();
    let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
    let rolling =
        view.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.clone()).unwrap_or_default();
    let of = |value: Option<&IntOrString>, default: i32| {
        let value = value.cloned().unwrap_or(IntOrString::Int(default));
        usize::try_from(resolve(&value, wanted, true)).unwrap_or(0)
    };
    let (surge, unavailable) = (of(rolling.max_surge.as_ref(), 0), of(rolling.max_unavailable.as_ref(), 1));
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// The pods of a site that stay: of the new template and of an older one. More than one of either
/// is to be tidied up first.
type Pair<'a> = (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>);

fn pair<'a>(view: &View<'a>, site: &Site<'a>) -> Option<Pair<'a>> {
    let (mut new, mut old) = (None, None);
    for pod in site.staying() {
        let place = if view.is_new(pod) { &mut new } else { &mut old };
        if place.replace(pod).is_some() {
            return None;
        }
    }
    Some((new, old))
}

fn replace<'a>(view: &View<'a>, limit: usize, steps: &mut Steps<'a>) {
    let mut unavailable = 0;
    let mut candidates = Vec::new();
    for site in view.sites.values().filter(|s| s.fit == Fit::Runs) {
        match pair(view, site) {
            Some((Some(new), None)) => unavailable += usize::from(!view.is_available(new)),
            Some((None, Some(old))) if view.is_available(old) => candidates.push(old),
            Some((None, Some(old))) => {
                unavailable += 1;
                steps.delete.insert(&old.meta.key, old);
            }
            _ => unavailable += 1,
        }
    }
    let room = limit.saturating_sub(unavailable);
    steps.delete.extend(candidates.into_iter().take(room).map(|p| (&p.meta.key, p)));
}

fn surge_up<'a>(view: &View<'a>, limit: usize, steps: &mut Steps<'a>) {
    let mut surging = 0;
    let mut candidates = Vec::new();
    for (name, site) in view.sites.iter().filter(|(_, s)| s.fit == Fit::Runs) {
        match pair(view, site) {
            Some((None, Some(old))) if site.pods.len() > 1 => {
                // Its new pod is on the way out; the next one waits until it is gone.
                surging += usize::from(view.is_available(old));
            }
            Some((None, Some(old))) if view.is_available(old) => candidates.push(*name),
            Some((None, Some(_))) => {
                steps.create.insert(*name);
            }
            Some((Some(new), Some(old))) => {
                if view.is_available(new) {
                    steps.delete.insert(&old.meta.key, old);
                } else {
                    surging += 1;
                }
            }
            Some((_, None)) => {}
            None => surging += 1,
        }
    }
    steps.create.extend(candidates.into_iter().take(limit.saturating_sub(surging)));
}
