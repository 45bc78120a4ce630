//! The Redis backend: one hash for each grant, every change one function on the server.
//!
//! [`session`] connects, `facts` and `check` say what server is good enough, `confirm` waits for its replicas,
//! `layout` names the keys, `read` and `fields` read the hashes, `wire` is what is said to `rotation.lua`, which
//! holds the rules of change.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::{FromRedisValue, RedisError};
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt as _;
use tracing::warn;

use crate::broker::model::{GrantId, ProviderId};
use crate::broker::store::{
    Claim, Finding, Grade, Heard, Limit, Merged, Peers, Slowing, StoreError, TOMBSTONE_LIFE,
};
use crate::clock::{Clock, from_unix_ms, unix_ms};
use crate::store::backend::{
    Amend, Backend, Change, Claiming, Format1, Inspected, Over, Publishing, Records, StoreResult,
};
use crate::store::bucket::{Booked, micros};
use crate::store::identity::Identity;
use crate::store::record::{Blob, Record, Stamp, StoredDoubt, millis};
use crate::store::redis::confirm::Confirming;
use crate::store::redis::fields::{Fields, malformed, number};
use crate::store::redis::layout::{Keys, Layout, SHARDS, cursor};
use crate::store::redis::server_time::ServerTime;
use crate::store::redis::session::Session;
use crate::store::redis::wire::{
    claimed, event, held, json, of_grant, silent, stamp, text, unavailable,
};
use crate::store::{Keyring, OpenError, keyring};

mod brokers;
mod check;
mod confirm;
mod facts;
mod fields;
mod layout;
mod place;
mod read;
mod server_time;
pub mod session;
mod wire;

pub use check::Admission;
pub use place::Address;
pub(crate) use place::{SENTINEL, SENTINEL_TLS, parts};

/// A replica that was there within this time is waited for after a failover: it may know more.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// What nobody has said for so long is forgotten.
const FACT_LIFE: Duration = Duration::from_secs(2 * 365 * 24 * 3600);
/// A mark lives longer than any process is ever stopped: one that is gone counts as lost.
const MARK_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Keeps records in Redis.
pub(crate) struct Redis {
    session: Session,
    claims: Confirming,
    layout: Layout,
    clock: Clock,
    time: ServerTime,
    admission: Admission,
    /// The shard whose due index is looked into first.
    turn: AtomicUsize,
    /// Random; whose marks are ours.
    process: u64,
    /// The last mark that was surely left; 0: none.
    left: AtomicU64,
    /// The name of this replica among others.
    name: OnceLock<String>,
    looked: Mutex<Looked>,
    /// The connections through which what is known here was compared.
    trusted: Mutex<Option<Connections>>,
}

/// Two connections, by their numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Connections {
    everything: u64,
    claims: u64,
}

/// What was found when the server was looked at last.
#[derive(Debug, Default)]
struct Looked {
    connections: Connections,
    server: String,
    /// The server was told already that it was compared.
    told: bool,
    /// So was any.
    joined: bool,
}

impl Redis {
    /// Connects and checks the server.
    pub(crate) async fn connect(
        address: &Address,
        prefix: &str,
        admission: Admission,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        let layout = Layout::new(prefix);
        let session = |purpose| {
            let session = Session::new(address, prefix, layout.meta(), purpose);
            session.map_err(|error| check::explain(&error))
        };
        let (claims, session) = (session(Some("claims"))?, session(None)?);
        check::admit(&session, &layout, admission, clock).await?;
        let claims = Confirming::new(claims, address.timeout);
        let mut process = [0; 8];
        keyring::fill(&mut process);
        let redis = Self {
            session,
            claims,
            layout,
            clock,
            time: ServerTime::default(),
            admission,
            turn: AtomicUsize::new(0),
            process: u64::from_be_bytes(process),
            left: AtomicU64::new(0),
            name: OnceLock::new(),
            looked: Mutex::default(),
            trusted: Mutex::default(),
        };
        redis.claims.look(None, admission.replicas_min).await?;
        Ok(redis)
    }

