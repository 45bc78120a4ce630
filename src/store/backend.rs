//! The seam between sealing and keeping: sealed records, and the steps that change them.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::mpsc::Sender;

use crate::broker::model::{GrantId, Position, ProviderId};
use crate::broker::store::{Claim, Finding, Heard, Limit, Merged, Peers, Slowing, StoreError};
use crate::store::bucket::Booked;
use crate::store::identity::Identity;
use crate::store::record::{Blob, Record, Sealed, Stamp, StoredAnswer, StoredDoubt, StoredOwner};

pub(crate) type StoreResult<T> = Result<T, StoreError>;

/// Keeps sealed records and decides every compare-and-set on what lies open in them.
///
/// Each method is one atomic step; the rules are those of `transition`. Times are milliseconds
/// since the Unix epoch.
#[async_trait]
pub(crate) trait Backend: Send + Sync + 'static {
    /// Kind of the store, for people.
    fn kind(&self) -> &'static str;

    /// From now on nothing of another deployment is written to.
    fn bind(&self, deployment: &str);

    /// Says how this process is called among others.
    fn call_it(&self, replica: &str);

    /// Looks at what the store is, and proves that a claim could be written: leaves `mark`, and says
    /// which one was there.
    async fn inspect(&self, mark: u64) -> StoreResult<Inspected>;

    /// What this process knows was compared with the store as it was found when it was looked at last,
    /// and written back: claims may be made in it.
    async fn compared(&self) -> StoreResult<()>;

    /// These processes are waited for by nobody any more.
    async fn dismiss(&self, replicas: &[String]) -> StoreResult<()>;

    /// Looks at everything that decides whether grants are safe in it.
    async fn examine(&self) -> StoreResult<Vec<Finding>>;

    /// Lets go of it; nothing is asked of it any more. `settled`: nobody needs to wait for what this
    /// process knows.
    async fn close(&self, settled: bool) -> StoreResult<()>;

    /// Whether it is somebody's store, and no empty one.
    async fn exists(&self) -> StoreResult<bool>;

    /// A moment of ours by the clock that the store goes by, and back.
    fn by_its_clock(&self, ours: SystemTime) -> SystemTime;
    fn by_our_clock(&self, its: SystemTime) -> SystemTime;

    /// Says whose store it is; a store that belongs to nobody gets the identity `proposed`.
    async fn identity(&self, proposed: &Identity) -> StoreResult<Identity>;

    /// Says whose store it is from now on.
    async fn identify(&self, identity: &Identity) -> StoreResult<()>;

    /// Says no if somebody else has the store open, too.
    async fn alone(&self) -> StoreResult<()>;

    /// Reads what lies open in a record of format 1; `None`: it is of a later one, or a tombstone.
    async fn read_format_1(&self, id: &GrantId) -> StoreResult<Option<Format1>>;

    /// Reads a record; tombstones included, for as long as they live.
    async fn read(&self, id: &GrantId) -> StoreResult<Option<Record>>;

    /// Reads up to `limit` records after the cursor; tombstones left out.
    async fn page(&self, after: Option<&str>, limit: usize) -> StoreResult<Records>;

    /// Claims a generation.
    async fn claim(&self, id: &GrantId, claiming: Claiming) -> StoreResult<Claim>;

    /// Publishes or heals; `None`: the grant is missing, and was not to be made again.
    async fn publish(&self, id: &GrantId, publishing: Publishing) -> StoreResult<Option<Merged>>;

    /// Makes a change; `false`: what it rests on is no longer so, and nothing was changed.
    async fn change(&self, id: &GrantId, change: Change) -> StoreResult<bool>;

    /// Keeps a sealed note under a name for a time, unless there is one; gives back the one that is
    /// there then.
    async fn keep(&self, name: &str, note: Blob, life: Duration) -> StoreResult<Blob>;

    /// Puts a member on all of these lists, each with the most that it holds, for a time; one that is on
    /// them stays. Or says which is full, and when it has room again; then it is on none that it was not on.
    async fn enlist(
        &self,
        lists: &[(String, usize)],
        member: &str,
        life: Duration,
    ) -> StoreResult<Option<(usize, Duration)>>;

    /// Says no where what is left is for what must be written.
    async fn spare(&self) -> StoreResult<()>;

    /// Looks at a note; an empty one was taken out.
    async fn look(&self, name: &str) -> StoreResult<Option<Blob>>;

    /// Takes a note out; an empty one stays in its place for as long.
    async fn pick(&self, name: &str) -> StoreResult<Option<Blob>>;

    /// A value that all processes share, which change it is, and for how long it has been so, in ms.
    async fn shared(&self, name: &str) -> StoreResult<Option<(Blob, u64, u64)>>;

    /// Puts another one in the place of that change; `false`: there is another one by now.
    async fn share(&self, name: &str, read: u64, value: Blob, life: Duration) -> StoreResult<bool>;

    /// A sealed value that stays, under its name.
    async fn fact(&self, name: &str) -> StoreResult<Option<Blob>>;

    /// Puts it in the place of the one before.
    async fn put_fact(&self, name: &str, value: Blob) -> StoreResult<()>;

    /// Tells what other processes change, until nothing can be heard or nothing was for `silence`.
    async fn listen(&self, heard: Sender<Heard>, silence: Duration) -> StoreResult<()>;

    /// Lets go of some tombstones that are old enough, and says of how many.
    async fn purge(&self) -> StoreResult<usize>;

    /// Gives out up to `count` moments to ask a provider, none further ahead than `ahead` µs.
    async fn book(
        &self,
        provider: &ProviderId,
        limit: Limit,
        count: usize,
        ahead: f64,
    ) -> StoreResult<Booked>;

    /// A provider limits our rate.
    async fn slow_down(&self, provider: &ProviderId, slowing: Slowing) -> StoreResult<()>;

    /// Takes about `limit` grants that are due and hides them from other takers for `visibility`.
    async fn take_due(&self, limit: usize, visibility: Duration) -> StoreResult<Vec<GrantId>>;
}

