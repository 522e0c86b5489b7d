//! What all requests share, and one request taken apart.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, header};
use hyper::upgrade::OnUpgrade;
use proa_api::Refusal;
use tokio_util::sync::CancellationToken;

use super::authenticate::Authenticator;
use super::authorize::Chain;
use super::held::Held;
use super::negotiate::{self, Encoding, Form};
use super::path::{ResourcePath, Verb};
use super::query::Query;
use super::schemas::Schemas;
use crate::kubelet::Kubelets;
use crate::kubelet::metrics::Metrics;
use crate::pki::Pki;
use crate::policy::Policy;
use crate::registry::{Caller, Registry, Warnings, WriteOptions};

/// What all requests share.
pub struct Api {
    /// The objects.
    pub registry: Registry,
    /// Keys and tokens.
    pub pki: Arc<Pki>,
    /// Who is asking.
    pub authenticator: Authenticator,
    /// Whether they may.
    pub authorizer: Arc<Chain>,
    /// The roles and bindings, which the authorizer reads too.
    pub policy: Arc<Policy>,
    /// The nodes' own servers.
    pub kubelets: Arc<Kubelets>,
    /// What nodes and pods use.
    pub metrics: Arc<Metrics>,
    /// OpenAPI documents.
    pub schemas: Schemas,
    /// `HOST:PORT` for clients that ask where the server is.
    pub server_address: String,
    /// What this program was built from.
    pub build: Build,
    /// Ends watches, and turns readiness off.
    pub shutdown: CancellationToken,
}

/// What a program was built from, for `/version`. Empty where nobody knows.
#[derive(Clone, Debug, Default)]
pub struct Build {
    /// The commit.
    pub git_commit: String,
    /// `clean`, or `dirty` if files differed from it.
    pub git_tree_state: String,
    /// When, as RFC 3339 text.
    pub date: String,
    /// The compiler with its version: `rustc 1.90.0`.
    pub compiler: String,
}

/// One request about objects that its caller may make.
pub struct Call {
    /// Who asks.
    pub caller: Caller,
    /// What it is about.
    pub path: ResourcePath,
    /// What is to be done.
    pub verb: Verb,
    /// The parameters.
    pub query: Query,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body; empty for reads.
    pub body: Bytes,
    /// What is kept of it in memory.
    pub held: Held,
    /// The connection, where it can be taken over for another protocol.
    pub upgrade: Option<OnUpgrade>,
}

impl Call {
    /// The namespace of the path; empty at cluster scope.
    pub fn namespace(&self) -> &str {
        self.path.namespace.as_deref().unwrap_or_default()
    }

    /// The name of the path; empty for many.
    pub fn name(&self) -> &str {
        self.path.name.as_deref().unwrap_or_default()
    }

    /// The form that the client wants objects in.
    pub fn form(&self) -> Result<(Encoding, Form), Refusal> {
        negotiate::objects(accept(&self.headers))
    }

    /// The media type of the body, without its parameters; JSON if none is given. One that cannot be
    /// read is none that is known.
    pub fn media_type(&self) -> String {
        let value = self.headers.get(header::CONTENT_TYPE).map_or("", |v| v.to_str().unwrap_or("?"));
        let bare = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if bare.is_empty() { "application/json".to_owned() } else { bare }
    }

    /// What create, update and patch take from the parameters. `options` is their kind:
    /// `CreateOptions`.
    pub fn write_options(&self, options: &str) -> Result<WriteOptions, Refusal> {
        Ok(WriteOptions {
            dry_run: self.query.dry_run(options)?,
            field_manager: self.query.field_manager(options)?,
            warnings: Warnings::kept(),
        })
    }
}

/// The `Accept` header; empty if there is none that can be read.
pub fn accept(headers: &HeaderMap) -> &str {
    headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default()
}
