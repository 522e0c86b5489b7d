//! The arithmetic of a rolling update: from the numbers of the sets to their next sizes.
//!
//! Never above wanted + surge pods in the specs, never below wanted − unavailable available ones
//! by its own doing. Each step waits for what the last one has brought.

use super::counts::{Counts, SetCounts, Sizes};

/// The sizes after the next step.
pub(super) fn sizes(counts: &Counts) -> Sizes {
    let new = counts.new.unwrap_or_default();
    let old: Vec<i32> = counts.old.iter().map(|s| s.replicas).collect();
    let next = new_size(counts);
    if next != new.replicas {
        return Sizes { new: next, old };
    }
    Sizes { new: next, old: shrink_old(counts, new, old) }
}

/// The size of the new set: as many as the surge leaves room for. It grows only when it is sure
/// how many other pods there are.
pub(super) fn new_size(counts: &Counts) -> i32 {
    let current = counts.new.map_or(0, |s| s.replicas);
    if !counts.rolling || current >= counts.wanted {
        return counts.wanted;
    }
    if counts.old.iter().any(|s| !s.settled) {
        return current;
    }
    let total = counts.old.iter().map(|s| s.present).sum::<i32>().saturating_add(current);
    let room = counts.wanted.saturating_add(counts.surge).saturating_sub(total);
    current + room.clamp(0, counts.wanted - current)
}

/// What a set can still be counted on for: pods above its size are on their way out, whatever
/// its status still says.
fn dependable(set: &SetCounts) -> i32 {
    set.available.min(set.replicas)
}

fn shrink_old(counts: &Counts, new: SetCounts, mut sizes: Vec<i32>) -> Vec<i32> {
    let minimum = counts.wanted - counts.unavailable;
    let total: i32 = sizes.iter().sum::<i32>() + new.replicas;
    let mut budget = total - minimum - (new.replicas - dependable(&new));
    if budget <= 0 || sizes.iter().all(|s| *s == 0) {
        return sizes;
    }
    // Pods that are not available are no loss: they go first.
    for (size, set) in sizes.iter_mut().zip(&counts.old) {
        let unhealthy = (*size - dependable(set)).clamp(0, budget);
        *size -= unhealthy;
        budget -= unhealthy;
    }
    let available: i32 = counts.old.iter().map(dependable).sum::<i32>() + dependable(&new);
    let mut spare = (available - minimum).min(budget).max(0);
    for size in &mut sizes {
        let step = (*size).min(spare);
        *size -= step;
        spare -= step;
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(wanted: i32, surge: i32, unavailable: i32, new: (i32, i32), old: &[(i32, i32)]) -> Counts {
        let set = |(replicas, available): (i32, i32)| SetCounts {
            replicas,
            available,
            present: replicas,
            settled: true,
            ..SetCounts::default()
        };
        Counts {
            wanted,
            surge,
            unavailable,
            rolling: true,
            new: Some(set(new)),
            old: old.iter().copied().map(set).collect(),
        }
    }

    fn check(before: Counts, new: i32, old: &[i32]) {
        assert_eq!(sizes(&before), Sizes { new, old: old.to_vec() }, "{before:?}");
    }

    #[test]
    fn steps() {
        // The new set grows into the surge first.
        check(counts(10, 3, 2, (0, 0), &[(10, 10)]), 3, &[10]);
        // Then the old one gives up what may be unavailable.
        check(counts(10, 3, 2, (3, 0), &[(10, 10)]), 3, &[8]);
        // Nothing moves while new pods are not available.
        check(counts(10, 3, 2, (5, 0), &[(8, 8)]), 5, &[8]);
        // As they come up, old ones go.
        check(counts(10, 3, 2, (5, 5), &[(8, 8)]), 5, &[3]);
        // An old status that still counts deleted pods is not believed.
        check(counts(10, 3, 2, (3, 3), &[(8, 10)]), 5, &[8]);
        check(counts(10, 0, 2, (2, 2), &[(8, 10)]), 2, &[6]);
        // Unhealthy old pods go first, within the budget.
        check(counts(10, 3, 2, (3, 0), &[(10, 0)]), 3, &[8]);
        check(counts(4, 1, 1, (1, 0), &[(2, 2), (2, 0)]), 1, &[2, 1]);
        // Pods that the old set has yet to delete take their room.
        let mut busy = counts(10, 3, 2, (3, 3), &[(8, 8)]);
        busy.old[0].present = 10;
        check(busy.clone(), 3, &[5]);
        (busy.old[0].present, busy.old[0].settled) = (8, false);
        check(busy, 3, &[5]);
        // Done.
        check(counts(3, 1, 0, (3, 3), &[(0, 0)]), 3, &[0]);
        // A new set that is too big shrinks.
        check(counts(3, 1, 0, (5, 5), &[(1, 1)]), 3, &[1]);
    }
}
