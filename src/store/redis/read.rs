//! Reading grants: one, or a page of them.

use redis::RedisError;

use crate::broker::model::GrantId;
use crate::store::backend::StoreResult;
use crate::store::redis::Redis;
use crate::store::redis::fields::{self, Fields};
use crate::store::redis::layout::{self, SHARDS};
use crate::store::redis::wire::{of_grant, unavailable};

/// Shards that are asked for names in one round trip.
const SHARDS_AT_ONCE: usize = 32;
/// Malformed names that may stand among those of a page.
const BAD_NAMES: usize = 64;

impl Redis {
    pub(super) async fn hash(&self, id: &GrantId) -> StoreResult<Fields> {
        let read = redis::cmd("HGETALL").arg(self.layout.keys(id).grant()).clone();
        self.session.query(&read).await.map_err(|error| of_grant(id, error))
    }

    pub(super) async fn ids(&self, after: Option<&str>, most: usize) -> StoreResult<Vec<GrantId>> {
        let (first, name) = layout::position(after)?;
        let mut ids = Vec::new();
        let mut shards = first..SHARDS;
        while ids.len() < most && !shards.is_empty() {
            let mut pipeline = redis::pipe();
            for shard in shards.by_ref().take(SHARDS_AT_ONCE) {
                let within = shard == first && !name.is_empty();
                let from = if within { format!("({name}") } else { "-".to_owned() };
                let range = pipeline.cmd("ZRANGEBYLEX").arg(self.layout.names(shard));
                range.arg(from).arg("+").arg("LIMIT").arg(0).arg(most + BAD_NAMES);
            }
            let names: Vec<Vec<String>> =
                self.session.pipeline(&pipeline).await.map_err(unavailable)?;
            let known = |name: String| fields::known_name(&name, "a list");
            ids.extend(names.into_iter().flatten().filter_map(known));
        }
        ids.truncate(most);
        Ok(ids)
    }

    /// What cannot be read is in nobody's way.
    pub(super) async fn rows(
        &self,
        ids: &[GrantId],
    ) -> StoreResult<Vec<Result<Fields, RedisError>>> {
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        for id in ids {
            pipeline.cmd("HGETALL").arg(self.layout.keys(id).grant());
        }
        self.session.pipeline(&pipeline).await.map_err(unavailable)
    }
}
