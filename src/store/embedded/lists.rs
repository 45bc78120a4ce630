//! Lists of what is under way, each with an end: of the only process that there is, so they need not last.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// Ends of members, by list.
#[derive(Default)]
pub(super) struct Lists(HashMap<String, HashMap<String, Instant>>);

impl Lists {
    /// What [`Backend::enlist`](crate::store::backend::Backend::enlist) does.
    pub(super) fn enlist(
        &mut self,
        lists: &[(String, usize)],
        member: &str,
        life: Duration,
    ) -> Option<(usize, Duration)> {
        let now = Instant::now();
        self.0.retain(|_, list| {
            list.retain(|_, end| *end > now);
            !list.is_empty()
        });
        for (place, (name, most)) in lists.iter().enumerate() {
            let list = self.0.entry(name.clone()).or_default();
            if list.len() >= *most && !list.contains_key(member) {
                let first = list.values().min().map_or(Duration::ZERO, |end| *end - now);
                return Some((place, first));
            }
        }
        for (name, _) in lists {
            let list = self.0.entry(name.clone()).or_default();
            list.entry(member.to_owned()).or_insert(now + life);
        }
        None
    }
}
