//! Links in HTML pages, changed in place: every other byte stays as it is.
//!
//! Pure. Which attributes of which tags hold links is the list of a stock server.

use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};
use html5gum::{Span, Tokenizer};

/// Tags and their attributes that hold links.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// A link that is replaced: where it stands, and what stands there instead.
struct Change {
    span: Span<usize>,
    text: String,
}

/// The page with each link for which `rewrite` gives another; none if it has more than `limit` bytes then.
pub fn rewrite(page: &[u8], limit: usize, rewrite: impl Fn(&str) -> Option<String>) -> Option<Vec<u8>> {
    let (mut tag, mut attribute) = (Vec::new(), Vec::new());
    let look = |event: CallbackEvent<'_>, span: Span<usize>| -> Option<Change> {
        match event {
            CallbackEvent::OpenStartTag { name } => name.clone_into(&mut tag),
            CallbackEvent::AttributeName { name } => name.clone_into(&mut attribute),
            CallbackEvent::AttributeValue { value } if holds_link(&tag, &attribute) => {
                let new = rewrite(std::str::from_utf8(value).ok()?)?;
                return Some(Change { span, text: escaped(&new) });
            }
            _ => {}
        }
        None
    };
    let mut emitter: CallbackEmitter<_, Change, usize> = CallbackEmitter::new(look);
    // Scripts and styles are not markup.
    emitter.naively_switch_states(true);
    let (mut out, mut done) = (Vec::with_capacity(page.len()), 0);
    for Change { span, text } in Tokenizer::new_with_emitter(page, emitter).flatten() {
        if let Some(between) = page.get(done..span.start) {
            out.extend_from_slice(between);
            out.extend_from_slice(text.as_bytes());
            done = span.end;
        }
        if out.len() > limit {
            return None;
        }
    }
    out.extend_from_slice(page.get(done..).unwrap_or_default());
    (out.len() <= limit).then_some(out)
}

fn holds_link(tag: &[u8], attribute: &[u8]) -> bool {
    let known = LINKS.iter().find(|(name, _)| name.as_bytes() == tag);
    known.is_some_and(|(_, attributes)| attributes.iter().any(|name| name.as_bytes() == attribute))
}

/// As a value in either kind of quotes, or in none.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c if c.is_whitespace() || c == '`' => out.push_str(&format!("&#{};", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(page: &str, expected: &str) {
        let changed = rewrite(page.as_bytes(), usize::MAX, |link| {
            link.strip_prefix('/').filter(|_| link.is_ascii()).map(|rest| format!("/p/{rest}"))
        });
        assert_eq!(String::from_utf8(changed.unwrap()).unwrap(), expected);
    }

    #[test]
    fn only_links_change() {
        check("<a href=\"/x\">/x</a>", "<a href=\"/p/x\">/x</a>");
        check(
            "<A  HREF='/x?a=1&amp;b=2' id=/x>\r\n<img src=/y>",
            "<A  HREF='/p/x?a=1&amp;b=2' id=/x>\r\n<img src=/p/y>",
        );
        check("<a href=x><a href=\"/é\"><a href>", "<a href=x><a href=\"/é\"><a href>");
        check("<link href=/s.css /><form action=/f>", "<link href=/p/s.css /><form action=/p/f>");
        check("<div href=/x src=/y>", "<div href=/x src=/y>");
        let alone =
            "<script>if (a<b) '<a href=\"/no\">'</script><!-- <a href=/no> --><style><a href=/no></style>";
        check(alone, alone);
        check("<script src=/s.js></script><a href=/x>", "<script src=/p/s.js></script><a href=/p/x>");
        check("", "");
        check("<a href=\"/unfinished", "<a href=\"/unfinished");
    }

    #[test]
    fn what_is_written_stays_one_value() {
        let changed = rewrite(b"<a href=/x>", usize::MAX, |_| Some("a b\"'>&`".to_owned()));
        assert_eq!(String::from_utf8(changed.unwrap()).unwrap(), "<a href=a&#32;b&#34;&#39;&gt;&amp;&#96;>");
    }

    #[test]
    fn a_page_that_would_be_too_large_is_left() {
        let changed = |limit| rewrite(b"<a href=/x>", limit, |_| Some("/longer".to_owned()));
        assert!(changed(15).is_none());
        assert!(changed(16).is_some());
    }
}
