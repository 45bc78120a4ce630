//! Connections on which nobody has proven anything: they have a share, and each address a part of it.
//!
//! Whoever is over it does not keep others out: the newcomer stays, and the oldest goes. A caller
//! proves itself with its first call, and is none of these from then on.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::listener::connection::Connection;

/// This part of the share goes at once where all addresses together have too many.
const CROWD_SHARE: usize = 64;

/// Whom connections come from, as far as an address tells: a host of IPv6 has a whole /64 (RFC 6177).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Origin {
    V4(Ipv4Addr),
    V6(u64),
}

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                let part = |high: u64, segment: u16| high << 16 | u64::from(segment);
                Self::V6([a, b, c, d].into_iter().fold(0, part))
            }
        }
    }
}

/// See the top of this file.
#[derive(Debug)]
pub(super) struct Strangers {
    most: usize,
    most_of_each: usize,
    count: usize,
    /// By where they come from, and in the order in which they came.
    by_origin: HashMap<Origin, BTreeMap<u64, Arc<Connection>>>,
}

impl Strangers {
    pub(super) fn new(most: usize, most_of_each: usize) -> Self {
        Self { most, most_of_each, count: 0, by_origin: HashMap::new() }
    }

    /// A newcomer; gives those that must go for it.
    pub(super) fn enter(&mut self, connection: &Arc<Connection>) -> Vec<Arc<Connection>> {
        let origin = Origin::from(connection.peer.address);
        let neighbours = self.by_origin.entry(origin).or_default();
        neighbours.insert(connection.number, Arc::clone(connection));
        self.count += 1;
        let mut gone = Vec::new();
        if neighbours.len() > self.most_of_each {
            self.count -= forget_the_proven(neighbours);
            if neighbours.len() > self.most_of_each {
                gone.extend(self.oldest_of(origin));
            }
        }
        if self.count > self.most {
            let forgotten: usize = self.by_origin.values_mut().map(forget_the_proven).sum();
            self.count -= forgotten;
            self.by_origin.retain(|_, neighbours| !neighbours.is_empty());
            let some = if self.count > self.most { (self.most / CROWD_SHARE).max(1) } else { 0 };
            gone.extend((0..some).map_while(|_| self.oldest_of(self.largest()?)));
        }
        gone
    }

    /// It has ended.
    pub(super) fn leave(&mut self, connection: &Connection) {
        let origin = Origin::from(connection.peer.address);
        let Some(neighbours) = self.by_origin.get_mut(&origin) else { return };
        if neighbours.remove(&connection.number).is_some() {
            self.count -= 1;
        }
        if neighbours.is_empty() {
            self.by_origin.remove(&origin);
        }
    }

    fn oldest_of(&mut self, origin: Origin) -> Option<Arc<Connection>> {
        let neighbours = self.by_origin.get_mut(&origin)?;
        let (_, oldest) = neighbours.pop_first()?;
        if neighbours.is_empty() {
            self.by_origin.remove(&origin);
        }
        self.count -= 1;
        Some(oldest)
    }

    /// Where most come from; of several, where one has been there longest.
    fn largest(&self) -> Option<Origin> {
        let largest = self.by_origin.iter().max_by_key(|(_, neighbours)| {
            (neighbours.len(), neighbours.first_key_value().map(|(number, _)| Reverse(*number)))
        });
        largest.map(|(origin, _)| *origin)
    }
}

/// Says how many have proven something since.
fn forget_the_proven(neighbours: &mut BTreeMap<u64, Arc<Connection>>) -> usize {
    let before = neighbours.len();
    neighbours.retain(|_, connection| !connection.peer.has_proven());
    before - neighbours.len()
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::listener::metrics::{Metrics, Ports};

    fn metrics() -> Arc<Metrics> {
        Arc::new(Ports::new(&mut Registry::default()).of("api"))
    }

    /// Those that go when these come one after the other.
    fn gone(strangers: &mut Strangers, came: &[Arc<Connection>]) -> Vec<u64> {
        came.iter().flat_map(|it| strangers.enter(it)).map(|gone| gone.number).collect()
    }

    fn from(first: u64, addresses: &[&str]) -> Vec<Arc<Connection>> {
        let connection = |(number, address): (u64, &&str)| {
            Connection::new(number, address.parse().unwrap(), &metrics())
        };
        (first..).zip(addresses).map(connection).collect()
    }

    #[test]
    fn the_oldest_of_an_address_goes_for_its_newest() {
        let mut strangers = Strangers::new(10, 2);
        let same = ["2001:db8::1", "2001:db8::2", "2001:db8::ffff", "2001:db8:0:1::1"];
        assert_eq!(gone(&mut strangers, &from(1, &same)), [1], "a /64 is one");
        let mapped = ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "192.0.2.2"];
        assert_eq!(gone(&mut strangers, &from(5, &mapped)), [5]);
    }

    #[test]
    fn whoever_has_proven_something_is_none_of_them() {
        let mut strangers = Strangers::new(10, 2);
        let callers = from(1, &["192.0.2.1"; 4]);
        for caller in &callers {
            assert!(strangers.enter(caller).is_empty());
            caller.peer.has_its_caller();
        }
        assert!(gone(&mut strangers, &from(5, &["192.0.2.1"; 2])).is_empty());
        for caller in &callers {
            strangers.leave(caller);
        }
        assert_eq!(gone(&mut strangers, &from(7, &["192.0.2.1"])), [5]);
    }

    #[test]
    fn where_all_have_too_many_the_address_with_most_gives_way_and_then_the_oldest() {
        let mut strangers = Strangers::new(4, 3);
        let came = from(1, &["192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.2", "192.0.2.3"]);
        assert_eq!(gone(&mut strangers, &came), [2]);
        let came = from(6, &["192.0.2.4", "192.0.2.5", "192.0.2.6"]);
        assert_eq!(gone(&mut strangers, &came), [3, 1, 4]);
        for came in came {
            strangers.leave(&came);
        }
        assert_eq!((strangers.count, strangers.by_origin.len()), (1, 1));
    }
}
