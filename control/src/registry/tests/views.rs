//! Kinds that are served in two versions are one object.

use super::*;

#[tokio::test]
async fn the_two_versions_of_events_are_one() {
    let world = World::new().await;
    let event = json!({
        "metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Pulled", "action": "Pull", "note": "hello", "type": "Normal",
        "eventTime": "2024-01-01T00:00:00.000000Z",
        "reportingController": "example.com/c", "reportingInstance": "c-1",
    });
    let made = world.create("events.k8s.io/v1", "Event", event).await;
    assert_eq!(
        (made["apiVersion"].as_str(), made["note"].as_str()),
        (Some("events.k8s.io/v1"), Some("hello"))
    );
    let core = world.get(("v1", "Event"), "e").unwrap();
    assert_eq!(
        (core["message"].as_str(), core["involvedObject"]["name"].as_str()),
        (Some("hello"), Some("p"))
    );
    let kind = world.kind("events.k8s.io/v1", "Event");
    let fields = proa_api::selector::FieldSelector::parse("regarding.name=p").unwrap();
    let options = ListOptions { fields: fields.clone(), ..ListOptions::default() };
    let list = world.registry.list(&kind, None, &options).unwrap();
    assert_eq!(list.items[0].value(), made);
    let mut watch =
        world.registry.watch(&kind, None, WatchOptions { fields, ..WatchOptions::default() }).unwrap();
    let Some(WatchItem::Event(_, object, line)) = watch.next().await else { panic!("no event") };
    assert_eq!(object.value(), made);
    assert!(line.bytes().starts_with(b"{\"type\":\"ADDED\",\"object\":{"));
}

#[tokio::test]
async fn the_two_versions_of_autoscalers_are_one() {
    let world = World::new().await;
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let body = json!({"metadata": {"name": "h"}, "spec": {
        "maxReplicas": 3, "targetCPUUtilizationPercentage": 50, "scaleTargetRef": target}});
    let v1 = ("autoscaling/v1", "HorizontalPodAutoscaler");
    let v2 = ("autoscaling/v2", "HorizontalPodAutoscaler");
    let made = world.create(v1.0, v1.1, body).await;
    assert_eq!(made["apiVersion"], v1.0);
    assert_eq!(made["spec"]["minReplicas"], 1);
    let stored = world.get(v2, "h").unwrap();
    assert_eq!(stored["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);

    // Somebody writes what v1 cannot show, and somebody else writes back what v1 shows of it.
    let mut richer = stored.clone();
    richer["spec"]["behavior"] = json!({"scaleDown": {"selectPolicy": "Disabled"}});
    let richer = world.update(v2, Part::Main, richer).await.unwrap();
    let mut shown = world.get(v1, "h").unwrap();
    assert!(shown["spec"].get("behavior").is_none());
    shown["spec"]["maxReplicas"] = 4.into();
    world.update(v1, Part::Main, shown).await.unwrap();
    let last = world.get(v2, "h").unwrap();
    assert_eq!(last["spec"]["behavior"], richer["spec"]["behavior"]);
    assert_eq!((&last["spec"]["maxReplicas"], &last["metadata"]["generation"]), (&json!(4), &json!(3)));

    let wrong = json!({"metadata": {"name": "w"}, "spec": {"maxReplicas": 0, "scaleTargetRef": target}});
    let refused = world.try_create(v1.0, v1.1, wrong).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "HorizontalPodAutoscaler.autoscaling \"w\" is invalid: [spec.maxReplicas: Invalid value: 0: must be \
         greater than 0, spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`]"
    );
}
