//! Sets of completion indexes, as the API writes them: `1,3-5,7`.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::batch::v1::JobSpec;

/// A set of indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(BTreeSet<i32>);

impl Indexes {
    /// Reads a set of indexes below `completions`.
    ///
    /// # Errors
    /// What is wrong with the text: not numbers, not in order, or beyond the last index.
    pub fn parse(text: &str, completions: i32) -> Result<Self, String> {
        let mut set = BTreeSet::new();
        let mut last = -1;
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let number = |text: &str| {
                text.parse::<i32>()
                    .map_err(|_| format!("cannot convert string to integer for index: {text:?}"))
            };
            let (from, to) = match part.split_once('-') {
                Some((from, to)) => (number(from)?, number(to)?),
                None => (number(part)?, number(part)?),
            };
            if from <= last || to < from {
                let current = if from <= last { from } else { to };
                return Err(format!(
                    "non-increasing order, previous: {}, current: {current}",
                    last.max(from)
                ));
            }
            if to >= completions {
                return Err(format!("too large index: {part:?}"));
            }
            set.extend(from..=to);
            last = to;
        }
        Ok(Indexes(set))
    }

    /// Reads what a status says; what is beyond the last index, or cannot be read, is left out.
    pub fn of_status(text: Option<&str>, completions: i32) -> Self {
        let mut all = Self::parse(text.unwrap_or_default(), i32::MAX).unwrap_or_default();
        all.0.retain(|index| *index < completions);
        all
    }

    /// Puts an index in; true if it was not there.
    pub fn insert(&mut self, index: i32) -> bool {
        self.0.insert(index)
    }

    /// True if the index is in the set.
    pub fn contains(&self, index: i32) -> bool {
        self.0.contains(&index)
    }

    /// How many indexes there are.
    pub fn total(&self) -> i32 {
        i32::try_from(self.0.len()).unwrap_or(i32::MAX)
    }

    /// How many of these indexes are in the set.
    pub fn total_of(&self, others: &Indexes) -> i32 {
        i32::try_from(self.0.intersection(&others.0).count()).unwrap_or(i32::MAX)
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|next| *next == last + 1) {
                last = next;
            }
            match last - first {
                0 => write!(f, "{separator}{first}")?,
                1 => write!(f, "{separator}{first},{last}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

/// True if each completion has an index.
pub(super) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for text in ["", "0", "1,2", "1,3-5,7", "0-9"] {
            assert_eq!(Indexes::parse(text, 10).unwrap().to_string(), text);
        }
        for text in ["x", "1-", "3,1", "2,2", "5-4", "10", "8-10", "-1"] {
            assert!(Indexes::parse(text, 10).is_err(), "{text}");
        }
        assert_eq!(Indexes::of_status(Some("0-9"), 4).to_string(), "0-3");
    }
}
