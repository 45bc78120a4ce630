//! Places: relative paths in the configuration file begin at its folder, wherever the program is started.
//! Those in variables begin where the shell is. Pure.

use std::path::Path;

use serde_json::Value;

/// Settings that name a file, besides those that end in `_file`.
const FILES: [&str; 2] = ["file", "journal"];
/// What a path may stand behind.
const SCHEMES: [&str; 2] = ["redb:", "file:"];

/// Puts `folder` before every relative path.
pub(super) fn follow(tree: &mut Value, folder: &Path) {
    match tree {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(text) => settle(name, text, folder),
                    other => follow(other, folder),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| follow(value, folder)),
        _ => {}
    }
}

fn settle(name: &str, text: &mut String, folder: &Path) {
    let (scheme, path) = match SCHEMES.iter().find_map(|it| Some((*it, text.strip_prefix(it)?))) {
        Some(found) => found,
        None if name.ends_with("_file") || FILES.contains(&name) => ("", text.as_str()),
        None => return,
    };
    if path.is_empty() || Path::new(path).is_absolute() {
        return;
    }
    // `redb:./a` and `redb:a` are one file.
    let path = folder.join(path.strip_prefix("./").unwrap_or(path));
    *text = format!("{scheme}{}", path.display());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn relative_paths_begin_at_the_folder_of_the_file() {
        let mut tree = json!({
            "store": {"url": "redb:./s.redb", "journal": "j", "prefix": "tb"},
            "keys": {"file": "/etc/keys"},
            "audit": {"sink": "file:audit.jsonl"},
            "providers": {"a": {"client_secret_file": "../secret", "client_id": "file", "error_map": [{"text": "x"}]}},
        });
        follow(&mut tree, Path::new("/etc/tb"));
        assert_eq!(
            tree,
            json!({
                "store": {"url": "redb:/etc/tb/s.redb", "journal": "/etc/tb/j", "prefix": "tb"},
                "keys": {"file": "/etc/keys"},
                "audit": {"sink": "file:/etc/tb/audit.jsonl"},
                "providers": {"a": {"client_secret_file": "/etc/tb/../secret", "client_id": "file", "error_map": [{"text": "x"}]}},
            })
        );
        let mut none = json!({"store": {"journal": "", "url": "redis://h:1"}});
        follow(&mut none, Path::new("/etc/tb"));
        assert_eq!(none, json!({"store": {"journal": "", "url": "redis://h:1"}}));
    }
}
