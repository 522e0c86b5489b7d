//! Query parameters, and the options that verbs take from them.
//!
//! Unknown parameters are ignored, as the stock server does. Pure.

use std::time::Duration;

use http::Uri;
use percent_encoding::percent_decode_str;
use proa_api::Refusal;
use proa_api::field::{FieldErrors, Path};
use proa_api::selector::{FieldSelector, Selector};

use crate::registry::{ListOptions, WatchOptions};

/// As in the stock server.
const FIELD_MANAGER_MAX_BYTES: usize = 128;
const INITIAL_EVENTS: &str = "sendInitialEvents";

/// The parameters of a request, in order.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Takes the query of a URI apart. One that cannot be read is refused: a parameter that counted as
    /// absent would select more than was asked for.
    pub fn of(uri: &Uri) -> Result<Self, Refusal> {
        let bad =
            |why: &str| Refusal::bad_request(format!("the parameters of the request cannot be read: {why}"));
        let text = uri.query().unwrap_or_default();
        percent_decode_str(text).decode_utf8().map_err(|_| bad("they are not UTF-8"))?;
        let mut escapes = text.split('%').skip(1);
        let is_escape = |after: &str| after.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
        if !escapes.all(is_escape) {
            return Err(bad("a % begins no escape"));
        }
        let parsed = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
        parsed.map(|query| Query(query.0)).map_err(|error| bad(&error.to_string()))
    }

    /// The first value of a parameter; empty ones count as absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// True if the parameter is there at all, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(k, _)| k == name)
    }

    /// A boolean as the stock server reads it: present and not `0` or `false` is true.
    pub fn flag(&self, name: &str) -> bool {
        self.0
            .iter()
            .find(|(k, _)| k == name)
            .is_some_and(|(_, v)| v != "0" && !v.eq_ignore_ascii_case("false"))
    }

    /// A whole number. One that cannot be read is refused.
    pub fn number(&self, name: &str) -> Result<Option<i64>, Refusal> {
        let parse = |v: &str| {
            v.parse::<i64>()
                .map_err(|_| Refusal::bad_request(format!("strconv.ParseInt: parsing {v:?}: invalid syntax")))
        };
        self.get(name).map(parse).transpose()
    }

    /// The selectors of list, watch and deletecollection.
    fn selectors(&self) -> Result<(Selector, FieldSelector), Refusal> {
        let labels = Selector::parse(self.get("labelSelector").unwrap_or_default())
            .map_err(|e| Refusal::bad_request(e.to_string()))?;
        let fields = FieldSelector::parse(self.get("fieldSelector").unwrap_or_default())
            .map_err(|e| Refusal::bad_request(e.to_string()))?;
        Ok((labels, fields))
    }

    /// What a list is about.
    pub fn list_options(&self) -> Result<ListOptions, Refusal> {
        let (labels, fields) = self.selectors()?;
        if self.has(INITIAL_EVENTS) {
            let mut errors = FieldErrors::new();
            errors.forbidden(&Path::root(INITIAL_EVENTS), "sendInitialEvents is forbidden for list");
            return Err(Refusal::invalid("meta.k8s.io", "ListOptions", "", &errors));
        }
        Ok(ListOptions {
            labels,
            fields,
            limit: self.number("limit")?.and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
            continue_token: self.get("continue").map(str::to_owned),
            resource_version: self.get("resourceVersion").map(str::to_owned),
            resource_version_match: self.get("resourceVersionMatch").map(str::to_owned),
        })
    }

    /// What a watch is about.
    pub fn watch_options(&self) -> Result<WatchOptions, Refusal> {
        let (labels, fields) = self.selectors()?;
        let send_initial_events = self.has(INITIAL_EVENTS).then(|| self.flag(INITIAL_EVENTS));
        self.check_match(send_initial_events.is_some())?;
        let timeout = self.number("timeoutSeconds")?.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
        Ok(WatchOptions {
            labels,
            fields,
            resource_version: self.get("resourceVersion").map(str::to_owned),
            bookmarks: self.flag("allowWatchBookmarks"),
            send_initial_events,
            timeout: timeout.map(Duration::from_secs),
        })
    }

    /// Refuses what a watch cannot be asked to match, as the stock server does.
    /// <https://kubernetes.io/docs/reference/using-api/api-concepts/#streaming-lists>
    fn check_match(&self, initial_events: bool) -> Result<(), Refusal> {
        let mut errors = FieldErrors::new();
        let path = Path::root("resourceVersionMatch");
        match (self.get("resourceVersionMatch"), initial_events) {
            (None, false) | (Some("NotOlderThan"), true) => {}
            (None, true) => errors
                .forbidden(&path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
            (Some(_), false) => errors.forbidden(
                &path,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ),
            (Some(other), true) => errors.not_supported(&path, other, &["NotOlderThan"]),
        }
        match errors.is_empty() {
            true => Ok(()),
            false => Err(Refusal::invalid("meta.k8s.io", "ListOptions", "", &errors)),
        }
    }

    /// True for a dry run. `options` is the kind of options named in the refusal of other values
    /// than `All`: `CreateOptions`.
    pub fn dry_run(&self, options: &str) -> Result<bool, Refusal> {
        let values: Vec<&str> = self.all("dryRun").collect();
        check_dry_run(&values, options)
    }

    /// Who manages the fields that are written. `options` is the kind of options named in a refusal.
    pub fn field_manager(&self, options: &str) -> Result<String, Refusal> {
        let name = self.get("fieldManager").unwrap_or_default();
        let mut errors = FieldErrors::new();
        let path = Path::root("fieldManager");
        if name.len() > FIELD_MANAGER_MAX_BYTES {
            errors.too_long(&path, FIELD_MANAGER_MAX_BYTES);
        } else if name.chars().any(char::is_control) {
            errors.invalid(&path, name, "should only contain printable characters");
        }
        if self.has("force") && options == "PatchOptions" {
            errors.forbidden(&Path::root("force"), "may not be specified for non-apply patch");
        }
        match errors.is_empty() {
            true => Ok(name.to_owned()),
            false => Err(Refusal::invalid("meta.k8s.io", options, "", &errors)),
        }
    }

    /// What to do about unknown and duplicate fields.
    pub fn field_validation(&self, options: &str) -> Result<FieldValidation, Refusal> {
        match self.get("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some(other) => {
                let mut errors = FieldErrors::new();
                errors.not_supported(&Path::root("fieldValidation"), other, &["Ignore", "Strict", "Warn"]);
                Err(Refusal::invalid("meta.k8s.io", options, "", &errors))
            }
        }
    }
}

