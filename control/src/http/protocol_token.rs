//! The token that a browser sends with a WebSocket, among the subprotocols that it offers: its code
//! may set no other header. As on a stock server
//! (<https://pkg.go.dev/k8s.io/apiserver/pkg/authentication/request/websocket>).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue, header};
use proa_api::status::Refusal;

const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// The token of a request that asks for a WebSocket.
///
/// # Errors
/// 401, if there are several, nothing else is offered, or it is no text.
pub fn of(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let is_web_socket = headers
        .get(header::UPGRADE)
        .is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let (tokens, others): (Vec<&[u8]>, Vec<&[u8]>) =
        offers(headers).partition(|offer| offer.starts_with(PREFIX.as_bytes()));
    match tokens.as_slice() {
        _ if !is_web_socket => Ok(None),
        [] => Ok(None),
        [token] if !others.is_empty() => {
            let token = URL_SAFE_NO_PAD.decode(&token[PREFIX.len()..]).ok();
            let token =
                token.and_then(|token| String::from_utf8(token).ok()).filter(|token| !token.is_empty());
            token.map(Some).ok_or_else(Refusal::unauthorized)
        }
        _ => Err(Refusal::unauthorized()),
    }
}

/// Takes tokens out of what is offered: they are for nobody else to see, or to choose.
pub fn strip(headers: &mut HeaderMap) {
    let is_token = |offer: &&[u8]| offer.starts_with(PREFIX.as_bytes());
    if !offers(headers).any(|offer| is_token(&offer)) {
        return;
    }
    let kept: Vec<&[u8]> = offers(headers).filter(|offer| !is_token(offer)).collect();
    let kept = HeaderValue::from_bytes(&kept.join(&b", "[..])).ok().filter(|kept| !kept.is_empty());
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    if let Some(kept) = kept {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, kept);
    }
}

fn offers(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let offers = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    offers.map(<[u8]>::trim_ascii).filter(|offer| !offer.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(offers: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::from_iter([(header::UPGRADE, HeaderValue::from_static("WebSocket"))]);
        for offer in offers {
            headers.append(header::SEC_WEBSOCKET_PROTOCOL, offer.parse().unwrap());
        }
        headers
    }

    #[test]
    fn one_token_beside_what_is_offered() {
        let token = format!("{PREFIX}dMO2a2Vu"); // töken
        for (offers, want) in [
            (&["chat"][..], Ok(None)),
            (&[], Ok(None)),
            (&[&format!("{token}, chat")], Ok(Some("töken"))),
            (&["chat", &token], Ok(Some("töken"))),
            (&[&token], Err(401)),
            (&[&format!("{token}, {token}, chat")], Err(401)),
            (&[&format!("{PREFIX}=, chat")], Err(401)),
            (&[&format!("{PREFIX}, chat")], Err(401)),
            (&[&format!("{PREFIX}_w, chat")], Err(401)),
        ] {
            let found = of(&headers(offers));
            let found = found.as_ref().map(Option::as_deref).map_err(|refusal| refusal.code());
            assert_eq!(found, want, "{offers:?}");
        }
        let mut plain = headers(&[&format!("{token}, chat")]);
        plain.remove(header::UPGRADE);
        assert_eq!(of(&plain).unwrap(), None);
    }

    #[test]
    fn nobody_else_sees_it() {
        let stripped = |offers: &[&str]| {
            let mut headers = headers(offers);
            strip(&mut headers);
            headers.get(header::SEC_WEBSOCKET_PROTOCOL).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(stripped(&[&format!("{PREFIX}dA, chat"), "other"]).as_deref(), Some("chat, other"));
        assert_eq!(stripped(&[&format!("{PREFIX}dA")]), None);
        assert_eq!(stripped(&["chat"]).as_deref(), Some("chat"));
    }
}
