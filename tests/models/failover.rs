//! A claim and a new pair across a failover of the store, which forgets what its replica had not got.

use stateright::{Model, Property};

use crate::Cases;

/// Rotations after which a run ends.
const ROTATIONS: u8 = 2;

/// What the brokers keep to; each can be left out.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Nothing is sent before the replica has the claim.
    pub(crate) wait: bool,
    /// What a broker knows and the store lacks is written back before anything is claimed.
    pub(crate) heal: bool,
    /// Failovers and crashes.
    pub(crate) budget: [u8; 2],
}

/// What a server has of the grant.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
struct Copy {
    generation: u8,
    claimed_by: Option<usize>,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Phase {
    Idle,
    Claimed(u8),
    Sent(u8),
    Holding(u8),
    Gone,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
struct Broker {
    phase: Phase,
    /// The newest generation that it knows, in memory or in its journal.
    known: u8,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(crate) struct World {
    primary: Copy,
    replica: Copy,
    brokers: [Broker; 2],
    budget: [u8; 2],
    /// Generations whose token was sent.
    sent: u8,
    sent_twice: bool,
    good: u8,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(crate) enum Step {
    Claim(usize),
    /// The claim was not confirmed, and is not there.
    Abandon(usize),
    Replicate,
    Send(usize),
    Answer(usize),
    Publish(usize),
    Heal(usize),
    Failover,
    Crash(usize),
}

impl Model for Rules {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let copy = Copy { generation: 0, claimed_by: None };
        let brokers = [Broker { phase: Phase::Idle, known: 0 }; 2];
        let (budget, sent) = (self.budget, 0);
        vec![World {
            primary: copy,
            replica: copy,
            brokers,
            budget,
            sent,
            sent_twice: false,
            good: 0,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        let behind = |broker: &Broker| broker.known > world.primary.generation;
        for (at, broker) in world.brokers.iter().enumerate() {
            match broker.phase {
                Phase::Idle if behind(broker) && self.heal => steps.push(Step::Heal(at)),
                Phase::Idle
                    if world.primary.claimed_by.is_none()
                        && world.primary.generation < ROTATIONS =>
                {
                    steps.push(Step::Claim(at));
                }
                Phase::Claimed(generation) => {
                    let id = Some(at);
                    let replicated =
                        (world.replica.generation, world.replica.claimed_by) == (generation, id);
                    if replicated || !self.wait {
                        steps.push(Step::Send(at));
                    }
                    let claim = (world.primary.generation, world.primary.claimed_by);
                    if claim != (generation, id) {
                        steps.push(Step::Abandon(at));
                    }
                }
                Phase::Sent(_) => steps.push(Step::Answer(at)),
                Phase::Holding(_) => steps.push(Step::Publish(at)),
                Phase::Idle | Phase::Gone => {}
            }
            if world.budget[1] > 0 && broker.phase != Phase::Gone {
                steps.push(Step::Crash(at));
            }
        }
        if world.primary != world.replica {
            steps.push(Step::Replicate);
            if world.budget[0] > 0 {
                steps.push(Step::Failover);
            }
        }
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        match step {
            Step::Claim(at) => {
                world.primary.claimed_by = Some(at);
                let generation = world.primary.generation;
                world.brokers[at].known = world.brokers[at].known.max(generation);
                world.brokers[at].phase = Phase::Claimed(generation);
            }
            Step::Abandon(at) => world.brokers[at].phase = Phase::Idle,
            Step::Replicate => world.replica = world.primary,
            Step::Send(at) => {
                let Phase::Claimed(generation) = world.brokers[at].phase else {
                    return None;
                };
                world.sent_twice |= world.sent > generation;
                world.sent = world.sent.max(generation + 1);
                world.brokers[at].phase = Phase::Sent(generation);
            }
            Step::Answer(at) => {
                let Phase::Sent(generation) = world.brokers[at].phase else {
                    return None;
                };
                let issued = world.good == generation;
                world.good = world.good.max(generation + 1);
                world.brokers[at].phase =
                    if issued { Phase::Holding(generation + 1) } else { Phase::Idle };
            }
            Step::Publish(at) => {
                let Phase::Holding(generation) = world.brokers[at].phase else {
                    return None;
                };
                world.brokers[at] = Broker { phase: Phase::Idle, known: generation };
                if generation > world.primary.generation {
                    world.primary = Copy { generation, claimed_by: None };
                }
            }
            Step::Heal(at) => {
                let generation = world.brokers[at].known;
                world.primary = Copy { generation, claimed_by: None };
            }
            Step::Failover => {
                world.budget[0] -= 1;
                world.primary = world.replica;
            }
            Step::Crash(at) => {
                world.budget[1] -= 1;
                world.brokers[at].phase = Phase::Gone;
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("sent once", |_, world: &World| !world.sent_twice),
            Property::always("the newest pair is known to somebody", |_, world: &World| {
                let has = |broker: &Broker| match broker.phase {
                    Phase::Holding(generation) => generation >= world.good,
                    Phase::Gone => true,
                    _ => broker.known >= world.good,
                };
                world.primary.generation >= world.good || world.brokers.iter().any(has)
            }),
            Property::eventually("rotations go on", |_, world: &World| {
                let ended = world.brokers.iter().any(|broker| broker.phase == Phase::Gone);
                world.primary.generation == ROTATIONS || ended
            }),
        ]
    }
}

/// Each rule, and what goes wrong without it.
pub(crate) fn cases() -> Cases<Rules> {
    let all = || Rules { wait: true, heal: true, budget: [1, 0] };
    vec![
        ("all rules", all(), "+++"),
        ("the same, and a broker ends", Rules { budget: [1, 1], ..all() }, "+++"),
        ("nobody waits for the replica", Rules { wait: false, ..all() }, "-++"),
        ("nobody writes back", Rules { heal: false, ..all() }, "++-"),
    ]
}
