//! Redis as the store: one hash per grant, every change one function on the server.
//!
//! Layout: `PREFIX:{NN}:g:GRANT` the grants, `PREFIX:{NN}:due` the due index, `PREFIX:{NN}:ids` the
//! names in order, `PREFIX:meta` whom the store belongs to. `NN` is the shard, one of 256: fixed,
//! because keys of one shard change together and so must share a slot. No key of a live grant
//! has a time to live.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use redis::RedisError;
use tracing::warn;

use crate::broker::model::{
    Doubt, Fence, Generation, Grant, GrantId, Intent, Owner, Position, Standing, Verdict,
};
use crate::broker::store::{
    Amendment, Claim, Health, Merged, Page, Publication, Seed, Store, StoreError, TOMBSTONE_LIFE,
};
use crate::clock::{Clock, from_unix_ms, unix_ms};
use crate::store::record::{
    About, Blob, Codec, Record, StoredDoubt, StoredIntent, StoredOwner, StoredVerdict, millis,
};
use crate::store::redis::session::Session;
use crate::store::{Identity, Keyring, OpenError};

mod check;
mod session;

pub use session::Address;

/// Shards of a deployment.
const SHARDS: usize = 256;
/// Tries of a change that others keep overtaking.
const CONFLICTS_MAX: u32 = 5;
/// Fields that hold a sibling begin with this.
const SIBLING: &str = "s:";

/// Keeps grants in Redis, where several replicas can reach them.
pub struct Redis {
    session: Session,
    codec: Codec,
    clock: Clock,
    prefix: String,
    identity: Identity,
}

type StoreResult<T> = Result<T, StoreError>;
type Fields = HashMap<String, Vec<u8>>;

impl Redis {
    /// Connects, checks the server and names the store if it is new. With `alone`, nobody else may
    /// be connected to it.
    pub async fn open(
        address: &Address,
        prefix: &str,
        allow_eviction: bool,
        alone: bool,
        ring: Arc<Keyring>,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        let session = Session::new(address, prefix).map_err(|error| check::explain(&error))?;
        let meta = check::meta_key(prefix);
        let identity = check::admit(&session, &meta, &ring, allow_eviction).await?;
        if alone {
            check::alone(&session).await?;
        }
        let codec = Codec { ring, deployment: identity.deployment.clone() };
        Ok(Self { session, codec, clock, prefix: prefix.to_owned(), identity })
    }

    fn keys(&self, id: &GrantId) -> [String; 3] {
        let shard = shard(id);
        [
            format!("{}:{{{shard:02x}}}:g:{id}", self.prefix),
            self.due_key(shard),
            self.ids_key(shard),
        ]
    }

    fn due_key(&self, shard: usize) -> String {
        format!("{}:{{{shard:02x}}}:due", self.prefix)
    }

    fn ids_key(&self, shard: usize) -> String {
        format!("{}:{{{shard:02x}}}:ids", self.prefix)
    }

    async fn read(&self, id: &GrantId) -> StoreResult<Option<Record>> {
        let [grant, ..] = self.keys(id);
        let fields: Fields =
            self.session.query(redis::cmd("HGETALL").arg(grant)).await.map_err(unavailable)?;
        record(id, &fields)
    }

    /// `None`: there is no such grant, and it is not to be made.
    async fn try_merge(
        &self,
        id: &GrantId,
        publication: &Publication,
        make: bool,
    ) -> StoreResult<Option<Merged>> {
        let [grant, due, ids] = self.keys(id);
        let Publication { generation, fence, descriptor, pair, due_at } = publication;
        let position = Position { generation: *generation, fence: *fence };
        let blob = self.codec.seal(id, position, descriptor, pair);
        let due_at = optional(*due_at);
        let about =
            if make { serde_json::to_vec(&About::from(descriptor)) } else { Ok(Vec::new()) };
        let arguments: [&[u8]; 6] = [
            &text(generation.0),
            &text(fence.0),
            &blob.0,
            due_at.as_bytes(),
            id.as_str().as_bytes(),
            &about.unwrap_or_default(),
        ];
        let keys = [grant.as_str(), &due, &ids];
        let merged: String =
            self.session.call("merge", &keys, &arguments).await.map_err(unavailable)?;
        Ok(Some(match merged.as_str() {
            "published" => Merged::Published,
            "same" => Merged::Same,
            "sibling" => Merged::Sibling,
            "old" => Merged::Old,
            "remade" => Merged::Remade,
            "missing" => return Ok(None),
            _ => return Err(malformed()),
        }))
    }

