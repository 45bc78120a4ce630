//! What was written, kept to say later which settings have changed.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use serde_json::Value;

use crate::config::Environment;

/// Settings, with digests of their values; and the environment that was laid over the file.
#[derive(Clone, Default)]
pub struct Written {
    digests: BTreeMap<String, u64>,
    pub(super) environment: Arc<Environment>,
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.digests.keys()).finish()
    }
}

impl Written {
    pub(super) fn new(tree: &Value, environment: &Environment) -> Self {
        let mut digests = BTreeMap::new();
        add(&mut digests, String::new(), tree);
        Self { digests, environment: Arc::new(environment.clone()) }
    }

    /// The settings that are there in one of both only, or differ.
    pub(super) fn changes(&self, newer: &Self) -> Vec<String> {
        let (old, new) = (&self.digests, &newer.digests);
        let differs = |path: &&String| old.get(*path) != new.get(*path);
        let gone = old.keys().filter(|path| !new.contains_key(*path));
        new.keys().filter(differs).chain(gone).cloned().collect()
    }
}

fn add(digests: &mut BTreeMap<String, u64>, path: String, value: &Value) {
    if let Value::Object(fields) = value {
        for (name, value) in fields {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            add(digests, path, value);
        }
        return;
    }
    let mut hasher = DefaultHasher::new();
    value.to_string().hash(&mut hasher);
    digests.insert(path, hasher.finish());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_added_or_taken_away_is_named_and_never_shown() {
        let written = |tree: Value| Written::new(&tree, &Environment::new());
        let before = written(serde_json::json!({"a": {"b": 1, "c": "canary"}, "d": [1]}));
        let after = written(serde_json::json!({"a": {"b": 1, "c": "other"}, "e": 2}));
        assert_eq!(before.changes(&after), ["a.c", "e", "d"]);
        assert!(before.changes(&before.clone()).is_empty());
        assert!(!format!("{before:?}").contains("canary"));
    }
}
