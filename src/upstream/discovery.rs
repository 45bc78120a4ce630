//! Discovery: what a provider's document says of where it is (RFC 8414, OpenID Connect Discovery).
//! Pure.
//!
//! Refresh tokens and client secrets go where it says, so it is believed only as far as it stays at
//! home: on the origin of the issuer, or of the token endpoint that is configured.

use serde_json::{Map, Value};
use url::{Origin, Url};

use crate::upstream::provider::{Endpoints, Provider, is_private};

/// Where the document of an issuer may be, the likelier place first.
pub(crate) fn places(issuer: &str) -> Vec<String> {
    let Ok(url) = Url::parse(issuer) else { return Vec::new() };
    let path = url.path().trim_end_matches('/').to_owned();
    let place = |path: String| {
        let mut place = url.clone();
        place.set_path(&path);
        String::from(place)
    };
    vec![
        place(format!("{path}/.well-known/openid-configuration")),
        place(format!("/.well-known/oauth-authorization-server{path}")),
    ]
}

/// Reads the document. What is configured stands above it.
pub(crate) fn read(provider: &Provider, document: &[u8]) -> Result<Endpoints, String> {
    let document: Map<String, Value> =
        serde_json::from_slice(document).map_err(|_| "it is no JSON object".to_owned())?;
    let issuer = provider.issuer.as_deref().unwrap_or_default();
    let named = document.get("issuer").and_then(Value::as_str);
    if named != Some(issuer) {
        return Err(another_issuer(named, issuer));
    }
    let configured = &provider.endpoints;
    let mut home = vec![origin(issuer)];
    home.extend(configured.token.as_deref().map(origin));
    let found = |name: &str| endpoint(&document, name);
    let at_home = |name: &str| match found(name)? {
        Some(url) if !home.contains(&origin(&url)) => Err(format!(
            "its `{name}` is elsewhere, at {url}; if that is right, name it in the settings of the \
             provider (`token_url`, with `discovery: true` for the rest)"
        )),
        url => Ok(url),
    };
    // Also where another one is configured: a document that disagrees is not believed.
    let token = at_home("token_endpoint")?;
    let revoke = match &configured.revoke {
        Some(url) => Some(url.clone()),
        None => at_home("revocation_endpoint")?,
    };
    let token = configured.token.clone().or(token);
    if token.is_none() {
        return Err("it names no `token_endpoint`".to_owned());
    }
    Ok(Endpoints {
        token,
        authorize: configured.authorize.clone().or(found("authorization_endpoint")?),
        revoke,
        keys: configured.keys.clone().or(found("jwks_uri")?),
        signs_by: document
            .get("id_token_signing_alg_values_supported")
            .and_then(Value::as_array)
            .map(|all| all.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .unwrap_or_default(),
        names_issuer: document
            .get("authorization_response_iss_parameter_supported")
            .and_then(Value::as_bool)
            .unwrap_or(false),
    })
}

/// Nothing but a slash may differ, and it is another one all the same (RFC 8414 section 3.3).
fn another_issuer(named: Option<&str>, issuer: &str) -> String {
    let Some(named) = named else { return "it names no `issuer`".to_owned() };
    let bare = |text: &str| text.trim_end_matches('/').to_owned();
    let remedy = if bare(named) == bare(issuer) {
        "only the slash at the end differs: write it in `issuer` as it is there"
    } else {
        "if that is the right one, name it in `issuer`"
    };
    format!("it names another issuer, {named}, than {issuer}; {remedy}")
}

fn endpoint(document: &Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    let Some(value) = document.get(name) else { return Ok(None) };
    let url = value.as_str().and_then(|text| Url::parse(text).ok());
    match url.filter(is_private) {
        Some(url) => Ok(Some(url.into())),
        None => Err(format!("its `{name}` is no https address")),
    }
}

/// Where an address is; opaque for what is none, which equals nothing.
fn origin(url: &str) -> Origin {
    Url::parse(url).map_or_else(|_| Origin::new_opaque(), |url| url.origin())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::reply::tests::provider;

    fn at(token: Option<&str>) -> Provider {
        Provider {
            issuer: Some("https://id.example/realms/a".to_owned()),
            endpoints: Endpoints { token: token.map(str::to_owned), ..Endpoints::default() },
            discovery: true,
            ..provider()
        }
    }

    fn document(token: &str) -> String {
        format!(
            r#"{{"issuer":"https://id.example/realms/a","token_endpoint":"{token}",
                "authorization_endpoint":"https://login.example/authorize",
                "revocation_endpoint":"https://id.example/revoke",
                "authorization_response_iss_parameter_supported":true}}"#
        )
    }

    #[test]
    fn both_standards_are_followed() {
        assert_eq!(
            places("https://id.example/realms/a/"),
            [
                "https://id.example/realms/a/.well-known/openid-configuration",
                "https://id.example/.well-known/oauth-authorization-server/realms/a"
            ]
        );
    }

    #[test]
    fn what_is_said_fills_what_is_not_configured() {
        let found = read(&at(None), document("https://id.example/token").as_bytes()).unwrap();
        assert_eq!(found.token.as_deref(), Some("https://id.example/token"));
        assert_eq!(found.revoke.as_deref(), Some("https://id.example/revoke"));
        assert_eq!(found.authorize.as_deref(), Some("https://login.example/authorize"));
        assert!(found.names_issuer && found.keys.is_none());
    }

    #[test]
    fn a_document_that_leads_elsewhere_is_refused() {
        let evil = document("https://evil.example/token");
        for provider in [at(None), at(Some("https://tokens.example/token"))] {
            assert!(read(&provider, evil.as_bytes()).unwrap_err().contains("elsewhere"));
        }
        // Unless that is where the settings say that it is.
        let known = at(Some("https://evil.example/token"));
        assert!(read(&known, evil.as_bytes()).is_ok());
        let other = document("https://id.example/token").replace("realms/a", "realms/b");
        assert!(read(&at(None), other.as_bytes()).unwrap_err().contains("another issuer"));
        let plain = document("http://id.example/token");
        assert!(read(&at(None), plain.as_bytes()).unwrap_err().contains("no https"));
        assert!(read(&at(None), b"[]").is_err());
    }
}
