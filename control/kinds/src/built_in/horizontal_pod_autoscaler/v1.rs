//! HorizontalPodAutoscaler of `autoscaling/v1`: a view that knows one metric, the use of CPU.
//!
//! What it has no fields for travels in annotations, so that a client of this version that writes
//! back what it has read loses nothing. Annotation names:
//! <https://kubernetes.io/docs/reference/labels-annotations-taints/>.

use std::sync::Arc;

use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler;
use serde_json::{Map, Value, json};

use super::columns;
use crate::rules::{TypedRules, row};
use crate::{Column, Kind, View};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
/// Direction of scaling and the annotation of its tolerance.
const TOLERANCES: [(&str, &str); 2] = [
    ("scaleUp", "autoscaling.alpha.kubernetes.io/scale-up-tolerance"),
    ("scaleDown", "autoscaling.alpha.kubernetes.io/scale-down-tolerance"),
];

/// A field of a metric: its name in v1, its pointer in v2, and whether v1 shows a zero for none.
pub(in crate::built_in) type Moved = (&'static str, &'static str, bool);

/// The sources of metrics with their fields in a spec and in a status.
const SOURCES: [(&str, &[Moved], &[Moved]); 5] = [
    (
        "object",
        &[
            ("target", "/describedObject", false),
            ("metricName", "/metric/name", false),
            ("targetValue", "/target/value", true),
            ("selector", "/metric/selector", false),
            ("averageValue", "/target/averageValue", false),
        ],
        &[
            ("target", "/describedObject", false),
            ("metricName", "/metric/name", false),
            ("currentValue", "/current/value", true),
            ("selector", "/metric/selector", false),
            ("averageValue", "/current/averageValue", false),
        ],
    ),
    (
        "pods",
        &[
            ("metricName", "/metric/name", false),
            ("targetAverageValue", "/target/averageValue", false),
            ("selector", "/metric/selector", false),
        ],
        &[
            ("metricName", "/metric/name", false),
            ("currentAverageValue", "/current/averageValue", false),
            ("selector", "/metric/selector", false),
        ],
    ),
    (
        "resource",
        &[
            ("name", "/name", false),
            ("targetAverageUtilization", "/target/averageUtilization", false),
            ("targetAverageValue", "/target/averageValue", false),
        ],
        &[
            ("name", "/name", false),
            ("currentAverageUtilization", "/current/averageUtilization", false),
            ("currentAverageValue", "/current/averageValue", true),
        ],
    ),
    (
        "containerResource",
        &[
            ("name", "/name", false),
            ("targetAverageUtilization", "/target/averageUtilization", false),
            ("targetAverageValue", "/target/averageValue", false),
            ("container", "/container", false),
        ],
        &[
            ("name", "/name", false),
            ("currentAverageUtilization", "/current/averageUtilization", false),
            ("currentAverageValue", "/current/averageValue", true),
            ("container", "/container", false),
        ],
    ),
    (
        "external",
        &[
            ("metricName", "/metric/name", false),
            ("metricSelector", "/metric/selector", false),
            ("targetValue", "/target/value", false),
            ("targetAverageValue", "/target/averageValue", false),
        ],
        &[
            ("metricName", "/metric/name", false),
            ("metricSelector", "/metric/selector", false),
            ("currentValue", "/current/value", true),
            ("currentAverageValue", "/current/averageValue", false),
        ],
    ),
];

/// The rules of HorizontalPodAutoscalers of `autoscaling/v1`. What is wrong with one is found in
/// its stored form.
pub struct HorizontalPodAutoscalersV1;

/// The row of HorizontalPodAutoscalers of `autoscaling/v1`.
pub fn kind() -> Kind {
    Kind {
        short_names: vec!["hpa".into()],
        categories: vec!["all".into()],
        has_generation: true,
        columns: columns::columns().into_iter().map(of_v1).collect(),
        view: Some(View::new(("autoscaling", "v2"), to_stored, from_stored)),
        ..row::<HorizontalPodAutoscalersV1>()
    }
}

/// The one column that is not the same in both versions.
fn of_v1(column: Column) -> Column {
    if column.name != "Targets" {
        return column;
    }
    Column { cell: Arc::new(|o, _| columns::targets(&to_stored(o.clone())).into()), ..column }
}

impl TypedRules for HorizontalPodAutoscalersV1 {
    type Object = HorizontalPodAutoscaler;
    const HAS_STATUS: bool = true;