    /// Looks at a server without beginning anything there: whether it is fit, and whose it is.
    pub(crate) async fn examine_at(
        address: &Address,
        prefix: &str,
        admission: Admission,
        ring: &Keyring,
        clock: Clock,
    ) -> Result<Vec<Finding>, OpenError> {
        let layout = Layout::new(prefix);
        let session = Session::new(address, prefix, layout.meta(), Some("doctor"));
        let session = session.map_err(|error| check::explain(&error))?;
        let mut findings = check::examine(&session, &layout, admission, clock).await?;
        if findings.iter().all(|finding| finding.grade < Grade::Waits) {
            findings.push(check::owner(&session, &layout, ring).await?);
            let brokers = brokers::examine(&session, &layout).await;
            findings.push(brokers.map_err(|error| check::explain(&error))?);
        }
        Ok(findings)
    }

    fn replica(&self) -> &str {
        self.name.get_or_init(|| format!("{:016x}", self.process))
    }

    /// A due time by the clock of the server; empty for none.
    fn due(&self, due_at: Option<u64>) -> Vec<u8> {
        due_at.map(|due_at| text(self.time.of_server(due_at))).unwrap_or_default()
    }

    /// Ages of claims and doubts are told by our clock from here on.
    fn told_by_us(&self, mut record: Record) -> Record {
        record.intent = record.intent.map(|held| held.told(|at| self.time.of_ours(at)));
        record.answer = record.answer.map(|answer| answer.told(|at| self.time.of_ours(at)));
        record
    }

    /// A doubt for processes with other clocks.
    fn doubt(&self, doubt: &StoredDoubt) -> Vec<u8> {
        json(&doubt.clone().told(|at| self.time.of_server(at)))
    }