    /// Claims: where the claim is free or older than `lease` ms, or by taking over the one that has
    /// this fence.
    async fn hold(
        &self,
        id: &GrantId,
        generation: Generation,
        owner: Owner,
        lease: String,
        fence: String,
        watch: Duration,
    ) -> StoreResult<Claim> {
        let [grant, due, _] = self.keys(id);
        let stored_owner =
            serde_json::to_vec(&StoredOwner::from(owner.clone())).unwrap_or_default();
        let arguments: [&[u8]; 6] = [
            &text(generation.0),
            &stored_owner,
            lease.as_bytes(),
            fence.as_bytes(),
            &text(millis(watch)),
            id.as_str().as_bytes(),
        ];
        let answer: Vec<String> =
            self.session.call("claim", &[&grant, &due], &arguments).await.map_err(unavailable)?;
        let parts: Vec<&str> = answer.iter().map(String::as_str).collect();
        match parts.as_slice() {
            ["granted", fence, since, doubt, doubt_fence] => Ok(Claim::Granted(Intent {
                generation,
                owner,
                fence: Fence(number(fence)?),
                since: from_unix_ms(number(since)?),
                doubt: stored_doubt(doubt, doubt_fence)?.as_ref().map(Doubt::from),
            })),
            ["busy", generation, owner, fence, since, doubt, doubt_fence] => {
                let owner = serde_json::from_str(owner).map_err(|_| malformed())?;
                let intent = StoredIntent {
                    generation: number(generation)?,
                    owner,
                    fence: number(fence)?,
                    since: number(since)?,
                    doubt: stored_doubt(doubt, doubt_fence)?,
                };
                Ok(Claim::Busy(Intent::from(&intent)))
            }
            ["moved"] => Ok(Claim::Moved),
            _ => Err(malformed()),
        }
    }

    /// Names the store again where that was lost with the rest: what is sealed to a deployment
    /// cannot be opened under another name.
    async fn still_ours(&self) -> StoreResult<()> {
        let meta = check::meta_key(&self.prefix);
        let found = check::claim_identity(&self.session, &meta, &self.identity).await;
        match found.map_err(unavailable)? {
            Some(found) if found.deployment == self.identity.deployment => Ok(()),
            _ => Err(StoreError::Refused(
                "it belongs to another deployment now, and is not written to; point `store.url` \
                 or `store.prefix` at the store of this one"
                    .to_owned(),
            )),
        }
    }

    /// Position of a new chain or tombstone, and what the record must still be for it to count.
    fn next_chain(&self, known: Option<&Record>) -> (Position, String, String) {
        let now = self.clock.now();
        let position = Position {
            generation: Generation::of_new_chain(
                known.map(|known| Generation(known.generation)),
                now,
            ),
            fence: Fence::after(Fence(known.map_or(0, |known| known.last_fence)), unix_ms(now)),
        };
        let expected = |value: fn(&Record) -> u64| {
            known.map_or(String::new(), |known| value(known).to_string())
        };
        (position, expected(|known| known.generation), expected(|known| known.last_fence))
    }
}