    fn default(autoscaler: &mut HorizontalPodAutoscaler) {
        autoscaler.spec.get_or_insert_default().min_replicas.get_or_insert(1);
    }
}

/// The v1 form of a stored autoscaler.
fn from_stored(mut autoscaler: Value) -> Value {
    autoscaler["apiVersion"] = "autoscaling/v1".into();
    take_annotations(&mut autoscaler);
    let mut notes: Vec<(&str, String)> = Vec::new();
    if let Some(spec) = autoscaler.get_mut("spec").and_then(Value::as_object_mut) {
        let metrics = list(spec.remove("metrics"));
        let (cpu, others): (Vec<Value>, Vec<Value>) = metrics.into_iter().partition(is_cpu_utilization);
        if let Some(percent) = cpu.first().map(|m| &m["resource"]["target"]["averageUtilization"]) {
            spec.insert("targetCPUUtilizationPercentage".to_owned(), percent.clone());
        }
        if !others.is_empty() {
            notes.push((METRICS, moved(&others, true, to_v1).to_string()));
        }
        if let Some(behavior) = spec.remove("behavior") {
            for (direction, annotation) in TOLERANCES {
                if let Some(tolerance) = behavior[direction]["tolerance"].as_str() {
                    notes.push((annotation, tolerance.to_owned()));
                }
            }
            notes.push((BEHAVIOR, with_go_names(&behavior).to_string()));
        }
    }
    if let Some(status) = autoscaler.get_mut("status").and_then(Value::as_object_mut) {
        let current = list(status.remove("currentMetrics"));
        let is_cpu = |m: &&Value| m["type"] == "Resource" && m["resource"]["name"] == "cpu";
        let percents = current.iter().filter(is_cpu).map(|m| &m["resource"]["current"]["averageUtilization"]);
        if let Some(percent) = percents.rev().find(|p| p.is_number()) {
            status.insert("currentCPUUtilizationPercentage".to_owned(), percent.clone());
        }
        if !current.is_empty() {
            notes.push((CURRENT_METRICS, moved(&current, false, to_v1).to_string()));
        }
        let conditions = list(status.remove("conditions"));
        if !conditions.is_empty() {
            notes.push((CONDITIONS, Value::Array(conditions).to_string()));
        }
        status.entry("currentReplicas").or_insert(0.into());
        status.entry("desiredReplicas").or_insert(0.into());
    }
    for (name, text) in notes {
        autoscaler["metadata"]["annotations"][name] = text.into();
    }
    autoscaler
}

