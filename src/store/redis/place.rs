//! Where the primary is: at an address, or where Sentinel says that it is now.

use std::fmt;
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::sentinel::{Sentinel, SentinelNodeConnectionInfo};
use redis::{
    Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, RedisError,
    TlsCertificates, TlsMode,
};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::secret::ClientSecret;

/// What URLs of Sentinel begin with; those with TLS have another `s` after `redis`.
pub(crate) const SENTINEL: &str = "redis+sentinel://";
/// See [`SENTINEL`].
pub(crate) const SENTINEL_TLS: &str = "rediss+sentinel://";

/// How to reach Redis. The URL may hold a password, so it is not shown.
#[derive(Clone)]
pub struct Address {
    /// `redis://` or `rediss://`, or the same with Sentinel.
    pub url: String,
    /// Overrides the password of the URL.
    pub password: Option<ClientSecret>,
    /// Who signed the certificate of Redis, in PEM; `None`: whom the system trusts.
    pub ca: Option<String>,
    /// Longest wait for one answer.
    pub timeout: Duration,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// One Sentinel may take this long before the next is heard: connecting alone may take a second.
const LOOKUP: Duration = Duration::from_secs(2);

/// How to find the primary.
pub(super) enum Place {
    Fixed(Client),
    Sentinel(Asked),
}

/// Sentinels, and what is asked of them.
pub(super) struct Asked {
    nodes: Vec<String>,
    service: String,
    primary: SentinelNodeConnectionInfo,
    /// Kept for its connections; made anew where one of them hangs.
    sentinel: Mutex<Option<Sentinel>>,
    patience: Duration,
}

/// A URL of Sentinel, in its parts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    pub(crate) tls: bool,
    /// `USER:PASSWORD@` of the primary, or nothing.
    user: &'a str,
    /// `HOST:PORT` of each Sentinel.
    nodes: Vec<&'a str>,
    /// The name of the primary there.
    service: &'a str,
    /// `/NUMBER`, or nothing.
    database: &'a str,
}

/// Takes `redis+sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/NAME[/DATABASE]` apart.
pub(crate) fn parts(url: &str) -> Option<Parts<'_>> {
    let (tls, rest) = match (url.strip_prefix(SENTINEL), url.strip_prefix(SENTINEL_TLS)) {
        (Some(rest), _) => (false, rest),
        (None, rest) => (true, rest?),
    };
    let (user, rest) = match rest.rfind('@') {
        Some(at) => rest.split_at(at + 1),
        None => ("", rest),
    };
    let (nodes, name) = rest.split_once('/')?;
    let (service, database) = match name.find('/') {
        Some(at) => name.split_at(at),
        None => (name, ""),
    };
    let nodes: Vec<_> = nodes.split(',').collect();
    let number = database.is_empty() || database[1..].parse::<u32>().is_ok();
    let whole = !service.is_empty() && nodes.iter().all(|node| !node.is_empty()) && number;
    whole.then_some(Parts { tls, user, nodes, service, database })
}

impl Place {
    pub(super) fn new(address: &Address) -> Result<Self, RedisError> {
        let Some(parts) = parts(&address.url) else {
            let settled = settled(address.url.as_str(), address)?;
            let client = match &address.ca {
                None => Client::open(settled)?,
                Some(pem) => {
                    let root_cert = Some(pem.clone().into_bytes());
                    Client::build_with_tls(
                        settled,
                        TlsCertificates { client_tls: None, root_cert },
                    )?
                }
            };
            return Ok(Self::Fixed(client));
        };
        let scheme = if parts.tls { "rediss" } else { "redis" };
        // The host is Sentinel's to say; the rest is known.
        let like = format!("{scheme}://{}primary{}", parts.user, parts.database);
        let like = settled(like.as_str(), address)?;
        let primary = SentinelNodeConnectionInfo::default()
            .set_redis_connection_info(like.redis_settings().clone())
            .set_tcp_settings(like.tcp_settings().clone());
        let primary = if parts.tls { primary.set_tls_mode(TlsMode::Secure) } else { primary };
        let nodes = parts.nodes.iter().map(|node| format!("{scheme}://{node}")).collect();
        Ok(Self::Sentinel(Asked {
            nodes,
            service: parts.service.to_owned(),
            primary,
            sentinel: Mutex::new(None),
            patience: address.timeout.max(LOOKUP)
                * u32::try_from(parts.nodes.len()).unwrap_or(u32::MAX),
        }))
    }

    /// A client of the primary as it is now.
    pub(super) async fn primary(&self) -> Result<Client, RedisError> {
        match self {
            Self::Fixed(client) => Ok(client.clone()),
            Self::Sentinel(asked) => asked.primary().await,
        }
    }

    /// The primary is elsewhere by now. Who cannot be asked says nothing.
    pub(super) async fn left(&self, connected: &ConnectionAddr) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::Sentinel(asked) => match asked.primary().await {
                Ok(client) => client.get_connection_info().addr() != connected,
                Err(_) => false,
            },
        }
    }
}

impl Asked {
    async fn primary(&self) -> Result<Client, RedisError> {
        let mut held = self.sentinel.lock().await;
        let mut sentinel = match held.take() {
            Some(sentinel) => sentinel,
            None => Sentinel::build(self.nodes.clone())?,
        };
        let found = sentinel.async_master_for(&self.service, Some(&self.primary));
        let found = timeout(self.patience, found).await.map_err(|_| {
            RedisError::from((ErrorKind::Io, "no Sentinel says in time where the primary is"))
        })?;
        *held = Some(sentinel);
        found
    }
}

/// With our settings: without nodelay every answer can wait for an acknowledgement of ours.
fn settled(url: &str, address: &Address) -> Result<ConnectionInfo, RedisError> {
    let info = url.into_connection_info()?;
    let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
    Ok(match &address.password {
        Some(password) => {
            let settings = info.redis_settings().clone().set_password(password.expose());
            info.set_redis_settings(settings)
        }
        None => info,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_sentinel_come_apart() {
        let found = parts("rediss+sentinel://u:p@w@a:1,b:2/mymaster/3").unwrap();
        let nodes = vec!["a:1", "b:2"];
        let expected =
            Parts { tls: true, user: "u:p@w@", nodes, service: "mymaster", database: "/3" };
        assert_eq!(found, expected);
        assert_eq!(parts("redis+sentinel://a/m").unwrap().service, "m");
        for odd in
            ["redis://a", "redis+sentinel://a", "redis+sentinel://a,/m", "redis+sentinel://a/m/x"]
        {
            assert!(parts(odd).is_none(), "{odd}");
        }
    }
}
