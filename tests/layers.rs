//! Calls and data run downhill only: which module may name which, and who may name which library.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// (module, our modules that it may name, libraries that it must not name)
const TABLE: [(&str, &[&str], &[&str]); 22] = [
    ("secret", &[], &["tonic", "redis", "reqwest", "redb", "serde"]),
    ("textfile", &[], &["tonic", "redis", "reqwest", "redb", "serde"]),
    ("clock", &[], &["tonic", "redis", "reqwest", "redb"]),
    ("crash", &[], &["tonic", "redis", "reqwest", "redb"]),
    ("proto", &[], &["redis", "reqwest", "redb"]),
    (
        "broker",
        &["clock", "crash", "secret"],
        &["tonic", "prost", "redis", "reqwest", "redb", "serde", "axum"],
    ),
    ("caller", &["clock", "textfile"], &["tonic", "prost", "redis", "redb", "axum"]),
    ("policy", &["caller", "textfile"], &["tonic", "prost", "redis", "reqwest", "redb", "axum"]),
    ("audit", &["clock"], &["tonic", "prost", "redis", "reqwest", "redb", "axum"]),
    (
        "service",
        &["audit", "proto", "broker", "caller", "clock", "policy", "secret"],
        &["redis", "reqwest", "redb", "axum"],
    ),
    ("store", &["broker", "clock", "secret", "textfile"], &["tonic", "prost", "reqwest", "axum"]),
    ("upstream", &["broker", "clock", "secret"], &["tonic", "prost", "redis", "redb", "axum"]),
    (
        "config",
        &[
            "audit", "broker", "caller", "crash", "listener", "policy", "textfile", "store",
            "upstream", "secret",
        ],
        &["tonic", "prost", "reqwest", "redb", "axum"],
    ),
    ("telemetry", &["config"], &["tonic", "redis", "reqwest", "redb"]),
    ("lifecycle", &[], &["tonic", "redis", "reqwest", "redb"]),
    ("listener", &["caller", "service", "textfile"], &["redis", "reqwest", "redb", "axum"]),
    ("ops", &["telemetry"], &["redis", "reqwest", "redb"]),
    ("pages", &["audit", "broker", "clock", "secret"], &["redis", "reqwest", "redb", "prost"]),
    ("demo", &["clock", "secret", "store"], &["tonic", "redis", "reqwest", "redb"]),
    ("client", &["proto"], &["redis", "reqwest", "redb", "axum", "prometheus_client"]),
    (
        "app",
        &[
            "audit",
            "broker",
            "caller",
            "clock",
            "config",
            "lifecycle",
            "listener",
            "ops",
            "pages",
            "policy",
            "proto",
            "service",
            "store",
            "telemetry",
            "textfile",
            "upstream",
        ],
        &["reqwest", "redb", "redis", "axum"],
    ),
    (
        "cli",
        &[
            "app",
            "broker",
            "caller",
            "client",
            "clock",
            "config",
            "demo",
            "policy",
            "proto",
            "store",
            "telemetry",
        ],
        &["redis", "reqwest", "redb", "axum"],
    ),
];

/// (room within a module, what it must not name although the module may)
const ROOMS: [(&str, &[&str]); 5] = [
    // What a grant is does not depend on what is done with it.
    ("broker/model", &["broker::*"]),
    // Refreshing knows neither callers nor operators.
    ("broker/refresh", &["broker::serving", "broker::admin", "broker::resolve", "broker::Broker"]),
    ("broker/store", &["broker::*"]),
    // What keeps and compares sees sealed values only.
    ("store/embedded", SEALING),
    ("store/redis", SEALING),
];

const SEALING: &[&str] = &["store::vault", "store::seal", "store::plain"];

