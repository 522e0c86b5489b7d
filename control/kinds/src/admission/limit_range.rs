//! What LimitRanges give to containers that ask for nothing, and what they refuse.
//!
//! <https://kubernetes.io/docs/concepts/policy/limit-range/>. Fed by the registry with the
//! LimitRanges of the object's namespace.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proa_api::quantity::Written;
use serde_json::{Value, json};

use super::amounts::{Amounts, List, amounts, of, total};

/// Where a pod says what it was given.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Fills in the requests and limits that the containers of a new pod leave out. The pod is as
/// its client sent it: a limit still stands for the request that it becomes.
pub fn fill(ranges: &[LimitRange], pod: &mut Value) {
    for range in ranges {
        let mut given = Vec::new();
        let items = range.spec.iter().flat_map(|spec| &spec.limits);
        let (mut limits, mut requests) = (BTreeMap::new(), BTreeMap::new());
        for item in items.filter(|item| item.type_ == "Container") {
            limits.extend(item.default.clone().unwrap_or_default());
            requests.extend(item.default_request.clone().unwrap_or_default());
        }
        for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
            let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten().filter(|container| container.is_object()) {
                fill_container(container, what, &requests, &limits, &mut given);
            }
        }
        if !given.is_empty() && pod["metadata"].is_object() {
            if !pod["metadata"]["annotations"].is_object() {
                pod["metadata"]["annotations"] = json!({});
            }
            let text = format!("LimitRanger plugin set: {}", given.join("; "));
            pod["metadata"]["annotations"][ANNOTATION] = text.into();
        }
    }
}

fn fill_container(
    container: &mut Value,
    what: &str,
    requests: &BTreeMap<String, Quantity>,
    limits: &BTreeMap<String, Quantity>,
    given: &mut Vec<String>,
) {
    // Anything else is for decoding to refuse.
    if !container["resources"].is_null() && !container["resources"].is_object() {
        return;
    }
    let name = container["name"].as_str().unwrap_or_default().to_owned();
    let has = |container: &Value, list: &str, resource: &str| {
        container["resources"][list].get(resource).is_some_and(|amount| !amount.is_null())
    };
    let said = container.clone();
    for (list, defaults) in [("requests", requests), ("limits", limits)] {
        let mut set = Vec::new();
        for (resource, amount) in defaults {
            let limited = list == "requests" && has(&said, "limits", resource);
            if has(&said, list, resource) || limited {
                continue;
            }
            for step in [&["resources"][..], &["resources", list][..]] {
                let place = step.iter().fold(&mut *container, |place, member| &mut place[*member]);
                if place.is_null() {
                    *place = json!({});
                }
            }
            if let Some(amounts) = container["resources"].get_mut(list).and_then(Value::as_object_mut) {
                amounts.insert(resource.clone(), amount.0.clone().into());
                set.push(resource.as_str());
            }
        }
        if !set.is_empty() {
            let list = list.trim_end_matches('s');
            given.push(format!("{} {list} for {what} {name}", set.join(", ")));
        }
    }
}

/// What the ranges have against a new pod; the first of them that has anything speaks.
pub fn check_pod(ranges: &[LimitRange], pod: &Pod) -> Result<(), String> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    check(ranges, |item, faults| match item.type_.as_str() {
        "Container" => {
            for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
                let resources = container.resources.as_ref();
                bounds(item, &of(resources, List::Requests), &of(resources, List::Limits), faults);
            }
        }
        "Pod" => bounds(item, &total(spec, List::Requests), &total(spec, List::Limits), faults),
        _ => {}
    })
}

/// What the ranges have against a new or changed claim.
pub fn check_claim(ranges: &[LimitRange], claim: &PersistentVolumeClaim) -> Result<(), String> {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let requests = amounts(resources.and_then(|resources| resources.requests.as_ref()));
    check(ranges, |item, faults| {
        if item.type_ != "PersistentVolumeClaim" {
            return;
        }
        for (name, least) in amounts(item.min.as_ref()) {
            faults.extend(too_small("PersistentVolumeClaim", &name, least, requests.get(&name), None));
        }
        for (name, most) in amounts(item.max.as_ref()) {
            let start = format!("maximum {name} usage per PersistentVolumeClaim is {most}");
            faults.extend(match requests.get(&name) {
                None => Some(format!("{start}.  No request is specified")),
                Some(asked) if asked.amount() > most.amount() => {
                    Some(format!("{start}, but request is {asked}"))
                }
                Some(_) => None,
            });
        }
    })
}

