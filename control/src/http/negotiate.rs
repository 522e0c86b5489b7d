//! Which form of an answer a client accepts.
//!
//! Pure. `Accept` is read as RFC 9110, section 12.5.1, says; the parameters `as`, `g` and `v` are
//! those of <https://kubernetes.io/docs/reference/using-api/api-concepts/>.

use proa_api::Refusal;

/// The forms of answers about objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The objects themselves.
    Whole,
    /// Rows for printing; the version of `meta.k8s.io`.
    Table(&'static str),
    /// Only the metadata; the version of `meta.k8s.io`.
    Metadata(&'static str),
}

/// The encodings of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
}

impl Encoding {
    /// The media type of answers in it.
    pub fn media_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
        }
    }
}

/// What discovery documents come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// One document per group and version.
    Plain,
    /// All in one; the version of `apidiscovery.k8s.io`.
    Aggregated(&'static str),
}

/// One clause of `Accept`.
struct Range<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl Range<'_> {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(k, _)| *k == name).map(|(_, v)| *v)
    }

    fn is_json(&self) -> bool {
        matches!(self.media, "application/json" | "application/*" | "*/*")
    }
}

/// The clauses, best first.
fn ranges(accept: &str) -> Vec<Range<'_>> {
    let accept = if accept.trim().is_empty() { "*/*" } else { accept };
    let mut weighted: Vec<(f32, Range<'_>)> = Vec::new();
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters: Vec<_> = parts
            .filter_map(|p| p.split_once('='))
            .map(|(k, v)| (k.trim(), v.trim().trim_matches('"')))
            .collect();
        let range = Range { media, parameters };
        let weight = range.parameter("q").and_then(|q| q.parse().ok()).unwrap_or(1.0);
        if weight > 0.0 {
            weighted.push((weight, range));
        }
    }
    weighted.sort_by(|a, b| b.0.total_cmp(&a.0));
    weighted.into_iter().map(|(_, range)| range).collect()
}

/// The form and encoding of an answer about objects.
pub fn objects(accept: &str) -> Result<(Encoding, Form), Refusal> {
    form_of(ranges(accept))
}

/// The encoding of an answer that has no other form than its own, such as a review.
pub fn unshaped(accept: &str) -> Result<Encoding, Refusal> {
    let whole = ranges(accept).into_iter().filter(|range| range.parameter("as").is_none());
    form_of(whole.collect()).map(|(encoding, _)| encoding)
}

fn form_of(ranges: Vec<Range<'_>>) -> Result<(Encoding, Form), Refusal> {
    for range in ranges {
        let encoding = match range.media {
            _ if range.is_json() => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            _ => continue,
        };
        let group_fits = range.parameter("g").is_none_or(|g| g == "meta.k8s.io");
        let version = match range.parameter("v") {
            Some("v1") | None => Some("v1"),
            Some("v1beta1") => Some("v1beta1"),
            Some(_) => None,
        };
        match (range.parameter("as"), version) {
            (None, _) => return Ok((encoding, Form::Whole)),
            (Some("Table"), Some(version)) if group_fits => return Ok((encoding, Form::Table(version))),
            (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some(version)) if group_fits => {
                return Ok((encoding, Form::Metadata(version)));
            }
            _ => {}
        }
    }
    Err(Refusal::not_acceptable(&["application/json", "application/yaml"]))
}

/// The form of a discovery document.
pub fn discovery(accept: &str) -> Result<Discovery, Refusal> {
    for range in ranges(accept).into_iter().filter(Range::is_json) {
        match (range.parameter("as"), range.parameter("g"), range.parameter("v")) {
            (None, _, _) => return Ok(Discovery::Plain),
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => {
                return Ok(Discovery::Aggregated("v2"));
            }
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2beta1")) => {
                return Ok(Discovery::Aggregated("v2beta1"));
            }
            _ => {}
        }
    }
    Err(Refusal::not_acceptable(&["application/json"]))
}

/// True if the client prefers this media type, or one of its wild cards, over nothing at all.
pub fn accepts(accept: &str, media_type: &str) -> bool {
    let kind = media_type.split('/').next().unwrap_or_default();
    ranges(accept).iter().any(|r| {
        let bare = r.media == media_type || r.media == "*/*";
        bare || r.media.strip_suffix("/*") == Some(kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, expected: Option<(Encoding, Form)>) {
        assert_eq!(objects(accept).ok(), expected, "{accept:?}");
    }

    #[test]
    fn what_clients_send() {
        let whole = Some((Encoding::Json, Form::Whole));
        check("", whole);
        check("*/*", whole);
        check("application/json", whole);
        check("application/vnd.kubernetes.protobuf,application/json", whole);
        check("application/vnd.kubernetes.protobuf", None);
        check("text/html", None);
        check("application/json;stream=watch", whole);
        check("application/yaml", Some((Encoding::Yaml, Form::Whole)));
        check("application/json;q=0.5,application/yaml", Some((Encoding::Yaml, Form::Whole)));
        check("application/json;q=0", None);
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        check(table, Some((Encoding::Json, Form::Table("v1"))));
        check(
            "application/json;as=Table;g=meta.k8s.io;v=v1beta1, */*",
            Some((Encoding::Json, Form::Table("v1beta1"))),
        );
        check("application/json;as=Table;g=meta.k8s.io;v=v9, application/json", whole);
        check(
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
            Some((Encoding::Json, Form::Metadata("v1"))),
        );
    }

    #[test]
    fn reviews_have_no_rows() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(unshaped(table).unwrap_err().code(), 406);
        assert_eq!(unshaped(&format!("{table},application/json")).unwrap(), Encoding::Json);
        assert_eq!(unshaped("application/yaml").unwrap(), Encoding::Yaml);
        assert_eq!(unshaped("").unwrap(), Encoding::Json);
    }

    #[test]
    fn discovery_documents() {
        let modern = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(discovery(modern).unwrap(), Discovery::Aggregated("v2"));
        assert_eq!(discovery("application/json, */*").unwrap(), Discovery::Plain);
        assert_eq!(discovery("").unwrap(), Discovery::Plain);
        assert!(discovery("application/vnd.kubernetes.protobuf").is_err());
    }
}
