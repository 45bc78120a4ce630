//! What a Redis must be before tokens are entrusted to it, and what to do where it is not.

use std::collections::HashMap;

use redis::{ErrorKind, RedisError, ServerErrorKind};
use tracing::warn;

use crate::store::OpenError;
use crate::store::redis::session::Session;

/// Functions came with this version.
const VERSION_MIN: (u32, u32) = (7, 0);

/// What an operator allows or demands of a server.
#[derive(Debug, Clone, Copy, Default)]
pub struct Admission {
    /// It may evict keys when it is full.
    pub allow_eviction: bool,
    /// Nobody else may be connected with the same prefix.
    pub alone: bool,
    /// Replicas without which nothing is claimed.
    pub replicas_min: u64,
}

/// Checks the server and loads our functions. `probe`: a key of ours that is not there.
pub(super) async fn admit(
    session: &Session,
    admission: Admission,
    probe: &str,
) -> Result<(), OpenError> {
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
    if fact("cluster_enabled") == "1" {
        return Err(OpenError::Refused(
            "this Redis is a Cluster, which is not built yet; use a single primary, with replicas"
                .to_owned(),
        ));
    }
    let policy = fact("maxmemory_policy");
    if policy != "noeviction" && !policy.is_empty() && !admission.allow_eviction {
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
    // Gives back a claim that nobody holds: changes nothing, and needs what every claim needs.
    let nothing: Result<u64, _> = session.call("release", &[probe], &[b"0", b"0"]).await;
    nothing.map_err(|error| explain(&error))?;
    tell_of_persistence(session, fact("aof_enabled") == "1").await;
    if admission.alone && !alone(session).await.map_err(|error| explain(&error))? {
        return Err(OpenError::Refused(
            "another token-broker is connected to this Redis, or the user lacks CLIENT SETNAME and \
             nobody can tell; stop all of them before one is started with `--restored`"
                .to_owned(),
        ));
    }
    Ok(())
}

/// A rotation that a restart forgets costs a person a new consent, unless a broker remembers it.
async fn tell_of_persistence(session: &Session, append_only: bool) {
    if append_only {
        return;
    }
    // Hosted servers hide their settings.
    let ask = redis::cmd("CONFIG").arg("GET").arg("save").to_owned();
    let answer: Result<HashMap<String, String>, _> = session.query(&ask).await;
    let saves = answer.ok().and_then(|settings| settings.get("save").cloned());
    let what = match saves.as_deref() {
        Some("") => "keeps nothing on disk: a restart loses every grant",
        Some(_) => "keeps snapshots only: a crash loses the rotations since the last one",
        None => "has its append-only file off: a crash may lose the last rotations",
    };
    warn!(
        "this Redis {what}, and people must consent again; run `CONFIG SET appendonly yes`, and set \
         `appendfsync always` where a second of rotations is too much to lose"
    );
}

/// No other broker is connected with the same prefix, as far as the names of connections tell.
pub(super) async fn alone(session: &Session) -> Result<bool, RedisError> {
    let list: String = session.query(redis::cmd("CLIENT").arg("LIST")).await?;
    let ours = format!("name={}", session.name());
    let connected = list.lines().filter(|line| line.split(' ').any(|part| part == ours)).count();
    // One of them is this one; where it is not seen, nobody is.
    Ok(connected == 1)
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

/// Replicas that are attached and keep up, by what `INFO replication` says.
pub(super) fn replicas(info: &str) -> u64 {
    let attached = |line: &&str| line.starts_with("slave") && line.contains("state=online");
    info.lines().filter(attached).count() as u64
}

/// Which server it is, and which history: another one after each start, and after each promotion.
pub(super) fn server(info: &str) -> String {
    let facts = parse(info);
    let fact = |name| facts.get(name).copied().unwrap_or_default();
    format!("{}:{}", fact("run_id"), fact("master_replid"))
}

/// Says what an error of Redis means for the operator. Never shows the URL.
pub(super) fn explain(error: &RedisError) -> OpenError {
    let refused = |text: &str| OpenError::Refused(text.to_owned());
    match error.kind() {
        ErrorKind::AuthenticationFailed => refused(
            "Redis refuses the user or password; check `store.url` and `store.password_file`",
        ),
        ErrorKind::Server(ServerErrorKind::NoPerm) => refused(
            "the Redis user lacks rights; it needs INFO, TIME, PING, WAIT, FUNCTION, FCALL, DEL, TYPE, PEXPIRE and \
             hash and sorted set commands on keys of `store.prefix`",
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
