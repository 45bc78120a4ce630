//! What is sent to a token endpoint. Pure.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use form_urlencoded::{Serializer, byte_serialize};

use crate::broker::endpoint::{Request, Revocable};
use crate::secret::ClientSecret;
use crate::upstream::assertion::JWT_BEARER;
use crate::upstream::credentials::{BasicEncoding, ClientAuth};
use crate::upstream::provider::Provider;

/// What is posted, ready to go. Both parts hold secrets.
pub(crate) struct Form {
    pub(crate) body: String,
    pub(crate) authorization: Option<String>,
}

impl Form {
    /// What buys tokens.
    pub(crate) fn exchange(
        provider: &Provider,
        auth: &ClientAuth,
        request: &Request,
        token_url: &str,
        now: SystemTime,
    ) -> Self {
        let mut form = Serializer::new(String::new());
        match request {
            Request::RefreshToken(token) => {
                form.append_pair("grant_type", "refresh_token");
                form.append_pair("refresh_token", token.expose());
            }
            Request::AuthorizationCode { code, redirect_uri, verifier, nonce: _ } => {
                form.append_pair("grant_type", "authorization_code");
                form.append_pair("code", code.expose());
                form.append_pair("redirect_uri", redirect_uri);
                if let Some(verifier) = verifier {
                    form.append_pair("code_verifier", verifier.expose());
                }
            }
            Request::ClientCredentials { scopes } => {
                form.append_pair("grant_type", "client_credentials");
                if !scopes.is_empty() {
                    form.append_pair("scope", &scopes.join(" "));
                }
            }
        }
        Self::of(provider, auth, form, token_url, now)
    }

    /// What takes a token back (RFC 7009 section 2.1).
    pub(crate) fn revocation(
        provider: &Provider,
        auth: &ClientAuth,
        token: &Revocable,
        token_url: &str,
        now: SystemTime,
    ) -> Self {
        let (token, kind) = match token {
            Revocable::Refresh(token) => (token.expose(), "refresh_token"),
            Revocable::Access(token) => (token.expose(), "access_token"),
        };
        let mut form = Serializer::new(String::new());
        form.append_pair("token", token).append_pair("token_type_hint", kind);
        Self::of(provider, auth, form, token_url, now)
    }

    /// With the proof of who we are.
    fn of(
        provider: &Provider,
        auth: &ClientAuth,
        mut form: Serializer<'_, String>,
        token_url: &str,
        now: SystemTime,
    ) -> Self {
        let authorization = match auth {
            ClientAuth::Basic { secret, encoding } => {
                Some(basic(&provider.client_id, secret, *encoding))
            }
            ClientAuth::Post { secret } => {
                form.append_pair("client_id", &provider.client_id);
                form.append_pair("client_secret", secret.expose());
                None
            }
            ClientAuth::PrivateKey(key) => {
                form.append_pair("client_id", &provider.client_id);
                form.append_pair("client_assertion_type", JWT_BEARER);
                let assertion = key.assertion(&provider.client_id, token_url, now);
                form.append_pair("client_assertion", &assertion.unwrap_or_default());
                None
            }
            ClientAuth::None => {
                form.append_pair("client_id", &provider.client_id);
                None
            }
        };
        Self { body: form.finish(), authorization }
    }
}

fn basic(client_id: &str, secret: &ClientSecret, encoding: BasicEncoding) -> String {
    let encode = |text: &str| match encoding {
        BasicEncoding::Rfc6749 => byte_serialize(text.as_bytes()).collect(),
        BasicEncoding::Raw => text.to_owned(),
    };
    let pair = [encode(client_id), encode(secret.expose())].join(":");
    format!("Basic {}", STANDARD.encode(pair))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::RefreshToken;
    use crate::upstream::reply::tests::provider;

    fn form(client_auth: &ClientAuth, request: &Request) -> Form {
        let provider = Provider { client_id: "my id".to_owned(), ..provider() };
        Form::exchange(
            &provider,
            client_auth,
            request,
            "https://example.test/token",
            SystemTime::UNIX_EPOCH,
        )
    }

    fn password() -> ClientSecret {
        ClientSecret::new("a+b/c%d:e")
    }

    fn header(encoding: BasicEncoding) -> ClientAuth {
        ClientAuth::Basic { secret: password(), encoding }
    }

    #[test]
    fn basic_is_encoded_before_base64_unless_told_otherwise() {
        let request = Request::RefreshToken(RefreshToken::new("r t+1"));
        let rfc = form(&header(BasicEncoding::Rfc6749), &request);
        assert_eq!(rfc.authorization.unwrap(), "Basic bXkraWQ6YSUyQmIlMkZjJTI1ZCUzQWU=");
        assert_eq!(rfc.body, "grant_type=refresh_token&refresh_token=r+t%2B1");
        let raw = form(&header(BasicEncoding::Raw), &request);
        assert_eq!(raw.authorization.unwrap(), "Basic bXkgaWQ6YStiL2MlZDpl");
    }

    #[test]
    fn post_puts_the_client_into_the_form_and_only_there() {
        let scopes = vec!["a".to_owned(), "b".to_owned()];
        let request = Request::ClientCredentials { scopes };
        let post = form(&ClientAuth::Post { secret: password() }, &request);
        assert!(post.authorization.is_none());
        assert_eq!(
            post.body,
            "grant_type=client_credentials&scope=a+b&client_id=my+id&client_secret=a%2Bb%2Fc%25d%3Ae"
        );
    }

    #[test]
    fn a_public_client_says_its_name() {
        let request = Request::RefreshToken(RefreshToken::new("r"));
        let public = form(&ClientAuth::None, &request);
        assert!(public.authorization.is_none());
        assert_eq!(public.body, "grant_type=refresh_token&refresh_token=r&client_id=my+id");
    }

    #[test]
    fn empty_parameters_are_left_out() {
        let request = Request::ClientCredentials { scopes: Vec::new() };
        let basic = form(&header(BasicEncoding::Raw), &request);
        assert_eq!(basic.body, "grant_type=client_credentials");
    }
}
