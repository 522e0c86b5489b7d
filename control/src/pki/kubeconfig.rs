//! The text of the admin's kubeconfig.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Pair;

/// A kubeconfig with one cluster, one user and one context, all named `proa`.
pub fn text(server_url: &str, ca_pem: &str, admin: &Pair) -> String {
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: proa
  cluster:
    server: {server_url}
    certificate-authority-data: {ca}
users:
- name: proa
  user:
    client-certificate-data: {cert}
    client-key-data: {key}
contexts:
- name: proa
  context:
    cluster: proa
    user: proa
current-context: proa
",
        ca = BASE64.encode(ca_pem),
        cert = BASE64.encode(&admin.cert_pem),
        key = BASE64.encode(&admin.key_pem),
    )
}
