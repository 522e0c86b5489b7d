//! Paths that are regular expressions, and how much of them an Ingress may ask for.
//!
//! Pure. Asked by `route`, which compiles all its routes anew at every change: what has been compiled
//! before is kept here. Regular expressions take memory and time out of proportion to their text, and
//! whoever may write an Ingress of one namespace shares the ingress with all others.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};

/// What makes a path a pattern.
pub const SPECIAL: [char; 14] = ['\\', '^', '$', '.', '|', '?', '*', '+', '(', ')', '[', ']', '{', '}'];

/// A pattern may be as long as this, in bytes.
const LENGTH: usize = 1024;
/// What a pattern counts for is the first of these that it fits into when compiled, in bytes. One that
/// fits into none is refused.
const SIZES: [usize; 3] = [16 << 10, 64 << 10, 256 << 10];
/// What matching may keep of its intermediate results, in bytes, for each pattern and thread.
const CACHE_SIZE: usize = 512 << 10;
/// Different patterns of one Ingress, and their sizes together, in bytes.
const OF_INGRESS: Spent = Spent { patterns: 100, bytes: 4 << 20 };
/// The same of all Ingresses of one namespace; the older ones go first.
const OF_NAMESPACE: Spent = Spent { patterns: 300, bytes: 8 << 20 };

/// A compiled pattern.
pub struct Pattern {
    pub regex: Regex,
    /// In bytes.
    size: usize,
}

type Built = Result<Arc<Pattern>, &'static str>;

/// The patterns that are in use.
#[derive(Default)]
pub struct Patterns {
    /// By text, and whether it has been asked for since the last `forget_unused`.
    known: HashMap<String, (Built, bool)>,
}

/// What has been taken of what may be taken.
#[derive(Clone, Copy, Default)]
struct Spent {
    patterns: usize,
    bytes: usize,
}

/// What the namespaces have taken so far.
#[derive(Default)]
pub struct Budget {
    namespaces: HashMap<String, Spent>,
}

impl Patterns {
    /// A path as a regular expression from its beginning on; case does not count, as in ingress-nginx.
    pub fn get(&mut self, path: &str) -> Built {
        if let Some((built, used)) = self.known.get_mut(path) {
            *used = true;
            return built.clone();
        }
        let built = build(path);
        self.known.insert(path.to_owned(), (built.clone(), true));
        built
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Forgets what nobody has asked for since this was called the last time.
    pub fn forget_unused(&mut self) {
        self.known.retain(|_, (_, used)| std::mem::take(used));
    }
}

impl Budget {
    /// Takes what an Ingress's patterns need.
    ///
    /// # Errors
    /// Why the Ingress is closed: it, or its namespace with it, asks for too much.
    pub fn take(
        &mut self,
        namespace: &str,
        texts: &BTreeSet<&str>,
        patterns: &mut Patterns,
    ) -> Result<(), String> {
        let spent = self.namespaces.entry(namespace.to_owned()).or_default();
        if texts.len() > OF_INGRESS.patterns {
            return Err(format!("it has more than {} different patterns", OF_INGRESS.patterns));
        }
        if spent.patterns + texts.len() > OF_NAMESPACE.patterns {
            let most = OF_NAMESPACE.patterns;
            return Err(format!("the Ingresses of its namespace have more than {most} patterns"));
        }
        let mut bytes = 0;
        for text in texts {
            bytes += patterns.get(text).map_or(0, |pattern| pattern.size);
            if bytes > OF_INGRESS.bytes {
                return Err("its patterns are too large together".to_owned());
            }
            if spent.bytes + bytes > OF_NAMESPACE.bytes {
                return Err("the patterns of its namespace's Ingresses are too large together".to_owned());
            }
        }
        spent.patterns += texts.len();
        spent.bytes += bytes;
        Ok(())
    }
}

fn build(path: &str) -> Built {
    if path.len() > LENGTH {
        return Err("a pattern has at most 1024 characters");
    }
    let text = format!("^(?:{path})");
    for size in SIZES {
        let mut builder = RegexBuilder::new(&text);
        match builder.case_insensitive(true).size_limit(size).dfa_size_limit(CACHE_SIZE).build() {
            Ok(regex) => return Ok(Arc::new(Pattern { regex, size })),
            Err(regex::Error::CompiledTooBig(_)) => {}
            Err(_) => return Err("it is not a regular expression"),
        }
    }
    Err("the pattern is too large")
}

/// How everything begins that a path could match if it were compiled: in lower case, and all of it
/// ASCII. Empty where that is not certain.
pub fn beginning(path: &str) -> Vec<u8> {
    let (mut depth, mut escaped) = (0, false);
    for char in path.chars() {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '(' => depth += 1,
            ')' => depth -= 1,
            '|' if depth < 1 => return Vec::new(),
            _ => {}
        }
    }
    let end = path.find(|c: char| SPECIAL.contains(&c) || !c.is_ascii()).unwrap_or(path.len());
    let (literal, rest) = path.split_at(end);
    // What is repeated may be missing.
    let kept = literal.len() - usize::from(rest.starts_with(['?', '*', '{']) && !literal.is_empty());
    literal[..kept].to_ascii_lowercase().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_bounded() {
        let why = |path: &str| Patterns::default().get(path).err();
        let matches = |path: &str, asked: &[u8]| {
            Patterns::default().get(path).is_ok_and(|pattern| pattern.regex.is_match(asked))
        };
        assert!(matches("/a(/|$)(.*)", b"/A/x"));
        assert!(!matches("/b", b"/a/b"));
        assert_eq!(why("/("), Some("it is not a regular expression"));
        assert_eq!(why("/(a{1000}){1000}"), Some("the pattern is too large"));
        assert_eq!(why(&"a".repeat(2000)), Some("a pattern has at most 1024 characters"));
    }