/// True if `values` ask for a dry run; refuses what is not `All`.
pub fn check_dry_run(values: &[&str], options: &str) -> Result<bool, Refusal> {
    if values.iter().all(|v| *v == "All") {
        return Ok(!values.is_empty());
    }
    let mut errors = FieldErrors::new();
    for value in values.iter().filter(|v| **v != "All") {
        errors.not_supported(&Path::root("dryRun"), *value, &["All"]);
    }
    Err(Refusal::invalid("meta.k8s.io", options, "", &errors))
}

/// What to do about unknown and duplicate fields of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and say so in `Warning` headers.
    Warn,
    /// Refuse the body.
    Strict,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::of(&format!("/x?{text}").parse().unwrap()).unwrap()
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for text in ["labelSelector=!a%ff", "fieldSelector=metadata.name!=x%ff", "a=%zz", "a=%4", "%"] {
            let refusal = Query::of(&format!("/x?{text}").parse().unwrap()).unwrap_err();
            assert_eq!(refusal.code(), 400, "{text}");
        }
        assert_eq!(query("a=%C3%A9+%25").get("a"), Some("é %"));
    }

    #[test]
    fn values_are_decoded() {
        let q = query("labelSelector=a%3Db%2Cc&watch=1&follow=false&x=&pretty");
        assert_eq!(q.get("labelSelector"), Some("a=b,c"));
        assert!(q.flag("watch") && !q.flag("follow") && !q.flag("absent") && q.flag("pretty"));
        assert_eq!(q.get("x"), None);
        assert!(query("limit=x").number("limit").is_err());
    }

    #[test]
    fn field_managers_are_names() {
        assert_eq!(query("fieldManager=kubectl-edit").field_manager("PatchOptions").unwrap(), "kubectl-edit");
        let long = format!("fieldManager={}", "x".repeat(129));
        for bad in [long.as_str(), "fieldManager=a%00b", "force=true"] {
            assert_eq!(query(bad).field_manager("PatchOptions").unwrap_err().code(), 422, "{bad}");
        }
    }

    #[test]
    fn dry_run_is_all_or_nothing() {
        assert!(!query("").dry_run("CreateOptions").unwrap());
        assert!(query("dryRun=All").dry_run("CreateOptions").unwrap());
        assert_eq!(query("dryRun=").dry_run("CreateOptions").unwrap_err().code(), 422);
        let refusal = query("dryRun=Some").dry_run("CreateOptions").unwrap_err();
        assert_eq!(refusal.code(), 422);
        assert_eq!(
            refusal.to_string(),
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: \"Some\": supported values: \"All\""
        );
    }

    #[test]
    fn what_a_watch_or_list_cannot_start_with_is_refused() {
        let says = |refused: Option<Refusal>| refused.map(|refusal| refusal.to_string());
        for (text, refused) in [
            ("", None),
            ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", None),
            ("sendInitialEvents=false&resourceVersionMatch=NotOlderThan", None),
            (
                "sendInitialEvents=true",
                Some("Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
            ),
            (
                "resourceVersionMatch=Exact&resourceVersion=1",
                Some(
                    "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ),
            ),
            (
                "sendInitialEvents=true&resourceVersionMatch=Exact",
                Some("Unsupported value: \"Exact\": supported values: \"NotOlderThan\""),
            ),
        ] {
            let prefix = "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: ";
            let expected = refused.map(|text| format!("{prefix}{text}"));
            assert_eq!(says(query(text).watch_options().err()), expected, "{text}");
        }
        let refused = says(query("sendInitialEvents=false").list_options().err()).unwrap();
        assert!(refused.ends_with("sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"));
    }

    #[test]
    fn bad_selectors_are_bad_requests() {
        assert_eq!(query("labelSelector=a,,b").list_options().err().map(|e| e.code()), Some(400));
        assert_eq!(query("fieldSelector=a").watch_options().err().map(|e| e.code()), Some(400));
    }
}
