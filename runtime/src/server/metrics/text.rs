//! `/metrics/resource`: a sample in the text format of Prometheus. Pure.

use std::fmt::Write;

use jiff::Timestamp;

use super::read::{Container, Pod, Sample};

/// The sample under the names that the kubelet gives its metrics.
pub fn write(sample: &Sample) -> String {
    let mut out = String::with_capacity(4096);
    let at = sample.at.as_millisecond();
    let of_containers = |out: &mut String, name: &str, value: &dyn Fn(&Container) -> Option<String>| {
        for (pod, container) in sample.pods.iter().flat_map(|p| p.containers.iter().map(move |c| (p, c))) {
            let labels = format!(
                "{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}}",
                container.name, pod.namespace, pod.name
            );
            if let Some(value) = value(container) {
                line(out, name, &labels, &value, at);
            }
        }
    };
    let of_pods = |out: &mut String, name: &str, value: &dyn Fn(&Pod) -> String| {
        for pod in &sample.pods {
            let labels = format!("{{namespace=\"{}\",pod=\"{}\"}}", pod.namespace, pod.name);
            line(out, name, &labels, &value(pod), at);
        }
    };

    let name =
        head(&mut out, "container_cpu_usage_seconds_total", "counter", "CPU seconds the container used");
    of_containers(&mut out, name, &|c| Some(seconds(c.used.cpu_nanos)));
    let name = head(&mut out, "container_memory_working_set_bytes", "gauge", "Working set of the container");
    of_containers(&mut out, name, &|c| Some(c.used.working_set_bytes.to_string()));
    let name = head(&mut out, "container_start_time_seconds", "gauge", "Start of the container, Unix time");
    of_containers(&mut out, name, &|c| c.started.map(unix_seconds));

    let name = head(&mut out, "node_cpu_usage_seconds_total", "counter", "CPU seconds the node used");
    line(&mut out, name, "", &seconds(sample.node.cpu_nanos), at);
    let name = head(&mut out, "node_memory_working_set_bytes", "gauge", "Working set of the node");
    line(&mut out, name, "", &sample.node.working_set_bytes.to_string(), at);

    let name = head(&mut out, "pod_cpu_usage_seconds_total", "counter", "CPU seconds the pod used");
    of_pods(&mut out, name, &|p| seconds(p.used.cpu_nanos));
    let name = head(&mut out, "pod_memory_working_set_bytes", "gauge", "Working set of the pod");
    of_pods(&mut out, name, &|p| p.used.working_set_bytes.to_string());

    head(&mut out, "resource_scrape_error", "gauge", "1 if something could not be read");
    out.push_str("resource_scrape_error 0\n");
    out
}

fn head<'a>(out: &mut String, name: &'a str, type_: &str, help: &str) -> &'a str {
    // Writing to a String cannot fail.
    let _ = write!(out, "# HELP {name} [STABLE] {help}\n# TYPE {name} {type_}\n");
    name
}

fn line(out: &mut String, name: &str, labels: &str, value: &str, at: i64) {
    let _ = writeln!(out, "{name}{labels} {value} {at}");
}

fn seconds(nanos: u64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

fn unix_seconds(at: Timestamp) -> String {
    format!("{}.{:03}", at.as_second(), at.subsec_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::metrics::read::Counters;

    #[test]
    fn the_names_are_the_kubelets() {
        let used = Counters { cpu_nanos: 1_500_000_000, working_set_bytes: 4096, ..Counters::default() };
        let at = Timestamp::from_millisecond(1_700_000_000_250).unwrap();
        let container =
            Container { name: "c".into(), id: "c-0".into(), started: Some(at), used: used.clone() };
        let pod = Pod {
            namespace: "n".into(),
            name: "p".into(),
            uid: "u".into(),
            started: None,
            used: used.clone(),
            containers: vec![container],
        };
        let sample = Sample {
            at,
            node_name: "node".into(),
            started: None,
            node: used,
            available_bytes: 0,
            pods: vec![pod],
        };
        let text = write(&sample);
        let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
        expect_test::expect![[r#"
            container_cpu_usage_seconds_total{container="c",namespace="n",pod="p"} 1.500000000 1700000000250
            container_memory_working_set_bytes{container="c",namespace="n",pod="p"} 4096 1700000000250
            container_start_time_seconds{container="c",namespace="n",pod="p"} 1700000000.250 1700000000250
            node_cpu_usage_seconds_total 1.500000000 1700000000250
            node_memory_working_set_bytes 4096 1700000000250
            pod_cpu_usage_seconds_total{namespace="n",pod="p"} 1.500000000 1700000000250
            pod_memory_working_set_bytes{namespace="n",pod="p"} 4096 1700000000250
            resource_scrape_error 0"#]]
        .assert_eq(&lines.join("\n"));
    }
}
