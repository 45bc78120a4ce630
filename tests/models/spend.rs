//! Who may send a refresh token, and what follows when its answer is lost: claim, doubt, takeover,
//! resend and the journal, between two brokers, a store that is sometimes away, and a strict provider
//! that revokes the whole family when a spent token comes again.
//!
//! Every order of every step is tried. A pause is a step that comes late; a fault comes out of a budget.

use stateright::{Model, Property};

use crate::Cases;

/// Rotations after which a run ends.
const ROTATIONS: u8 = 2;

/// Takeovers from one another on suspicion after which a run ends.
const SUSPICIONS: u8 = 2;

/// What the brokers keep to; each can be left out.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a rule, there or not")]
pub(crate) struct Rules {
    /// A claim ends by nothing but an answer; otherwise also by time.
    pub(crate) claims_last: bool,
    /// The journal has a pair before the store is asked to take it.
    pub(crate) journal: bool,
    /// What the journal holds is in the store before its former process is called dead.
    pub(crate) replay_first: bool,
    /// A silent holder elsewhere is not taken for a dead one.
    pub(crate) silence_is_no_proof: bool,
    /// Before a token is sent again, the last request has come to rest.
    pub(crate) settle: bool,
    /// It is sent again only once the old access token is used up.
    pub(crate) used_up_first: bool,
    /// It is sent again until there is a definite answer; otherwise once.
    pub(crate) until_answered: bool,
    /// What the provider says not to have processed leaves a doubt as it was.
    pub(crate) doubt_stays: bool,
    /// Crashes, answers that say nothing, times that the store goes away.
    pub(crate) budget: [u8; 3],
}