    async fn call<T: FromRedisValue>(
        &self,
        function: &str,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> StoreResult<T> {
        self.session.call(function, keys, arguments).await.map_err(unavailable)
    }

    /// Calls a function that says whether it changed anything.
    async fn changed(
        &self,
        function: &str,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> StoreResult<bool> {
        self.call::<u64>(function, keys, arguments).await.map(|answer| answer == 1)
    }

    /// Calls a function on the list of replicas.
    async fn of_replicas(&self, function: &str, arguments: &[&[u8]]) -> StoreResult<()> {
        let (replicas, compared) = (self.layout.replicas(), self.layout.compared());
        self.changed(function, &[&replicas, &compared], arguments).await.map(drop)
    }

    /// Since when it has been this server, as whoever saw it first has said, and who is given up at it.
    async fn since(&self, server: &str) -> StoreResult<(Instant, Vec<String>)> {
        let keys = [&self.layout.replicas(), &self.layout.compared()];
        let (age, gone): (String, Vec<String>) =
            self.call("since", &keys.map(String::as_str), &[server.as_bytes()]).await?;
        let (now, age) = (Instant::now(), Duration::from_millis(number(&age)?));
        Ok((now.checked_sub(age).unwrap_or(now), gone))
    }

    async fn amend(
        &self,
        id: &GrantId,
        keys: &Keys,
        expected: Stamp,
        amend: &Amend,
    ) -> StoreResult<bool> {
        let [generation, last_fence] = stamp(Some(expected));
        let (owner, doubt) = match &amend.in_doubt {
            Some((owner, doubt)) => (json(owner), self.doubt(doubt)),
            None => (Vec::new(), Vec::new()),
        };
        let answer = amend.answer.clone();
        let answer = answer.map(|answer| json(&answer.told(|at| self.time.of_server(at))));
        let arguments: [&[u8]; 10] = [
            &generation,
            &last_fence,
            &text(amend.fence),
            if amend.lift { b"1" } else { b"" },
            &self.due(amend.due_at),
            id.as_str().as_bytes(),
            amend.descriptor.as_ref().map_or(&[], |descriptor| descriptor.blob.0.as_slice()),
            &owner,
            &doubt,
            &answer.unwrap_or_default(),
        ];
        self.changed("amend", &keys.with_due(), &arguments).await
    }

    fn identity_in(&self, found: &[u8]) -> StoreResult<Identity> {
        serde_json::from_slice(found).map_err(|_| {
            let meta = self.layout.meta();
            StoreError::Refused(format!(
                "the key {meta} was not written by this version of token-broker; choose another \
                 `store.prefix`"
            ))
        })
    }
}

#[async_trait]
impl Backend for Redis {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn bind(&self, deployment: &str) {
        self.session.bind(deployment);
        self.claims.session().bind(deployment);
    }

    fn call_it(&self, replica: &str) {
        let _ = self.name.set(replica.to_owned());
    }

    async fn inspect(&self, mark: u64) -> StoreResult<Inspected> {
        self.session.follow().await;
        let read = redis::cmd("HGET").arg(self.layout.meta()).arg("identity").clone();
        let found: Option<Vec<u8>> = self.session.query(&read).await.map_err(unavailable)?;
        let identity = found.map(|found| self.identity_in(&found)).transpose()?;
        if identity.as_ref().is_some_and(|found| self.session.is_foreign(found)) {
            // Nothing more goes out on this connection: the next one is greeted first.
            self.session.disconnect().await;
            self.claims.session().disconnect().await;
            return Ok(Inspected::alone(identity, None, true));
        }
        let everything = self.session.connections();
        let key = self.layout.mark(self.process);
        let begin = self.clock.now_ms();
        let keys = [&key, &self.layout.replicas(), &self.layout.compared()];
        // Nobody waits for one that knows nothing yet.
        let known_as = if self.looked.lock().joined { self.replica() } else { "" };
        let (mark_life, remembered) = (text(millis(MARK_LIFE)), text(millis(REMEMBERED)));
        let arguments: [&[u8]; 4] = [&text(mark), &mark_life, known_as.as_bytes(), &remembered];
        let (before, time, replicas): (String, String, Vec<(String, String)>) =
            self.call("mark", &keys.map(String::as_str), &arguments).await?;
        self.left.store(mark, Ordering::SeqCst);
        self.time.measured(number(&time)?, begin, self.clock.now_ms());
        let (mark_before, anew) = (before.parse().ok(), self.session.reconnected());
        let looked = self.claims.look(Some((&key, mark)), self.admission.replicas_min).await;
        let (server, claims) = match looked {
            Ok(looked) => looked,
            // What was found of marks is not found again.
            Err(trouble) => {
                let found = Inspected::alone(identity, mark_before, anew);
                return Ok(Inspected { trouble: Some(trouble), ..found });
            }
        };
        let own = replicas.iter().find(|(name, _)| name == self.replica());
        let told = own.is_some_and(|(_, compared)| *compared == server);
        let others = replicas.iter().filter(|(name, _)| name != self.replica());
        let others = others.map(|(name, compared)| (name.clone(), *compared == server)).collect();
        let (since, gone) = match self.since(&server).await {
            Ok(since) => since,
            Err(trouble) => {
                let found = Inspected::alone(identity, mark_before, anew);
                return Ok(Inspected { trouble: Some(trouble), ..found });
            }
        };
        let peers = Peers { server: server.clone(), since: Some(since), others, gone };
        let mut looked = self.looked.lock();
        let connections = Connections { everything, claims };
        let joined = looked.joined;
        *looked = Looked { connections, server, told, joined };
        Ok(Inspected { identity, mark: mark_before, anew, peers, trouble: None })
    }

    async fn compared(&self) -> StoreResult<()> {
        let (connections, untold) = {
            let looked = self.looked.lock();
            (looked.connections, (!looked.told).then(|| looked.server.clone()))
        };
        if let Some(server) = untold {
            let arguments: [&[u8]; 2] = [self.replica().as_bytes(), server.as_bytes()];
            self.of_replicas("compared", &arguments).await?;
            let mut looked = self.looked.lock();
            (looked.told, looked.joined) = (looked.server == server, true);
        }
        *self.trusted.lock() = Some(connections);
        Ok(())
    }

    async fn dismiss(&self, replicas: &[String]) -> StoreResult<()> {
        let server = self.looked.lock().server.clone();
        for replica in replicas {
            self.of_replicas("give_up", &[server.as_bytes(), replica.as_bytes()]).await?;
        }
        Ok(())
    }

    async fn examine(&self) -> StoreResult<Vec<Finding>> {
        let found = check::examine(&self.session, &self.layout, self.admission, self.clock).await;
        found.map_err(|failure| StoreError::Unavailable(Box::new(failure)))
    }

    async fn close(&self, settled: bool) -> StoreResult<()> {
        if !settled {
            // What it has brought last may be lost yet: its successor is waited for.
            return Ok(());
        }
        self.of_replicas("leave", &[self.replica().as_bytes()]).await
    }

    async fn exists(&self) -> StoreResult<bool> {
        let read = redis::cmd("HEXISTS").arg(self.layout.meta()).arg("identity").clone();
        self.session.query(&read).await.map_err(unavailable)
    }

    fn by_its_clock(&self, ours: SystemTime) -> SystemTime {
        from_unix_ms(self.time.of_server(unix_ms(ours)))
    }

    fn by_our_clock(&self, its: SystemTime) -> SystemTime {
        from_unix_ms(self.time.of_ours(unix_ms(its)))
    }

    async fn identity(&self, proposed: &Identity) -> StoreResult<Identity> {
        let meta = self.layout.meta();
        let propose = redis::cmd("HSETNX").arg(&meta).arg("identity").arg(json(proposed)).clone();
        let _: u64 = self.session.query(&propose).await.map_err(unavailable)?;
        let read = redis::cmd("HGET").arg(&meta).arg("identity").clone();
        let found: Vec<u8> = self.session.query(&read).await.map_err(unavailable)?;
        self.identity_in(&found)
    }

    async fn identify(&self, identity: &Identity) -> StoreResult<()> {
        let meta = self.layout.meta();
        let write = redis::cmd("HSET").arg(meta).arg("identity").arg(json(identity)).clone();
        self.session.query::<u64>(&write).await.map(drop).map_err(unavailable)
    }

    async fn alone(&self) -> StoreResult<()> {
        check::alone(&self.session).await.map_err(unavailable)?.then_some(()).ok_or_else(|| {
            StoreError::Unavailable(
                "another token-broker is connected to this Redis, or the user lacks CLIENT SETNAME \
                 and nobody can tell; the store is converted once this one is alone"
                    .into(),
            )
        })
    }

    async fn read_format_1(&self, id: &GrantId) -> StoreResult<Option<Format1>> {
        Ok(fields::format_1(self.hash(id).await?))
    }

    async fn read(&self, id: &GrantId) -> StoreResult<Option<Record>> {
        let record = fields::record(id, &self.hash(id).await?)?;
        Ok(record.map(|record| self.told_by_us(record)))
    }

    async fn page(&self, after: Option<&str>, limit: usize) -> StoreResult<Records> {
        let mut ids = self.ids(after, limit + 1).await?;
        let more = ids.len() > limit;
        ids.truncate(limit);
        let next = ids.last().filter(|_| more).map(cursor);
        let rows = if ids.is_empty() { Vec::new() } else { self.rows(&ids).await? };
        let record = |(id, row): (GrantId, &Result<Fields, RedisError>)| {
            let row = row.as_ref().map_err(|_| fields::damaged(&id));
            let record = row.and_then(|row| fields::record(&id, row)).transpose()?;
            let record = record.map(|record| self.told_by_us(record));
            let dead = matches!(&record, Ok(record) if record.deleted_at.is_some());
            (!dead).then_some((id, record))
        };
        Ok(Records { records: ids.into_iter().zip(&rows).filter_map(record).collect(), next })
    }

    async fn claim(&self, id: &GrantId, claiming: Claiming) -> StoreResult<Claim> {
        let (lease, held) = match claiming.over {
            Over::Nothing => (Vec::new(), Vec::new()),
            Over::Older(lease) => (text(lease), Vec::new()),
            Over::Held(fence) => (Vec::new(), text(fence)),
        };
        let mark = self.left.load(Ordering::SeqCst);
        let arguments: [&[u8]; 7] = [
            &text(claiming.generation),
            &json(&claiming.owner),
            &lease,
            &held,
            &text(claiming.watch),
            id.as_str().as_bytes(),
            &text(mark),
        ];
        let keys = self.layout.keys(id);
        let ([grant, due], mark) = (keys.with_due(), self.layout.mark(self.process));
        let trusted = *self.trusted.lock();
        let trusted = trusted.filter(|at| at.everything == self.session.connections());
        let Some(Connections { claims, .. }) = trusted else {
            return Err(StoreError::Unavailable(
                "Redis was connected to anew; nothing is claimed before it was compared with what is \
                 known here"
                    .into(),
            ));
        };
        let answer = self.claims.call(claims, "claim", &[grant, due, &mark], &arguments).await?;
        let answer = Vec::from_redis_value(answer).map_err(|_| malformed())?;
        claimed(&answer, claiming, |at| self.time.of_ours(at))
    }

    async fn publish(&self, id: &GrantId, publishing: Publishing) -> StoreResult<Option<Merged>> {
        let answer = publishing.answer.clone();
        let answer = answer.map(|answer| json(&answer.told(|at| self.time.of_server(at))));
        let arguments: [&[u8]; 10] = [
            &text(publishing.at.generation.0),
            &text(publishing.at.fence.0),
            &publishing.pair.0,
            &self.due(publishing.due_at),
            id.as_str().as_bytes(),
            &publishing.descriptor.blob.0,
            &text(publishing.descriptor.fence),
            if publishing.remake { b"1" } else { b"" },
            &publishing.held_by.as_ref().map(json).unwrap_or_default(),
            &answer.unwrap_or_default(),
        ];
        let keys = self.layout.keys(id);
        let merged = self.session.call("merge", &keys.with_names(), &arguments).await;
        let merged: String = merged.map_err(|error| of_grant(id, error))?;
        match merged.as_str() {
            "published" => Ok(Some(Merged::Published)),
            "same" => Ok(Some(Merged::Same)),
            "sibling" => Ok(Some(Merged::Sibling)),
            "old" => Ok(Some(Merged::Old)),
            "remade" => Ok(Some(Merged::Remade)),
            "missing" => Ok(None),
            _ => Err(malformed()),
        }
    }

    async fn change(&self, id: &GrantId, change: Change) -> StoreResult<bool> {
        let keys = self.layout.keys(id);
        let (due, names) = (keys.with_due(), keys.with_names());
        let name = id.as_str().as_bytes();
        match change {
            Change::Start { expected, at, descriptor, pair: Blob(pair), due_at } => {
                let [generation, last_fence] = stamp(expected);
                let (next, fence) = (text(at.generation.0), text(at.fence.0));
                let (described, due_at) = (text(descriptor.fence), self.due(due_at));
                let Blob(descriptor) = descriptor.blob;
                let arguments: [&[u8]; 9] = [
                    &generation,
                    &last_fence,
                    &next,
                    &fence,
                    &descriptor,
                    &described,
                    &pair,
                    &due_at,
                    name,
                ];
                self.changed("start", &names, &arguments).await
            }
            Change::Doubt { hold, doubt, due_at } => {
                let ([generation, fence], due_at) = (held(hold), self.due(due_at));
                let arguments: [&[u8]; 5] =
                    [&generation, &fence, &self.doubt(&doubt), &due_at, name];
                self.changed("doubt", &due, &arguments).await
            }
            Change::Release { hold, answer } => {
                let [generation, fence] = held(hold);
                let answer = answer.map(|answer| json(&answer.told(|at| self.time.of_server(at))));
                let arguments: [&[u8]; 3] = [&generation, &fence, &answer.unwrap_or_default()];
                self.changed("release", &[keys.grant()], &arguments).await
            }
            Change::Refuse { hold, refusal } => {
                let [generation, fence] = held(hold);
                let arguments: [&[u8]; 4] = [&generation, &fence, &refusal.blob.0, name];
                self.changed("refuse", &due, &arguments).await
            }
            Change::Promote { hold, sibling, pair: Blob(pair) } => {
                let [generation, fence] = held(hold);
                let arguments: [&[u8]; 4] = [&generation, &fence, &text(sibling), &pair];
                self.changed("promote", &[keys.grant()], &arguments).await
            }
            Change::Amend { expected, amend } => self.amend(id, &keys, expected, &amend).await,
            Change::Delete { expected, at } => {
                let [generation, last_fence] = stamp(Some(expected));
                let (next, fence) = (text(at.generation.0), text(at.fence.0));
                let life = text(millis(TOMBSTONE_LIFE));
                let arguments: [&[u8]; 6] = [&generation, &last_fence, &next, &fence, &life, name];
                self.changed("delete", &names, &arguments).await
            }
            Change::StartOver { at, descriptor, pair: Blob(pair), due_at } => {
                let (next, fence) = (text(at.generation.0), text(at.fence.0));
                let (described, due_at) = (text(descriptor.fence), self.due(due_at));
                let Blob(descriptor) = descriptor.blob;
                let arguments: [&[u8]; 7] =
                    [&next, &fence, &descriptor, &described, &pair, &due_at, name];
                self.changed("start_over", &names, &arguments).await
            }
            Change::Bury { at } => {
                let (next, fence) = (text(at.generation.0), text(at.fence.0));
                let life = text(millis(TOMBSTONE_LIFE));
                self.changed("entomb", &names, &[&next, &fence, &life, name]).await
            }
            Change::Discard { at } => {
                let (next, fence) = (text(at.generation.0), text(at.fence.0));
                let life = text(millis(TOMBSTONE_LIFE));
                self.changed("discard", &names, &[&next, &fence, &life, name]).await
            }
            Change::Convert { expected, descriptor, refusal } => {
                let [generation, last_fence] = stamp(Some(expected));
                let described = text(descriptor.fence);
                let refusal = refusal.map(|refusal| refusal.blob.0).unwrap_or_default();
                let arguments: [&[u8]; 5] =
                    [&generation, &last_fence, &descriptor.blob.0, &described, &refusal];
                self.changed("convert", &[keys.grant()], &arguments).await
            }
            Change::Schedule { generation, due_at } => {
                self.changed("schedule", &due, &[&text(generation), &self.due(Some(due_at)), name])
                    .await
            }
        }
    }

    async fn keep(&self, name: &str, note: Blob, life: Duration) -> StoreResult<Blob> {
        let key = self.layout.note(name);
        let there = self.call("keep", &[&key], &[&note.0, &text(millis(life))]).await?;
        Ok(Blob(there))
    }

    async fn enlist(
        &self,
        lists: &[(String, usize)],
        member: &str,
        life: Duration,
    ) -> StoreResult<Option<(usize, Duration)>> {
        let keys: Vec<_> = lists.iter().map(|(name, _)| self.layout.list(name)).collect();
        let keys: Vec<_> = keys.iter().map(String::as_str).collect();
        let mut arguments = vec![member.as_bytes().to_vec(), text(millis(life))];
        arguments.extend(lists.iter().map(|(_, most)| text(*most)));
        let arguments: Vec<_> = arguments.iter().map(Vec::as_slice).collect();
        let full: Vec<u64> = self.call("enlist", &keys, &arguments).await?;
        let [place, wait] = full.as_slice() else { return Ok(None) };
        let place = usize::try_from(*place).map_err(|_| malformed())?;
        Ok(Some((place, Duration::from_millis(*wait))))
    }

    async fn spare(&self) -> StoreResult<()> {
        let asked = self.session.query(redis::cmd("INFO").arg("memory")).await;
        let text: String = asked.map_err(unavailable)?;
        check::spare(&text).map_or(Ok(()), |full| Err(StoreError::Full(full)))
    }

    async fn look(&self, name: &str) -> StoreResult<Option<Blob>> {
        let note: Option<Vec<u8>> = self.call("look", &[&self.layout.note(name)], &[]).await?;
        Ok(note.map(Blob))
    }

    async fn pick(&self, name: &str) -> StoreResult<Option<Blob>> {
        let note: Vec<u8> = self.call("pick", &[&self.layout.note(name)], &[]).await?;
        Ok(Some(note).filter(|note| !note.is_empty()).map(Blob))
    }

    async fn shared(&self, name: &str) -> StoreResult<Option<(Blob, u64, u64)>> {
        let read: Vec<Vec<u8>> = self.call("shared", &[&self.layout.trouble(name)], &[]).await?;
        let [value, change, age] = read.as_slice() else { return Ok(None) };
        let whole = |text: &[u8]| str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        let (change, age) = whole(change).zip(whole(age)).ok_or_else(malformed)?;
        Ok(Some((Blob(value.clone()), change, age)))
    }

    async fn share(&self, name: &str, read: u64, value: Blob, life: Duration) -> StoreResult<bool> {
        let arguments: [&[u8]; 3] = [&text(read), &value.0, &text(millis(life))];
        self.changed("exchange", &[&self.layout.trouble(name)], &arguments).await
    }

    async fn fact(&self, name: &str) -> StoreResult<Option<Blob>> {
        let read: Vec<Vec<u8>> = self.call("shared", &[&self.layout.fact(name)], &[]).await?;
        Ok(read.into_iter().next().map(Blob))
    }

    /// Whoever is overtaken was not the last.
    async fn put_fact(&self, name: &str, value: Blob) -> StoreResult<()> {
        let key = self.layout.fact(name);
        let read: Vec<Vec<u8>> = self.call("shared", &[&key], &[]).await?;
        let change = read.get(1).map_or(b"0".as_slice(), Vec::as_slice);
        let arguments: [&[u8]; 3] = [change, &value.0, &text(millis(FACT_LIFE))];
        self.changed("exchange", &[&key], &arguments).await.map(drop)
    }

    async fn listen(&self, heard: Sender<Heard>, silence: Duration) -> StoreResult<()> {
        let link = timeout(silence, self.session.subscribe(&self.layout.events())).await;
        let mut link = link.map_err(|_| silent())?.map_err(unavailable)?;
        let mut told = heard.send(Heard::Linked).await.is_ok();
        let mut messages = link.on_message();
        while told {
            let Ok(message) = timeout(silence, messages.next()).await else { return Err(silent()) };
            let Some(message) = message else { break };
            if let Some(event) = message.get_payload().ok().and_then(|text: String| event(&text)) {
                told = heard.send(event).await.is_ok();
            }
        }
        Ok(())
    }

    /// Redis does it by itself.
    async fn purge(&self) -> StoreResult<usize> {
        Ok(0)
    }

    async fn book(
        &self,
        provider: &ProviderId,
        limit: Limit,
        count: usize,
        ahead: f64,
    ) -> StoreResult<Booked> {
        let arguments: [&[u8]; 4] =
            [&text(limit.rate), &text(limit.burst), &text(count), &text(ahead.floor())];
        let key = self.layout.rate(provider);
        let (count, first, step): (usize, String, String) =
            self.call("book", &[&key], &arguments).await?;
        let time = |text: String| text.parse().map_err(|_| malformed());
        Ok(Booked { count, first: time(first)?, step: time(step)? })
    }

    async fn slow_down(&self, provider: &ProviderId, slowing: Slowing) -> StoreResult<()> {
        let told = slowing.told.map(|told| text(micros(told).floor())).unwrap_or_default();
        let micros = |time| text(micros(time).floor());
        let arguments: [&[u8]; 4] =
            [&told, &micros(slowing.least), &micros(slowing.most), &micros(slowing.sent_ago)];
        self.changed("slow_down", &[&self.layout.rate(provider)], &arguments).await.map(drop)
    }

    async fn take_due(&self, limit: usize, visibility: Duration) -> StoreResult<Vec<GrantId>> {
        let first = self.turn.load(Ordering::Relaxed);
        let shards: Vec<_> = (first..SHARDS).chain(0..first).collect();
        let indexes: Vec<_> = shards.iter().map(|shard| self.layout.due(*shard)).collect();
        let indexes: Vec<_> = indexes.iter().map(String::as_str).collect();
        let limits: [&[u8]; 2] = [&text(limit as u64), &text(millis(visibility))];
        let (names, looked, odd): (Vec<String>, usize, Vec<usize>) =
            self.call("take_due", &indexes, &limits).await?;
        self.turn.store((first + looked) % SHARDS, Ordering::Relaxed);
        for shard in odd.into_iter().filter_map(|place| shards.get(place)) {
            // It is in nobody else's way.
            warn!(shard, "the due index of a shard cannot be read; delete that key");
        }
        Ok(names.iter().filter_map(|name| fields::known_name(name, "the due index")).collect())
    }
}
