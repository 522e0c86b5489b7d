//! Service account tokens: JSON Web Tokens (RFC 7519) signed with ES256 (RFC 7518, section 3.4).
//!
//! Signs and checks signatures and times. Whether the account, pod or node a token is bound to
//! still exists is for [`crate::http`] to ask the registry.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::PkiError;

/// Clocks of nodes may differ by this much.
const LEEWAY_SECONDS: i64 = 10;
/// Who the tokens in Secrets say made them.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// No honest token is longer, and nothing longer is decoded.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// What a token says, in the claim names of Kubernetes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom it is meant.
    pub aud: Vec<String>,
    /// End, in seconds since 1970.
    pub exp: i64,
    /// When it was made.
    pub iat: i64,
    /// Who made it.
    pub iss: String,
    /// A random id, for audit.
    pub jti: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub bound: Bound,
    /// Not valid before.
    pub nbf: i64,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
}

/// The objects whose end is the token's end too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// The namespace of account, pod and secret.
    pub namespace: String,
    /// The node its pod runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// The pod that uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The secret whose deletion ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// The account.
    pub serviceaccount: Reference,
}

/// What the token in a Secret of type `kubernetes.io/service-account-token` says. It has no end
/// of its own: it ends with its Secret or its account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LegacyClaims {
    /// Always the same, by which these tokens are known.
    pub iss: String,
    /// The namespace of account and Secret.
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    /// The Secret that holds the token.
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret: String,
    /// The account.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub account: String,
    /// The account's uid.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub account_uid: String,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
}

impl LegacyClaims {
    /// What a token says that a Secret holds for an account.
    pub fn new(namespace: &str, secret: &str, account: &str, account_uid: &str) -> Self {
        LegacyClaims {
            iss: LEGACY_ISSUER.to_owned(),
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            account: account.to_owned(),
            account_uid: account_uid.to_owned(),
            sub: format!("system:serviceaccount:{namespace}:{account}"),
        }
    }
}

/// An object by name, and by uid so that a later one of the same name does not count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// Why a token is not believed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not a token of this server: another issuer's, or no token at all.
    #[error("the token is not one of this cluster's service account tokens")]
    Foreign,
    /// The signature is not this cluster's.
    #[error("the token's signature is wrong")]
    Signature,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYet,
}

/// Makes and checks tokens with one key.
pub struct Signer {
    key: EcdsaKeyPair,
    key_id: String,
    issuer: String,
    random: SystemRandom,
}

