//! Waits and bounds of the domain. All are settings, so that fault tests run in seconds.

use std::time::Duration;

use crate::broker::backoff::Backoff;
use crate::broker::model::EnrolmentLimits;
use crate::crash::Moment;

/// What is certain of processes that held claims before this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Predecessors {
    /// The store belongs to one process at a time: all others have ended.
    AllGone,
    /// The name of this replica belongs to one process at a time: those of that name have ended.
    SameReplicaGone,
    /// Nothing: a holder that is silent may be alive.
    Unknown,
}

/// Where the broker's own pages are, as browsers know them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageAddresses {
    /// Where an enrolment begins.
    pub start: String,
    /// Where it ends: what providers have as our redirect address.
    pub callback: String,
}

/// Waits and bounds of the domain.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of this replica in intents.
    pub replica: String,
    /// Where the broker's own pages are; `None`: there are none.
    pub pages: Option<PageAddresses>,
    /// How many enrolments may be begun.
    pub enrolments: EnrolmentLimits,
    /// Longest wait of a caller for a refresh.
    pub caller_wait_max: Duration,
    /// No forced refresh for this long after a new token arrived.
    pub force_cooldown: Duration,
    /// A claim older than this is not sent under: the world may have moved on. `None` where nobody
    /// else can move it.
    pub send_gate: Option<Duration>,
    /// What is certain of processes that held claims before this one.
    pub predecessors: Predecessors,
    /// A holder silent for this long is suspected: gate + connect + longest listening + margin.
    pub suspect_after: Duration,
    /// Its refresh token is presented again after so long, once the old access token has expired, though
    /// nobody knows that it is gone. `None`: only when an operator says so.
    pub unproven_resend_after: Option<Duration>,
    /// Tries of one refresh while nothing was sent.
    pub attempts_max: u32,
    /// Waits between such tries.
    pub attempt_backoff: Backoff,
    /// Waits after failed refreshes.
    pub retry_backoff: Backoff,
    /// Waits between the requests that go out one at a time while a provider refuses several grants alike.
    pub client_probe: Backoff,
    /// The same, while no answer comes.
    pub canary_backoff: Backoff,
    /// Final refusals of many grants within this time count as the provider's trouble.
    pub refusal_window: Duration,
    /// Where a test stops refreshes for ever.
    pub stop_at: Option<Moment>,
    /// A request has come to rest this long after it was listened for.
    pub settle_margin: Duration,
    /// The same after a status that the processing server itself sent, counted from the request.
    pub settle_short: Duration,
    /// A refresh token that is in doubt for longer than this ...
    pub resend_slow_after: Duration,
    /// ... is presented again only once in this time.
    pub resend_slow: Duration,
    /// Waits before a pair is offered to the store again.
    pub publish_backoff: Backoff,
    /// Poll for another holder's result.
    pub poll: Duration,
    /// A grant that nobody asked for is let go from memory about that long after.
    pub forget_after: Duration,
    /// How often the due index is asked.
    pub due_tick: Duration,
    /// How often the store is looked at.
    pub store_watch: Duration,
    /// How long a grant taken from the due index stays hidden.
    pub due_visibility: Duration,
    /// Grants taken from the due index at once.
    pub due_batch: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self {
            pages: None,
            enrolments: EnrolmentLimits::default(),
            replica: "local".to_owned(),
            caller_wait_max: s(10),
            force_cooldown: s(10),
            send_gate: Some(s(1)),
            predecessors: Predecessors::Unknown,
            suspect_after: s(69),
            unproven_resend_after: Some(s(3600)),
            attempts_max: 3,
            attempt_backoff: Backoff::new(Duration::from_millis(200), s(1)),
            retry_backoff: Backoff::new(s(1), s(60)),
            client_probe: Backoff::new(s(1), s(300)),
            canary_backoff: Backoff::new(s(1), s(15)),
            refusal_window: s(600),
            stop_at: None,
            settle_margin: s(5),
            settle_short: s(5),
            resend_slow_after: s(24 * 3600),
            resend_slow: s(3600),
            publish_backoff: Backoff::new(Duration::from_millis(100), s(5)),
            poll: Duration::from_millis(200),
            // Long, because what is in memory heals a store that has lost it.
            forget_after: s(24 * 3600),
            due_tick: s(1),
            store_watch: s(2),
            due_visibility: s(30),
            due_batch: 200,
        }
    }
}
