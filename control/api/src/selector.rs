//! Label and field selectors.
//!
//! Syntax and meaning:
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::syntax;

/// Labels as objects carry them.
pub type Labels = BTreeMap<String, String>;

/// A parsed label selector: all requirements must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    requirements: Vec<Requirement>,
    matches_nothing: bool,
}

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How its value is compared.
    pub operator: Operator,
    /// The values compared with; empty for `Exists` and `DoesNotExist`.
    pub values: Vec<String>,
}

/// Operators of requirements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    /// The label is there with one of the values.
    In,
    /// The label is absent or has another value.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The label's value is an integer above the one given.
    Gt,
    /// The label's value is an integer below the one given.
    Lt,
}

/// A selector that cannot be parsed, with the text for the client.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

impl Selector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches no object.
    pub fn nothing() -> Self {
        Selector { requirements: Vec::new(), matches_nothing: true }
    }

    /// True if every object matches.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.matches_nothing
    }

    /// Adds a requirement.
    pub fn require(&mut self, key: &str, operator: Operator, values: Vec<String>) {
        self.requirements.push(Requirement { key: key.to_owned(), operator, values });
    }

    /// The selector of a plain map (Services, ReplicationControllers): every pair must be there.
    /// An empty map matches everything; callers decide whether an absent one matches nothing.
    pub fn from_map<'a>(map: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let mut selector = Self::everything();
        for (key, value) in map {
            selector.require(key, Operator::In, vec![value.clone()]);
        }
        selector
    }

    /// The selector of a `LabelSelector` object. An absent one matches nothing, an empty one
    /// everything. An unknown operator, which validation keeps out, matches nothing.
    pub fn from_object(object: Option<&LabelSelector>) -> Self {
        let Some(object) = object else { return Self::nothing() };
        let mut selector = Self::from_map(object.match_labels.iter().flatten());
        for expression in object.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                _ => return Self::nothing(),
            };
            selector.require(&expression.key, operator, expression.values.clone().unwrap_or_default());
        }
        selector
    }

    /// Parses the `labelSelector` query parameter: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut selector = Self::everything();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if part.is_empty() {
                if text.trim().is_empty() {
                    continue;
                }
                return Err(ParseError(format!(
                    "unable to parse requirement: found ',' with nothing beside it in {text:?}"
                )));
            }
            selector.requirements.push(parse_requirement(part)?);
        }
        Ok(selector)
    }

    /// True if an object with these labels is selected.
    pub fn matches(&self, labels: Option<&Labels>) -> bool {
        self.matches_with(|key| labels.and_then(|l| l.get(key)).map(String::as_str))
    }

    /// [`Selector::matches`] for labels kept in another shape: `get` gives a label's value.
    pub fn matches_with<'l>(&self, get: impl Fn(&str) -> Option<&'l str>) -> bool {
        !self.matches_nothing && self.requirements.iter().all(|r| r.matches(get(&r.key)))
    }
}

