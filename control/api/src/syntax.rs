//! What names, keys, values, ports and addresses look like, with the texts of the stock server.
//!
//! Each function gives what is wrong, nothing if all is well. Read by the kinds' validation and by selectors.
//! Source: <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/> and
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set>.

use std::net::IpAddr;

use crate::field::{FieldErrors, Path};

/// What is wrong with a text; empty if nothing is.
pub type Faults = Vec<String>;

const LABEL_MAX_BYTES: usize = 63;
const SUBDOMAIN_MAX_BYTES: usize = 253;
const PORT_NAME_MAX_BYTES: usize = 15;

/// The text of an immutable field that is changed.
pub const IMMUTABLE: &str = "field is immutable";
/// The text of a number that may not be below zero.
pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
/// The text of what must not be empty.
pub const NON_EMPTY: &str = "must be non-empty";

const LABEL_1123: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_1123: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const QUALIFIED_NAME: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// Writes each fault down as an invalid value at `path`.
pub fn report(faults: Faults, path: &Path<'_>, value: &str, errors: &mut FieldErrors) {
    for fault in faults {
        errors.invalid(path, value, fault);
    }
}

/// Writes down that a value is absent, or none of a few.
pub fn one_of(value: Option<&str>, allowed: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    match value.unwrap_or_default() {
        "" => errors.required(path, ""),
        value if allowed.contains(&value) => {}
        other => errors.not_supported(path, other, allowed),
    }
}

/// `must be no more than max bytes`.
pub fn too_many_bytes(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// `must be between low and high, inclusive`.
pub fn not_between(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn pattern(rule: &str, examples: &[&str], regex: &str) -> String {
    let quoted: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{rule} (e.g. {}regex used for validation is '{regex}')", quoted.join(" or "))
}

fn is_label(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(&a), Some(&b)) if alphanumeric(a) && alphanumeric(b))
        && bytes.iter().all(|&b| alphanumeric(b) || b == b'-')
}

fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()),
        (Some(a), Some(b)) if a.is_ascii_alphanumeric() && b.is_ascii_alphanumeric())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// A DNS label of RFC 1123.
pub fn label(text: &str) -> Faults {
    let mut faults = Faults::new();
    if text.len() > LABEL_MAX_BYTES {
        faults.push(too_many_bytes(LABEL_MAX_BYTES));
    }
    if text.contains('.') && text.split('.').all(is_label) {
        faults.push("must not contain dots".to_owned());
    } else if !is_label(text) {
        faults.push(pattern(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
             and must start and end with an alphanumeric character",
            &["my-name", "123-abc"],
            LABEL_1123,
        ));
    }
    faults
}

/// A DNS label of RFC 1035: it does not start with a digit.
pub fn label_1035(text: &str) -> Faults {
    let mut faults = Faults::new();
    if text.len() > LABEL_MAX_BYTES {
        faults.push(too_many_bytes(LABEL_MAX_BYTES));
    }
    if !is_label(text) || text.starts_with(|c: char| c.is_ascii_digit()) {
        faults.push(pattern(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
             alphabetic character, and end with an alphanumeric character",
            &["my-name", "abc-123"],
            "[a-z]([-a-z0-9]*[a-z0-9])?",
        ));
    }
    faults
}

/// A DNS subdomain of RFC 1123.
pub fn subdomain(text: &str) -> Faults {
    let mut faults = Faults::new();
    if text.len() > SUBDOMAIN_MAX_BYTES {
        faults.push(too_many_bytes(SUBDOMAIN_MAX_BYTES));
    }
    if !text.split('.').all(is_label) {
        faults.push(pattern(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
             and must start and end with an alphanumeric character",
            &["example.com"],
            SUBDOMAIN_1123,
        ));
    }
    faults
}

/// A DNS subdomain whose first label is `*`.
pub fn wildcard_subdomain(text: &str) -> Faults {
    let mut faults = Faults::new();
    if text.len() > SUBDOMAIN_MAX_BYTES {
        faults.push(too_many_bytes(SUBDOMAIN_MAX_BYTES));
    }
    if !text.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(is_label)) {
        faults.push(pattern(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which \
             must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric \
             character",
            &["*.example.com"],
            &format!(r"\*\.{SUBDOMAIN_1123}"),
        ));
    }
    faults
}

/// The key of a label, annotation, taint or finalizer: a name with an optional DNS prefix.
pub fn qualified_name(text: &str) -> Faults {
    const RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                        with an alphanumeric character";
    const EXAMPLES: [&str; 3] = ["MyName", "my.name", "123-abc"];
    let mut faults = Faults::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            return vec![format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                pattern(RULE, &EXAMPLES, QUALIFIED_NAME)
            )];
        }
        Some(("", name)) => {
            faults.push(format!("prefix part {NON_EMPTY}"));
            name
        }
        Some((prefix, name)) => {
            faults.extend(subdomain(prefix).iter().map(|fault| format!("prefix part {fault}")));
            name
        }
    };
    if name.is_empty() {
        faults.push(format!("name part {NON_EMPTY}"));
    } else if name.len() > LABEL_MAX_BYTES {
        faults.push(format!("name part {}", too_many_bytes(LABEL_MAX_BYTES)));
    }
    if !is_name_part(name) {
        faults.push(format!("name part {}", pattern(RULE, &EXAMPLES, QUALIFIED_NAME)));
    }
    faults
}