/// What a store is found to be.
#[derive(Debug)]
pub(crate) struct Inspected {
    /// Whose it is; `None`: it is empty.
    pub(crate) identity: Option<Identity>,
    /// The mark that was left before.
    pub(crate) mark: Option<u64>,
    /// It was opened or connected to anew since the last time: its last moments may be lost.
    pub(crate) anew: bool,
    /// Other processes, which may know what it lacks.
    pub(crate) peers: Peers,
    /// Why no claims can be made.
    pub(crate) trouble: Option<StoreError>,
}

impl Inspected {
    /// Of a store that nobody else has, or wants to know of.
    pub(crate) fn alone(identity: Option<Identity>, mark: Option<u64>, anew: bool) -> Self {
        Self { identity, mark, anew, peers: Peers::default(), trouble: None }
    }
}

/// What a record of format 1 says openly, as JSON.
#[derive(Debug)]
pub(crate) struct Format1 {
    pub(crate) descriptor: Vec<u8>,
    pub(crate) verdict: Option<Vec<u8>>,
}

/// A page of records; one that cannot be read does not hide the others.
#[derive(Debug)]
pub(crate) struct Records {
    pub(crate) records: Vec<(GrantId, StoreResult<Record>)>,
    /// Where the next page begins; `None` at the end.
    pub(crate) next: Option<String>,
}

/// The claim under which a change is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) generation: u64,
    pub(crate) fence: u64,
}

/// A wish to spend a generation.
#[derive(Debug, Clone)]
pub(crate) struct Claiming {
    pub(crate) generation: u64,
    pub(crate) owner: StoredOwner,
    pub(crate) over: Over,
    /// The grant is due again after this time at the latest.
    pub(crate) watch: u64,
}

/// Which claim of somebody else a new one replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// None.
    Nothing,
    /// Any that is at least that old.
    Older(u64),
    /// The one with this fence; what is in doubt stays so.
    Held(u64),
}

/// A pair on its way into the store, sealed.
#[derive(Debug, Clone)]
pub(crate) struct Publishing {
    pub(crate) at: Position,
    /// Written where it is newer.
    pub(crate) descriptor: Sealed,
    pub(crate) pair: Blob,
    /// A missing grant is made anew.
    pub(crate) remake: bool,
    /// What the provider said with it, if that was no success.
    pub(crate) answer: Option<StoredAnswer>,
    /// And is held by this one from then on.
    pub(crate) held_by: Option<StoredOwner>,
    pub(crate) due_at: Option<u64>,
}

/// A change whose only answer is whether it was made.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// A chain begins where the grant stands as expected; `None`: where there is none.
    Start {
        expected: Option<Stamp>,
        at: Position,
        descriptor: Sealed,
        pair: Blob,
        due_at: Option<u64>,
    },
    /// The request under this claim got no definite answer.
    Doubt { hold: Hold, doubt: StoredDoubt, due_at: Option<u64> },
    /// Nothing was processed under this claim; what the provider said, if that is new.
    Release { hold: Hold, answer: Option<StoredAnswer> },
    /// The provider said no.
    Refuse { hold: Hold, refusal: Sealed },
    /// The provider said no, and this pair, made of the sibling with that fence, is tried instead.
    Promote { hold: Hold, sibling: u64, pair: Blob },
    /// People decided something.
    Amend { expected: Stamp, amend: Amend },
    /// The grant becomes a tombstone.
    Delete { expected: Stamp, at: Position },
    /// A tombstone that was lost; older than it is what came before.
    Bury { at: Position },
    /// A chain begins in the place of a record that cannot be read.
    StartOver { at: Position, descriptor: Sealed, pair: Blob, due_at: Option<u64> },
    /// A record that cannot be read becomes a tombstone.
    Discard { at: Position },
    /// What lay open in a record of format 1 is sealed.
    Convert { expected: Stamp, descriptor: Sealed, refusal: Option<Sealed> },
    /// The grant is due at this time, if it is still at this generation and usable.
    Schedule { generation: u64, due_at: u64 },
}

impl Change {
    /// It is made where nothing can be read, and there only.
    pub(crate) fn of_damaged(&self) -> bool {
        matches!(self, Self::StartOver { .. } | Self::Discard { .. })
    }
}

/// What people decided; what is left out stays.
#[derive(Debug, Clone)]
pub(crate) struct Amend {
    /// Its fence tells everybody that it is newer.
    pub(crate) fence: u64,
    pub(crate) lift: bool,
    /// With that.
    pub(crate) answer: Option<StoredAnswer>,
    /// The same fence is on it.
    pub(crate) descriptor: Option<Sealed>,
    pub(crate) in_doubt: Option<(StoredOwner, StoredDoubt)>,
    pub(crate) due_at: Option<u64>,
}
