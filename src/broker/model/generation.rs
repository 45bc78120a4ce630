//! Order: which token pair, which holder, and which change came after which.

use std::fmt;
use std::time::SystemTime;

/// Number of a grant's token pair; rises by one at each rotation and jumps ahead at a new chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation that a rotation of this one mints.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// First generation of a new chain: above everything before it, also across stores, because
    /// the Unix time outruns any count of rotations. A pair that the old chain has under way is of
    /// the generation after `previous`, so the new chain begins above that one too.
    #[must_use]
    pub fn of_new_chain(previous: Option<Self>, now: SystemTime) -> Self {
        let seconds = crate::clock::unix_ms(now) / 1000;
        Self(previous.map_or(seconds, |previous| seconds.max(previous.0 + 2)))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Number that orders the holders of a grant.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(pub u64);

impl Fence {
    /// The fence after `last`: at least the time in milliseconds, so that a store which forgot its
    /// last increments in a failover repeats none of them.
    #[must_use]
    pub fn after(last: Self, now_ms: u64) -> Self {
        Self(now_ms.max(last.0 + 1))
    }
}

/// Place of a change in the history of a grant: changes with a greater one win.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Decides first.
    pub generation: Generation,
    /// Decides between changes of one generation.
    pub fence: Fence,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::from_unix_ms;

    #[test]
    fn a_new_chain_is_above_the_old_one_and_the_clock() {
        let now = from_unix_ms(5_000);
        assert_eq!(Generation::of_new_chain(None, now), Generation(5));
        assert_eq!(Generation::of_new_chain(Some(Generation(3)), now), Generation(5));
        assert_eq!(Generation::of_new_chain(Some(Generation(9)), now), Generation(11));
    }

    #[test]
    fn fences_rise_even_when_the_clock_does_not() {
        assert_eq!(Fence::after(Fence(10), 4), Fence(11));
        assert_eq!(Fence::after(Fence(10), 400), Fence(400));
    }
}
