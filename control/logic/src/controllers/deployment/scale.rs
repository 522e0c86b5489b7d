//! The arithmetic of scaling: from another wanted number to the sizes of the sets, without
//! moving a roll-out forward. In the middle of one, every set gets its share.

use super::counts::{Counts, SetCounts, Sizes};

/// The sizes for the wanted number.
pub(super) fn sizes(counts: &Counts) -> Sizes {
    let mut sizes = Sizes {
        new: counts.new.map_or(0, |s| s.replicas),
        old: counts.old.iter().map(|s| s.replicas).collect(),
    };
    let active_old = counts.old.iter().filter(|s| s.replicas > 0).count();
    let active_new = counts.new.is_some_and(|s| s.replicas > 0);
    match (active_new, active_old) {
        (true, 0) => sizes.new = counts.wanted,
        (false, 0) if counts.new.is_some() => sizes.new = counts.wanted,
        (false, 0) => {
            if let Some(latest) = sizes.old.last_mut() {
                *latest = counts.wanted;
            }
        }
        (false, 1) => {
            if let Some(only) = sizes.old.iter_mut().find(|s| **s > 0) {
                *only = counts.wanted;
            }
        }
        _ if is_saturated(counts) => sizes.old.fill(0),
        _ if counts.rolling => proportional(counts, &mut sizes),
        _ => {}
    }
    restrain(counts, &mut sizes);
    sizes
}

/// Keeps sets from growing into room that pods of other sets still take; the roll-out goes on
/// when they are gone.
fn restrain(counts: &Counts, sizes: &mut Sizes) {
    let limit = counts.wanted.saturating_add(counts.surge);
    let sets: Vec<SetCounts> = counts.new.iter().chain(&counts.old).copied().collect();
    let mut next: Vec<i32> = counts.new.iter().map(|_| sizes.new).chain(sizes.old.iter().copied()).collect();
    for index in 0..sets.len() {
        let others = || (0..sets.len()).filter(|other| *other != index);
        let taken: i32 = others().map(|other| next[other].max(sets[other].present)).sum();
        let room = if others().all(|other| sets[other].settled) { limit - taken } else { 0 };
        next[index] = next[index].min(room.max(sets[index].replicas));
    }
    let mut next = next.into_iter();
    if counts.new.is_some() {
        sizes.new = next.next().unwrap_or(sizes.new);
    }
    sizes.old = next.collect();
}

/// True if the new set carries the whole load, so that the others are not needed.
fn is_saturated(counts: &Counts) -> bool {
    counts.new.is_some_and(|s| {
        s.replicas == counts.wanted && s.desired == Some(counts.wanted) && s.available == counts.wanted
    })
}

fn proportional(counts: &Counts, sizes: &mut Sizes) {
    let total: i32 = sizes.old.iter().sum::<i32>() + sizes.new;
    let allowed = if counts.wanted > 0 { counts.wanted.saturating_add(counts.surge) } else { 0 };
    let change = allowed - total;
    if change == 0 {
        return;
    }
    // The place of each set that has pods: none for the new one, else its index among the old.
    let mut order: Vec<(Option<usize>, SetCounts)> = Vec::new();
    order.extend(counts.new.filter(|s| s.replicas > 0).map(|s| (None, s)));
    order.extend(counts.old.iter().enumerate().filter(|(_, s)| s.replicas > 0).map(|(i, s)| (Some(i), *s)));
    // The biggest first; of equal ones the newer when growing, the older when shrinking.
    order.sort_by_key(|(_, s)| (-s.replicas, if change > 0 { -s.created } else { s.created }));
    let mut done = 0;
    let mut next: Vec<i32> = Vec::new();
    for (_, set) in &order {
        let left = change - done;
        let share = share(set, counts);
        let step = if left == 0 {
            0
        } else if change > 0 {
            share.min(left)
        } else {
            share.max(left)
        };
        done += step;
        next.push(set.replicas + step);
    }
    if let Some(first) = next.first_mut() {
        *first = (*first + change - done).max(0);
    }
    for ((place, _), size) in order.iter().zip(next) {
        match place {
            None => sizes.new = size,
            Some(index) => sizes.old[*index] = size,
        }
    }
}

/// By how much a set changes if it keeps its part of the whole.
fn share(set: &SetCounts, counts: &Counts) -> i32 {
    if counts.wanted == 0 {
        return -set.replicas;
    }
    let before = set.maximum.filter(|m| *m > 0).unwrap_or(counts.wanted);
    let after = i64::from(counts.wanted) + i64::from(counts.surge);
    // Rounded to the nearest, halves up.
    let size = (2 * i64::from(set.replicas) * after + i64::from(before)) / (2 * i64::from(before));
    i32::try_from(size).unwrap_or(i32::MAX) - set.replicas
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wanted: i32, surge: i32, new: i32, old: &[i32], maximum: i32, expected: (i32, &[i32])) {
        let set = |replicas: i32| SetCounts {
            replicas,
            present: replicas,
            settled: true,
            maximum: Some(maximum),
            ..SetCounts::default()
        };
        let counts = Counts {
            wanted,
            surge,
            unavailable: 0,
            rolling: true,
            new: Some(set(new)),
            old: old.iter().copied().map(set).collect(),
        };
        assert_eq!(sizes(&counts), Sizes { new: expected.0, old: expected.1.to_vec() }, "{counts:?}");
    }

    #[test]
    fn one_set_takes_all() {
        check(5, 1, 3, &[0, 0], 4, (5, &[0, 0]));
        check(5, 1, 0, &[3, 0], 4, (0, &[5, 0]));
        check(5, 1, 0, &[0], 4, (5, &[0]));
        check(0, 0, 3, &[], 4, (0, &[]));
    }

    #[test]
    fn several_sets_keep_their_parts() {
        // The example of the Kubernetes documentation: 10 → 15 with surge 3 in mid roll-out.
        check(15, 3, 5, &[8], 13, (7, &[11]));
        check(10, 0, 10, &[10], 20, (5, &[5]));
        check(0, 0, 5, &[5], 10, (0, &[0]));
    }
}