#[test]
fn rooms_name_only_what_they_need() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for (room, banned) in ROOMS {
        let own = room.replace('/', "::");
        for file in files_of(&source, room) {
            for path in imports(&fs::read_to_string(&file).unwrap()) {
                let within = |place: &str| path == place || path.starts_with(&format!("{place}::"));
                let shared = within(&own) || within("broker::model");
                let named = banned.iter().any(|banned| match banned.strip_suffix("::*") {
                    Some(module) => within(module) && !shared,
                    None => within(banned),
                });
                if named {
                    wrong.push(format!("{} names crate::{path}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The picture at the head of `src/lib.rs` shows every module, and no arrow of it leads uphill.
#[test]
fn the_picture_shows_what_there_is() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let text = fs::read_to_string(source.join("lib.rs")).unwrap();
    let picture = text.split("```").nth(1).unwrap();
    let words: BTreeSet<&str> = picture.split(|c: char| !c.is_alphanumeric()).collect();
    for (module, ..) in TABLE {
        assert!(words.contains(module), "{module} is not in the picture of src/lib.rs");
    }
    let chain = picture.lines().find(|line| line.contains('→')).unwrap();
    let steps: Vec<Vec<&str>> = chain
        .split('→')
        .map(|step| {
            let words = step.split(|c: char| !c.is_alphanumeric());
            words.filter(|word| TABLE.iter().any(|(module, ..)| module == word)).collect()
        })
        .collect();
    // Traits turn the last arrow round: stores and endpoints name the domain that owns the seam.
    for (lower, upper) in
        [("proto", "service"), ("broker", "service"), ("broker", "store"), ("broker", "upstream")]
    {
        let place = |name| steps.iter().position(|step| step.contains(&name)).unwrap();
        assert!(place(lower).abs_diff(place(upper)) == 1, "{lower} is not beside {upper}");
        let (_, below, _) = TABLE.iter().find(|(module, ..)| *module == upper).unwrap();
        assert!(below.contains(&lower), "{upper} does not name {lower}");
    }
}

#[test]
fn modules_name_only_what_lies_below_them() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let all: Vec<&str> = TABLE.iter().map(|(module, ..)| *module).collect();
    let mut wrong = Vec::new();
    let mut files = 0;
    for (module, below, banned) in TABLE {
        for file in files_of(&source, module) {
            files += 1;
            let text = fs::read_to_string(&file).unwrap();
            let code: Vec<&str> =
                text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
            let code = code.join("\n");
            for other in all.iter().filter(|other| **other != module && !below.contains(other)) {
                let imported =
                    imports(&code).iter().any(|path| path.split("::").next() == Some(other));
                if imported || code.contains(&format!("crate::{other}::")) {
                    wrong.push(format!("{} names crate::{other}", file.display()));
                }
            }
            for library in banned {
                let named = code.match_indices(&format!("{library}::")).any(|(at, _)| {
                    !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
                });
                if named {
                    wrong.push(format!("{} names {library}", file.display()));
                }
            }
        }
    }
    assert!(files > 40, "only {files} files were looked at");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_is_in_the_table() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let known: Vec<&str> =
        TABLE.iter().map(|(module, ..)| *module).chain(["lib", "main"]).collect();
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(known.contains(&name.as_str()), "{name} is not in the table of tests/layers.rs");
    }
}

#[test]
fn no_file_leads_back_to_itself() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = BTreeMap::new();
    for (module, ..) in TABLE {
        for file in files_of(&source, module) {
            let path = file.strip_prefix(&source).unwrap().with_extension("");
            let name = path.to_string_lossy().replace('/', "::");
            files.insert(name, fs::read_to_string(&file).unwrap());
        }
    }
    let circles = circles(&files);
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn a_circle_and_a_braced_import_are_seen() {
    let text = |text: &str| text.to_owned();
    let files = BTreeMap::from([
        (text("a"), text("use crate::{\n    b::{One, Two},\n    c,\n};")),
        (text("b"), text("use crate::c::Three;")),
        (text("c"), text("// use crate::b::One;\nuse crate::a::inner::Four;")),
        (text("a::inner"), text("use crate::a::Parent;")),
        (text("d"), text("use crate::a::Five;")),
    ]);
    assert_eq!(imports(&files["a"]), ["b::One", "b::Two", "c"]);
    let found = circles(&files);
    assert!(found.is_empty(), "a file may name its parent: {found:?}");
    let mut more = files.clone();
    more.insert(text("c"), text("use crate::b::One;"));
    assert_eq!(circles(&more), ["b -> c -> b"]);
}

/// The paths that a file imports from this crate, braces written out.
fn imports(text: &str) -> Vec<String> {
    let code: Vec<&str> =
        text.lines().map(|line| line.split("//").next().unwrap_or_default().trim()).collect();
    let code = code.join(" ");
    let mut paths = Vec::new();
    for import in code.split("use crate::").skip(1) {
        let import = import.split(';').next().unwrap_or_default();
        paths.extend(written_out(import));
    }
    paths
}

fn written_out(import: &str) -> Vec<String> {
    let import = import.trim();
    let Some((head, rest)) = import.split_once('{') else {
        let path = import.split(" as ").next().unwrap_or_default();
        return if path.is_empty() { Vec::new() } else { vec![path.to_owned()] };
    };
    let rest = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in rest.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if c == ',' && depth == 0 {
            parts.push(String::new());
        } else {
            parts.last_mut().unwrap().push(c);
        }
    }
    let inner = parts.iter().flat_map(|part| written_out(part));
    inner.map(|path| format!("{head}{path}").replace("::self", "")).collect()
}

/// Circles among files, each told once. A file may name what its parents hold together.
fn circles(files: &BTreeMap<String, String>) -> Vec<String> {
    let edges: BTreeMap<&str, BTreeSet<&str>> = files
        .iter()
        .map(|(name, text)| {
            let named = imports(text).into_iter().filter_map(|path| {
                // The file that the path leads into: the longest name that it begins with.
                let leads =
                    |file: &&String| path == **file || path.starts_with(&format!("{file}::"));
                let file = files.keys().filter(leads).max_by_key(|file| file.len())?;
                let parent = name.starts_with(&format!("{file}::"));
                (file != name && !parent).then_some(file.as_str())
            });
            (name.as_str(), named.collect())
        })
        .collect();
    let mut found = BTreeSet::new();
    for start in edges.keys() {
        let mut ways = vec![vec![*start]];
        let mut seen = BTreeSet::new();
        while let Some(way) = ways.pop() {
            for next in &edges[way.last().unwrap()] {
                // A circle is told from the first of its files.
                if next == start {
                    found.insert(format!("{} -> {start}", way.join(" -> ")));
                } else if next > start && seen.insert(*next) {
                    ways.push([way.clone(), vec![*next]].concat());
                }
            }
        }
    }
    found.into_iter().collect()
}

fn files_of(source: &Path, module: &str) -> Vec<PathBuf> {
    let mut files = vec![source.join(format!("{module}.rs"))];
    let mut folders = vec![source.join(module)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}
