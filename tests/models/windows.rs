//! Replay windows: a provider documents that a spent refresh token still works for a while. When may it be
//! presented again inside that time? A request may be processed long after its connection ended, and then
//! counts as one more use.
//!
//! Time passes in steps of five seconds; a request comes to rest within [`Rules::settle`].

use stateright::{Model, Property};

use crate::Cases;

/// What another use inside the window brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Again {
    /// The pair of the first use.
    Same,
    /// Another pair; both are good.
    Both,
    /// Another pair; the one before is dead.
    OlderDies,
}

/// What the broker keeps to, and what the provider is.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a rule, there or not")]
pub(crate) struct Rules {
    pub(crate) again: Again,
    pub(crate) window: u8,
    pub(crate) settle: u8,
    /// After a connection that ended: not before what is late then still falls into the window.
    pub(crate) late_ones_fall_in: bool,
    /// The window is used where the older pair dies, too.
    pub(crate) any_kind: bool,
    /// Not after four fifths of the window, counted from the first request.
    pub(crate) share: bool,
    /// Where that leaves no moment, at the end of the share all the same.
    pub(crate) early: bool,
    /// Replies that are lost.
    pub(crate) losses: u8,
}

impl Rules {
    fn new(again: Again, window: u8) -> Self {
        Self {
            again,
            window,
            settle: 13,
            late_ones_fall_in: true,
            any_kind: false,
            share: true,
            early: false,
            losses: 1,
        }
    }

    /// The last moment at which it is presented inside the window.
    fn last(&self) -> u8 {
        if self.share { self.window / 5 * 4 } else { self.window + 1 }
    }