fn check(ranges: &[LimitRange], look: impl Fn(&LimitRangeItem, &mut Vec<String>)) -> Result<(), String> {
    for range in ranges {
        let mut faults: Vec<String> = Vec::new();
        for item in range.spec.iter().flat_map(|spec| &spec.limits) {
            look(item, &mut faults);
        }
        let mut told = BTreeSet::new();
        faults.retain(|fault| told.insert(fault.clone()));
        match faults.as_slice() {
            [] => {}
            [one] => return Err(one.clone()),
            several => return Err(format!("[{}]", several.join(", "))),
        }
    }
    Ok(())
}

fn bounds(item: &LimitRangeItem, requests: &Amounts, limits: &Amounts, faults: &mut Vec<String>) {
    let type_ = item.type_.as_str();
    for (name, least) in amounts(item.min.as_ref()) {
        faults.extend(too_small(type_, &name, least, requests.get(&name), limits.get(&name)));
    }
    for (name, most) in amounts(item.max.as_ref()) {
        faults.extend(too_large(type_, &name, most, requests.get(&name), limits.get(&name)));
    }
    for (name, ratio) in amounts(item.max_limit_request_ratio.as_ref()) {
        faults.extend(too_far_apart(type_, &name, ratio, requests.get(&name), limits.get(&name)));
    }
}

fn too_small(
    type_: &str,
    name: &str,
    least: Written,
    request: Option<&Written>,
    limit: Option<&Written>,
) -> Option<String> {
    let start = format!("minimum {name} usage per {type_} is {least}");
    match (request, limit) {
        (None, _) => Some(format!("{start}.  No request is specified")),
        (Some(asked), _) if asked.amount() < least.amount() => {
            Some(format!("{start}, but request is {asked}"))
        }
        (_, Some(limit)) if limit.amount() < least.amount() => Some(format!("{start}, but limit is {limit}")),
        _ => None,
    }
}

fn too_large(
    type_: &str,
    name: &str,
    most: Written,
    request: Option<&Written>,
    limit: Option<&Written>,
) -> Option<String> {
    let start = format!("maximum {name} usage per {type_} is {most}");
    match (limit, request) {
        (None, _) => Some(format!("{start}.  No limit is specified")),
        (Some(limit), _) if limit.amount() > most.amount() => Some(format!("{start}, but limit is {limit}")),
        (_, Some(asked)) if asked.amount() > most.amount() => {
            Some(format!("{start}, but request is {asked}"))
        }
        _ => None,
    }
}

