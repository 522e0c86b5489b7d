//! How many replicas the metrics of an autoscaler call for: the most that any of them does.

use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus, MetricIdentifier, MetricSpec,
    MetricTarget, MetricValueStatus, ObjectMetricSource, ObjectMetricStatus, PodsMetricSource,
    PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use proa_api::quantity::Amount;
use proa_api::selector::Selector;

pub(super) use k8s_openapi::api::autoscaling::v2::MetricStatus as Status;

use super::calculate::{Pods, Proposal, Tolerances};
use super::target::Scale;
use super::{Turn, target};
use crate::world::autoscaling::sample::{MetricName, millis};

const NO_CUSTOM_API: &str = "unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered";

/// What all metrics together call for.
pub(super) struct CalledFor {
    /// Replicas and the metric that calls for them; none if that cannot be told.
    pub replicas: Option<(i32, String)>,
    /// What was found of each metric.
    pub statuses: Option<Vec<Status>>,
}

/// Why nothing can be told of one metric.
struct Failure {
    reason: &'static str,
    /// For the condition and its Event.
    why: String,
    /// For the Event about all metrics.
    wrapped: String,
}

/// What one metric calls for, what it is called, and what was found.
type Found = (i32, String, Status);

impl Turn<'_> {
    pub(super) fn called_for(&mut self, scale: &Scale) -> CalledFor {
        let nothing = CalledFor { replicas: None, statuses: None };
        if scale.selector.to_string().is_empty() {
            let text = "the HPA target's scale is missing a selector".to_owned();
            self.condition("ScalingActive", false, "InvalidSelector", text);
            self.warn("SelectorRequired", "selector is required".to_owned());
            self.warn("FailedComputeMetricsReplicas", "selector is required".to_owned());
            return nothing;
        }
        let (seen, sample, spec) = (self.seen, self.sample, self.spec);
        let pods = Pods::select(
            sample,
            &self.key.namespace,
            &scale.selector,
            self.settings,
            self.tolerances(),
            self.now,
        );
        let rivals: Vec<String> = seen
            .horizontal_pod_autoscalers
            .in_namespace(&self.key.namespace)
            .filter(|(_, other)| {
                let target = other.spec.as_ref().map(|s| &s.scale_target_ref);
                let scale = target.and_then(|t| target::scale(seen, &self.key.namespace, t).ok());
                scale.is_some_and(|s| pods.all.iter().any(|(_, pod)| s.selector.matches(Some(&pod.labels))))
            })
            .map(|(key, _)| format!("{}/{}", key.namespace, key.name))
            .collect();
        if rivals.len() > 1 {
            let text = format!(
                "pods by selector {} are controlled by multiple HPAs: [{}]",
                scale.selector,
                rivals.join(" ")
            );
            self.condition("ScalingActive", false, "AmbiguousSelector", text.clone());
            self.warn("AmbiguousSelector", text.clone());
            self.warn("FailedComputeMetricsReplicas", text);
            return nothing;
        }
        let metrics = spec.metrics.as_deref().unwrap_or_default();
        let found = metrics.iter().map(|metric| self.one(metric, scale, &pods)).collect();
        self.highest(found, scale.spec_replicas)
    }

    /// The most that any metric calls for. While one cannot be told, nothing is scaled down.
    fn highest(&mut self, found: Vec<Result<Found, Failure>>, current: i32) -> CalledFor {
        let all = found.len();
        let mut best: Option<(i32, String)> = None;
        let (mut statuses, mut failures) = (Vec::new(), Vec::new());
        for one in found {
            match one {
                Ok((replicas, name, status)) => {
                    statuses.push(status);
                    if best.as_ref().is_none_or(|(most, _)| *most == 0 || replicas > *most) {
                        best = Some((replicas, name));
                    }
                }
                Err(failure) => {
                    statuses.push(Status::default());
                    self.warn(failure.reason, failure.why.clone());
                    failures.push(failure);
                }
            }
        }
        let fewer = best.as_ref().is_none_or(|(replicas, _)| *replicas < current);
        if let Some(first) = failures.first().filter(|_| fewer) {
            let text = format!("the HPA was unable to compute the replica count: {}", first.why);
            self.condition("ScalingActive", false, first.reason, text);
            let text = format!(
                "invalid metrics ({} invalid out of {all}), first error is: {}",
                failures.len(),
                first.wrapped
            );
            self.warn("FailedComputeMetricsReplicas", text);
            return CalledFor { replicas: None, statuses: Some(statuses) };
        }
        if let Some((_, metric)) = &best {
            let text = format!("the HPA was able to successfully calculate a replica count from {metric}");
            self.condition("ScalingActive", true, "ValidMetricFound", text);
        }
        CalledFor { replicas: best, statuses: Some(statuses) }
    }

    fn tolerances(&self) -> Tolerances {
        let behavior = self.spec.behavior.as_ref();
        let stated = |rules: Option<&k8s_openapi::api::autoscaling::v2::HPAScalingRules>| {
            let tolerance = rules?.tolerance.as_ref()?;
            Some(Amount::parse(&tolerance.0).ok()?.as_f64())
        };
        let default = self.settings.tolerance;
        Tolerances {
            up: stated(behavior.and_then(|b| b.scale_up.as_ref())).unwrap_or(default),
            down: stated(behavior.and_then(|b| b.scale_down.as_ref())).unwrap_or(default),
        }
    }

    fn one(&self, metric: &MetricSpec, scale: &Scale, pods: &Pods<'_>) -> Result<Found, Failure> {
        let current = scale.spec_replicas;
        let type_ = metric.type_.clone();
        if let Some(source) = metric.resource.as_ref().filter(|_| type_ == "Resource") {
            let (proposal, name) =
                of_resource(pods, current, &source.target, &source.name, None).map_err(|why| Failure {
                    reason: "FailedGetResourceMetric",
                    wrapped: format!("failed to get {} resource metric value: {why}", source.name),
                    why,
                })?;
            let status = ResourceMetricStatus { name: source.name.clone(), current: shown(&proposal) };
            let status = Status { type_, resource: Some(status), ..Status::default() };
            return Ok((proposal.replicas, name, status));
        }
        if let Some(source) = metric.container_resource.as_ref().filter(|_| type_ == "ContainerResource") {
            let container = Some(source.container.as_str());
            let (proposal, name) = of_resource(pods, current, &source.target, &source.name, container)
                .map_err(|why| Failure {
                    reason: "FailedGetContainerResourceMetric",
                    wrapped: format!("failed to get {} container metric value: {why}", source.container),
                    why,
                })?;
            let status = ContainerResourceMetricStatus {
                name: source.name.clone(),
                container: source.container.clone(),
                current: shown(&proposal),
            };
            let status = Status { type_, container_resource: Some(status), ..Status::default() };
            return Ok((proposal.replicas, name, status));
        }
        if let Some(source) = metric.pods.as_ref().filter(|_| type_ == "Pods") {
            return self.of_pods(source, current, pods).map_err(|why| Failure {
                reason: "FailedGetPodsMetric",
                wrapped: format!("failed to get pods metric value: {why}"),
                why,
            });
        }
        if let Some(source) = metric.object.as_ref().filter(|_| type_ == "Object") {
            return self.of_object(source, scale, pods).map_err(|(why, told)| Failure {
                reason: "FailedGetObjectMetric",
                wrapped: format!("failed to get object metric value: {told}"),
                why,
            });
        }
        if let Some(source) = metric.external.as_ref().filter(|_| type_ == "External") {
            return self.of_external(source, scale, pods).map_err(|(why, told)| Failure {
                reason: "FailedGetExternalMetric",
                wrapped: format!("failed to get {} external metric value: {told}", source.metric.name),
                why,
            });
        }
        let why = format!("unknown metric source type {type_:?}");
        Err(Failure { reason: "InvalidMetricSourceType", wrapped: why.clone(), why })
    }

    fn of_pods(&self, source: &PodsMetricSource, current: i32, pods: &Pods<'_>) -> Result<Found, String> {
        let name = &source.metric.name;
        let values = self.sample.adapters.pods.get(&self.metric(&source.metric));
        let values = values.ok_or_else(|| format!("unable to get metric {name}: {NO_CUSTOM_API}"))?;
        let values = pods.all.iter().filter_map(|(key, _)| Some((&*key.name, *values.get(key)?))).collect();
        let target = source.target.average_value.as_ref().map_or(0, millis);
        let proposal = pods.by_value(current, target, values, "")?;
        let status = PodsMetricStatus { metric: source.metric.clone(), current: average(proposal.value) };
        let status = Status { type_: "Pods".to_owned(), pods: Some(status), ..Status::default() };
        Ok((proposal.replicas, format!("pods metric {name}"), status))
    }

    fn of_object(
        &self,
        source: &ObjectMetricSource,
        scale: &Scale,
        pods: &Pods<'_>,
    ) -> Result<Found, (String, String)> {
        let (name, about) = (&source.metric.name, &source.described_object);
        let both = |why: String| (why.clone(), why);
        let per_pod = source.target.type_ == "AverageValue";
        let key = (self.metric(&source.metric), about.kind.clone(), about.name.clone());
        let value = self.sample.adapters.objects.get(&key).copied().ok_or_else(|| {
            // The order of the words is that of the stock controller.
            let (kind, namespace, object) = (&about.kind, &self.key.namespace, &about.name);
            let why = format!("unable to get metric {name}: {kind} on {namespace} {object}/{NO_CUSTOM_API}");
            let told =
                if per_pod { format!("failed to get {name} object metric: {why}") } else { why.clone() };
            (why, told)
        })?;
        let (replicas, current, called) = match (&source.target.value, &source.target.average_value) {
            (_, Some(target)) if per_pod => {
                let (replicas, each) = per_pod_replicas(pods, scale.status_replicas, value, millis(target));
                let called = format!("external metric {name}({})", in_go(&source.metric.selector));
                (replicas, average(each), called)
            }
            (Some(target), _) if source.target.type_ == "Value" => {
                let ratio = value as f64 / millis(target) as f64;
                let replicas = pods.by_ratio(scale.spec_replicas, ratio).map_err(both)?;
                (replicas, total(value), format!("{} metric {name}", about.kind))
            }
            _ => {
                return Err(both(
                    "invalid object metric source: neither a value target nor an average value target was set"
                        .to_owned(),
                ));
            }
        };
        let status =
            ObjectMetricStatus { described_object: about.clone(), metric: source.metric.clone(), current };
        Ok((
            replicas,
            called,
            Status { type_: "Object".to_owned(), object: Some(status), ..Status::default() },
        ))
    }

    fn of_external(
        &self,
        source: &ExternalMetricSource,
        scale: &Scale,
        pods: &Pods<'_>,
    ) -> Result<Found, (String, String)> {
        let name = &source.metric.name;
        let per_pod = source.target.average_value.as_ref();
        let wrap = |why: String| {
            let told = match per_pod {
                Some(_) => format!("failed to get {name} external metric: {why}"),
                None => format!("failed to get external metric {name}: {why}"),
            };
            (why, told)
        };
        let selector = in_go(&source.metric.selector);
        let series = self.sample.adapters.external.get(&self.metric(&source.metric)).ok_or_else(|| {
            wrap(format!(
                "unable to get external metric {}/{name}/{selector}: unable to fetch metrics from external metrics \
                 API: the server could not find the requested resource (get {name}.external.metrics.k8s.io)",
                self.key.namespace
            ))
        })?;
        let value: i64 = series.iter().sum();
        let (replicas, current) = match (per_pod, &source.target.value) {
            (Some(target), _) => {
                let (replicas, each) = per_pod_replicas(pods, scale.status_replicas, value, millis(target));
                (replicas, average(each))
            }
            (None, Some(target)) => {
                let ratio = value as f64 / millis(target) as f64;
                (pods.by_ratio(scale.spec_replicas, ratio).map_err(wrap)?, total(value))
            }
            (None, None) => {
                let why =
                    "invalid external metric source: neither a value target nor an average value target \
                           was set"
                        .to_owned();
                return Err((why.clone(), why));
            }
        };
        let status = ExternalMetricStatus { metric: source.metric.clone(), current };
        let status = Status { type_: "External".to_owned(), external: Some(status), ..Status::default() };
        Ok((replicas, format!("external metric {name}({selector})"), status))
    }

    fn metric(&self, metric: &MetricIdentifier) -> MetricName {
        MetricName {
            namespace: self.key.namespace.to_string(),
            name: metric.name.clone(),
            selector: metric
                .selector
                .as_ref()
                .map_or_else(String::new, |selector| Selector::from_object(Some(selector)).to_string()),
        }
    }
}