impl Rules {
    pub(crate) fn all() -> Self {
        Self {
            claims_last: true,
            journal: true,
            replay_first: true,
            silence_is_no_proof: true,
            settle: true,
            used_up_first: true,
            until_answered: true,
            doubt_stays: true,
            budget: [1, 2, 1],
        }
    }
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
struct Intent {
    owner: (usize, u8),
    fence: u8,
    /// A request under it, or under one before it, has no definite answer.
    doubt: bool,
    /// Nobody is at it: the doubt can be acted on.
    open: bool,
    resends: u8,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) enum Reply {
    Pair,
    Refused,
    /// Whether it was processed is not said.
    Unclear,
    /// It was not processed, says the provider.
    NotProcessed,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
struct Flight {
    generation: u8,
    fence: u8,
    resend: bool,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Phase {
    Idle,
    Claimed(Flight),
    Waiting(Flight, Option<Reply>),
    /// The pair is in memory.
    Holding(Flight),
    /// And in the journal, if there is one.
    Kept(Flight),
    Down,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
struct Broker {
    phase: Phase,
    boot: u8,
    /// Generation of a pair on its disk.
    journal: Option<u8>,
}

/// A request on its way; it outlives its sender.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    from: usize,
    boot: u8,
    generation: u8,
    fence: u8,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "what happened or not, for the properties")]
pub(crate) struct World {
    generation: u8,
    intent: Option<Intent>,
    last_fence: u8,
    refused: bool,
    used_up: bool,
    away: bool,
    /// The provider's good refresh token; none once the family is revoked.
    good: Option<u8>,
    brokers: [Broker; 2],
    wire: Vec<Request>,
    budget: [u8; 3],
    sent: u8,
    /// Sent a second time, and not because of a doubt.
    sent_twice: bool,
    /// A revocation of ours took a newer pair that somebody could still have had.
    destroyed: bool,
    /// A revocation of ours took an access token that was still served.
    cut_short: bool,
    /// A pair was lost before anything durable had it, or its answer never came.
    excused: bool,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) enum Step {
    Claim(usize),
    Lapse,
    Send(usize),
    Arrive(usize, Reply),
    LoseRequest(usize),
    Read(usize),
    Keep(usize),
    Merge(usize),
    Replay(usize),
    Crash(usize),
    Boot(usize),
    Age,
    StoreAway,
    StoreBack,
    Suspect(usize),
    Resend(usize),
}

impl World {
    fn flight(&self, at: usize) -> Option<Flight> {
        match self.brokers[at].phase {
            Phase::Claimed(flight)
            | Phase::Waiting(flight, _)
            | Phase::Holding(flight)
            | Phase::Kept(flight) => Some(flight),
            Phase::Idle | Phase::Down => None,
        }
    }

    fn holds(&self, flight: Flight) -> bool {
        let held = self.intent.is_some_and(|intent| intent.fence == flight.fence);
        held && self.generation == flight.generation
    }

    /// Somebody has, or may still get, a pair that the store lacks, or the store has the newest.
    fn newer_is_recoverable(&self, good: u8) -> bool {
        let with = |broker: &Broker| {
            broker.journal == Some(good)
                || match broker.phase {
                    Phase::Holding(flight)
                    | Phase::Kept(flight)
                    | Phase::Waiting(flight, Some(Reply::Pair)) => flight.generation + 1 == good,
                    _ => false,
                }
        };
        self.generation == good || self.brokers.iter().any(with)
    }

    fn take(&mut self, generation: u8) {
        if generation > self.generation {
            self.generation = generation;
            self.intent = None;
            self.refused = false;
            self.used_up = false;
        }
    }

    fn claim(&mut self, at: usize, doubt: Option<Intent>) {
        self.last_fence += 1;
        let fence = self.last_fence;
        let owner = (at, self.brokers[at].boot);
        let resends = doubt.map_or(0, |doubt| doubt.resends + 1);
        self.intent = Some(Intent { owner, fence, doubt: doubt.is_some(), open: false, resends });
        let flight = Flight { generation: self.generation, fence, resend: doubt.is_some() };
        self.brokers[at].phase = Phase::Claimed(flight);
    }

    fn arrive(&mut self, place: usize, reply: Reply) {
        let request = self.wire.remove(place);
        let processed = !matches!(reply, Reply::NotProcessed);
        let mut answer = reply;
        let mut issued = false;
        if processed {
            if self.good == Some(request.generation) {
                self.good = Some(request.generation + 1);
                issued = true;
            } else {
                if let Some(good) = self.good.take() {
                    self.destroyed |= self.newer_is_recoverable(good);
                    self.cut_short |= !self.used_up && self.generation == request.generation;
                }
                if answer == Reply::Pair {
                    answer = Reply::Refused;
                }
            }
        }
        let sender = &mut self.brokers[request.from];
        let heard = matches!(sender.phase, Phase::Waiting(flight, None)
            if sender.boot == request.boot && flight.fence == request.fence);
        if heard && let Phase::Waiting(flight, _) = sender.phase {
            sender.phase = Phase::Waiting(flight, Some(answer));
        }
        self.excused |= issued && (!heard || answer != Reply::Pair);
    }

    fn read(&mut self, at: usize, rules: &Rules) {
        let Phase::Waiting(flight, Some(reply)) = self.brokers[at].phase else {
            return;
        };
        let ours = self.holds(flight);
        self.brokers[at].phase = match reply {
            Reply::Pair => Phase::Holding(flight),
            Reply::Refused => {
                if ours {
                    self.refused = true;
                    self.intent = None;
                }
                Phase::Idle
            }
            Reply::Unclear => {
                if let Some(intent) = self.intent.as_mut().filter(|_| ours) {
                    (intent.doubt, intent.open) = (true, true);
                }
                Phase::Idle
            }
            Reply::NotProcessed => {
                if !flight.resend {
                    self.sent = flight.generation;
                }
                if ours {
                    let stays = flight.resend && rules.doubt_stays;
                    self.intent =
                        self.intent.filter(|_| stays).map(|intent| Intent { open: true, ..intent });
                }
                Phase::Idle
            }
        };
    }

    /// The successor of a dead process says what is certain of its claims.
    fn call_dead(&mut self, at: usize) {
        let boot = self.brokers[at].boot;
        if let Some(intent) = &mut self.intent
            && intent.owner.0 == at
            && intent.owner.1 < boot
        {
            (intent.doubt, intent.open) = (true, true);
        }
    }
}

impl Model for Rules {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let broker = Broker { phase: Phase::Idle, boot: 0, journal: None };
        vec![World {
            generation: 0,
            intent: None,
            last_fence: 0,
            refused: false,
            used_up: false,
            away: false,
            good: Some(0),
            brokers: [broker; 2],
            wire: Vec::new(),
            budget: self.budget,
            sent: 0,
            sent_twice: false,
            destroyed: false,
            cut_short: false,
            excused: false,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        let up = !world.away;
        let wanted = world.generation < ROTATIONS && !world.refused;
        let [crashes, unclear, absences] = world.budget;
        for (place, _) in world.wire.iter().enumerate() {
            steps.push(Step::Arrive(place, Reply::Pair));
            if unclear > 0 {
                steps.push(Step::Arrive(place, Reply::Unclear));
                steps.push(Step::Arrive(place, Reply::NotProcessed));
                steps.push(Step::LoseRequest(place));
            }
        }
        for at in 0..world.brokers.len() {
            let broker = &world.brokers[at];
            match broker.phase {
                Phase::Idle if up && wanted => match world.intent {
                    None => steps.push(Step::Claim(at)),
                    Some(intent) if intent.open => {
                        let settled = !self.settle
                            || world
                                .wire
                                .iter()
                                .all(|request| request.generation != world.generation);
                        let due = world.used_up || !self.used_up_first;
                        if settled && due && (self.until_answered || intent.resends == 0) {
                            steps.push(Step::Resend(at));
                        }
                    }
                    Some(intent) => {
                        let (owner, boot) = intent.owner;
                        let silent = owner != at || boot != broker.boot;
                        if silent && !self.silence_is_no_proof && intent.resends < SUSPICIONS {
                            steps.push(Step::Suspect(at));
                        }
                        if !self.claims_last {
                            steps.push(Step::Lapse);
                        }
                    }
                },
                Phase::Claimed(_) => steps.push(Step::Send(at)),
                Phase::Waiting(_, Some(_)) if up => steps.push(Step::Read(at)),
                Phase::Waiting(_, Some(Reply::Pair)) => steps.push(Step::Read(at)),
                Phase::Holding(_) => steps.push(Step::Keep(at)),
                Phase::Kept(_) if up => steps.push(Step::Merge(at)),
                Phase::Down if up => steps.push(Step::Boot(at)),
                _ => {}
            }
            if broker.phase == Phase::Idle && broker.journal.is_some() && up {
                steps.push(Step::Replay(at));
            }
            if crashes > 0 && world.flight(at).is_some() {
                steps.push(Step::Crash(at));
            }
        }
        if !world.used_up && wanted {
            steps.push(Step::Age);
        }
        if world.away {
            steps.push(Step::StoreBack);
        } else if absences > 0
            && world.brokers.iter().any(|broker| {
                matches!(broker.phase, Phase::Waiting(..) | Phase::Holding(_) | Phase::Kept(_))
            })
        {
            steps.push(Step::StoreAway);
        }
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        match step {
            Step::Claim(at) => world.claim(at, None),
            Step::Lapse => world.intent = None,
            Step::Suspect(_) => {
                let intent = world.intent.as_mut()?;
                (intent.doubt, intent.open) = (true, true);
            }
            Step::Resend(at) => {
                let intent = world.intent?;
                world.claim(at, Some(intent));
            }
            Step::Send(at) => {
                let Phase::Claimed(flight) = world.brokers[at].phase else {
                    return None;
                };
                let (from, boot) = (at, world.brokers[at].boot);
                let Flight { generation, fence, resend } = flight;
                world.sent_twice |= !resend && world.sent > generation;
                world.sent = world.sent.max(generation + 1);
                world.wire.push(Request { from, boot, generation, fence });
                world.wire.sort_unstable();
                world.brokers[at].phase = Phase::Waiting(flight, None);
            }
            Step::Arrive(place, reply) => {
                if reply != Reply::Pair {
                    world.budget[1] -= 1;
                }
                world.arrive(place, reply);
            }
            Step::LoseRequest(place) => {
                world.budget[1] -= 1;
                let request = world.wire.remove(place);
                let sender = &mut world.brokers[request.from];
                if let Phase::Waiting(flight, None) = sender.phase
                    && (sender.boot, flight.fence) == (request.boot, request.fence)
                {
                    sender.phase = Phase::Waiting(flight, Some(Reply::Unclear));
                }
            }
            Step::Read(at) => world.read(at, self),
            Step::Keep(at) => {
                let Phase::Holding(flight) = world.brokers[at].phase else {
                    return None;
                };
                if self.journal {
                    world.brokers[at].journal = Some(flight.generation + 1);
                }
                world.brokers[at].phase = Phase::Kept(flight);
            }
            Step::Merge(at) => {
                let Phase::Kept(flight) = world.brokers[at].phase else {
                    return None;
                };
                world.take(flight.generation + 1);
                world.brokers[at].journal = None;
                world.brokers[at].phase = Phase::Idle;
            }
            Step::Replay(at) => {
                let generation = world.brokers[at].journal.take()?;
                world.take(generation);
            }
            Step::Crash(at) => {
                world.budget[0] -= 1;
                let broker = &mut world.brokers[at];
                world.excused |= matches!(
                    broker.phase,
                    Phase::Holding(_) | Phase::Waiting(_, Some(Reply::Pair))
                );
                broker.phase = Phase::Down;
            }
            Step::Boot(at) => {
                if self.replay_first
                    && let Some(generation) = world.brokers[at].journal.take()
                {
                    world.take(generation);
                }
                world.brokers[at].boot += 1;
                world.brokers[at].phase = Phase::Idle;
                world.call_dead(at);
            }
            Step::Age => world.used_up = true,
            Step::StoreAway => {
                world.budget[2] -= 1;
                world.away = true;
            }
            Step::StoreBack => world.away = false,
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("sent once, or again because of a doubt", |_, world: &World| {
                !world.sent_twice
            }),
            Property::always("nothing recoverable is destroyed", |_, world: &World| {
                !world.destroyed
            }),
            Property::always("no token is revoked while it serves", |_, world: &World| {
                !world.cut_short
            }),
            Property::eventually("ends fresh, or lost for a cause", |_, world: &World| {
                let fresh = world.generation == ROTATIONS && world.good == Some(ROTATIONS);
                fresh || (world.refused && world.excused)
            }),
        ]
    }
}

/// Each rule, and what goes wrong without it.
pub(crate) fn cases() -> Cases<Rules> {
    let all = Rules::all;
    vec![
        ("all rules", all(), "++++"),
        ("claims end by time", Rules { claims_last: false, ..all() }, "----"),
        ("no journal", Rules { journal: false, ..all() }, "+++-"),
        (
            "called dead before its journal is in the store",
            Rules { replay_first: false, ..all() },
            "+-+-",
        ),
        ("silence counts as death", Rules { silence_is_no_proof: false, ..all() }, "--+-"),
        ("no settling", Rules { settle: false, ..all() }, "+-+-"),
        ("sent again at once", Rules { used_up_first: false, ..all() }, "++-+"),
        ("sent again once only", Rules { until_answered: false, ..all() }, "+++-"),
        ("a 429 clears the doubt", Rules { doubt_stays: false, ..all() }, "-+++"),
    ]
}
