//! Facts: what a Redis server says of itself, and what its user may do.

use std::collections::HashMap;

use redis::{Cmd, RedisError, Value};

use crate::clock::Clock;
use crate::store::redis::Layout;
use crate::store::redis::session::Session;

/// What operators set; hosted servers hide it.
const SETTINGS: [&str; 5] =
    ["save", "appendonly", "appendfsync", "min-replicas-to-write", "maxmemory-policy"];

/// What was found out about a server in a few round trips.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) info: HashMap<String, String>,
    pub(super) settings: HashMap<String, String>,
    /// Rights that are needed, and those without which something is slower or not seen.
    pub(super) lacking: Vec<&'static str>,
    pub(super) missed: Vec<&'static str>,
    pub(super) replicas: u64,
    /// How far its clock is ahead of ours, in ms, and how exactly that is known.
    pub(super) ahead: (i64, u64),
}

impl Facts {
    /// Asks the server. Leaves nothing behind.
    pub(super) async fn ask(
        session: &Session,
        layout: &Layout,
        clock: Clock,
    ) -> Result<Self, RedisError> {
        let info: String = session.query(redis::cmd("INFO").arg("everything")).await?;
        let mut facts = Self { replicas: attached(&info), ..Self::of_info(&info) };
        if facts.info("cluster_enabled") == "1" || facts.info("role") != "master" {
            return Ok(facts);
        }
        facts.ask_rights(session, layout).await?;
        let mut ask = redis::cmd("CONFIG");
        ask.arg("GET").arg(&SETTINGS);
        match session.query::<HashMap<String, String>>(&ask).await {
            Ok(settings) => facts.settings = settings,
            Err(_) => facts.missed.push("CONFIG|GET"),
        }
        let before = clock.now_ms();
        let (seconds, micros): (u64, u64) = session.query(&redis::cmd("TIME")).await?;
        let after = clock.now_ms();
        let (server, ours) = (seconds * 1_000 + micros / 1_000, before.midpoint(after));
        facts.ahead = (server.wrapping_sub(ours).cast_signed(), after.saturating_sub(before));
        Ok(facts)
    }

    /// Does with a key of its own what is done with grants, and hears what is not allowed.
    async fn ask_rights(&mut self, session: &Session, layout: &Layout) -> Result<(), RedisError> {
        let key = layout.mark(0);
        let needed = needed(&key);
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        for (_, command) in &needed {
            pipeline.add_command(command.clone());
        }
        let events = layout.events();
        pipeline.cmd("PUBLISH").arg(&events).arg("mark");
        pipeline.cmd("CLIENT").arg("SETNAME").arg(session.name());
        let answers: Vec<Result<Value, RedisError>> = session.pipeline(&pipeline).await?;
        let mut answers = answers.into_iter();
        for (name, _) in needed {
            let denied = answers.next().is_some_and(|answer| answer.is_err_and(|it| denied(&it)));
            if denied && !self.lacking.contains(&name) {
                self.lacking.push(name);
            }
        }
        for name in ["PUBLISH", "CLIENT|SETNAME"] {
            if answers.next().is_some_and(|answer| answer.is_err_and(|it| denied(&it))) {
                self.missed.push(name);
            }
        }
        Ok(())
    }

    /// What `INFO` says, and nothing else.
    pub(super) fn of_info(info: &str) -> Self {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self { info: parse(info).into_iter().map(owned).collect(), ..Self::default() }
    }

    /// What `INFO` says; empty for nothing.
    pub(super) fn info(&self, name: &str) -> &str {
        self.info.get(name).map(String::as_str).unwrap_or_default()
    }

    /// What an operator has set, where it can be seen.
    pub(super) fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    #[cfg(test)]
    pub(super) fn of(info: &[(&str, &str)], settings: &[(&str, &str)]) -> Self {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        Self { info: map(info), settings: map(settings), ..Self::default() }
    }
}

/// What our functions and we ourselves call, on a key that nobody else has.
fn needed(key: &str) -> Vec<(&'static str, Cmd)> {
    let command = |name: &'static str, arguments: &[&str]| {
        let mut command = redis::cmd(name);
        command.arg(key).arg(arguments);
        (name, command)
    };
    let wait = redis::cmd("WAIT").arg(0).arg(1).to_owned();
    vec![
        ("TIME", redis::cmd("TIME")),
        ("WAIT", wait),
        command("DEL", &[]),
        command("HSETNX", &["a", "1"]),
        command("HSET", &["a", "1"]),
        command("PEXPIRE", &["10000"]),
        command("HGET", &["a"]),
        command("HMGET", &["a"]),
        command("HGETALL", &[]),
        command("HKEYS", &[]),
        command("HEXISTS", &["a"]),
        command("TYPE", &[]),
        command("HDEL", &["a"]),
        command("DEL", &[]),
        command("ZADD", &["1", "a"]),
        command("PEXPIRE", &["10000"]),
        command("ZSCORE", &["a"]),
        command("ZCARD", &[]),
        command("ZRANGE", &["0", "1"]),
        command("ZRANGEBYSCORE", &["0", "1"]),
        command("ZRANGEBYLEX", &["-", "+"]),
        command("ZREM", &["a"]),
        command("ZREMRANGEBYSCORE", &["0", "1"]),
        command("DEL", &[]),
    ]
}

/// The user may not do it, or not with this key.
pub(super) fn denied(error: &RedisError) -> bool {
    error.code() == Some("NOPERM")
}

fn parse(info: &str) -> HashMap<&str, &str> {
    info.lines().filter_map(|line| line.trim_end().split_once(':')).collect()
}

/// Replicas that are attached and keep up, by what `INFO replication` says.
pub(super) fn attached(info: &str) -> u64 {
    let attached = |line: &&str| line.starts_with("slave") && line.contains("state=online");
    info.lines().filter(attached).count() as u64
}

/// Which server it is, and which history: another one after each start, and after each promotion.
pub(super) fn server(info: &str) -> String {
    let facts = parse(info);
    let fact = |name| facts.get(name).copied().unwrap_or_default();
    format!("{}:{}", fact("run_id"), fact("master_replid"))
}