impl Requirement {
    /// True if a label with this value (absent: `None`) meets the requirement.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|x| x == v);
        let bound = || self.values.first().and_then(|v| v.parse::<i64>().ok());
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => matches!((number(), bound()), (Some(n), Some(b)) if n > b),
            Operator::Lt => matches!((number(), bound()), (Some(n), Some(b)) if n < b),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let values = r.values.join(",");
            match r.operator {
                Operator::In if r.values.len() == 1 => write!(f, "{}={values}", r.key)?,
                Operator::In => write!(f, "{} in ({values})", r.key)?,
                Operator::NotIn if r.values.len() == 1 => write!(f, "{}!={values}", r.key)?,
                Operator::NotIn => write!(f, "{} notin ({values})", r.key)?,
                Operator::Exists => f.write_str(&r.key)?,
                Operator::DoesNotExist => write!(f, "!{}", r.key)?,
                Operator::Gt => write!(f, "{}>{values}", r.key)?,
                Operator::Lt => write!(f, "{}<{values}", r.key)?,
            }
        }
        Ok(())
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0usize, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_requirement(part: &str) -> Result<Requirement, ParseError> {
    let bad = || ParseError(format!("unable to parse requirement: {part:?}"));
    let requirement = |key: &str, operator, values: Vec<String>| -> Result<Requirement, ParseError> {
        let key = key.trim();
        // What no label can be is a mistake: it would select all, or nothing.
        let invalid = |path: &str, text: &str, faults: syntax::Faults| match faults.is_empty() {
            true => Ok(()),
            false => Err(ParseError(format!(
                "unable to parse requirement: {path}: Invalid value: {text:?}: {}",
                faults.join("; ")
            ))),
        };
        invalid("key", key, syntax::qualified_name(key))?;
        for (at, value) in values.iter().enumerate() {
            invalid(&format!("values[{at}][{key}]"), value, syntax::label_value(value))?;
        }
        if matches!(operator, Operator::Gt | Operator::Lt) && values.iter().any(|v| v.parse::<i64>().is_err())
        {
            return Err(ParseError(format!(
                "unable to parse requirement: values[0]: Invalid value: {:?}: for 'Gt', 'Lt' operators, the value must be an integer",
                values.first().map_or("", String::as_str)
            )));
        }
        Ok(Requirement { key: key.to_owned(), operator, values })
    };
    if let Some(key) = part.strip_prefix('!') {
        return requirement(key, Operator::DoesNotExist, Vec::new());
    }
    if let Some(open) = part.find('(') {
        let list = part[open + 1..].strip_suffix(')').ok_or_else(bad)?;
        let values = list.split(',').map(|v| v.trim().to_owned()).collect();
        let mut words = part[..open].split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => requirement(key, Operator::In, values),
            (Some(key), Some("notin"), None) => requirement(key, Operator::NotIn, values),
            _ => Err(bad()),
        };
    }
    for (sign, operator) in [
        ("!=", Operator::NotIn),
        ("==", Operator::In),
        ("=", Operator::In),
        (">", Operator::Gt),
        ("<", Operator::Lt),
    ] {
        if let Some((key, value)) = part.split_once(sign) {
            return requirement(key, operator, vec![value.trim().to_owned()]);
        }
    }
    requirement(part, Operator::Exists, Vec::new())
}

/// A parsed field selector: `metadata.name=x,status.phase!=Running`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldSelector(pub Vec<FieldRequirement>);

/// One requirement on one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldRequirement {
    /// `metadata.name`.
    pub field: String,
    /// The value compared with.
    pub value: String,
    /// False for `!=`.
    pub equal: bool,
}

impl FieldSelector {
    /// Parses the `fieldSelector` query parameter. In a value, `\\` stands before a comma, an equals sign or
    /// another backslash that is part of it, as client libraries write it:
    /// <https://pkg.go.dev/k8s.io/apimachinery/pkg/fields#EscapeValue>.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut requirements = Vec::new();
        for part in terms(text).filter(|p| !p.is_empty()) {
            let signed = part.char_indices().find_map(|(at, _)| {
                let (field, rest) = part.split_at(at);
                ["!=", "==", "="].into_iter().find_map(|sign| Some((field, sign, rest.strip_prefix(sign)?)))
            });
            let Some((field, sign, value)) = signed else {
                return Err(ParseError(format!("invalid selector: '{text}'; can't understand '{part}'")));
            };
            requirements.push(FieldRequirement {
                field: field.to_owned(),
                value: unescaped(value)?,
                equal: sign != "!=",
            });
        }
        Ok(FieldSelector(requirements))
    }

    /// True if an object is selected; `get` gives its fields' values, `None` for absent ones,
    /// which count as empty.
    pub fn matches_with<'f>(&self, get: impl Fn(&str) -> Option<&'f str>) -> bool {
        self.0.iter().all(|r| (get(&r.field).unwrap_or_default() == r.value) == r.equal)
    }

    /// The value a field must have, if the selector asks for one: a way to a direct look-up.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|r| r.equal && r.field == field).map(|r| r.value.as_str())
    }
}

