//! `proa token …`: the bootstrap tokens by which machines join.
//!
//! Works on the Secrets of the cluster, as its administrator. There is no token until somebody makes
//! one, and each ends by itself.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams};
use proa_api::names::{BOOTSTRAP_TOKEN_PREFIX, NAMESPACE_SYSTEM, SECRET_TYPE_BOOTSTRAP_TOKEN};
use proa_runtime::node::join::client::Connection;
use proa_runtime::node::join::{Credentials, Pair, ca_hash};
use rand::Rng;
use serde_json::Value;

use crate::config::DataDir;
use crate::{print, up};

#[derive(Subcommand)]
pub enum Command {
    /// Makes a token and prints it
    Create(Create),
    /// Lists the tokens
    List(DataDir),
    /// Removes a token
    Delete {
        /// The token, or its id
        token: String,
        #[command(flatten)]
        data: DataDir,
    },
}

#[derive(Args)]
pub struct Create {
    /// How long the token is good for: 30m, 24h; 0 for ever
    #[arg(long, default_value = "24h")]
    ttl: String,
    /// What it is for
    #[arg(long)]
    description: Option<String>,
    /// Prints the whole command for the other machine
    #[arg(long)]
    print_join_command: bool,
    #[command(flatten)]
    data: DataDir,
}

/// Runs the command.
pub fn run(command: Command) -> Result<()> {
    up::runtime().block_on(async {
        match command {
            Command::Create(options) => create(&options).await,
            Command::List(data) => list(&data.data_dir).await,
            Command::Delete { token, data } => delete(&token, &data.data_dir).await,
        }
    })
}

/// The cluster as its administrator reaches it.
struct Admin {
    server: String,
    ca_pem: String,
    secrets: Api<Secret>,
}

impl Admin {
    fn open(data_dir: &Path) -> Result<Admin> {
        let path = data_dir.join("kubeconfig");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}: has `proa up` been run here?", path.display()))?;
        let file: Value = serde_yaml::from_str(&text)?;
        let text = |pointer: &str| file.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let pem = |pointer: &str| -> Result<String> {
            let bytes: ByteString = serde_json::from_value(text(pointer).into())
                .with_context(|| format!("{} has no {pointer}", path.display()))?;
            Ok(String::from_utf8(bytes.0)?)
        };
        let server = text("/clusters/0/cluster/server").to_owned();
        let ca_pem = pem("/clusters/0/cluster/certificate-authority-data")?;
        let pair = Pair {
            cert_pem: pem("/users/0/user/client-certificate-data")?,
            key_pem: pem("/users/0/user/client-key-data")?,
        };
        let connection = Connection::new(&server, &ca_pem, &Credentials::Certificate(pair))?;
        let secrets = Api::namespaced(connection.client(), NAMESPACE_SYSTEM);
        Ok(Admin { server, ca_pem, secrets })
    }
}

async fn create(options: &Create) -> Result<()> {
    let admin = Admin::open(&options.data.data_dir)?;
    let ttl = match options.ttl.as_str() {
        "0" => None,
        text => {
            let ttl: SignedDuration = text.parse().with_context(|| format!("--ttl {text:?}"))?;
            ensure!(ttl.is_positive(), "--ttl {text:?} is over before it begins");
            Some(ttl)
        }
    };
    let (id, secret) = (random_word(6), random_word(16));
    let mut data = BTreeMap::from([
        ("token-id", id.clone()),
        ("token-secret", secret.clone()),
        ("usage-bootstrap-authentication", "true".to_owned()),
    ]);
    if let Some(ttl) = ttl {
        data.insert("expiration", (Timestamp::now() + ttl).strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    }
    if let Some(description) = &options.description {
        data.insert("description", description.clone());
    }
    let object = Secret {
        metadata: ObjectMeta { name: Some(format!("{BOOTSTRAP_TOKEN_PREFIX}{id}")), ..ObjectMeta::default() },
        type_: Some(SECRET_TYPE_BOOTSTRAP_TOKEN.to_owned()),
        data: Some(data.into_iter().map(|(k, v)| (k.to_owned(), ByteString(v.into_bytes()))).collect()),
        ..Secret::default()
    };
    admin.secrets.create(&PostParams::default(), &object).await?;
    if !options.print_join_command {
        print::line(&format!("{id}.{secret}"));
        return Ok(());
    }
    let hash = ca_hash(&admin.ca_pem).context("the CA in the kubeconfig cannot be read")?;
    print::line(&format!("proa agent --server {} --token {id}.{secret} --ca-hash {hash}", admin.server));
    Ok(())
}

async fn list(data_dir: &Path) -> Result<()> {
    let admin = Admin::open(data_dir)?;
    let only = ListParams::default().fields(&format!("type={SECRET_TYPE_BOOTSTRAP_TOKEN}"));
    print::line(&format!("{:<10}{:<24}DESCRIPTION", "ID", "EXPIRES"));
    for secret in admin.secrets.list(&only).await?.items {
        let text = |key: &str| {
            let value = secret.data.as_ref().and_then(|data| data.get(key));
            value.map(|value| String::from_utf8_lossy(&value.0).into_owned())
        };
        let expires = text("expiration").unwrap_or_else(|| "<never>".to_owned());
        let description = text("description").unwrap_or_else(|| "<none>".to_owned());
        print::line(&format!("{:<10}{expires:<24}{description}", text("token-id").unwrap_or_default()));
    }
    Ok(())
}

async fn delete(token: &str, data_dir: &Path) -> Result<()> {
    let admin = Admin::open(data_dir)?;
    let id = token.split('.').next().unwrap_or_default();
    admin.secrets.delete(&format!("{BOOTSTRAP_TOKEN_PREFIX}{id}"), &DeleteParams::default()).await?;
    print::line(&format!("bootstrap token {id:?} deleted"));
    Ok(())
}

fn random_word(length: usize) -> String {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    // Seeded by the kernel; fit for secrets.
    let mut random = rand::rng();
    (0..length).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}
