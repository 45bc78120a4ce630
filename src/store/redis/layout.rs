//! Layout: which keys a grant has.
//!
//! `PREFIX:{NN}:g:GRANT` the grants, `PREFIX:{NN}:due` the due index, `PREFIX:{NN}:ids` the names
//! in order, `PREFIX:meta` whom the store belongs to, `PREFIX:mark:PROCESS` a mark of each process,
//! which lives for a day, `PREFIX:note:NAME` an enrolment under way, which lives for minutes,
//! `PREFIX:{enrolments}:NAME` how many there are of a caller, for a grant and in all,
//! `PREFIX:replicas` and `PREFIX:compared` which brokers there are, and which server they were compared
//! with, `PREFIX:rate:PROVIDER` how fast it is asked, `PREFIX:trouble:CLIENT` what is known of its trouble,
//! for an hour, `PREFIX:client:CLIENT:WHEN` what it was when it
//! last succeeded or began, `PREFIX:events` the channel of changes. `NN` is the shard, one of 256: fixed, because keys
//! of one shard change together and so must share a slot. No key of a live grant has a time to live.

use aws_lc_rs::digest::{SHA256, digest};

use crate::broker::model::{GrantId, ProviderId};
use crate::broker::store::StoreError;

/// Shards of a deployment.
pub(super) const SHARDS: usize = 256;

/// The keys under one prefix.
pub(super) struct Layout {
    prefix: String,
}

/// The keys of one grant, in the order in which our functions take them.
pub(super) struct Keys([String; 3]);

impl Keys {
    /// The hash that is the grant.
    pub(super) fn grant(&self) -> &str {
        &self.0[0]
    }

    /// The grant and the due index of its shard.
    pub(super) fn with_due(&self) -> [&str; 2] {
        [&self.0[0], &self.0[1]]
    }

    /// Both, and the names in its shard.
    pub(super) fn with_names(&self) -> [&str; 3] {
        [&self.0[0], &self.0[1], &self.0[2]]
    }
}

impl Layout {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(super) fn keys(&self, id: &GrantId) -> Keys {
        let shard = shard(id);
        let grant = format!("{}:{{{shard:02x}}}:g:{id}", self.prefix);
        Keys([grant, self.due(shard), self.names(shard)])
    }

    /// The due index of a shard.
    pub(super) fn due(&self, shard: usize) -> String {
        format!("{}:{{{shard:02x}}}:due", self.prefix)
    }

    /// The names in a shard.
    pub(super) fn names(&self, shard: usize) -> String {
        format!("{}:{{{shard:02x}}}:ids", self.prefix)
    }

    /// The channel in which our functions say what they changed.
    pub(super) fn events(&self) -> String {
        format!("{}:events", self.prefix)
    }

    /// A note.
    pub(super) fn note(&self, name: &str) -> String {
        format!("{}:note:{name}", self.prefix)
    }

    /// A list of enrolments that count together.
    pub(super) fn list(&self, name: &str) -> String {
        format!("{}:{{enrolments}}:{name}", self.prefix)
    }

    /// How fast a provider is asked.
    pub(super) fn rate(&self, provider: &ProviderId) -> String {
        format!("{}:rate:{provider}", self.prefix)
    }

    /// What is known of a client's trouble.
    pub(super) fn trouble(&self, client: &str) -> String {
        format!("{}:trouble:{client}", self.prefix)
    }

    /// A fact.
    pub(super) fn fact(&self, name: &str) -> String {
        format!("{}:{name}", self.prefix)
    }

    /// When which replica was there last.
    pub(super) fn replicas(&self) -> String {
        format!("{}:replicas", self.prefix)
    }

    /// Which server each replica was compared with.
    pub(super) fn compared(&self) -> String {
        format!("{}:compared", self.prefix)
    }

    /// The mark of one process.
    pub(super) fn mark(&self, process: u64) -> String {
        format!("{}:mark:{process:016x}", self.prefix)
    }

    /// Where a store says whom it belongs to.
    pub(super) fn meta(&self) -> String {
        format!("{}:meta", self.prefix)
    }
}

/// First byte of the hash of the name.
fn shard(id: &GrantId) -> usize {
    usize::from(digest(&SHA256, id.as_str().as_bytes()).as_ref()[0])
}

/// A cursor is `NN/name`: the shard, and the last name that was listed.
pub(super) fn cursor(id: &GrantId) -> String {
    format!("{:02x}/{id}", shard(id))
}

/// Where a cursor points: a shard, and the name before the next one.
pub(super) fn position(after: Option<&str>) -> Result<(usize, &str), StoreError> {
    let Some(after) = after else { return Ok((0, "")) };
    after
        .split_once('/')
        .and_then(|(shard, name)| Some((usize::from_str_radix(shard, 16).ok()?, name)))
        .filter(|(shard, _)| *shard < SHARDS)
        .ok_or(StoreError::BadCursor)
}
