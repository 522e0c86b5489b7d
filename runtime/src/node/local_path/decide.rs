//! What becomes of the control plane's orders on this node. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use proa_api::local_path::{
    ANNOTATION_ORDERS, ANNOTATION_OUTCOMES, MAX_ERROR_CHARS, Order, Orders, Outcome, Outcomes, read,
};

/// What stands in the Node.
pub struct Seen {
    /// What the control plane wants.
    pub orders: Orders,
    /// What this node has said.
    pub outcomes: Outcomes,
}

impl Seen {
    /// Reads the annotations.
    pub fn of(node: &Node) -> Seen {
        let annotation =
            |name: &str| node.metadata.annotations.as_ref().and_then(|a| a.get(name)).map(String::as_str);
        Seen { orders: read(annotation(ANNOTATION_ORDERS)), outcomes: read(annotation(ANNOTATION_OUTCOMES)) }
    }

    /// The orders that are still to be carried out: those without a word, or with one that is about
    /// something else or a failure.
    pub fn open(&self) -> BTreeMap<&str, Order> {
        let is_done = |name: &String, order: Order| {
            matches!(
                (order, self.outcomes.get(name)),
                (Order::Make, Some(Outcome::Made(_))) | (Order::Remove, Some(Outcome::Removed))
            )
        };
        let open = self.orders.iter().filter(|(name, order)| !is_done(name, **order));
        open.map(|(name, order)| (name.as_str(), *order)).collect()
    }

    /// What the node has to say after this: of what there is no order, nothing more.
    pub fn after(&self, done: Outcomes) -> Outcomes {
        let mut outcomes = self.outcomes.clone();
        outcomes.extend(done);
        outcomes.retain(|name, _| self.orders.contains_key(name));
        outcomes
    }
}

/// The word on what did not go well.
pub fn failed(error: impl ToString) -> Outcome {
    Outcome::Failed(error.to_string().chars().take(MAX_ERROR_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(orders: &str, outcomes: &str) -> Seen {
        let annotations = json!({ ANNOTATION_ORDERS: orders, ANNOTATION_OUTCOMES: outcomes });
        let node = json!({ "metadata": { "annotations": annotations } });
        Seen::of(&serde_json::from_value(node).unwrap())
    }

    #[track_caller]
    fn check(orders: &str, outcomes: &str, open: &[(&str, Order)]) {
        assert_eq!(seen(orders, outcomes).open().into_iter().collect::<Vec<_>>(), open);
    }

    #[test]
    fn orders_are_carried_out_once() {
        let (made, removed) = (r#"{"v":{"made":"/x/v"}}"#, r#"{"v":"removed"}"#);
        check(r#"{"v":"make"}"#, "", &[("v", Order::Make)]);
        check(r#"{"v":"make"}"#, made, &[]);
        check(r#"{"v":"make"}"#, removed, &[("v", Order::Make)]);
        check(r#"{"v":"make"}"#, r#"{"v":{"failed":"full"}}"#, &[("v", Order::Make)]);
        check(r#"{"v":"remove"}"#, made, &[("v", Order::Remove)]);
        check(r#"{"v":"remove"}"#, removed, &[]);
        // What is not ordered is nobody's business, and neither is what cannot be read.
        check("", made, &[]);
        check(r#"{"v":"burn"}"#, "", &[]);
    }

    #[test]
    fn words_end_with_their_orders() {
        let seen = seen(r#"{"a":"make","b":"remove"}"#, r#"{"a":{"made":"/x/a"},"old":"removed"}"#);
        let after = seen.after(Outcomes::from([("b".to_owned(), Outcome::Removed)]));
        assert_eq!(serde_json::to_string(&after).unwrap(), r#"{"a":{"made":"/x/a"},"b":"removed"}"#);
        assert_eq!(failed("e".repeat(1000)), Outcome::Failed("e".repeat(MAX_ERROR_CHARS)));
    }
}
