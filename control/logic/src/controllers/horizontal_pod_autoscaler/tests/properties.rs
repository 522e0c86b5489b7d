//! The bounds hold whatever is measured, and what has settled is left alone.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::World;
use crate::controllers::tests::show;

fn behaviors() -> impl Strategy<Value = Value> {
    let rules = (0..40, prop::sample::select(vec!["Max", "Min", "Disabled"]), 1..50, 1..60).prop_map(
        |(window, select, value, period)| {
            json!({"stabilizationWindowSeconds": window, "selectPolicy": select, "policies": [
                {"type": "Pods", "value": value, "periodSeconds": period},
                {"type": "Percent", "value": value * 3, "periodSeconds": period}]})
        },
    );
    prop_oneof![
        Just(Value::Null),
        (rules.clone(), rules).prop_map(|(up, down)| json!({"scaleUp": up, "scaleDown": down}))
    ]
}

proptest! {
    /// Whatever is measured, the size stays or comes within the bounds.
    #[test]
    fn the_bounds_hold(
        behavior in behaviors(), least in 1..5_i32, more in 0..20_i32, first in 1..30_i32,
        looks in prop::collection::vec((1..90_i64, prop::collection::vec(
            prop::sample::select(vec!["cpu=0", "cpu=49", "cpu=900", "", "pending", "cpu=50 leaving", "cpu=70 age=20 unready since=5"]),
            0..8)), 1..12),
    ) {
        let most = least + more;
        let mut spec = json!({"minReplicas": least, "maxReplicas": most});
        if !behavior.is_null() {
            spec["behavior"] = behavior;
        }
        let mut world = World::new(first, spec);
        for (seconds, pods) in looks {
            world.measure(seconds, &pods);
            world.look();
            prop_assert!((least..=most).contains(&world.replicas()), "{} not in {least}..={most}", world.replicas());
        }
    }

    /// While the same is measured on and on, the size settles, and then nothing is planned.
    #[test]
    fn what_has_settled_is_left_alone(behavior in behaviors(), replicas in 1..10_i32, share in 45..55_i32) {
        let spec = if behavior.is_null() { Value::Null } else { json!({ "behavior": behavior }) };
        let mut world = World::new(replicas, spec);
        let words = format!("cpu={share}");
        let pods = vec![words.as_str(); usize::try_from(replicas).unwrap()];
        world.measure(0, &pods);
        world.look();
        for _ in 0..3 {
            world.measure(15, &pods);
            let plan = world.look();
            prop_assert!(plan.is_empty(), "{:?}", show(&plan));
        }
        prop_assert_eq!(world.replicas(), replicas);
    }
}