    #[test]
    fn what_is_in_use_is_compiled_once() {
        let mut patterns = Patterns::default();
        let first = patterns.get("/a.*").unwrap();
        patterns.forget_unused();
        assert!(Arc::ptr_eq(&first, &patterns.get("/a.*").unwrap()));
        patterns.forget_unused();
        patterns.forget_unused();
        assert!(!Arc::ptr_eq(&first, &patterns.get("/a.*").unwrap()));
    }

    #[test]
    fn nobody_takes_more_than_a_share() {
        let (mut budget, mut patterns) = (Budget::default(), Patterns::default());
        let mut tails = (1..100).map(|n| format!("(abc){{{}}}", n * 20));
        let large = tails.find(|tail| patterns.get(tail).unwrap().size == SIZES[2]).unwrap();
        let mut take = |namespace: &str, from: usize, count: usize, tail: &str| {
            let texts: Vec<String> = (from..from + count).map(|n| format!("/{n}{tail}")).collect();
            budget.take(namespace, &texts.iter().map(String::as_str).collect(), &mut patterns)
        };
        let why = "it has more than 100 different patterns";
        assert_eq!(take("a", 0, 3000, ".*"), Err(why.to_owned()));
        for from in [0, 100, 200] {
            assert_eq!(take("a", from, 100, ".*"), Ok(()));
        }
        let why = "the Ingresses of its namespace have more than 300 patterns";
        assert_eq!(take("a", 300, 1, ".*"), Err(why.to_owned()));
        assert_eq!(take("b", 300, 1, ".*"), Ok(()));
        let why = "its patterns are too large together";
        assert_eq!(take("c", 0, 40, &large), Err(why.to_owned()));
        assert_eq!(take("c", 0, 10, "(abc){20}"), Ok(()));
    }

    #[test]
    fn beginnings() {
        for (path, begins) in [
            ("/adm[", "/adm"),
            ("/App(/|$)(.*)", "/app"),
            ("/ab?c", "/a"),
            ("/ab{2}", "/a"),
            ("/ab+", "/ab"),
            ("/a|/b", ""),
            ("/(a|b)|/c", ""),
            ("/a\\|b", "/a"),
            ("/é.*", "/"),
            (".*", ""),
        ] {
            assert_eq!(beginning(path), begins.as_bytes(), "{path}");
        }
    }
}
