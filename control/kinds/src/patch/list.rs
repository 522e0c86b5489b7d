//! The order of a merged list.
//!
//! Elements that the client knows stand in the client's order. Elements that only the server has
//! keep their place among those that both have.

use std::collections::HashMap;

use serde_json::Value;

/// The places of elements in a list, by merge key or, without one, by value.
pub(super) struct Order<'a> {
    places: HashMap<&'a Value, usize>,
    key: &'a str,
}

impl<'a> Order<'a> {
    pub(super) fn new(items: &'a [Value], key: &'a str) -> Self {
        let mut places = HashMap::with_capacity(items.len());
        for (place, item) in items.iter().enumerate() {
            if let Some(known) = if key.is_empty() { Some(item) } else { item.get(key) } {
                places.entry(known).or_insert(place);
            }
        }
        Order { places, key }
    }

    /// The place of the element that is, or has the same merge key as, `item`.
    pub(super) fn position(&self, item: &Value) -> Option<usize> {
        let known = if self.key.is_empty() { item } else { item.get(self.key)? };
        self.places.get(known).copied()
    }
}

/// Puts `merged` in order: elements of `client` as `client` has them, all others as `server` has
/// them relative to the elements that both know, else after the client's.
pub(super) fn in_order(merged: Vec<Value>, client: &[Value], server: &[Value], key: &str) -> Vec<Value> {
    let client = Order::new(client, key);
    let server = Order::new(server, key);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for item in merged {
        let at = server.position(&item);
        match client.position(&item) {
            Some(place) => ours.push((place, at, item)),
            None => theirs.push((at, item)),
        }
    }
    ours.sort_by_key(|(place, _, _)| *place);
    theirs.sort_by_key(|(at, _)| at.unwrap_or(usize::MAX));

    let mut out = Vec::with_capacity(ours.len() + theirs.len());
    let mut theirs = theirs.into_iter().peekable();
    for (_, at, item) in ours {
        while let (Some(at), Some((Some(other), _))) = (at, theirs.peek())
            && *other < at
        {
            out.extend(theirs.next().map(|(_, item)| item));
        }
        out.push(item);
    }
    out.extend(theirs.map(|(_, item)| item));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(merged: Value, client: Value, server: Value, expected: Value) {
        let list = |value: &Value| value.as_array().expect("a list").clone();
        let ordered = in_order(list(&merged), &list(&client), &list(&server), "");
        assert_eq!(Value::Array(ordered), expected);
    }

    #[test]
    fn the_clients_order_wins_and_the_servers_elements_keep_their_place() {
        check(json!([1, 2, 3]), json!([3, 1]), json!([1, 2, 3]), json!([2, 3, 1]));
        check(json!([1, 2, 3, 4]), json!([1, 3]), json!([1, 2, 3]), json!([1, 2, 3, 4]));
        check(json!([1, 2, 9]), json!([9]), json!([1, 2]), json!([9, 1, 2]));
        check(json!([]), json!([1]), json!([]), json!([]));
    }
}
