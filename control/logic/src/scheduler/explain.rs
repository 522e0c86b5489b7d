//! Explanations: the text of `FailedScheduling`, word for word as the stock scheduler writes it,
//! because people search for it.

use std::collections::BTreeMap;

use super::cycle::Diagnosis;
use super::framework::Cycle;

/// Counts of texts.
#[derive(Debug, Default)]
pub struct Reasons(BTreeMap<String, usize>);

impl Reasons {
    /// Counts a text.
    pub fn add(&mut self, text: &str, times: usize) {
        if times == 0 {
            return;
        }
        match self.0.get_mut(text) {
            Some(count) => *count += times,
            None => {
                self.0.insert(text.to_owned(), times);
            }
        }
    }

    /// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
    pub fn text(&self, nodes: usize) -> String {
        let mut texts: Vec<String> =
            self.0.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        texts.sort();
        match texts.is_empty() {
            true => format!("0/{nodes} nodes are available:"),
            false => format!("0/{nodes} nodes are available: {}.", texts.join(", ")),
        }
    }
}

/// Why a pod fits on none of the nodes.
pub fn explain(cycle: &Cycle<'_>, diagnosis: &Diagnosis) -> String {
    let nodes = cycle.snapshot.len();
    if nodes == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    if let Some((_, misfit)) = &diagnosis.pod {
        let mut texts = Vec::new();
        misfit.reason.tell(cycle.pod, None, |text| texts.push(text.to_owned()));
        return format!("0/{nodes} nodes are available: {}.", texts.join(", "));
    }
    let mut reasons = Reasons::default();
    for rejected in &diagnosis.rejected {
        let node = &cycle.node(rejected.node).node;
        rejected.misfit.reason.tell(cycle.pod, Some(node), |text| reasons.add(text, 1));
    }
    if !diagnosis.narrowed_by.is_empty() {
        let mut names: Vec<&str> = diagnosis.narrowed_by.iter().map(|p| p.name()).collect();
        names.sort_unstable();
        let text = format!("node(s) didn't satisfy plugin(s) [{}]", names.join(" "));
        reasons.add(&text, nodes - diagnosis.rejected.len());
    }
    reasons.text(nodes)
}