#[async_trait]
impl Store for Redis {
    async fn load(&self, id: &GrantId) -> StoreResult<Option<Grant>> {
        let record = self.read(id).await?;
        record.map(|record| self.codec.open(id, &record)).transpose()
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> StoreResult<Page> {
        let (first, name) = cursor(after)?;
        let mut pipeline = redis::pipe();
        for shard in first..SHARDS {
            let from = if shard == first && !name.is_empty() {
                format!("({name}")
            } else {
                "-".to_owned()
            };
            let range = pipeline.cmd("ZRANGEBYLEX").arg(self.ids_key(shard)).arg(from).arg("+");
            range.arg("LIMIT").arg(0).arg(limit + 1);
        }
        let names: Vec<Vec<String>> =
            self.session.pipeline(&pipeline).await.map_err(unavailable)?;
        let mut ids = Vec::new();
        for name in names.into_iter().flatten().take(limit + 1) {
            ids.push(stored_id(&name)?);
        }
        let more = ids.len() > limit;
        ids.truncate(limit);
        let next = ids.last().filter(|_| more).map(|id| format!("{:02x}/{id}", shard(id)));
        let mut grants = Vec::new();
        if !ids.is_empty() {
            let mut pipeline = redis::pipe();
            for id in &ids {
                pipeline.cmd("HGETALL").arg(&self.keys(id)[0]);
            }
            let rows: Vec<Fields> = self.session.pipeline(&pipeline).await.map_err(unavailable)?;
            for (id, fields) in ids.iter().zip(&rows) {
                let opened = record(id, fields).and_then(|record| {
                    let live = record.filter(|record| record.deleted_at.is_none());
                    live.map(|record| self.codec.open(id, &record)).transpose()
                });
                match opened {
                    Ok(grant) => grants.extend(grant),
                    Err(error) => warn!(grant.id = %id, %error, "left out of a list"),
                }
            }
        }
        Ok(Page { grants, next })
    }

    async fn start_chain(
        &self,
        id: &GrantId,
        expected: Option<Position>,
        seed: Seed,
    ) -> StoreResult<Option<Grant>> {
        let [grant, due, ids] = self.keys(id);
        for _ in 0..CONFLICTS_MAX {
            let known = self.read(id).await?;
            if known.as_ref().map(Record::position) != expected {
                return Ok(None);
            }
            let (position, generation, fence) = self.next_chain(known.as_ref());
            let blob = self.codec.seal(id, position, &seed.descriptor, &seed.pair);
            let about = serde_json::to_vec(&About::from(&seed.descriptor)).unwrap_or_default();
            let due_at = optional(seed.due_at);
            let arguments: [&[u8]; 8] = [
                generation.as_bytes(),
                fence.as_bytes(),
                &text(position.generation.0),
                &text(position.fence.0),
                &about,
                &blob.0,
                due_at.as_bytes(),
                id.as_str().as_bytes(),
            ];
            let started: u64 = self
                .session
                .call("start", &[&grant, &due, &ids], &arguments)
                .await
                .map_err(unavailable)?;
            if started == 1 {
                let (id, standing) = (id.clone(), Standing::Usable);
                let Seed { descriptor, pair, .. } = seed;
                return Ok(Some(Grant { id, position, descriptor, pair, standing, intent: None }));
            }
        }
        Ok(None)
    }

    async fn claim(
        &self,
        id: &GrantId,
        generation: Generation,
        owner: Owner,
        takeover: Option<Duration>,
        watch: Duration,
    ) -> StoreResult<Claim> {
        let lease = takeover.map_or(String::new(), |lease| lease.as_millis().to_string());
        self.hold(id, generation, owner, lease, String::new(), watch).await
    }

    async fn take_over(
        &self,
        id: &GrantId,
        held: &Intent,
        owner: Owner,
        watch: Duration,
    ) -> StoreResult<Claim> {
        let fence = held.fence.0.to_string();
        self.hold(id, held.generation, owner, String::new(), fence, watch).await
    }

    async fn doubt(
        &self,
        id: &GrantId,
        intent: &Intent,
        doubt: &Doubt,
        due_at: Option<SystemTime>,
    ) -> StoreResult<bool> {
        let [grant, due, _] = self.keys(id);
        let stored = serde_json::to_vec(&StoredDoubt::new(doubt, intent.fence)).unwrap_or_default();
        let due_at = optional(due_at);
        let arguments: [&[u8]; 5] = [
            &text(intent.generation.0),
            &text(intent.fence.0),
            &stored,
            due_at.as_bytes(),
            id.as_str().as_bytes(),
        ];
        let held: u64 =
            self.session.call("doubt", &[&grant, &due], &arguments).await.map_err(unavailable)?;
        Ok(held == 1)
    }

    async fn release(&self, id: &GrantId, intent: &Intent) -> StoreResult<bool> {
        let [grant, ..] = self.keys(id);
        let arguments: [&[u8]; 2] = [&text(intent.generation.0), &text(intent.fence.0)];
        let released: u64 =
            self.session.call("release", &[&grant], &arguments).await.map_err(unavailable)?;
        Ok(released == 1)
    }

    async fn merge(&self, id: &GrantId, publication: Publication) -> StoreResult<Merged> {
        if let Some(merged) = self.try_merge(id, &publication, false).await? {
            return Ok(merged);
        }
        self.still_ours().await?;
        self.try_merge(id, &publication, true).await?.ok_or_else(malformed)
    }

    async fn refuse(&self, id: &GrantId, intent: &Intent, verdict: &Verdict) -> StoreResult<bool> {
        let [grant, due, _] = self.keys(id);
        let stored = StoredVerdict::new(intent.fence, verdict);
        let stored = serde_json::to_vec(&stored).unwrap_or_default();
        let arguments: [&[u8]; 4] =
            [&text(intent.generation.0), &text(intent.fence.0), &stored, id.as_str().as_bytes()];
        let refused: u64 =
            self.session.call("refuse", &[&grant, &due], &arguments).await.map_err(unavailable)?;
        Ok(refused == 1)
    }

    async fn amend(
        &self,
        id: &GrantId,
        expected: Position,
        amendment: Amendment,
    ) -> StoreResult<Option<Grant>> {
        let [grant, due, _] = self.keys(id);
        for _ in 0..CONFLICTS_MAX {
            let known = self.read(id).await?.filter(|known| known.deleted_at.is_none());
            let Some(mut known) = known.filter(|known| known.position() == expected) else {
                return Ok(None);
            };
            let fence = Fence::after(Fence(known.last_fence), self.clock.now_ms());
            let due_at = optional(amendment.due_at);
            let about = amendment.disabled.map(|disabled| {
                known.about.disabled = disabled;
                serde_json::to_vec(&known.about).unwrap_or_default()
            });
            let (owner, doubt) = match &amendment.in_doubt {
                Some((owner, doubt)) => (
                    serde_json::to_vec(&StoredOwner::from(owner.clone())).unwrap_or_default(),
                    serde_json::to_vec(&StoredDoubt::new(doubt, fence)).unwrap_or_default(),
                ),
                None => (Vec::new(), Vec::new()),
            };
            let arguments: [&[u8]; 9] = [
                &text(known.generation),
                &text(known.last_fence),
                &text(fence.0),
                if amendment.lift { b"1" } else { b"" },
                due_at.as_bytes(),
                id.as_str().as_bytes(),
                &about.unwrap_or_default(),
                &owner,
                &doubt,
            ];
            let amended: u64 = self
                .session
                .call("amend", &[&grant, &due], &arguments)
                .await
                .map_err(unavailable)?;
            if amended == 1 {
                return self.load(id).await;
            }
        }
        Ok(None)
    }

    async fn delete(&self, id: &GrantId, expected: Position) -> StoreResult<bool> {
        let [grant, due, ids] = self.keys(id);
        for _ in 0..CONFLICTS_MAX {
            let known = self.read(id).await?.filter(|known| known.deleted_at.is_none());
            if known.as_ref().map(Record::position) != Some(expected) {
                return Ok(false);
            }
            let (position, generation, fence) = self.next_chain(known.as_ref());
            let life = TOMBSTONE_LIFE.as_millis().to_string();
            let arguments: [&[u8]; 6] = [
                generation.as_bytes(),
                fence.as_bytes(),
                &text(position.generation.0),
                &text(position.fence.0),
                life.as_bytes(),
                id.as_str().as_bytes(),
            ];
            let deleted: u64 = self
                .session
                .call("delete", &[&grant, &due, &ids], &arguments)
                .await
                .map_err(unavailable)?;
            if deleted == 1 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn schedule(
        &self,
        id: &GrantId,
        generation: Generation,
        due_at: SystemTime,
    ) -> StoreResult<()> {
        let [grant, due, _] = self.keys(id);
        let due_at = text(unix_ms(due_at));
        let arguments: [&[u8]; 3] = [&text(generation.0), &due_at, id.as_str().as_bytes()];
        let _: u64 = self
            .session
            .call("schedule", &[&grant, &due], &arguments)
            .await
            .map_err(unavailable)?;
        Ok(())
    }

    async fn take_due(&self, limit: usize, visibility: Duration) -> StoreResult<Vec<GrantId>> {
        // Every shard gets its turn, so that none starves behind a crowded one.
        let limit = limit.div_ceil(SHARDS);
        let mut pipeline = redis::pipe();
        let function = self.session.function("take_due");
        for shard in 0..SHARDS {
            let call = pipeline.cmd("FCALL").arg(&function).arg(1).arg(self.due_key(shard));
            call.arg(limit).arg(visibility.as_millis().to_string());
        }
        let answer: Result<Vec<Vec<String>>, RedisError> = self.session.pipeline(&pipeline).await;
        let due = match answer {
            Err(error) if session::missing_function(&error) => {
                self.session.load_library().await.map_err(unavailable)?;
                self.session.pipeline(&pipeline).await.map_err(unavailable)?
            }
            answer => answer.map_err(unavailable)?,
        };
        due.iter().flatten().map(|name| stored_id(name)).collect()
    }

    async fn health(&self) -> Health {
        let pong: Result<String, _> = self.session.query(&redis::cmd("PING")).await;
        let deployment = self.codec.deployment.clone();
        Health { kind: "redis", available: pong.is_ok(), deployment }
    }
}

/// First byte of the hash of the name.
fn shard(id: &GrantId) -> usize {
    usize::from(digest(&SHA256, id.as_str().as_bytes()).as_ref()[0])
}

/// A cursor is `NN/name`: the shard, and the last name that was listed.
fn cursor(after: Option<&str>) -> StoreResult<(usize, &str)> {
    let Some(after) = after else { return Ok((0, "")) };
    after
        .split_once('/')
        .and_then(|(shard, name)| Some((usize::from_str_radix(shard, 16).ok()?, name)))
        .filter(|(shard, _)| *shard < SHARDS)
        .ok_or(StoreError::BadCursor)
}

fn record(id: &GrantId, fields: &Fields) -> StoreResult<Option<Record>> {
    if fields.is_empty() {
        return Ok(None);
    }
    let unreadable = || StoreError::Unreadable {
        grant: id.clone(),
        why: "its stored form is malformed",
        position: None,
    };
    let as_text = |name: &str| fields.get(name).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let as_number = |name: &str| as_text(name).and_then(|text| text.parse().ok());
    let required = |name: &str| as_number(name).ok_or_else(unreadable);
    let about = as_text("m").and_then(|text| serde_json::from_str(text).ok());
    let verdict = as_text("v").map(serde_json::from_str).transpose().map_err(|_| unreadable())?;
    let intent = match as_text("io") {
        None => None,
        Some(owner) => Some(StoredIntent {
            generation: required("igen")?,
            owner: serde_json::from_str(owner).map_err(|_| unreadable())?,
            fence: required("ifn")?,
            since: required("it")?,
            doubt: stored_doubt(
                as_text("d").unwrap_or_default(),
                as_text("df").unwrap_or_default(),
            )
            .map_err(|_| unreadable())?,
        }),
    };
    let siblings: BTreeMap<u64, Blob> = fields
        .iter()
        .filter_map(|(name, bytes)| {
            let fence = name.strip_prefix(SIBLING)?.parse().ok()?;
            Some((fence, Blob(bytes.clone())))
        })
        .collect();
    Ok(Some(Record {
        generation: required("gen")?,
        published_fence: required("pf")?,
        amended_fence: as_number("af").unwrap_or(0),
        last_fence: required("f")?,
        deleted_at: as_text("st").and_then(|_| as_number("dt")),
        about: about.ok_or_else(unreadable)?,
        blob: Blob(fields.get("b").cloned().unwrap_or_default()),
        verdict,
        intent,
        siblings,
        due_at: None,
    }))
}

/// Its fence is kept beside it.
fn stored_doubt(text: &str, fence: &str) -> StoreResult<Option<StoredDoubt>> {
    if text.is_empty() {
        return Ok(None);
    }
    let mut doubt: StoredDoubt = serde_json::from_str(text).map_err(|_| malformed())?;
    doubt.fence = number(fence)?;
    Ok(Some(doubt))
}

fn text(number: u64) -> Vec<u8> {
    number.to_string().into_bytes()
}

fn optional(time: Option<SystemTime>) -> String {
    time.map_or(String::new(), |time| unix_ms(time).to_string())
}

fn number(text: &str) -> StoreResult<u64> {
    text.parse().map_err(|_| malformed())
}

fn stored_id(name: &str) -> StoreResult<GrantId> {
    GrantId::parse(name).map_err(|_| malformed())
}

fn malformed() -> StoreError {
    StoreError::Refused("Redis gave an answer that this version does not understand".to_owned())
}

fn unavailable(error: RedisError) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}