impl Signer {
    /// A signer with a PKCS #8 key. `issuer` is the URL that stands in the tokens.
    pub fn new(pkcs8_der: &[u8], issuer: String) -> Result<Self, PkiError> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8_der, &random)
            .map_err(|e| PkiError::Unreadable(format!("service account key: {e}")))?;
        let digest = ring::digest::digest(&ring::digest::SHA256, key.public_key().as_ref());
        Ok(Signer { key_id: BASE64.encode(digest), key, issuer, random })
    }

    /// The issuer, which is also the audience of tokens for the API server.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// A signed token.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, PkiError> {
        let header = json!({ "alg": "ES256", "kid": self.key_id });
        let claims = serde_json::to_vec(claims).map_err(|e| PkiError::Unreadable(e.to_string()))?;
        let mut token = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims));
        let signature = self.key.sign(&self.random, token.as_bytes()).map_err(|_| PkiError::Signing)?;
        token.push('.');
        token.push_str(&BASE64.encode(signature));
        Ok(token)
    }

    /// The claims of a token that this cluster signed and whose time it is. The audience is the
    /// caller's to check.
    pub fn verify(&self, token: &str, now_seconds: i64) -> Result<Claims, TokenError> {
        let claims: Claims = self.signed(token)?;
        if claims.iss != self.issuer {
            return Err(TokenError::Foreign);
        }
        if claims.exp + LEEWAY_SECONDS < now_seconds {
            return Err(TokenError::Expired);
        }
        if claims.nbf - LEEWAY_SECONDS > now_seconds {
            return Err(TokenError::NotYet);
        }
        Ok(claims)
    }

    /// The claims of a token from a Secret that this cluster signed.
    pub fn verify_legacy(&self, token: &str) -> Result<LegacyClaims, TokenError> {
        let claims: LegacyClaims = self.signed(token)?;
        if claims.iss == LEGACY_ISSUER { Ok(claims) } else { Err(TokenError::Foreign) }
    }

    /// What a token says that this cluster signed.
    fn signed<T: DeserializeOwned>(&self, token: &str) -> Result<T, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Foreign);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Foreign)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Foreign)?;
        let decode = |part: &str| BASE64.decode(part).map_err(|_| TokenError::Foreign);
        let header: Value = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Foreign)?;
        // The algorithm is never taken from the token: there is one, and others are not ours.
        if header["alg"] != "ES256" {
            return Err(TokenError::Foreign);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| TokenError::Signature)?;
        serde_json::from_slice(&decode(claims)?).map_err(|_| TokenError::Foreign)
    }

    /// The public key as a JSON Web Key Set (RFC 7517), for those who check tokens themselves.
    pub fn key_set(&self) -> Value {
        // An uncompressed point: one byte 4, then x and y of 32 bytes each.
        let point = self.key.public_key().as_ref();
        json!({ "keys": [{
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": BASE64.encode(&point[1..33]), "y": BASE64.encode(&point[33..65]),
        }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(issuer: &str) -> Signer {
        let key = rcgen::KeyPair::generate().unwrap();
        Signer::new(key.serialized_der(), issuer.to_owned()).unwrap()
    }

    fn claims(issuer: &str) -> Claims {
        Claims {
            aud: vec![issuer.to_owned()],
            exp: 2000,
            iat: 1000,
            iss: issuer.to_owned(),
            jti: "1".to_owned(),
            bound: Bound { namespace: "default".to_owned(), ..Bound::default() },
            nbf: 1000,
            sub: "system:serviceaccount:default:default".to_owned(),
        }
    }

    #[test]
    fn a_token_comes_back_until_it_expires() {
        let signer = signer("https://a");
        let token = signer.sign(&claims("https://a")).unwrap();
        assert_eq!(signer.verify(&token, 1500).unwrap(), claims("https://a"));
        assert!(matches!(signer.verify(&token, 2011), Err(TokenError::Expired)));
        assert!(matches!(signer.verify(&token, 900), Err(TokenError::NotYet)));
    }

    #[test]
    fn tokens_of_secrets_are_another_sort() {
        let signer = signer("https://a");
        let said = LegacyClaims::new("n", "s", "robot", "u");
        let token = signer.sign(&said).unwrap();
        assert_eq!(signer.verify_legacy(&token).unwrap(), said);
        assert!(matches!(signer.verify(&token, 1500), Err(TokenError::Foreign)));
        let bound = signer.sign(&claims("https://a")).unwrap();
        assert!(matches!(signer.verify_legacy(&bound), Err(TokenError::Foreign)));
    }

    #[test]
    fn what_others_made_is_not_believed() {
        let ours = signer("https://a");
        let theirs = signer("https://a").sign(&claims("https://a")).unwrap();
        assert!(matches!(ours.verify(&theirs, 1500), Err(TokenError::Signature)));
        let other_issuer = ours.sign(&claims("https://b")).unwrap();
        assert!(matches!(ours.verify(&other_issuer, 1500), Err(TokenError::Foreign)));

        let token = ours.sign(&claims("https://a")).unwrap();
        let (_, rest) = token.split_once('.').unwrap();
        let unsigned = format!("{}.{rest}", BASE64.encode(r#"{"alg":"none"}"#));
        assert!(matches!(ours.verify(&unsigned, 1500), Err(TokenError::Foreign)));
        for text in ["", ".", "..", "a.b.c", "a.b.c.d"] {
            assert!(ours.verify(text, 1500).is_err(), "{text:?} was believed");
        }
        assert!(ours.verify(&"a".repeat(MAX_TOKEN_BYTES + 1), 1500).is_err());
    }
}
