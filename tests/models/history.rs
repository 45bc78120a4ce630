//! What a grant's record becomes when changes arrive late, twice and out of order: pairs of old and
//! new chains, deletions, a store that lost the record, entries of journals.

use std::collections::BTreeSet;

use stateright::{Model, Property};

use crate::Cases;

/// Where the numbers of a chain begin: at the time of its consent.
const TICK: u8 = 10;
/// Moments after which a run ends.
const TICKS: u8 = 4;
/// Rotations of a run.
const ROTATIONS: u8 = 2;

/// What the store keeps to; each can be left out.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a rule, there or not")]
pub(crate) struct Rules {
    /// A new chain and a deletion stand above the time and everything before; otherwise one above the
    /// record.
    pub(crate) above_all: bool,
    /// Of two pairs of one generation the later claim's is current; otherwise the one that comes last.
    pub(crate) by_fence: bool,
    /// The other is kept beside it.
    pub(crate) siblings: bool,
    /// A deletion leaves a mark.
    pub(crate) tombstones: bool,
    /// What is older than a mark lives makes no grant again.
    pub(crate) old_is_put_aside: bool,
    /// A record that is missing is made again.
    pub(crate) remake: bool,
}

impl Rules {
    pub(crate) fn all() -> Self {
        Self {
            above_all: true,
            by_fence: true,
            siblings: true,
            tombstones: true,
            old_is_put_aside: true,
            remake: true,
        }
    }
}

/// A pair, or a deletion: the order is that of the history.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Change {
    generation: u8,
    fence: u8,
    /// Which consent it comes from.
    chain: u8,
    made_at: u8,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
enum Record {
    Missing,
    Live { current: Change, siblings: BTreeSet<Change> },
    Deleted { at: Change, since: u8 },
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(crate) struct World {
    record: Record,
    now: u8,
    fence: u8,
    chain: u8,
    rotations: u8,
    deleted: bool,
    lost: bool,
    /// What processes have and may offer at any time.
    late: BTreeSet<Change>,
    /// Pairs that the store has said to have.
    taken: BTreeSet<Change>,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) enum Step {
    Tick,
    /// A pair comes back; two may come for one generation where a holder was overtaken.
    Rotate {
        again: bool,
    },
    /// Somebody offers what they have; they may go on having it.
    Offer(Change, bool),
    Consent,
    Delete,
    /// The store loses the record.
    Lose,
    /// The mark of a deletion has lived its life.
    Expire,
}

impl World {
    fn known(&self) -> Option<Change> {
        match &self.record {
            Record::Missing => None,
            Record::Live { current, .. } => Some(*current),
            Record::Deleted { at, .. } => Some(*at),
        }
    }

    fn above(&self, rules: &Rules) -> u8 {
        let next = self.known().map_or(0, |known| known.generation + 1);
        if rules.above_all { next.max(self.now * TICK) } else { next }
    }

