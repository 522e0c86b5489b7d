//! How many replicas one metric calls for.
//!
//! Pods of which nothing is known yet must neither hide a need nor make one up: they count as idle
//! when more pods are called for, and as fully used when fewer are. Where that turns the direction
//! of the change, nothing changes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use proa_api::selector::Selector;

use super::Settings;
use crate::world::autoscaling::sample::{Pod, Sample};
use crate::world::facts::{Key, Phase};

/// A ratio so near to 1 calls for nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerances {
    /// Above 1.
    pub up: f64,
    /// Below 1.
    pub down: f64,
}

impl Tolerances {
    pub(super) fn hold(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// The pods of a workload, and the rules by which they count.
pub(super) struct Pods<'a> {
    pub all: Vec<(&'a Key, &'a Pod)>,
    pub settings: &'a Settings,
    pub tolerances: Tolerances,
    pub now: Timestamp,
}

/// What a metric calls for.
#[derive(Debug, PartialEq)]
pub(super) struct Proposal {
    pub replicas: i32,
    /// Percent of what is requested, where the metric is one of those.
    pub utilization: Option<i32>,
    /// In thousandths: of one pod on average, or of all together.
    pub value: i64,
}

/// The ratio to the target, of the values of pods.
type RatioOf<'f> = dyn Fn(&BTreeMap<&str, i64>) -> Result<f64, String> + 'f;

/// Which pods count, by name.
struct Groups<'a> {
    ready: usize,
    /// They run, and what is measured of them says nothing yet.
    unready: BTreeSet<&'a str>,
    /// Nothing is measured of them.
    missing: BTreeSet<&'a str>,
}

impl<'a> Pods<'a> {
    pub(super) fn select(
        sample: &'a Sample,
        namespace: &'a str,
        selector: &Selector,
        settings: &'a Settings,
        tolerances: Tolerances,
        now: Timestamp,
    ) -> Self {
        let pods = sample.pods.range(Key::new(namespace, "")..);
        let pods = pods.take_while(|(key, _)| *key.namespace == *namespace);
        Pods {
            all: pods.filter(|(_, pod)| selector.matches(Some(&pod.labels))).collect(),
            settings,
            tolerances,
            now,
        }
    }

