//! What a Redis must be before tokens are entrusted to it, and what to do where it is not.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::broker::store::{Finding, Grade};
use crate::clock::Clock;
use crate::store::identity::Identity;
use crate::store::redis::Layout;
use crate::store::redis::facts::{Facts, denied};
use crate::store::redis::session::Session;
use crate::store::{Keyring, OpenError};

/// Functions came with this version.
const VERSION_MIN: (u32, u32) = (7, 0);
/// Memory in use above this share of the most is told of, and kept for what must be written: rotations go on.
const MEMORY_PERCENT: u64 = 90;
/// Clocks that differ by more than this make the lives of tokens look wrong, in ms.
const CLOCK_MAX: u64 = 2_000;

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

/// Checks the server and loads our functions.
pub(super) async fn admit(
    session: &Session,
    layout: &Layout,
    admission: Admission,
    clock: Clock,
) -> Result<(), OpenError> {
    let findings = examine(session, layout, admission, clock).await?;
    for finding in findings {
        match finding.grade {
            // Told when the store is examined, at the start as well.
            Grade::Fine | Grade::Unseen | Grade::Risk => {}
            Grade::Waits => return Err(OpenError::Unavailable(finding.to_string())),
            Grade::Wrong => return Err(OpenError::Refused(finding.to_string())),
        }
    }
    if admission.alone && !alone(session).await.map_err(|error| explain(&error))? {
        return Err(OpenError::Refused(
            "another token-broker is connected to this Redis, or the user lacks CLIENT SETNAME and \
             nobody can tell; stop all of them before one is started with `--restored`"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Looks at everything that decides whether grants are safe there.
pub(super) async fn examine(
    session: &Session,
    layout: &Layout,
    admission: Admission,
    clock: Clock,
) -> Result<Vec<Finding>, OpenError> {
    let facts = Facts::ask(session, layout, clock).await.map_err(|error| explain(&error))?;
    let mut findings =
        vec![version(&facts), role(&facts), eviction(&facts, admission), memory(&facts)];
    if findings.iter().any(|finding| finding.grade > Grade::Risk) {
        return Ok(findings);
    }
    findings.extend([
        rights(&facts),
        functions(session, layout).await?,
        persistence(&facts),
        replicas(&facts, admission, session.by_sentinel()),
        cut_off(&facts),
        clocks(&facts),
    ]);
    Ok(findings)
}

fn version(facts: &Facts) -> Finding {
    let text = facts.info("redis_version");
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version >= VERSION_MIN {
        return Finding::fine("version", format!("Redis {text}"));
    }
    let found = format!("this Redis has version {text:?}");
    Finding::new("version", Grade::Wrong, found, "Redis 7.0 or newer, or Valkey, is needed")
}

fn role(facts: &Facts) -> Finding {
    if facts.info("cluster_enabled") == "1" {
        return Finding::new(
            "role",
            Grade::Wrong,
            "this Redis is a Cluster, which is not built yet",
            "use a single primary, with replicas",
        );
    }
    match facts.info("role") {
        "master" => Finding::fine("role", "primary"),
        _ => Finding::new(
            "role",
            Grade::Waits,
            "this Redis is a replica",
            "point `store.url` at the primary",
        ),
    }
}

fn eviction(facts: &Facts, admission: Admission) -> Finding {
    let policy = facts.info("maxmemory_policy");
    let grade = match policy {
        "noeviction" => return Finding::fine("eviction", "it evicts no keys"),
        "" => {
            let remedy = "see that it is noeviction";
            return Finding::new("eviction", Grade::Unseen, "maxmemory-policy is hidden", remedy);
        }
        _ if admission.allow_eviction => Grade::Risk,
        _ => Grade::Wrong,
    };
    let found = format!(
        "this Redis may evict keys (maxmemory-policy is {policy}), and an evicted grant locks a \
         person out"
    );
    let remedy = "run `CONFIG SET maxmemory-policy noeviction`, or set `store.allow_eviction: true` \
                  to take the risk";
    Finding::new("eviction", grade, found, remedy)
}

/// What is left of its memory is for what must be written, and why.
pub(super) fn spare(info: &str) -> Option<String> {
    let finding = memory(&Facts::of_info(info));
    (finding.grade > Grade::Fine).then(|| finding.to_string())
}

fn memory(facts: &Facts) -> Finding {
    let number = |name| facts.info(name).parse::<u64>().ok();
    let (Some(used), Some(most @ 1..)) = (number("used_memory"), number("maxmemory")) else {
        return Finding::fine("memory", "no limit is set");
    };
    let used = used.saturating_sub(number("mem_not_counted_for_evict").unwrap_or_default());
    let found = format!("{used} of {most} bytes are used");
    let remedy = "raise `maxmemory` or free memory";
    if used >= most {
        return Finding::new(
            "memory",
            Grade::Waits,
            format!("this Redis is full: {found}"),
            remedy,
        );
    }
    if used.saturating_mul(100) / most >= MEMORY_PERCENT {
        return Finding::new("memory", Grade::Risk, format!("soon full: {found}"), remedy);
    }
    Finding::fine("memory", found)
}

fn rights(facts: &Facts) -> Finding {
    let commands = |names: &[&str]| {
        names.iter().map(|name| format!("+{}", name.to_lowercase())).collect::<Vec<_>>().join(" ")
    };
    if !facts.lacking.is_empty() {
        let (found, missing) = (facts.lacking.join(", "), commands(&facts.lacking));
        return Finding::new(
            "rights",
            Grade::Wrong,
            format!("the Redis user lacks rights on keys of `store.prefix`: {found}"),
            format!("run `ACL SETUSER NAME {missing} ~PREFIX:*`; see docs/redis.md"),
        );
    }
    if facts.missed.is_empty() {
        return Finding::fine("rights", "the user may do all that is needed");
    }
    let (found, missing) = (facts.missed.join(", "), commands(&facts.missed));
    let what = format!(
        "the Redis user may not {found}: changes are heard late, or not seen who is connected or how \
         it is set up"
    );
    let grade = if facts.missed == ["CONFIG|GET"] { Grade::Unseen } else { Grade::Risk };
    Finding::new("rights", grade, what, format!("run `ACL SETUSER NAME {missing} &PREFIX:events`"))
}

/// Our functions are there, and are ours.
async fn functions(session: &Session, layout: &Layout) -> Result<Finding, OpenError> {
    let denied_to = |name: &str| {
        Finding::new(
            "functions",
            Grade::Wrong,
            format!("the Redis user lacks the right to call {name}"),
            "it needs FCALL, FUNCTION LOAD, and FUNCTION LIST where it may, on keys of `store.prefix`",
        )
    };
    match session.load_library().await {
        Err(error) if denied(&error) => return Ok(denied_to("FUNCTION LOAD")),
        loaded => loaded.map_err(|error| explain(&error))?,
    }
    if session.library_is_ours().await == Some(false) {
        let name = session.library();
        return Ok(Finding::new(
            "functions",
            Grade::Wrong,
            format!("somebody loaded other functions under the name {name} of ours"),
            format!("find out who may write to this Redis, then run `FUNCTION DELETE {name}`"),
        ));
    }
    // Gives back a claim that nobody holds: changes nothing, and needs what every claim needs.
    let probe = layout.mark(0);
    match session.call::<u64>("release", &[&probe], &[b"0", b"0", b""]).await {
        Err(error) if denied(&error) => Ok(denied_to("FCALL")),
        Err(error) => Err(explain(&error)),
        Ok(_) => Ok(Finding::fine("functions", "loaded")),
    }
}

/// A rotation that a restart forgets costs a person a new consent, unless a broker remembers it.
fn persistence(facts: &Facts) -> Finding {
    if facts.info("aof_enabled") == "1" {
        let sync = facts.setting("appendfsync").unwrap_or("hidden");
        return Finding::fine("persistence", format!("append-only file, appendfsync {sync}"));
    }
    let what = match facts.setting("save") {
        Some("") => "keeps nothing on disk: a restart loses every grant",
        Some(_) => "keeps snapshots only: a crash loses the rotations since the last one",
        None => "has its append-only file off: a crash may lose the last rotations",
    };
    Finding::new(
        "persistence",
        Grade::Risk,
        format!("this Redis {what}, and people must consent again"),
        "run `CONFIG SET appendonly yes`, and set `appendfsync always` where a second of rotations \
         is too much to lose",
    )
}

fn replicas(facts: &Facts, admission: Admission, sentinel: bool) -> Finding {
    let (attached, least) = (facts.replicas, admission.replicas_min);
    let found = format!("{attached} attached, `store.replicas_min` is {least}");
    if attached < least {
        let found = format!("{found}: nothing is refreshed");
        return Finding::new("replicas", Grade::Risk, found, "attach a replica");
    }
    if sentinel && least == 0 {
        let found = format!(
            "{found}: a primary that is cut off goes on alone, and a failover forgets what it is told"
        );
        return Finding::new("replicas", Grade::Risk, found, "set `store.replicas_min: 1`");
    }
    Finding::fine("replicas", found)
}

/// What a primary that is cut off from its replicas does.
fn cut_off(facts: &Facts) -> Finding {
    const CHECK: &str = "min-replicas-to-write";
    match facts.setting(CHECK) {
        None => Finding::new(CHECK, Grade::Unseen, "hidden", ""),
        Some("0") if facts.replicas > 0 => Finding::new(
            CHECK,
            Grade::Risk,
            "0: a primary that is cut off takes writes that its successor will not have",
            "run `CONFIG SET min-replicas-to-write 1` and `CONFIG SET min-replicas-max-lag 2`",
        ),
        Some(count) => Finding::fine(CHECK, count),
    }
}

fn clocks(facts: &Facts) -> Finding {
    let (ahead, within) = facts.ahead;
    let found = format!("Redis is {ahead} ms ahead of this machine, measured within {within} ms");
    if ahead.unsigned_abs() <= CLOCK_MAX + within {
        return Finding::fine("clock", found);
    }
    let remedy = "keep both in time (NTP): the lives of tokens are judged by our clock";
    Finding::new("clock", Grade::Risk, found, remedy)
}

/// Whose store it is, and whether our key ring opens it.
pub(super) async fn owner(
    session: &Session,
    layout: &Layout,
    ring: &Keyring,
) -> Result<Finding, OpenError> {
    let read = redis::cmd("HGET").arg(layout.meta()).arg("identity").to_owned();
    let found: Option<Vec<u8>> = session.query(&read).await.map_err(|error| explain(&error))?;
    let Some(found) = found else {
        return Ok(Finding::fine("deployment", "none yet: the first broker names it"));
    };
    let Ok(identity) = serde_json::from_slice::<Identity>(&found) else {
        let found = "what says whose store it is was not written by this version";
        return Ok(Finding::new(
            "deployment",
            Grade::Wrong,
            found,
            "choose another `store.prefix`",
        ));
    };
    Ok(match identity.check(ring) {
        Ok(()) => Finding::fine("deployment", identity.deployment),
        Err(refused) => Finding::new("deployment", Grade::Wrong, refused.to_string(), ""),
    })
}

/// No other broker is connected with the same prefix, as far as the names of connections tell.
pub(super) async fn alone(session: &Session) -> Result<bool, RedisError> {
    let list: String = session.query(redis::cmd("CLIENT").arg("LIST")).await?;
    let ours = format!("name={}", session.name());
    let connected = list.lines().filter(|line| line.split(' ').any(|part| part == ours)).count();
    // One of them is this one; where it is not seen, nobody is.
    Ok(connected == 1)
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
                _ => OpenError::Unavailable(format!(
                    "Redis does not answer ({text}); if this lasts, check host, port and TLS \
                     (redis:// or rediss://) of `store.url`"
                )),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_something_is_told_with_a_remedy() {
        let nothing = Facts::of(&[], &[("save", ""), ("min-replicas-to-write", "0")]);
        let replicated = Facts { replicas: 1, ..Facts::of(&[], &[("min-replicas-to-write", "0")]) };
        let late = Facts { ahead: (-3_000, 10), ..Facts::default() };
        let tight = Facts::of(&[("used_memory", "95"), ("maxmemory", "100")], &[]);
        let evicts = Facts::of(&[("maxmemory_policy", "allkeys-lru")], &[]);
        let taken = Admission { allow_eviction: true, ..Admission::default() };
        let wanted = Admission { replicas_min: 1, ..Admission::default() };
        for (finding, remedy) in [
            (persistence(&nothing), "appendonly yes"),
            (cut_off(&replicated), "min-replicas-to-write 1"),
            (clocks(&late), "NTP"),
            (memory(&tight), "maxmemory"),
            (eviction(&evicts, taken), "noeviction"),
            (replicas(&nothing, wanted, false), "attach"),
            (replicas(&nothing, Admission::default(), true), "store.replicas_min: 1"),
        ] {
            assert_eq!(finding.grade, Grade::Risk, "{finding}");
            assert!(finding.remedy.contains(remedy), "{finding}");
        }
        assert_eq!(cut_off(&nothing).grade, Grade::Fine, "there is no replica to be cut off from");
        assert_eq!(clocks(&Facts::default()).grade, Grade::Fine);
    }

    #[test]
    fn what_cannot_be_seen_is_said_so() {
        let hidden = Facts::default();
        assert_eq!(cut_off(&hidden).grade, Grade::Unseen);
        assert_eq!(eviction(&hidden, Admission::default()).grade, Grade::Unseen);
        assert_eq!(persistence(&hidden).grade, Grade::Risk);
    }
}
