//! What a node says of its use, in the text format of Prometheus
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>). Pure.

use jiff::Timestamp;

use super::history::{ContainerName, Point, Reading};

/// The readings in a node's answer. `now` stands for times that are not told; what is not
/// understood is left out.
pub fn read(text: &str, now: Timestamp) -> Reading {
    let mut reading = Reading { at: now, node: Point::at(now), ..Reading::default() };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((metric, value, at)) = sample(line) else { continue };
        let at = at.unwrap_or(now);
        let (name, labels) = metric.split_once('{').unwrap_or((metric, ""));
        let (subject, what) = name.split_once('_').unwrap_or((name, ""));
        let point = match subject {
            "node" => &mut reading.node,
            "container" => {
                let label = |name: &str| labelled(labels, name).unwrap_or_default();
                let container = ContainerName {
                    namespace: label("namespace"),
                    pod: label("pod"),
                    container: label("container"),
                };
                reading.containers.entry(container).or_insert_with(|| Point::at(at))
            }
            _ => continue,
        };
        match what {
            "cpu_usage_seconds_total" => {
                point.at = at;
                point.cpu_nanos = Some((value * 1e9) as u64);
            }
            "memory_working_set_bytes" => point.memory_bytes = Some(value as u64),
            "start_time_seconds" => {
                point.started = Timestamp::from_millisecond((value * 1e3) as i64).ok();
            }
            _ => {}
        }
    }
    reading
}

/// `name{labels} value [milliseconds]`.
fn sample(line: &str) -> Option<(&str, f64, Option<Timestamp>)> {
    let metric_end = line.find('}').map(|end| end + 1).or_else(|| line.find(' '))?;
    let (metric, rest) = line.split_at(metric_end);
    let mut words = rest.split_ascii_whitespace();
    let value: f64 = words.next()?.parse().ok()?;
    let at = words.next().and_then(|ms| Timestamp::from_millisecond(ms.parse().ok()?).ok());
    (value >= 0.0).then_some((metric, value, at))
}

/// The value of a label. Names of Kubernetes objects hold nothing that would have to be escaped.
fn labelled(labels: &str, name: &str) -> Option<String> {
    let labels = labels.trim_end_matches('}').split(',');
    let found = labels.filter_map(|l| l.trim().split_once('=')).find(|(key, _)| *key == name);
    Some(found?.1.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_answer() {
        let text = "\
# HELP container_cpu_usage_seconds_total x
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=\"p\"} 1.5 1700000001000
container_memory_working_set_bytes{container=\"c\",namespace=\"n\",pod=\"p\"} 4096 1700000001000
container_start_time_seconds{container=\"c\",namespace=\"n\",pod=\"p\"} 1.7e+09
node_cpu_usage_seconds_total 12 1700000002000
node_memory_working_set_bytes 1e6 1700000002000
pod_cpu_usage_seconds_total{namespace=\"n\",pod=\"p\"} 2
resource_scrape_error 0
nonsense
";
        let second = |n: i64| Timestamp::from_second(n).unwrap();
        let read = read(text, second(5));
        let name = ContainerName { namespace: "n".into(), pod: "p".into(), container: "c".into() };
        assert_eq!(read.containers.len(), 1);
        let expected = Point {
            at: second(1_700_000_001),
            cpu_nanos: Some(1_500_000_000),
            memory_bytes: Some(4096),
            started: Some(second(1_700_000_000)),
        };
        assert_eq!(read.containers[&name], expected);
        assert_eq!((read.node.cpu_nanos, read.node.memory_bytes), (Some(12_000_000_000), Some(1_000_000)));
        assert_eq!(read.node.at, second(1_700_000_002));
    }
}
