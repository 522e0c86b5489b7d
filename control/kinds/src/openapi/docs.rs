//! What the reference says of the built-in types and their fields.
//!
//! Only clients that explain kinds want it, so nothing of it is kept: it is found again in the embedded
//! file, whose format the head of `docs.py` describes.

use std::collections::HashMap;

/// The texts about the built-in types.
pub(super) struct Docs {
    /// By definition name: the type's own text, and a line for each field.
    blocks: HashMap<&'static str, (&'static str, &'static str)>,
}

impl Docs {
    /// Finds its way in the file.
    pub(super) fn built_in() -> Self {
        let blocks = include_str!("docs.tbl").trim_start_matches('@').split("\n@");
        let block = |block: &'static str| {
            let (head, fields) = block.split_once('\n').unwrap_or((block, ""));
            let (name, own) = head.split_once(' ').unwrap_or((head, ""));
            (name, (own, fields))
        };
        Docs { blocks: blocks.map(block).collect() }
    }

    /// What is said of a type.
    pub(super) fn of(&self, definition: &str) -> Option<String> {
        self.blocks.get(definition).map(|(own, _)| text(own))
    }

    /// What is said of a field of a type.
    pub(super) fn of_field(&self, definition: &str, field: &str) -> Option<String> {
        let (_, fields) = self.blocks.get(definition)?;
        fields.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(' ')).map(text)
    }
}

/// A text as it is, from the one line that it stands in.
fn text(line: &str) -> String {
    let mut parts = line.split("\\\\").map(|part| part.replace("\\n", "\n"));
    let first = parts.next().unwrap_or_default();
    parts.fold(first, |text, part| text + "\\" + &part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_by_type_and_field() {
        let docs = Docs::built_in();
        let container = "io.k8s.api.core.v1.Container";
        assert_eq!(
            docs.of(container).unwrap(),
            "A single application container that you want to run within a pod."
        );
        assert!(docs.of_field(container, "env").unwrap().starts_with("List of environment variables to set"));
        assert!(docs.of_field(container, "nothing").is_none() && docs.of("io.k8s.Nothing").is_none());
        assert!(docs.of_field("io.k8s.api.core.v1.EndpointSubset", "ports").is_some());
        assert!(
            docs.of("io.k8s.api.core.v1.EndpointSubset").unwrap().contains("given:\n\n\t{\n\t  Addresses")
        );
        assert_eq!(text(r"a\\nb\nc"), "a\\nb\nc");
    }
}
