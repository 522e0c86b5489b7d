//! get, list and watch.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use proa_api::Refusal;
use proa_api::field::{FieldErrors, Path};
use proa_api::selector::FieldSelector;
use proa_kinds::Kind;
use serde_json::{Value, json};

use super::{List, ListOptions, Registry, WatchOptions, resource_name, views};
use crate::store::{After, Object, Revision};
use crate::watch::{self, BOOKMARK_INTERVAL, Manner, Selection, Start, WatchStream};

/// The revision in a continue token that asks for the state as it is now.
const INCONSISTENT: Revision = 0;

impl Registry {
    /// The objects of a kind, in one namespace or in all, by namespace and name.
    ///
    /// # Errors
    /// 400 for options that cannot be understood, 410 for a state that is no longer known.
    pub fn list(&self, kind: &Kind, namespace: Option<&str>, options: &ListOptions) -> Result<List, Refusal> {
        let Some(viewed) = self.viewed(kind) else { return self.list_stored(kind, namespace, options) };
        check_fields(kind, &options.fields)?;
        let mut options = options.clone();
        options.fields = viewed.to_stored_fields(options.fields);
        let mut list = self.list_stored(&viewed.stored, namespace, &options)?;
        list.items = list.items.iter().map(|item| viewed.shown(kind, item)).collect();
        Ok(list)
    }

    /// The changes of a kind, in one namespace or in all.
    ///
    /// # Errors
    /// 400 for options that cannot be understood, 410 for a start that is no longer known, 504
    /// for one that is not there yet.
    pub fn watch(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        options: WatchOptions,
    ) -> Result<WatchStream, Refusal> {
        check_fields(kind, &options.fields)?;
        let ends = self.end_of(kind)?;
        let viewed = self.viewed(kind);
        let source: &Kind = viewed.as_ref().map_or(kind, |viewed| &viewed.stored);
        let fields = match &viewed {
            Some(viewed) => viewed.to_stored_fields(options.fields),
            None => options.fields,
        };
        let start = match parse_revision(options.resource_version.as_deref())? {
            _ if options.send_initial_events == Some(true) => Start::State,
            None | Some(0) if options.send_initial_events == Some(false) => {
                Start::After(self.0.store.revision())
            }
            None | Some(0) => Start::State,
            Some(revision) => Start::After(revision),
        };
        let selection = Selection { namespace: namespace.map(str::to_owned), labels: options.labels, fields };
        let manner = Manner {
            bookmarks: options.bookmarks,
            initial_events_end: options.send_initial_events == Some(true),
            timeout: options.timeout,
            bookmark_interval: BOOKMARK_INTERVAL,
        };
        let stream =
            watch::watch(&self.0.store, &resource_name(source), selection, start, manner)?.until(ends);
        Ok(match kind.view.clone() {
            Some(view) => {
                let api_version = kind.api_version();
                stream.mapped(move |item| views::shown_item(&view, &api_version, item))
            }
            None => stream,
        })
    }

