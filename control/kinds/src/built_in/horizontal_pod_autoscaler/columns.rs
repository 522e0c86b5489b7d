//! What `kubectl get hpa` shows. Read from JSON of `autoscaling/v2`.

use serde_json::Value;

use crate::Column;
use crate::columns::{age, column, items, name, number, text};

/// Metrics of which the targets are shown; of the others only how many there are.
const SHOWN: usize = 2;
const UNKNOWN: &str = "<unknown>";

pub(super) fn columns() -> Vec<Column> {
    vec![
        name(),
        column("Reference", "string", "The workload that is scaled.", |o, _| {
            format!("{}/{}", text(o, "/spec/scaleTargetRef/kind"), text(o, "/spec/scaleTargetRef/name"))
                .into()
        }),
        column("Targets", "string", "What is measured, and what it is to be.", |o, _| targets(o).into()),
        column("MinPods", "string", "The fewest replicas.", |o, _| {
            let least = o.pointer("/spec/minReplicas").and_then(Value::as_i64);
            least.map_or_else(|| "<unset>".to_owned(), |least| least.to_string()).into()
        }),
        column("MaxPods", "string", "The most replicas.", |o, _| number(o, "/spec/maxReplicas").into()),
        column("Replicas", "string", "The replicas that were last seen.", |o, _| {
            number(o, "/status/currentReplicas").into()
        }),
        age(),
    ]
}

/// `cpu: 5%/50%, 2/10 + 1 more...`
pub(in crate::built_in) fn targets(autoscaler: &Value) -> String {
    let current: Vec<&Value> = items(autoscaler, "/status/currentMetrics").collect();
    let all: Vec<String> = items(autoscaler, "/spec/metrics")
        .enumerate()
        .map(|(i, metric)| target(metric, current.get(i).copied().unwrap_or(&Value::Null)))
        .collect();
    match all.len() {
        0 => "<none>".to_owned(),
        n if n > SHOWN => format!("{} + {} more...", all[..SHOWN].join(", "), n - SHOWN),
        _ => all.join(", "),
    }
}

fn target(metric: &Value, status: &Value) -> String {
    let source = match text(metric, "/type") {
        "Object" => "object",
        "External" => "external",
        "Pods" => "pods",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let (wanted, seen) = (&metric[source], &status[source]);
    let pair = |field: &str| {
        let seen = seen["current"][field].as_str().unwrap_or(UNKNOWN);
        format!("{seen}/{}", wanted["target"][field].as_str().unwrap_or(UNKNOWN))
    };
    let is_resource = source.to_lowercase().ends_with("resource");
    let prefix = if is_resource { format!("{}: ", text(wanted, "/name")) } else { String::new() };
    match (is_resource, wanted["target"].get("averageValue").is_some()) {
        (true, true) => format!("{prefix}{}", pair("averageValue")),
        (true, false) => {
            let percent = |of: &Value, absent: &str| {
                of["averageUtilization"].as_i64().map_or_else(|| absent.to_owned(), |n| format!("{n}%"))
            };
            let (seen, wanted) = (percent(&seen["current"], UNKNOWN), percent(&wanted["target"], "<auto>"));
            format!("{prefix}{seen}/{wanted}")
        }
        (false, true) if source == "pods" => pair("averageValue"),
        (false, true) => format!("{} (avg)", pair("averageValue")),
        (false, false) => pair("value"),
    }
}
