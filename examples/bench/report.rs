//! The figures: one line of JSON each as it is known, and all of them in a table at the end.

use serde_json::{Value, json};

/// What a figure should be.
#[derive(Clone, Copy)]
pub enum Goal {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
    /// Shown for comparison.
    None,
}

/// Something measured in the same run, in the same unit.
pub struct Peer {
    /// What it is.
    pub name: &'static str,
    /// What it took.
    pub value: f64,
}

/// One thing that was measured.
pub struct Figure {
    /// What it is, as `subject_measure`.
    pub name: &'static str,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// What it should be.
    pub goal: Goal,
    /// What it is compared with.
    pub peer: Option<Peer>,
}

impl Figure {
    /// A figure without a peer.
    pub fn new(name: &'static str, value: f64, unit: &'static str, goal: Goal) -> Self {
        Figure { name, value, unit, goal, peer: None }
    }

    /// The same beside what it is compared with.
    pub fn beside(self, name: &'static str, value: f64) -> Self {
        Figure { peer: Some(Peer { name, value }), ..self }
    }
}

/// All that was measured.
#[derive(Default)]
pub struct Report {
    figures: Vec<Figure>,
    errors: Vec<(String, String)>,
}

impl Report {
    /// Prints and keeps a figure.
    pub fn add(&mut self, figure: Figure) {
        println!("{}", json_of(&figure));
        self.figures.push(figure);
    }

    /// Prints and keeps a measurement that failed.
    pub fn error(&mut self, name: &str, error: &anyhow::Error) {
        let text = format!("{error:#}");
        println!("{}", json!({"name": name, "error": text}));
        self.errors.push((name.to_owned(), text));
    }

    /// Prints and keeps the error, if it is one; else gives what was measured.
    pub fn check<T>(&mut self, name: &str, measured: anyhow::Result<T>) -> Option<T> {
        measured.map_err(|error| self.error(name, &error)).ok()
    }

    /// True if nothing failed.
    pub fn is_complete(&self) -> bool {
        self.errors.is_empty()
    }

    /// Prints all figures, then all errors.
    pub fn print_table(&self) {
        println!("\n{:<40} {:>12} {:<8} {:>12} {:>4}  beside", "figure", "value", "unit", "goal", "met");
        for figure in &self.figures {
            let goal = match figure.goal {
                Goal::AtMost(goal) => format!("<= {}", short(goal)),
                Goal::AtLeast(goal) => format!(">= {}", short(goal)),
                Goal::None => String::new(),
            };
            let met = figure.met().map_or("", |met| if met { "yes" } else { "NO" });
            let peer = figure.peer.as_ref().map_or_else(String::new, |peer| {
                format!("{} {} (x {})", peer.name, short(peer.value), short(figure.value / peer.value))
            });
            let (name, value, unit) = (figure.name, short(figure.value), figure.unit);
            println!("{name:<40} {value:>12} {unit:<8} {goal:>12} {met:>4}  {peer}");
        }
        for (name, error) in &self.errors {
            println!("{name:<40} NOT MEASURED: {error}");
        }
    }
}

impl Figure {
    fn met(&self) -> Option<bool> {
        match self.goal {
            Goal::AtMost(goal) => Some(self.value <= goal),
            Goal::AtLeast(goal) => Some(self.value >= goal),
            Goal::None => None,
        }
    }
}

fn json_of(figure: &Figure) -> Value {
    let mut line = json!({"name": figure.name, "value": rounded(figure.value), "unit": figure.unit});
    match figure.goal {
        Goal::AtMost(goal) => line["at_most"] = json!(rounded(goal)),
        Goal::AtLeast(goal) => line["at_least"] = json!(rounded(goal)),
        Goal::None => {}
    }
    if let Some(met) = figure.met() {
        line["met"] = json!(met);
    }
    if let Some(peer) = &figure.peer {
        line["peer"] = json!({"name": peer.name, "value": rounded(peer.value)});
        line["ratio"] = json!(rounded(figure.value / peer.value));
    }
    line
}

/// Four significant digits are more than any of these measurements is good for.
fn rounded(value: f64) -> f64 {
    short(value).parse().unwrap_or(value)
}

fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 || v == 0.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// The value below which `percent` of the samples lie, by the nearest rank.
pub fn percentile(samples: &mut [f64], percent: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let rank = (samples.len() as f64 * percent / 100.0).ceil() as usize;
    samples.get(rank.clamp(1, samples.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}
