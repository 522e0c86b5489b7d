//! The paths of rules, and what becomes of a request that one matches.

use std::sync::Arc;

use super::backend::Backend;
use crate::access::Access;
use crate::path;
use crate::pattern::Pattern;

/// One path of a rule.
pub struct Path {
    pub matcher: Matcher,
    /// Of what is matched, in bytes: the longer goes first.
    pub length: usize,
    /// Stands for an Ingress's `defaultBackend`: any rule of the same host goes before it.
    pub fallback: bool,
    /// A pattern for a host that an older Ingress of another namespace has: rules without go before it.
    pub behind: bool,
    pub route: Arc<Route>,
}

/// What a path says of requests' paths, decoded.
pub enum Matcher {
    Exact(Vec<u8>),
    /// Whole elements; without a slash at the end.
    Prefix(Vec<u8>),
    Pattern(Arc<Pattern>),
    /// All that begins like this, whatever its case: stands for a pattern that is closed.
    Beginning(Vec<u8>),
}

/// What becomes of a request that a rule matches.
pub struct Route {
    pub backend: Arc<Backend>,
    /// Who may use it.
    pub access: Arc<Access>,
    /// Plain HTTP is sent to HTTPS.
    pub to_https: bool,
    pub rewrite: Option<Rewrite>,
}

/// What a request's path is replaced by.
pub struct Rewrite {
    pub pattern: Option<Arc<Pattern>>,
    pub target: String,
}

impl Route {
    /// The path that replaces a request's, encoded, or why it cannot be sent; `None` if it stays.
    pub fn rewritten(&self, matched: &[u8]) -> Option<Result<String, &'static str>> {
        let rewrite = self.rewrite.as_ref()?;
        let captures = rewrite.pattern.as_ref().and_then(|pattern| pattern.regex.captures(matched));
        let mut made = Vec::new();
        let mut chars = rewrite.target.chars().peekable();
        while let Some(char) = chars.next() {
            let digit = chars.peek().filter(|_| char == '$').and_then(|c| c.to_digit(10));
            if let Some(digit) = digit {
                chars.next();
                let group = captures.as_ref().and_then(|c| c.get(digit as usize));
                made.extend_from_slice(group.map_or(&b""[..], |m| m.as_bytes()));
            } else {
                made.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        Some(path::encode(&made))
    }
}

impl Path {
    /// All paths of a host, for an Ingress's `defaultBackend`.
    pub fn fallback(route: Arc<Route>) -> Path {
        Path { matcher: Matcher::Prefix(Vec::new()), length: 0, fallback: true, behind: false, route }
    }

    /// The longest path goes first, and an exact one before a prefix as long. A slash at the end
    /// of a prefix says nothing, so it does not count.
    pub fn precedence(&self) -> (bool, bool, usize, bool) {
        (!self.fallback, !self.behind, self.length, matches!(self.matcher, Matcher::Exact(_)))
    }

    /// Whether it covers a request's path, decoded. A prefix matches by whole elements: `/a` covers `/a`
    /// and `/a/b`, never `/ab`.
    pub fn matches(&self, path: &[u8]) -> bool {
        match &self.matcher {
            Matcher::Exact(wanted) => path == wanted,
            Matcher::Prefix(prefix) => {
                path.strip_prefix(&prefix[..]).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
            }
            Matcher::Pattern(pattern) => pattern.regex.is_match(path),
            Matcher::Beginning(begins) => {
                path.get(..begins.len()).is_some_and(|start| start.eq_ignore_ascii_case(begins))
            }
        }
    }
}
