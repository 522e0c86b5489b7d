//! `/stats/summary`: a sample as the kubelet's `Summary`. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::read::{Counters, Sample};

/// The summary. How fast CPU is used is told against the sample before, where there is one.
pub fn write(sample: &Sample, before: Option<&Sample>) -> Value {
    let earlier = before.map(|before| (before.at, runs(before)));
    let stats = |run: &str, used: &Counters, available: Option<u64>| {
        let rate = earlier.as_ref().and_then(|(at, runs)| rate(used, *runs.get(run)?, *at, sample.at));
        let at = sample.at.to_string();
        let mut cpu = json!({"time": at, "usageCoreNanoSeconds": used.cpu_nanos});
        if let Some(rate) = rate {
            cpu["usageNanoCores"] = rate.into();
        }
        let mut memory = json!({
            "time": at, "usageBytes": used.memory_bytes, "workingSetBytes": used.working_set_bytes,
            "rssBytes": used.anonymous_bytes,
        });
        if let Some(available) = available {
            memory["availableBytes"] = available.into();
        }
        (cpu, memory)
    };
    let pods: Vec<Value> = sample
        .pods
        .iter()
        .map(|pod| {
            let (cpu, memory) = stats(&pod.uid, &pod.used, None);
            let containers = pod.containers.iter().map(|c| {
                let (cpu, memory) = stats(&format!("{}/{}", pod.uid, c.id), &c.used, None);
                json!({"name": c.name, "startTime": time(c.started), "cpu": cpu, "memory": memory})
            });
            json!({
                "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
                "startTime": time(pod.started), "containers": containers.collect::<Vec<_>>(),
                "cpu": cpu, "memory": memory,
            })
        })
        .collect();
    let (cpu, memory) = stats("", &sample.node, Some(sample.available_bytes));
    let node = json!({
        "nodeName": sample.node_name, "startTime": time(sample.started), "cpu": cpu, "memory": memory,
    });
    json!({"node": node, "pods": pods})
}

fn time(at: Option<Timestamp>) -> Value {
    at.map_or(Value::Null, |at| at.to_string().into())
}

/// The counters of a sample: of the node under the empty name, of pods and of runs of containers.
fn runs(sample: &Sample) -> BTreeMap<String, u64> {
    let mut runs: BTreeMap<String, u64> = [(String::new(), sample.node.cpu_nanos)].into();
    for pod in &sample.pods {
        runs.insert(pod.uid.clone(), pod.used.cpu_nanos);
        runs.extend(pod.containers.iter().map(|c| (format!("{}/{}", pod.uid, c.id), c.used.cpu_nanos)));
    }
    runs
}

fn rate(used: &Counters, before: u64, since: Timestamp, now: Timestamp) -> Option<u64> {
    let nanos = u128::try_from(now.duration_since(since).as_nanos()).ok().filter(|nanos| *nanos > 0)?;
    let used = u128::from(used.cpu_nanos.checked_sub(before)?);
    u64::try_from(used * 1_000_000_000 / nanos).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_told_against_the_sample_before() {
        let sample = |second: i64, cpu_nanos: u64| Sample {
            at: Timestamp::from_second(second).unwrap(),
            node_name: "n".into(),
            started: None,
            node: Counters { cpu_nanos, ..Counters::default() },
            available_bytes: 5,
            pods: Vec::new(),
        };
        let first = write(&sample(10, 1_000_000_000), None);
        assert_eq!(first["node"]["cpu"].get("usageNanoCores"), None);
        assert_eq!(first["node"]["memory"]["availableBytes"], 5);
        let second = write(&sample(12, 2_000_000_000), Some(&sample(10, 1_000_000_000)));
        assert_eq!(second["node"]["cpu"]["usageNanoCores"], 500_000_000);
        assert_eq!(second["node"]["cpu"]["usageCoreNanoSeconds"], 2_000_000_000_u64);
    }
}
