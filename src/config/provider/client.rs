//! How we prove to a provider who we are.

use std::path::PathBuf;
use std::sync::Arc;

use crate::broker::model::ProviderId;
use crate::config::profile::filled;
use crate::config::secrets::{client_secrets, plain, secret};
use crate::config::{Problem, file};
use crate::secret::ClientSecret;
use crate::upstream::{BasicEncoding, ClientAuth, ClientKey, Credentials, Provider};

/// A file with what we prove ourselves by to a provider.
#[derive(Clone)]
pub struct ClientFile {
    /// The setting that names it.
    pub setting: String,
    /// Where it is.
    pub file: PathBuf,
    /// The provider.
    pub provider: ProviderId,
    section: file::ProviderSection,
    credentials: Arc<Credentials>,
}

impl std::fmt::Debug for ClientFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientFile").field("setting", &self.setting).finish_non_exhaustive()
    }
}

impl ClientFile {
    /// The one of this provider, if it has any.
    pub(in crate::config) fn of(
        name: &str,
        section: &file::ProviderSection,
        provider: &Provider,
    ) -> Option<Self> {
        let section = filled(section);
        let (key, file) = match (&section.client_secret_file, &section.client_key_file) {
            (Some(file), _) => ("client_secret_file", file.clone()),
            (None, Some(file)) => ("client_key_file", file.clone()),
            (None, None) => return None,
        };
        let (setting, credentials) =
            (format!("providers.{name}.{key}"), Arc::clone(&provider.credentials));
        let provider = provider.id.clone();
        Some(Self { setting, file, provider, section, credentials })
    }

    /// From now on requests hold what it holds now, and whether that is something else; or why it cannot
    /// be used.
    pub fn read_again(&self) -> Result<bool, String> {
        let mut problems = Vec::new();
        let read = client_auth(&self.section, &str::to_owned, &mut problems);
        let told = problems.into_iter().map(|problem| problem.message).next();
        let (first, others) = read.ok_or_else(|| told.unwrap_or_default())?;
        Ok(self.credentials.renew(first, others))
    }
}

/// Reads the secrets, or the key; `None` if anything is wrong with them.
pub(super) fn client_auth(
    section: &file::ProviderSection,
    path: &impl Fn(&str) -> String,
    problems: &mut Vec<Problem>,
) -> Option<(ClientAuth, Vec<ClientAuth>)> {
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
            let (secret, before) = client_secret(section, path, problems)?;
            let auth = |secret| ClientAuth::Basic { secret, encoding };
            Some((auth(secret), before.map(auth).into_iter().collect()))
        }
        file::ClientAuth::Post => {
            let (secret, before) = client_secret(section, path, problems)?;
            let auth = |secret| ClientAuth::Post { secret };
            Some((auth(secret), before.map(auth).into_iter().collect()))
        }
        file::ClientAuth::PrivateKeyJwt => {
            client_key(section, path, problems).map(|key| (key, Vec::new()))
        }
        file::ClientAuth::None => {
            if section.client_secret.is_some() || section.client_secret_file.is_some() {
                problems.push(Problem::new(
                    path("client_auth"),
                    "is none, and there is a client secret; leave out one of them",
                ));
            }
            Some((ClientAuth::None, Vec::new()))
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
) -> Option<(ClientSecret, Option<ClientSecret>)> {
    match (&section.client_secret, &section.client_secret_file) {
        (Some(_), Some(_)) => {
            problems.push(Problem::new(
                path("client_secret"),
                "and `client_secret_file` are both set; keep one",
            ));
            None
        }
        (Some(secret), None) => match plain(secret) {
            Ok(secret) => Some((ClientSecret::new(secret), None)),
            Err(why) => {
                problems.push(Problem::new(path("client_secret"), why));
                None
            }
        },
        (None, Some(file)) => match client_secrets(file) {
            Ok(secrets) => Some(secrets),
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
