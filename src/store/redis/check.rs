//! What a Redis must be before tokens are entrusted to it, and what to do where it is not.

use std::collections::HashMap;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::store::redis::session::Session;
use crate::store::{Identity, Keyring, OpenError};

/// Functions came with this version.
const VERSION_MIN: (u32, u32) = (7, 0);

/// Checks the server, loads our functions, and reads whom the store belongs to.
pub(super) async fn admit(
    session: &Session,
    meta: &str,
    ring: &Keyring,
    allow_eviction: bool,
) -> Result<Identity, OpenError> {
    let info: String = session
        .query(redis::cmd("INFO").arg("everything"))
        .await
        .map_err(|error| explain(&error))?;
    let facts = parse(&info);
    let fact = |name: &str| facts.get(name).copied().unwrap_or_default();
    version(fact("redis_version"))?;
    if fact("role") != "master" {
        return Err(OpenError::Unavailable(
            "this Redis is a replica; point `store.url` at the primary".to_owned(),
        ));
    }
    let policy = fact("maxmemory_policy");
    if policy != "noeviction" && !policy.is_empty() && !allow_eviction {
        return Err(OpenError::Refused(format!(
            "this Redis may evict keys (maxmemory-policy is {policy}), and an evicted grant locks \
             a person out; run `CONFIG SET maxmemory-policy noeviction`, or set \
             `store.allow_eviction: true` to take the risk"
        )));
    }
    let (used, most) = (fact("used_memory").parse::<u64>(), fact("maxmemory").parse::<u64>());
    if let (Ok(used), Ok(most @ 1..)) = (used, most)
        && used >= most
    {
        return Err(OpenError::Unavailable(format!(
            "this Redis is full ({used} of {most} bytes); raise `maxmemory` or free memory"
        )));
    }
    session.load_library().await.map_err(|error| explain(&error))?;
    let identity = identity(session, meta, ring).await?;
    identity.check(ring)?;
    Ok(identity)
}

/// Reads who the store belongs to; the first broker at a new store names it.
async fn identity(session: &Session, meta: &str, ring: &Keyring) -> Result<Identity, OpenError> {
    let found = claim_identity(session, meta, &Identity::new(ring)).await;
    found.map_err(|error| explain(&error))?.ok_or_else(|| {
        OpenError::Refused(format!(
            "the key {meta} was not written by this version of token-broker; choose another \
             `store.prefix`"
        ))
    })
}

/// Where a store says who it belongs to.
pub(super) fn meta_key(prefix: &str) -> String {
    format!("{prefix}:meta")
}

/// Names the store if it has no name, and reads the name that it has; `None`: it is not of ours.
pub(super) async fn claim_identity(
    session: &Session,
    meta: &str,
    proposal: &Identity,
) -> Result<Option<Identity>, RedisError> {
    let proposal = serde_json::to_string(proposal).unwrap_or_default();
    let _: u64 =
        session.query(redis::cmd("HSETNX").arg(meta).arg("identity").arg(proposal)).await?;
    let text: String = session.query(redis::cmd("HGET").arg(meta).arg("identity")).await?;
    Ok(serde_json::from_str(&text).ok())
}

/// Refuses where another broker is connected with the same prefix.
pub(super) async fn alone(session: &Session) -> Result<(), OpenError> {
    let list: Result<String, _> = session.query(redis::cmd("CLIENT").arg("LIST")).await;
    let list = list.map_err(|error| explain(&error))?;
    let ours = format!("name={}", session.name());
    let connected = list.lines().filter(|line| line.split(' ').any(|part| part == ours)).count();
    // One of them is this one.
    if connected <= 1 {
        return Ok(());
    }
    Err(OpenError::Refused(
        "another token-broker is connected to this Redis; stop all of them before one is started \
         with `--restored`"
            .to_owned(),
    ))
}

fn version(text: &str) -> Result<(), OpenError> {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version >= VERSION_MIN {
        return Ok(());
    }
    Err(OpenError::Refused(format!(
        "this Redis has version {text:?}; Redis 7.0 or newer, or Valkey, is needed"
    )))
}

fn parse(info: &str) -> HashMap<&str, &str> {
    info.lines().filter_map(|line| line.trim_end().split_once(':')).collect()
}

/// Says what an error of Redis means for the operator. Never shows the URL.
pub(super) fn explain(error: &RedisError) -> OpenError {
    let refused = |text: &str| OpenError::Refused(text.to_owned());
    match error.kind() {
        ErrorKind::AuthenticationFailed => refused(
            "Redis refuses the user or password; check `store.url` and `store.password_file`",
        ),
        ErrorKind::Server(ServerErrorKind::NoPerm) => refused(
            "the Redis user lacks rights; it needs INFO, FUNCTION, FCALL and hash and sorted set \
             commands on keys of `store.prefix`",
        ),
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType | ErrorKind::RESP3NotSupported => {
            refused(
                "what listens there does not speak the Redis protocol; check host, port and TLS \
             (redis:// or rediss://) of `store.url`",
            )
        }
        ErrorKind::InvalidClientConfig => refused("`store.url` cannot be used; check its form"),
        _ => {
            let text = error.to_string();
            match error.code() {
                Some("NOAUTH" | "WRONGPASS") => refused(
                    "Redis asks for a password; set it in `store.password_file` or in `store.url`",
                ),
                Some("NOPERM") => refused("the Redis user lacks rights; see the documentation"),
                _ => OpenError::Unavailable(format!(
                    "Redis does not answer ({text}); if this lasts, check host, port and TLS \
                     (redis:// or rediss://) of `store.url`"
                )),
            }
        }
    }
}