    fn offer(&mut self, change: Change, rules: &Rules) {
        let newer = |known: &Change| {
            let (ours, theirs) = (change.generation, known.generation);
            if rules.by_fence {
                (ours, change.fence) > (theirs, known.fence)
            } else {
                ours >= theirs
            }
        };
        let old = self.now > change.made_at + 1;
        match &mut self.record {
            Record::Missing if !rules.remake || (old && rules.old_is_put_aside) => return,
            Record::Deleted { at, .. } if change.generation <= at.generation => return,
            Record::Missing | Record::Deleted { .. } => {
                self.record = Record::Live { current: change, siblings: BTreeSet::new() };
            }
            Record::Live { current, siblings } => {
                if *current == change || siblings.contains(&change) {
                    return;
                }
                let (equal, won) = (current.generation == change.generation, newer(current));
                if !equal && !won {
                    return;
                }
                let beside = if won { std::mem::replace(current, change) } else { change };
                if !equal {
                    siblings.clear();
                } else if rules.siblings {
                    siblings.insert(beside);
                }
            }
        }
        self.taken.insert(change);
    }
}

impl Model for Rules {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let first = Change { generation: TICK, fence: 1, chain: 0, made_at: 1 };
        vec![World {
            record: Record::Live { current: first, siblings: BTreeSet::new() },
            now: 1,
            fence: 1,
            chain: 0,
            rotations: 0,
            deleted: false,
            lost: false,
            late: BTreeSet::from([first]),
            taken: BTreeSet::from([first]),
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if world.now < TICKS {
            steps.push(Step::Tick);
        }
        // Refreshes are rarer than seconds, so that no number is ahead of the time.
        if let Record::Live { current, .. } = &world.record
            && world.rotations < ROTATIONS
            && current.generation < world.now * TICK
        {
            steps.push(Step::Rotate { again: false });
            steps.push(Step::Rotate { again: true });
        }
        for change in &world.late {
            steps.push(Step::Offer(*change, false));
            steps.push(Step::Offer(*change, true));
        }
        let consented = world.chain > 0;
        if world.now > 1 && !consented && !matches!(world.record, Record::Missing) {
            steps.push(Step::Consent);
        }
        match world.record {
            Record::Live { .. } if world.now > 1 && !world.deleted => steps.push(Step::Delete),
            // The memories of brokers end long before the mark does.
            Record::Deleted { since, .. } if world.now > since + 1 => steps.push(Step::Expire),
            _ => {}
        }
        // What people did is not lost here: that is the matter of whoever compares memories.
        let untouched = world.chain == 0 && !world.deleted;
        if !world.lost && untouched && matches!(world.record, Record::Live { .. }) {
            steps.push(Step::Lose);
        }
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        match step {
            Step::Tick => world.now += 1,
            Step::Rotate { again } => {
                let Record::Live { current, .. } = &world.record else {
                    return None;
                };
                let (chain, made_at) = (current.chain, world.now);
                let generation = if again { current.generation } else { current.generation + 1 };
                world.fence += 1;
                world.rotations += 1;
                world.late.insert(Change { generation, fence: world.fence, chain, made_at });
            }
            Step::Offer(change, again) => {
                world.offer(change, self);
                if !again {
                    world.late.remove(&change);
                }
            }
            Step::Consent => {
                world.fence += 1;
                world.chain += 1;
                let (generation, fence) = (world.above(self), world.fence);
                let change = Change { generation, fence, chain: world.chain, made_at: world.now };
                world.record = Record::Live { current: change, siblings: BTreeSet::new() };
                world.late.insert(change);
                world.deleted = false;
            }
            Step::Delete => {
                world.fence += 1;
                let (generation, fence) = (world.above(self), world.fence);
                let at = Change { generation, fence, chain: world.chain, made_at: world.now };
                world.deleted = true;
                world.record = if self.tombstones {
                    Record::Deleted { at, since: world.now }
                } else {
                    Record::Missing
                };
            }
            Step::Lose => {
                world.lost = true;
                world.taken.clear();
                world.record = Record::Missing;
            }
            Step::Expire => world.record = Record::Missing,
        }
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what was deleted stays deleted", |_, world: &World| {
                !world.deleted || !matches!(world.record, Record::Live { .. })
            }),
            Property::always("a consent is not displaced by an older one", |_, world: &World| {
                match &world.record {
                    Record::Live { current, .. } => current.chain == world.chain,
                    Record::Missing | Record::Deleted { .. } => true,
                }
            }),
            Property::always(
                "a pair that was taken is kept until it is spent",
                |_, world: &World| {
                    let Record::Live { current, siblings } = &world.record else {
                        return true;
                    };
                    let of_this = |change: &&Change| {
                        (change.generation, change.chain) == (current.generation, current.chain)
                    };
                    world
                        .taken
                        .iter()
                        .filter(of_this)
                        .all(|change| change == current || siblings.contains(change))
                },
            ),
            Property::always(
                "of one generation the last claim's is current",
                |_, world: &World| match &world.record {
                    Record::Live { current, siblings } => {
                        siblings.iter().all(|other| other.fence < current.fence)
                    }
                    Record::Missing | Record::Deleted { .. } => true,
                },
            ),
            Property::sometimes("a lost record comes back", |_, world: &World| {
                world.lost && world.chain == 0 && matches!(world.record, Record::Live { .. })
            }),
        ]
    }
}

/// Each rule, and what goes wrong without it.
pub(crate) fn cases() -> Cases<Rules> {
    let all = Rules::all;
    vec![
        ("all rules", all(), "+++++"),
        ("a new chain goes on counting", Rules { above_all: false, ..all() }, "--+++"),
        ("the last to come is current", Rules { by_fence: false, ..all() }, "+++-+"),
        ("no siblings", Rules { siblings: false, ..all() }, "++-++"),
        ("deleting leaves no mark", Rules { tombstones: false, ..all() }, "---++"),
        ("old entries make grants again", Rules { old_is_put_aside: false, ..all() }, "---++"),
        ("what is missing stays missing", Rules { remake: false, ..all() }, "++++-"),
    ]
}