fn too_far_apart(
    type_: &str,
    name: &str,
    ratio: Written,
    request: Option<&Written>,
    limit: Option<&Written>,
) -> Option<String> {
    let start = format!("{name} max limit to request ratio per {type_} is {ratio}");
    let millis = |amount: Option<&Written>| amount.map(|a| a.amount().millis()).filter(|n| *n != 0);
    let Some(asked) = millis(request) else {
        return Some(format!("{start}, but no request is specified or request is 0"));
    };
    let Some(limit) = millis(limit) else {
        return Some(format!("{start}, but no limit is specified or limit is 0"));
    };
    let found = limit as f64 / asked as f64;
    let most = ratio.amount().millis() as f64 / 1000.0;
    (found > most).then(|| format!("{start}, but provided ratio is {found:.6}"))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn range(items: Value) -> Vec<LimitRange> {
        vec![serde_json::from_value(json!({"spec": {"limits": items}})).unwrap()]
    }

    fn pod(requests: Value, limits: Value) -> Value {
        let container = json!({"name": "c", "resources": {"requests": requests, "limits": limits}});
        json!({"metadata": {}, "spec": {"containers": [container, {"name": "d"}]}})
    }

    #[test]
    fn containers_get_what_they_leave_out() {
        let ranges = range(json!([{
            "type": "Container", "default": {"cpu": "1", "memory": "1Gi"},
            "defaultRequest": {"cpu": "500m", "memory": "256Mi"},
        }]));
        let mut object = pod(json!({"memory": "1Mi"}), json!({"cpu": 2}));
        fill(&ranges, &mut object);
        let resources = &object["spec"]["containers"][0]["resources"];
        assert_eq!(
            *resources,
            json!({"requests": {"memory": "1Mi"}, "limits": {"cpu": 2, "memory": "1Gi"}}),
            "a limit stands for its request"
        );
        assert_eq!(
            object["spec"]["containers"][1]["resources"],
            json!({"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}})
        );
        assert_eq!(
            object["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: memory limit for container c; cpu, memory request for container d; \
             cpu, memory limit for container d"
        );
        for odd in [json!(1), json!({"containers": [2]}), json!({"containers": [{"resources": 1}]})] {
            // Decoding refuses these later.
            fill(&ranges, &mut json!({"metadata": {}, "spec": odd}));
        }
    }

    fn check_one(item: Value, requests: Value, limits: Value, expected: Expect) {
        let mut object = pod(requests, limits);
        object["spec"]["containers"].as_array_mut().unwrap().pop();
        let pod: Pod = serde_json::from_value(object).unwrap();
        let text = check_pod(&range(json!([item])), &pod).map_or_else(|why| why, |()| "accepted".to_owned());
        expected.assert_eq(&text);
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        let none = || json!({});
        let max = || json!({"type": "Container", "max": {"cpu": "800m"}});
        check_one(
            max(),
            none(),
            none(),
            expect!["maximum cpu usage per Container is 800m.  No limit is specified"],
        );
        check_one(
            max(),
            none(),
            json!({"cpu": "1500m"}),
            expect!["maximum cpu usage per Container is 800m, but limit is 1500m"],
        );
        check_one(max(), json!({"cpu": "800m"}), json!({"cpu": "800m"}), expect!["accepted"]);
        let min = || json!({"type": "Container", "min": {"cpu": "200m", "memory": "1Mi"}});
        check_one(
            min(),
            none(),
            none(),
            expect![
                "[minimum cpu usage per Container is 200m.  No request is specified, minimum memory usage per Container is 1Mi.  No request is specified]"
            ],
        );
        check_one(
            min(),
            json!({"cpu": "100m", "memory": "1Mi"}),
            none(),
            expect!["minimum cpu usage per Container is 200m, but request is 100m"],
        );
        let ratio = || json!({"type": "Pod", "maxLimitRequestRatio": {"memory": 2}});
        check_one(
            ratio(),
            none(),
            none(),
            expect![
                "memory max limit to request ratio per Pod is 2, but no request is specified or request is 0"
            ],
        );
        check_one(
            ratio(),
            json!({"memory": "100Mi"}),
            none(),
            expect![
                "memory max limit to request ratio per Pod is 2, but no limit is specified or limit is 0"
            ],
        );
        check_one(
            ratio(),
            json!({"memory": "100Mi"}),
            json!({"memory": "250Mi"}),
            expect!["memory max limit to request ratio per Pod is 2, but provided ratio is 2.500000"],
        );
        check_one(ratio(), json!({"memory": "100Mi"}), json!({"memory": "200Mi"}), expect!["accepted"]);
        let claim = |storage: &str| {
            let spec = json!({"resources": {"requests": {"storage": storage}}});
            let claim = serde_json::from_value(json!({ "spec": spec })).unwrap();
            let item = json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}});
            check_claim(&range(json!([item])), &claim).map_or_else(|why| why, |()| "accepted".to_owned())
        };
        expect![[r#"
            accepted
            maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi
            minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 500Mi"#]]
        .assert_eq(&[claim("1Gi"), claim("3Gi"), claim("500Mi")].join("\n"));
    }
}
