//! How we prove to a provider who we are.

use crate::config::secrets::secret;
use crate::config::{Problem, file};
use crate::secret::ClientSecret;
use crate::upstream::{BasicEncoding, ClientAuth, ClientKey};

/// Reads the secret, or the key; `None` if anything is wrong with it.
pub(super) fn client_auth(
    section: &file::ProviderSection,
    path: &impl Fn(&str) -> String,
    problems: &mut Vec<Problem>,
) -> Option<ClientAuth> {
    let encoding = match section.basic_encoding {
        Some(file::BasicEncoding::Raw) => BasicEncoding::Raw,
        Some(file::BasicEncoding::Rfc6749) | None => BasicEncoding::Rfc6749,
    };
    let auth = section.client_auth.unwrap_or(file::ClientAuth::Basic);
    let keyed = section.client_key_file.is_some()
        || section.client_key_id.is_some()
        || section.client_assertion_audience.is_some();
    if keyed && !matches!(auth, file::ClientAuth::PrivateKeyJwt) {
        problems.push(Problem::new(
            path("client_key_file"),
            "and what belongs to it need `client_auth: private_key_jwt`",
        ));
    }
    match auth {
        file::ClientAuth::Basic => {
            let secret = client_secret(section, path, problems)?;
            Some(ClientAuth::Basic { secret, encoding })
        }
        file::ClientAuth::Post => {
            let secret = client_secret(section, path, problems)?;
            Some(ClientAuth::Post { secret })
        }
        file::ClientAuth::PrivateKeyJwt => client_key(section, path, problems),
        file::ClientAuth::None => {
            if section.client_secret.is_some() || section.client_secret_file.is_some() {
                problems.push(Problem::new(
                    path("client_auth"),
                    "is none, and there is a client secret; leave out one of them",
                ));
            }
            Some(ClientAuth::None)
        }
    }
}

fn client_key(
    section: &file::ProviderSection,
    path: &impl Fn(&str) -> String,
    problems: &mut Vec<Problem>,
) -> Option<ClientAuth> {
    let mut wrong = |what: String| problems.push(Problem::new(path("client_key_file"), what));
    if section.client_secret.is_some() || section.client_secret_file.is_some() {
        wrong("signs, and there is a client secret, too; leave out one of them".to_owned());
    }
    let Some(file) = &section.client_key_file else {
        wrong("is required: the private key whose public half the provider has".to_owned());
        return None;
    };
    let key = secret(file).and_then(|pem| {
        let id = section.client_key_id.as_deref();
        ClientKey::read(pem.expose(), id, section.client_assertion_audience.as_deref())
            .map_err(|why| format!("{} {why}", file.display()))
    });
    key.map_err(wrong).ok().map(ClientAuth::PrivateKey)
}

fn client_secret(
    section: &file::ProviderSection,
    path: &impl Fn(&str) -> String,
    problems: &mut Vec<Problem>,
) -> Option<ClientSecret> {
    match (&section.client_secret, &section.client_secret_file) {
        (Some(_), Some(_)) => {
            problems.push(Problem::new(
                path("client_secret"),
                "and `client_secret_file` are both set; keep one",
            ));
            None
        }
        (Some(secret), None) => Some(ClientSecret::new(secret)),
        (None, Some(file)) => match secret(file) {
            Ok(secret) => Some(secret),
            Err(message) => {
                problems.push(Problem::new(path("client_secret_file"), message));
                None
            }
        },
        (None, None) => {
            problems.push(Problem::new(
                path("client_secret_file"),
                "is required (for `default` the variable CLIENT_SECRET will do)",
            ));
            None
        }
    }
}