    /// What each pod uses of a resource: as a whole, or one of its containers.
    pub(super) fn used(
        &self,
        resource: &str,
        container: Option<&str>,
    ) -> Result<BTreeMap<&'a str, i64>, String> {
        if self.all.iter().all(|(_, pod)| pod.used.is_none()) {
            return Err("no metrics returned from resource metrics API".to_owned());
        }
        let mut values = BTreeMap::new();
        for (key, pod) in &self.all {
            let Some(used) = &pod.used else { continue };
            let value = match container {
                Some(name) => {
                    let found = used.containers.get(name).ok_or_else(|| {
                        let (namespace, pod) = (&key.namespace, &key.name);
                        format!("container {name} not present in metrics for pod {namespace}/{pod}")
                    })?;
                    found.get(resource).copied()
                }
                None => used.containers.values().map(|of| of.get(resource).copied()).sum(),
            };
            values.extend(value.map(|value| (&*key.name, value)));
        }
        Ok(values)
    }

    /// By the share of what is requested that is used.
    pub(super) fn by_utilization(
        &self,
        current: i32,
        target: i32,
        resource: &str,
        container: Option<&str>,
    ) -> Result<Proposal, String> {
        let used = self.used(resource, container);
        let mut used = used.map_err(|why| format!("unable to get metrics for resource {resource}: {why}"))?;
        let groups = self.groups(&mut used, resource)?;
        let requests = self.requests(resource, container)?;
        if used.is_empty() {
            return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
        }
        let (ratio, percent, value) = utilization(&used, &requests, target)?;
        let proposal = |replicas| Proposal { replicas, utilization: Some(percent), value };
        // A target of more than what is requested takes pods that cannot be seen to be at it.
        let full = i64::from(target.max(100));
        let fallback = |pod: &str| requests.get(pod).copied().unwrap_or(0) * full / 100;
        let ratio_again = |used: &BTreeMap<&str, i64>| utilization(used, &requests, target).map(|u| u.0);
        self.settle(current, ratio, used, &groups, &fallback, &ratio_again).map(proposal)
    }

    /// By what a pod uses on average, in thousandths.
    pub(super) fn by_value(
        &self,
        current: i32,
        target: i64,
        mut values: BTreeMap<&'a str, i64>,
        resource: &str,
    ) -> Result<Proposal, String> {
        if self.all.is_empty() {
            return Err("no pods returned by selector while calculating replica count".to_owned());
        }
        let groups = self.groups(&mut values, resource)?;
        if values.is_empty() {
            return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
        }
        let average =
            |values: &BTreeMap<&str, i64>| values.values().sum::<i64>() / count(values.len()).max(1);
        let value = average(&values);
        let ratio = |values: &BTreeMap<&str, i64>| Ok(average(values) as f64 / target as f64);
        let first = ratio(&values)?;
        let replicas = self.settle(current, first, values, &groups, &|_| target, &ratio)?;
        Ok(Proposal { replicas, utilization: None, value })
    }

    /// By a ratio that is not one of single pods: as many as are ready, so many times.
    pub(super) fn by_ratio(&self, current: i32, ratio: f64) -> Result<i32, String> {
        if current == 0 {
            // Without pods the ratio itself says whether one is needed.
            return Ok(ratio.ceil() as i32);
        }
        if self.tolerances.hold(ratio) {
            return Ok(current);
        }
        if self.all.is_empty() {
            return Err("unable to calculate ready pods: no pods returned by selector while calculating \
                        replica count"
                .to_owned());
        }
        let is_ready =
            |pod: &Pod| pod.phase == Phase::Running && pod.ready.as_ref().is_some_and(|r| !r.is_false);
        let ready = self.all.iter().filter(|(_, pod)| is_ready(pod)).count();
        Ok((ratio * ready as f64).ceil() as i32)
    }

    /// The replicas that a ratio calls for, with the pods of which nothing is known brought in.
    fn settle(
        &self,
        current: i32,
        ratio: f64,
        mut values: BTreeMap<&'a str, i64>,
        groups: &Groups<'a>,
        full: &dyn Fn(&str) -> i64,
        ratio_of: &RatioOf<'_>,
    ) -> Result<i32, String> {
        let up_with_unready = ratio > 1.0 && !groups.unready.is_empty();
        if !up_with_unready && groups.missing.is_empty() {
            let wanted = (ratio * groups.ready as f64).ceil() as i32;
            return Ok(if self.tolerances.hold(ratio) { current } else { wanted });
        }
        for pod in groups.missing.iter().filter(|_| ratio != 1.0) {
            values.insert(pod, if ratio < 1.0 { full(pod) } else { 0 });
        }
        if up_with_unready {
            values.extend(groups.unready.iter().map(|pod| (*pod, 0)));
        }
        let again = ratio_of(&values)?;
        let turned = |a: f64, b: f64| (a < 1.0 && b > 1.0) || (a > 1.0 && b < 1.0);
        if self.tolerances.hold(again) || turned(ratio, again) {
            return Ok(current);
        }
        let wanted = (again * values.len() as f64).ceil() as i32;
        // Fewer pods than there are may be known: the number must not go against the ratio.
        let against = (again < 1.0 && wanted > current) || (again > 1.0 && wanted < current);
        Ok(if against { current } else { wanted })
    }

    /// Which pods count; the values of those that do not are taken out.
    fn groups(&self, values: &mut BTreeMap<&'a str, i64>, resource: &str) -> Result<Groups<'a>, String> {
        if self.all.is_empty() {
            return Err("no pods returned by selector while calculating replica count".to_owned());
        }
        let mut groups = Groups { ready: 0, unready: BTreeSet::new(), missing: BTreeSet::new() };
        for (key, pod) in &self.all {
            let name: &str = &key.name;
            if pod.is_going || pod.phase == Phase::Failed {
                values.remove(name);
            } else if pod.phase == Phase::Pending {
                groups.unready.insert(name);
            } else if !values.contains_key(name) {
                groups.missing.insert(name);
            } else if resource == "cpu" && self.is_unready(pod) {
                groups.unready.insert(name);
            } else {
                groups.ready += 1;
            }
        }
        values.retain(|name, _| !groups.unready.contains(name));
        Ok(groups)
    }

    /// True if the CPU of a pod says nothing of its load: it starts, or it never was ready.
    fn is_unready(&self, pod: &Pod) -> bool {
        let (Some(ready), Some(started)) = (&pod.ready, pod.started) else { return true };
        if started + self.settings.cpu_initialization_period > self.now {
            let full_window = pod.used.as_ref().is_none_or(|used| used.at >= ready.since + used.window);
            ready.is_false || !full_window
        } else {
            ready.is_false && started + self.settings.initial_readiness_delay > ready.since
        }
    }

    /// What each pod, or one of its containers, asks for.
    fn requests(&self, resource: &str, container: Option<&str>) -> Result<BTreeMap<&'a str, i64>, String> {
        let of_pod = |key: &'a Key, pod: &'a Pod| {
            let counted = pod.requests.iter().filter(|(name, _)| container.is_none_or(|c| c == name));
            let amounts = counted.map(|(name, requests)| {
                requests.get(resource).copied().ok_or_else(|| {
                    format!("missing request for {resource} in container {name} of Pod {}", key.name)
                })
            });
            Ok((&*key.name, amounts.sum::<Result<i64, String>>()?))
        };
        self.all.iter().map(|(key, pod)| of_pod(key, pod)).collect()
    }
}

/// The ratio to the target, percent of what is requested, and what a pod uses on average.
fn utilization(
    used: &BTreeMap<&str, i64>,
    requests: &BTreeMap<&str, i64>,
    target: i32,
) -> Result<(f64, i32, i64), String> {
    let known = || used.iter().filter_map(|(pod, value)| Some((*value, *requests.get(pod)?)));
    let (used, requested) = known().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    if requested == 0 {
        return Err("no metrics returned matched known pods".to_owned());
    }
    let percent = i32::try_from(used * 100 / requested).unwrap_or(i32::MAX);
    Ok((f64::from(percent) / f64::from(target), percent, used / count(known().count()).max(1)))
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
