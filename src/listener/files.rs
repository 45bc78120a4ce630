//! File descriptors: connections must leave enough of them for refreshing.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::listener::bounds::OPS_CONNECTIONS_MAX;

/// What the store, the log and requests to providers need,
const WORK: u64 = 512;
/// and the ports of operators and the one of pages.
const RESERVE: u64 = WORK + 3 * OPS_CONNECTIONS_MAX as u64;

/// Raises the limit of open files as far as the system lets us, and says how many connections leave
/// enough of them for everything else: `wanted`, or fewer.
pub fn room_for_connections(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let limit = if raised.is_ok() { limit.maximum } else { limit.current };
    room(wanted, limit)
}

/// `limit`: none if there is none.
fn room(wanted: usize, limit: Option<u64>) -> usize {
    let Some(limit) = limit else { return wanted };
    let left = limit - RESERVE.min(limit / 2);
    wanted.min(usize::try_from(left).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_refreshing() {
        assert_eq!(room(12_000, None), 12_000);
        assert_eq!(room(12_000, Some(1_048_576)), 12_000);
        assert_eq!(room(12_000, Some(4_096)), 2_816);
        assert_eq!(room(12_000, Some(256)), 128);
    }
}