/// By CPU or memory, of pods or of one container in each.
fn of_resource(
    pods: &Pods<'_>,
    current: i32,
    target: &MetricTarget,
    resource: &str,
    container: Option<&str>,
) -> Result<(Proposal, String), String> {
    if let Some(value) = &target.average_value {
        let values = pods.used(resource, container);
        let values = values.map_err(|why| format!("unable to get metrics for resource {resource}: {why}"));
        let proposal = values.and_then(|values| pods.by_value(current, millis(value), values, resource));
        let proposal = proposal.map_err(|why| format!("failed to get {resource} usage: {why}"))?;
        return Ok((proposal, format!("{resource} resource")));
    }
    let Some(percent) = target.average_utilization else {
        return Err("invalid resource metric source: neither an average utilization target nor an average \
                    value (usage) target was set"
            .to_owned());
    };
    let proposal = pods.by_utilization(current, percent, resource, container);
    let proposal = proposal.map_err(|why| format!("failed to get {resource} utilization: {why}"))?;
    let of = if container.is_some() { " container" } else { "" };
    Ok((proposal, format!("{resource}{of} resource utilization (percentage of request)")))
}

/// Replicas for a value that is shared among them, and the share of each that there is.
fn per_pod_replicas(pods: &Pods<'_>, there: i32, value: i64, target: i64) -> (i32, i64) {
    let ratio = value as f64 / (target as f64 * f64::from(there));
    let wanted = (value as f64 / target as f64).ceil() as i32;
    let replicas = if pods.tolerances.hold(ratio) { there } else { wanted };
    // Without replicas there is nobody to share it.
    (replicas, (value as f64 / f64::from(there.max(1))).ceil() as i64)
}

fn quantity(millis: i64) -> Option<Quantity> {
    Some(Quantity(Amount::from_millis(millis).to_string()))
}

fn average(millis: i64) -> MetricValueStatus {
    MetricValueStatus { average_value: quantity(millis), ..MetricValueStatus::default() }
}

fn total(millis: i64) -> MetricValueStatus {
    MetricValueStatus { value: quantity(millis), ..MetricValueStatus::default() }
}

fn shown(proposal: &Proposal) -> MetricValueStatus {
    MetricValueStatus { average_utilization: proposal.utilization, ..average(proposal.value) }
}

/// A selector as users find it in messages of the stock controller.
fn in_go(selector: &Option<LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let labels: String =
        selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},")).collect();
    let expressions = selector.match_expressions.iter().flatten().map(|e| {
        let values = e.values.iter().flatten().cloned().collect::<Vec<_>>().join(" ");
        format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", e.key, e.operator)
    });
    let expressions: String = expressions.collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},\
         MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}
