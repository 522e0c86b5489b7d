//! What the columns of several kinds share: names, ages, lists and texts as kubectl shows them.
//!
//! Read by the kinds' files. Cells are taken from the stored JSON, without decoding it.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::{Column, Text};

/// `Name`, first in every table.
pub fn name() -> Column {
    Column {
        format: "name".into(),
        ..column("Name", "string", "Name must be unique within a namespace.", |object, _| {
            text(object, "/metadata/name").into()
        })
    }
}

/// `Age`: the time since creation.
pub fn age() -> Column {
    column("Age", "string", "Time since the object was created.", |object, now| {
        since(object.pointer("/metadata/creationTimestamp"), now).into()
    })
}

/// A column that is always shown.
pub fn column(
    name: impl Into<Text>,
    type_: impl Into<Text>,
    description: impl Into<Text>,
    cell: impl Fn(&Value, Timestamp) -> Value + Send + Sync + 'static,
) -> Column {
    let (name, type_, description) = (name.into(), type_.into(), description.into());
    Column { name, type_, format: "".into(), description, priority: 0, cell: Arc::new(cell) }
}

/// A column that is shown with `-o wide`.
pub fn wide(
    name: impl Into<Text>,
    description: impl Into<Text>,
    cell: impl Fn(&Value, Timestamp) -> Value + Send + Sync + 'static,
) -> Column {
    Column { priority: 1, ..column(name, "string", description, cell) }
}

/// The names of the containers in a workload's pod template.
pub fn template_containers() -> Column {
    wide("Containers", "Names of each container in the template.", |o, _| container_names(o).into())
}

/// The images of the containers in a workload's pod template.
pub fn template_images() -> Column {
    wide("Images", "Images referenced by each container in the template.", |o, _| container_images(o).into())
}

/// The selector of a workload's pods.
pub fn managed_pods() -> Column {
    wide("Selector", "Labels of the pods that this manages.", |o, _| {
        selector(o.pointer("/spec/selector")).into()
    })
}

/// The string at a JSON pointer, empty when absent.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The string at a JSON pointer, or `<none>`.
pub fn text_or_none<'a>(object: &'a Value, pointer: &str) -> &'a str {
    or_none(text(object, pointer))
}

/// `<none>` for an empty text.
pub fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

/// The integer at a JSON pointer, 0 when absent.
pub fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// The items of the list at a JSON pointer.
pub fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// How many members a map or list at a JSON pointer has.
pub fn count(object: &Value, pointer: &str) -> usize {
    match object.pointer(pointer) {
        Some(Value::Object(members)) => members.len(),
        Some(Value::Array(items)) => items.len(),
        _ => 0,
    }
}

/// `a=b,c=d`, or `<none>`.
pub fn pairs(map: Option<&Value>) -> String {
    let members = map.and_then(Value::as_object).into_iter().flatten();
    let mut pairs: Vec<String> =
        members.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.sort();
    or_none(&pairs.join(",")).to_owned()
}

/// A LabelSelector object as `kubectl get -o wide` shows it.
pub fn selector(object: Option<&Value>) -> String {
    let selector = object
        .and_then(|o| serde::Deserialize::deserialize(o).ok())
        .map(|o| proa_api::selector::Selector::from_object(Some(&o)).to_string());
    or_none(selector.as_deref().unwrap_or_default()).to_owned()
}

/// Names of the containers of a pod template, with commas.
pub fn container_names(object: &Value) -> String {
    join(items(object, "/spec/template/spec/containers").map(|c| text(c, "/name")))
}

/// Images of the containers of a pod template, with commas.
pub fn container_images(object: &Value) -> String {
    join(items(object, "/spec/template/spec/containers").map(|c| text(c, "/image")))
}

/// The texts with commas between them.
pub fn join<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    texts.collect::<Vec<_>>().join(",")
}

/// The first three of a list, then how many more there are: `a,b,c + 2 more...`.
pub fn first_three(texts: &[String]) -> String {
    match texts.len() {
        0 => "<none>".to_owned(),
        1..=3 => texts.join(","),
        all => format!("{} + {} more...", texts[..3].join(","), all - 3),
    }
}

/// The time since a timestamp, or `<unknown>` if there is none.
pub fn since(timestamp: Option<&Value>, now: Timestamp) -> String {
    match time(timestamp) {
        Some(then) => human_duration(now.as_second() - then.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// The timestamp in a JSON value.
pub fn time(timestamp: Option<&Value>) -> Option<Timestamp> {
    timestamp?.as_str()?.parse().ok()
}

/// A duration in at most two units, as kubectl users read ages: `2m5s`, `3h20m`, `5d`.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |large: i64, large_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit}{small}{small_unit}"),
    };
    match seconds {
        // Clocks of two machines may differ by a second without anything being wrong.
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(days, "d", hours % 24, "h"),
        _ if hours < 24 * 365 * 2 => format!("{days}d"),
        _ if hours < 24 * 365 * 8 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (seconds, expected) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (12_000, "3h20m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_071_999, "729d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ] {
            assert_eq!(human_duration(seconds), expected, "{seconds}");
        }
    }
}