/// The value of a label.
pub fn label_value(text: &str) -> Faults {
    let mut faults = Faults::new();
    if text.len() > LABEL_MAX_BYTES {
        faults.push(too_many_bytes(LABEL_MAX_BYTES));
    }
    if !text.is_empty() && !is_name_part(text) {
        faults.push(pattern(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
             and must start and end with an alphanumeric character",
            &["MyValue", "my_value", "12345"],
            &format!("({QUALIFIED_NAME})?"),
        ));
    }
    faults
}

/// A key of a ConfigMap or Secret.
pub fn config_key(text: &str) -> Faults {
    let mut faults = Faults::new();
    if text.len() > SUBDOMAIN_MAX_BYTES {
        faults.push(too_many_bytes(SUBDOMAIN_MAX_BYTES));
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        faults.push(pattern(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            &["key.name", "KEY_NAME", "key-name"],
            "[-._a-zA-Z0-9]+",
        ));
    }
    match text {
        "." => faults.push("must not be '.'".to_owned()),
        ".." => faults.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => faults.push("must not start with '..'".to_owned()),
        _ => {}
    }
    faults
}

/// The name of an environment variable.
pub fn env_name(text: &str) -> Faults {
    let mut faults = Faults::new();
    if text.is_empty() {
        faults.push(format!("environment variable name {NON_EMPTY}"));
    }
    if !text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        faults.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        );
    }
    faults
}

/// The name of an HTTP header.
pub fn header_name(text: &str) -> Faults {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Faults::new();
    }
    vec![pattern(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        &["X-Header-Name"],
        "[-A-Za-z0-9]+",
    )]
}

/// A port number.
pub fn port_number(port: i64) -> Faults {
    if (1..=65535).contains(&port) { Faults::new() } else { vec![not_between(1, 65535)] }
}

/// The name of a port (IANA service name, RFC 6335).
pub fn port_name(text: &str) -> Faults {
    let mut faults = Faults::new();
    if text.len() > PORT_NAME_MAX_BYTES {
        faults.push(too_many_bytes(PORT_NAME_MAX_BYTES));
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        faults.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        faults.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        faults.push("must not begin or end with a hyphen".to_owned());
    }
    faults
}

/// An IP address of either family.
pub fn ip(text: &str) -> Faults {
    match text.parse::<IpAddr>() {
        Ok(_) => Faults::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// An address with a prefix length.
pub fn cidr(text: &str) -> Faults {
    let valid = text.split_once('/').is_some_and(|(address, length)| {
        let most = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        length.parse::<u8>().is_ok_and(|length| length <= most)
    });
    if valid {
        return Faults::new();
    }
    vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()]
}

/// A share such as `25%`.
pub fn percent(text: &str) -> Faults {
    let digits = text.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Faults::new();
    }
    vec![pattern(
        "a valid percent string must be a numeric string followed by an ending '%'",
        &["1%", "93%"],
        "[0-9]+%",
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&str) -> Faults, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(rule(text), Faults::new(), "{text:?}");
        }
        for text in bad {
            assert!(!rule(text).is_empty(), "{text:?} was accepted");
        }
    }

    #[test]
    fn names() {
        check(label, &["a", "a-b", "1a"], &["", "-a", "a-", "A", "a.b", "a_b"]);
        check(label_1035, &["a", "a-1"], &["1a", "", "A"]);
        check(subdomain, &["a", "a.b-c.d"], &["", ".", "a..b", "a.", "A.b"]);
        check(wildcard_subdomain, &["*.a", "*.a.b"], &["*", "*.", "a.*.b", "a"]);
        check(qualified_name, &["a", "a.b/c_D", "A"], &["", "/a", "a/", "a/b/c", "a b", "A.b/c"]);
        check(label_value, &["", "a", "A_b.c-9"], &["-a", "a-", "a b"]);
        check(config_key, &["a", "..a.b".trim_start_matches('.'), "A_1"], &["", ".", "..", "..a", "a/b"]);
        check(env_name, &["A", "a.b-c", "1"], &["", "a=b", "\n"]);
        check(port_name, &["http", "a-1"], &["", "1", "-a", "a-", "a--b", "A", "abcdefghijklmnop"]);
        check(ip, &["1.2.3.4", "::1"], &["", "1.2.3", "1.2.3.4/8", "a"]);
        check(cidr, &["10.0.0.0/8", "::/0"], &["", "10.0.0.0", "10.0.0.0/33"]);
        check(percent, &["0%", "100%"], &["", "%", "1", "a%"]);
    }

    #[test]
    fn texts() {
        assert_eq!(
            subdomain("Bad").join(),
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
             must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        );
        assert_eq!(
            label("Bad").join(),
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
             start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
             validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        );
    }

    trait Join {
        fn join(&self) -> String;
    }

    impl Join for Faults {
        fn join(&self) -> String {
            self.as_slice().join(", ")
        }
    }
}