    /// When the row of a kind is served no longer, or another one is served in its place.
    fn end_of(&self, kind: &Kind) -> Result<impl Future<Output = ()> + Send + 'static, Refusal> {
        let row = self.kinds().by_plural(&kind.group, &kind.version, &kind.plural).cloned();
        let row = row.ok_or_else(Refusal::no_such_path)?;
        let mut kinds = self.follow_kinds();
        Ok(async move {
            // An error says that the registry is gone, and the row with it.
            let _ = kinds.wait_for(|table| !table.has(&row)).await;
        })
    }

    pub(super) fn get_stored(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Object>, Refusal> {
        let namespace = if kind.namespaced { namespace } else { "" };
        let object = self.0.store.collection(&resource_name(kind)).get(namespace, name);
        object.ok_or_else(|| Refusal::not_found(kind.resource(), name))
    }

    fn list_stored(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<List, Refusal> {
        check_fields(kind, &options.fields)?;
        let namespace = if kind.namespaced { namespace } else { None };
        let (at, after) = self.starting_point(options)?;
        let collection = self.0.store.collection(&resource_name(kind));
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let counts = options.labels.is_everything() && options.fields.0.is_empty();
        let mut items: Vec<Arc<Object>> = Vec::new();
        let mut rest = 0u64;
        let take = |object: &Arc<Object>| {
            if !object.selected(&options.labels, &options.fields) {
                return true;
            }
            if items.len() < limit {
                items.push(object.clone());
                return true;
            }
            rest += 1;
            // Without selectors, the rest is counted to its end.
            counts
        };
        let revision = match at {
            None => collection.visit(namespace, after.as_ref(), || self.0.store.revision(), take),
            Some(revision) => {
                let visited = collection.visit_at(revision, namespace, after.as_ref(), take);
                visited.map_err(|_| gone(after.as_ref()))?;
                revision
            }
        };
        let cut = (rest > 0).then(|| items.last().cloned()).flatten();
        let continue_token = cut.map(|last| {
            encode_token(
                revision,
                &After { namespace: last.key.namespace.to_string(), name: last.key.name.to_string() },
            )
        });
        let remaining = (rest > 0 && counts).then_some(rest);
        Ok(List { items, revision, continue_token, remaining })
    }

    /// The revision that a list is to show, `None` for the latest, and where it goes on.
    fn starting_point(&self, options: &ListOptions) -> Result<(Option<Revision>, Option<After>), Refusal> {
        let asked = parse_revision(options.resource_version.as_deref())?;
        let matching = options.resource_version_match.as_deref().filter(|text| !text.is_empty());
        if let Some(token) = options.continue_token.as_deref().filter(|token| !token.is_empty()) {
            if asked.is_some_and(|revision| revision != 0) {
                return Err(Refusal::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let (revision, after) = decode_token(token)?;
            return Ok(((revision != INCONSISTENT).then_some(revision), Some(after)));
        }
        let mut errors = FieldErrors::new();
        let path = Path::root("resourceVersionMatch");
        match (matching, asked) {
            (Some(_), None) => errors
                .forbidden(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided"),
            (Some("Exact"), Some(0)) => {
                errors.forbidden(
                    &path,
                    "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
                );
            }
            (None | Some("Exact" | "NotOlderThan"), _) => {}
            (Some(other), _) => errors.not_supported(&path, other, &["Exact", "NotOlderThan"]),
        }
        if !errors.is_empty() {
            return Err(Refusal::invalid("meta.k8s.io", "ListOptions", "", &errors));
        }
        let now = self.0.store.revision();
        if let Some(revision) = asked.filter(|revision| *revision > now) {
            return Err(watch::too_large(revision, now));
        }
        Ok((asked.filter(|_| matching == Some("Exact")), None))
    }
}

/// `None` if absent or empty.
fn parse_revision(text: Option<&str>) -> Result<Option<Revision>, Refusal> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        let mut errors = FieldErrors::new();
        errors.invalid(&Path::root("resourceVersion"), text, "must be an unsigned integer");
        Refusal::invalid("meta.k8s.io", "ListOptions", "", &errors)
    })
}

fn check_fields(kind: &Kind, selector: &FieldSelector) -> Result<(), Refusal> {
    for requirement in &selector.0 {
        let known = matches!(requirement.field.as_str(), "metadata.name" | "metadata.namespace")
            || kind.selectable_fields.iter().any(|field| *field.name == *requirement.field);
        if !known {
            return Err(Refusal::bad_request(format!("field label not supported: {}", requirement.field)));
        }
    }
    Ok(())
}

fn encode_token(revision: Revision, after: &After) -> String {
    let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "ns": after.namespace, "name": after.name});
    URL_SAFE_NO_PAD.encode(token.to_string())
}

fn decode_token(token: &str) -> Result<(Revision, After), Refusal> {
    let bad = || Refusal::bad_request("continue key is not valid: it was not given by this server");
    let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|_| bad())?;
    let token: Value = serde_json::from_slice(&bytes).map_err(|_| bad())?;
    let text = |member: &str| token[member].as_str().map(str::to_owned);
    match (token["rv"].as_u64(), text("ns"), text("name")) {
        (Some(revision), Some(namespace), Some(name)) => Ok((revision, After { namespace, name })),
        _ => Err(bad()),
    }
}

/// 410 for a list that cannot be continued, with a token that goes on from the present state.
fn gone(after: Option<&After>) -> Refusal {
    let Some(after) = after else {
        return Refusal::expired("The resourceVersion for the provided list is too old.");
    };
    let mut refusal = Refusal::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new \
         list without the continue parameter, or use the continue token in this response to retrieve the \
         remainder of the results. Continuing with the provided token results in an inconsistent list - \
         objects that were created, modified, or deleted between the time the first chunk was returned and \
         now may show up in the list.",
    );
    let continue_ = Some(encode_token(INCONSISTENT, after));
    refusal.0.metadata = ListMeta { continue_, ..ListMeta::default() };
    refusal
}
