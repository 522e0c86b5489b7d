//! Paths that are not about objects: health, version, the keys of tokens.

use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::api::{Api, Build};
use super::query::Query;
use super::respond;

/// The Kubernetes release whose API is served.
const MINOR: &str = "35";

/// `/version`.
pub fn version(build: &Build) -> Value {
    let platform_arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "major": "1",
        "minor": MINOR,
        "gitVersion": format!("v1.{MINOR}.0+proa{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": build.git_commit,
        "gitTreeState": build.git_tree_state,
        "buildDate": build.date,
        // The field is where clients look for the compiler's version, whichever it is.
        "goVersion": build.compiler,
        "compiler": "rustc",
        "platform": format!("{}/{platform_arch}", std::env::consts::OS),
    })
}

/// `/healthz`, `/livez`, `/readyz` and single checks such as `/readyz/shutdown`. `None` if there
/// is no such check.
pub fn serve(api: &Api, path: &str, query: &Query) -> Option<Response<Body>> {
    let (endpoint, single) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
    let mut checks = vec![("ping", true), ("store", true)];
    if endpoint == "readyz" {
        checks.push(("shutdown", !api.shutdown.is_cancelled()));
    }
    if !single.is_empty() {
        checks.retain(|(name, _)| *name == single);
        if checks.is_empty() {
            return None;
        }
    }
    checks.retain(|(name, _)| !query.all("exclude").any(|excluded| excluded == *name));
    let passed = checks.iter().all(|(_, good)| *good);
    if passed && !query.has("verbose") {
        return Some(respond::text(StatusCode::OK, "ok"));
    }
    let mut text = String::new();
    for (name, good) in &checks {
        text.push_str(&if *good {
            format!("[+]{name} ok\n")
        } else {
            format!("[-]{name} failed: reason withheld\n")
        });
    }
    let code = if passed { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    text.push_str(&format!("{endpoint} check {}\n", if passed { "passed" } else { "failed" }));
    Some(respond::text(code, text))
}

/// `/.well-known/openid-configuration`: where others find the keys that tokens are checked with.
pub fn openid_configuration(api: &Api) -> Value {
    json!({
        "issuer": api.pki.signer().issuer(),
        "jwks_uri": format!("https://{}/openid/v1/jwks", api.server_address),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}