    /// When it may be presented again; `None`: by the ordinary rule only.
    fn moments(&self, world: &World, doubt: Doubt) -> Option<(u8, u8)> {
        if world.requests.len() > 2 {
            return None;
        }
        let newest = world.requests.last()?.sent;
        let earliest = match doubt {
            Doubt::Ended if self.again == Again::OlderDies && !self.any_kind => return None,
            Doubt::Ended if self.late_ones_fall_in => {
                newest + self.settle.saturating_sub(self.window)
            }
            Doubt::Ended | Doubt::Cut => world.time,
        };
        if earliest <= self.last() {
            return Some((earliest, self.last()));
        }
        self.early.then(|| (self.last(), self.last()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Doubt {
    /// The connection ended, and nothing had come.
    Ended,
    /// The answer was a success and broke off: it was processed.
    Cut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Broker {
    Waiting,
    Doubts(Doubt),
    Has(u8),
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Request {
    sent: u8,
    /// It is still on its way, or waits at the provider.
    pending: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "what happened or not, for the properties")]
pub(crate) struct World {
    time: u8,
    requests: Vec<Request>,
    broker: Broker,
    /// When the provider saw the token first.
    used: Option<u8>,
    /// Pairs that were issued, and those that are good.
    issued: u8,
    good: Vec<u8>,
    losses: u8,
    /// A pair was issued that never came: without another use the chain is lost.
    missed: bool,
    /// The provider took longer than what the share leaves of the window.
    slow: bool,
    /// A replay of ours ended a family that was not lost.
    revoked: bool,
    /// A pair that we had died of a request of ours, and waiting would have kept the chain.
    harmed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Tick,
    /// A request is processed, and its answer comes, if somebody still listens.
    Process(usize),
    /// The same, and the answer breaks off or never comes.
    Lose(usize, Doubt),
    /// The connection ends; the request may be processed later.
    End,
    Drop(usize),
    Replay,
    /// Everything has come to rest: the ordinary rule presents it.
    Ordinary,
}

impl World {
    fn process(&mut self, rules: &Rules, ordinary: bool) -> Option<u8> {
        let before = self.good.clone();
        let pair = match self.used {
            None => {
                self.used = Some(self.time);
                self.issued += 1;
                self.good = vec![self.issued];
                Some(self.issued)
            }
            Some(_) if before.is_empty() => None,
            Some(used) if self.time - used <= rules.window => match rules.again {
                Again::Same => Some(before[0]),
                Again::Both | Again::OlderDies => {
                    self.issued += 1;
                    if rules.again == Again::OlderDies {
                        self.good.clear();
                    }
                    self.good.push(self.issued);
                    Some(self.issued)
                }
            },
            Some(_) => {
                self.good.clear();
                self.revoked |= !ordinary && !self.missed;
                None
            }
        };
        if let Broker::Has(ours) = self.broker
            && before.contains(&ours)
            && !self.good.contains(&ours)
        {
            self.harmed |= !self.missed;
            self.broker = Broker::Lost;
        }
        pair
    }

    fn waits_for(&self, request: usize) -> bool {
        self.broker == Broker::Waiting && request + 1 == self.requests.len()
    }

    fn hear(&mut self, pair: Option<u8>) {
        self.broker = pair.map_or(Broker::Lost, Broker::Has);
    }
}

impl Model for Rules {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            time: 0,
            requests: vec![Request { sent: 0, pending: true }],
            broker: Broker::Waiting,
            used: None,
            issued: 0,
            good: Vec::new(),
            losses: self.losses,
            missed: false,
            slow: false,
            revoked: false,
            harmed: false,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        let mut late = false;
        for (at, request) in world.requests.iter().enumerate().filter(|(_, it)| it.pending) {
            steps.push(Step::Process(at));
            if world.waits_for(at) {
                if world.losses > 0 {
                    steps.push(Step::Lose(at, Doubt::Cut));
                    steps.push(Step::Lose(at, Doubt::Ended));
                    steps.push(Step::End);
                }
            } else {
                steps.push(Step::Drop(at));
            }
            late |= world.time >= request.sent + self.settle;
        }
        let at_rest = world.requests.iter().all(|request| !request.pending);
        match world.broker {
            Broker::Doubts(doubt) => {
                let moments = self.moments(world, doubt);
                let moments = moments.filter(|(_, last)| world.time <= *last);
                if moments.is_some_and(|(first, _)| world.time >= first) {
                    steps.push(Step::Replay);
                }
                let settled = world.requests.iter().all(|it| world.time >= it.sent + self.settle);
                if moments.is_none() && settled && at_rest {
                    steps.push(Step::Ordinary);
                }
                // What is due is presented by its last moment.
                late |= moments.is_some_and(|(_, last)| world.time >= last);
                late |= moments.is_none() && settled && at_rest;
            }
            Broker::Has(_) | Broker::Lost if at_rest => return,
            Broker::Waiting | Broker::Has(_) | Broker::Lost => {}
        }
        if !late {
            steps.push(Step::Tick);
        }
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        match step {
            Step::Tick => world.time += 1,
            Step::Process(at) => {
                let heard = world.waits_for(at);
                world.requests[at].pending = false;
                let took = world.time - world.requests[at].sent;
                world.slow |= at > 0 && took > self.window.saturating_sub(self.last());
                let pair = world.process(self, false);
                if heard {
                    world.hear(pair);
                } else {
                    // Nobody hears of it; who has a pair already misses nothing.
                    let has = matches!(world.broker, Broker::Has(_));
                    world.missed |= pair.is_some() && !has;
                }
            }
            Step::Lose(at, doubt) => {
                world.losses -= 1;
                world.requests[at].pending = false;
                let pair = world.process(self, false);
                world.missed |= pair.is_some();
                world.broker = match pair {
                    Some(_) => Broker::Doubts(doubt),
                    // A refusal is no success that breaks off.
                    None if doubt == Doubt::Cut => return None,
                    None => Broker::Doubts(Doubt::Ended),
                };
            }
            Step::End => {
                world.losses -= 1;
                world.broker = Broker::Doubts(Doubt::Ended);
            }
            Step::Drop(at) => world.requests[at].pending = false,
            Step::Replay => {
                world.requests.push(Request { sent: world.time, pending: true });
                world.broker = Broker::Waiting;
            }
            Step::Ordinary => {
                let pair = world.process(self, true);
                world.hear(pair);
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing that waiting would have kept dies", |_, world: &World| {
                !world.harmed
            }),
            Property::always("no family is revoked that was not lost", |_, world: &World| {
                !world.revoked
            }),
            Property::always("one lost reply costs no chain", |rules: &Self, world: &World| {
                let excused = rules.losses - world.losses > 1 || world.slow;
                world.broker != Broker::Lost || excused
            }),
        ]
    }
}

/// Each kind of window, and what goes wrong without a rule.
pub(crate) fn cases() -> Cases<Rules> {
    use Again::{Both, OlderDies, Same};
    let minute = |again| Rules::new(again, 12);
    let half = |again| Rules::new(again, 6);
    let ten = |again| Rules::new(again, 120);
    vec![
        ("60 s, the same pair", minute(Same), "+++"),
        ("60 s, both are good", minute(Both), "+++"),
        ("60 s, the older dies", minute(OlderDies), "++-"),
        (
            "60 s, the older dies, used all the same",
            Rules { any_kind: true, ..minute(OlderDies) },
            "-+-",
        ),
        ("60 s, at once", Rules { late_ones_fall_in: false, ..minute(Same) }, "---"),
        ("60 s, to its end and beyond", Rules { share: false, ..minute(Same) }, "++-"),
        ("60 s, two lost replies", Rules { losses: 2, ..minute(Same) }, "+++"),
        ("30 s", half(Same), "++-"),
        ("30 s, early", Rules { early: true, ..half(Same) }, "---"),
        ("10 min, the older dies", ten(OlderDies), "+++"),
    ]
}