/// The stored form of an autoscaler of v1. Annotations that cannot be read count as absent.
fn to_stored(mut autoscaler: Value) -> Value {
    autoscaler["apiVersion"] = "autoscaling/v2".into();
    let notes = take_annotations(&mut autoscaler);
    let note = |name: &str| -> Option<Value> {
        notes.get(name).and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok())
    };
    if let Some(spec) = autoscaler.get_mut("spec").and_then(Value::as_object_mut) {
        let mut metrics = moved(&list(note(METRICS)), true, to_v2);
        if let Some(percent) = spec.remove("targetCPUUtilizationPercentage").filter(|p| !p.is_null()) {
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
            metrics.as_array_mut().expect("a list was made").push(cpu);
        }
        if metrics != json!([]) {
            spec.insert("metrics".to_owned(), metrics);
        }
        let behavior = note(BEHAVIOR).map(|b| with_json_names(&b)).filter(|b| *b != json!({}));
        if let Some(mut behavior) = behavior {
            for (direction, annotation) in TOLERANCES {
                if let Some(tolerance) = notes.get(annotation) {
                    behavior[direction]["tolerance"] = tolerance.clone();
                }
            }
            spec.insert("behavior".to_owned(), behavior);
        }
    }
    if let Some(status) = autoscaler.get_mut("status").and_then(Value::as_object_mut) {
        let percent = status.remove("currentCPUUtilizationPercentage").filter(|p| !p.is_null());
        let current = match (note(CURRENT_METRICS), percent) {
            (Some(noted), _) => moved(&list(Some(noted)), false, to_v2),
            (None, Some(percent)) => json!([{"type": "Resource",
                "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}]),
            (None, None) => Value::Null,
        };
        if current.is_array() {
            status.insert("currentMetrics".to_owned(), current);
        }
        if let Some(conditions) = note(CONDITIONS) {
            status.insert("conditions".to_owned(), conditions);
        }
    }
    autoscaler
}

/// Removes the annotations that carry what v1 has no fields for, and gives them.
fn take_annotations(autoscaler: &mut Value) -> Map<String, Value> {
    let mut taken = Map::new();
    let Some(metadata) = autoscaler.get_mut("metadata").and_then(Value::as_object_mut) else { return taken };
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else {
        return taken;
    };
    let names = [METRICS, CURRENT_METRICS, CONDITIONS, BEHAVIOR, TOLERANCES[0].1, TOLERANCES[1].1];
    taken.extend(names.iter().filter_map(|name| annotations.remove_entry(*name)));
    if annotations.is_empty() && !taken.is_empty() {
        metadata.remove("annotations");
    }
    taken
}

fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn is_cpu_utilization(metric: &Value) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"]["target"]["averageUtilization"].is_number()
}

/// The autoscaler with the metrics of its spec and status in the other version.
pub(in crate::built_in) fn with_metrics(
    mut autoscaler: Value,
    source: fn(&Value, &[Moved]) -> Value,
) -> Value {
    for (pointer, of_spec) in [("/spec/metrics", true), ("/status/currentMetrics", false)] {
        if let Some(metrics) = autoscaler.pointer_mut(pointer).filter(|metrics| metrics.is_array()) {
            *metrics = moved(&list(Some(metrics.take())), of_spec, source);
        }
    }
    autoscaler
}

/// Each metric of a spec or a status with its source in the other version.
fn moved(metrics: &[Value], of_spec: bool, source: fn(&Value, &[Moved]) -> Value) -> Value {
    let one = |metric: &Value| {
        let mut result = json!({"type": metric["type"]});
        for (name, in_spec, in_status) in SOURCES {
            if metric[name].is_object() {
                result[name] = source(&metric[name], if of_spec { in_spec } else { in_status });
            }
        }
        result
    };
    metrics.iter().map(one).collect()
}

pub(in crate::built_in) fn to_v1(source: &Value, fields: &[Moved]) -> Value {
    let mut result = json!({});
    for (name, pointer, zero) in fields {
        match source.pointer(pointer).filter(|v| !v.is_null()) {
            Some(value) => result[name] = value.clone(),
            None if *zero => result[name] = "0".into(),
            None => {}
        }
    }
    result
}

pub(in crate::built_in) fn to_v2(source: &Value, fields: &[Moved]) -> Value {
    let mut result = json!({});
    let has_average =
        fields.iter().any(|(name, p, _)| p.ends_with("/averageValue") && source[name].is_string());
    for (name, pointer, _) in fields {
        let Some(value) = source.get(*name).filter(|v| !v.is_null()) else { continue };
        // The zero that stands for none.
        if pointer.ends_with("/value") && has_average && *value == "0" {
            continue;
        }
        let mut place = &mut result;
        for step in pointer.split('/').skip(1) {
            place = &mut place[step];
        }
        *place = value.clone();
    }
    if fields.iter().any(|(_, pointer, _)| pointer.starts_with("/target/")) {
        let target = &mut result["target"];
        let has = |field: &str| target.get(field).is_some();
        let type_ = match (has("averageUtilization"), has("averageValue")) {
            (true, _) => "Utilization",
            (false, true) => "AverageValue",
            (false, false) => "Value",
        };
        target["type"] = type_.into();
    }
    result
}

/// The annotation holds the behaviour under the names of the fields in Go.
fn with_go_names(behavior: &Value) -> Value {
    renamed(behavior, &|name| {
        let mut letters = name.chars();
        letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
    })
}

/// They are read whatever their case, as Go does.
fn with_json_names(behavior: &Value) -> Value {
    const NAMES: [&str; 8] = [
        "scaleUp",
        "scaleDown",
        "stabilizationWindowSeconds",
        "selectPolicy",
        "policies",
        "type",
        "value",
        "periodSeconds",
    ];
    renamed(behavior, &|name| {
        NAMES.iter().find(|n| n.eq_ignore_ascii_case(name)).map(|n| (*n).to_owned()).unwrap_or_default()
    })
}

/// The value with other names for its members; those without a name, and nulls, are left out.
fn renamed(value: &Value, name: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::Object(members) => {
            let members = members.iter().filter(|(key, value)| !value.is_null() && *key != "tolerance");
            let members = members.map(|(key, value)| (name(key), renamed(value, name)));
            Value::Object(members.filter(|(key, _)| !key.is_empty()).collect())
        }
        Value::Array(items) => items.iter().map(|item| renamed(item, name)).collect(),
        other => other.clone(),
    }
}