/// The terms of a field selector: between commas that have no backslash before them.
fn terms(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c| {
        let ends = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })
}

fn unescaped(text: &str) -> Result<String, ParseError> {
    let invalid =
        |escape: String| ParseError(format!("invalid field selector: invalid escape sequence: {escape}"));
    let mut value = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next() {
                Some(c @ ('\\' | ',' | '=')) => value.push(c),
                other => return Err(invalid(std::iter::once('\\').chain(other).collect())),
            },
            ',' | '=' => {
                let code = u32::from(c);
                return Err(ParseError(format!(
                    "invalid field selector: unescaped character in value: {code}"
                )));
            }
            c => value.push(c),
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selector: &str, labels: &[(&str, &str)], expected: bool) {
        let labels: Labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let parsed = Selector::parse(selector).unwrap();
        assert_eq!(parsed.matches(Some(&labels)), expected, "{selector:?} on {labels:?}");
        assert_eq!(Selector::parse(&parsed.to_string()).unwrap(), parsed, "round trip of {selector:?}");
    }

    #[test]
    fn label_selectors() {
        check("", &[], true);
        check("a=b", &[("a", "b")], true);
        check("a==b", &[("a", "c")], false);
        check("a!=b", &[], true);
        check("a in (x, y),b", &[("a", "y"), ("b", "")], true);
        check("a notin (x,y)", &[("a", "y")], false);
        check("!a", &[("a", "")], false);
        check("a>3", &[("a", "4")], true);
        check("a=", &[("a", "")], true);
    }

    #[test]
    fn bad_label_selectors() {
        let long = format!("{}!=b", "a".repeat(64));
        for text in [
            "a in b",
            "a in (b",
            "a,,b",
            "=b",
            "a b",
            "(a)",
            "a!=b/c",
            "a notin (b, c/d)",
            "a/b/c",
            "!a/b/c",
            "a$b",
            "!a\u{fffd}",
            "a>b",
            &long,
        ] {
            assert!(Selector::parse(text).is_err(), "{text:?} was accepted");
        }
        let refusal = Selector::parse("tier!=prod/eu").unwrap_err().to_string();
        let begin = "unable to parse requirement: values[0][tier]: Invalid value: \"prod/eu\": a valid label must be an";
        assert!(refusal.starts_with(begin), "{refusal}");
    }

    #[test]
    fn field_selectors() {
        let selector = FieldSelector::parse("spec.nodeName=n1,status.phase!=Failed").unwrap();
        let get = |field: &str| match field {
            "spec.nodeName" => Some("n1"),
            "status.phase" => Some("Running"),
            _ => None,
        };
        assert!(selector.matches_with(get));
        assert_eq!(selector.exact("spec.nodeName"), Some("n1"));
        assert!(FieldSelector::parse("nonsense").is_err());
    }

    #[test]
    fn values_of_fields_are_escaped() {
        for (text, expected) in [
            (r"a=b\=c,d!=e\,f", Ok(vec![("a", "b=c", true), ("d", "e,f", false)])),
            (r"a==b\\,c=", Ok(vec![("a", r"b\", true), ("c", "", true)])),
            ("a=b=c", Err("invalid field selector: unescaped character in value: 61")),
            (r"a=\b", Err(r"invalid field selector: invalid escape sequence: \b")),
            (r"a=b\", Err(r"invalid field selector: invalid escape sequence: \")),
            ("a=b,c", Err("invalid selector: 'a=b,c'; can't understand 'c'")),
        ] {
            let parsed = FieldSelector::parse(text);
            let found = parsed.as_ref().map(|selector| {
                let terms = selector.0.iter().map(|r| (r.field.as_str(), r.value.as_str(), r.equal));
                terms.collect::<Vec<_>>()
            });
            let expected = expected.map_err(str::to_owned);
            assert_eq!(found.map_err(ToString::to_string), expected, "{text}");
        }
    }
}
