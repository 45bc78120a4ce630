//! Calls and data run downhill only: which module may name which, and who may name which library.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};

/// (module, our modules that it may name, libraries that it must not name)
const TABLE: [(&str, &[&str], &[&str]); 16] = [
    ("secret", &[], &["tonic", "redis", "reqwest", "redb", "serde"]),
    ("clock", &[], &["tonic", "redis", "reqwest", "redb"]),
    ("crash", &[], &["tonic", "redis", "reqwest", "redb"]),
    ("proto", &[], &["redis", "reqwest", "redb"]),
    (
        "broker",
        &["clock", "crash", "secret"],
        &["tonic", "prost", "redis", "reqwest", "redb", "serde", "axum"],
    ),
    ("service", &["proto", "broker", "clock", "secret"], &["redis", "reqwest", "redb", "axum"]),
    ("store", &["broker", "clock", "secret"], &["tonic", "prost", "reqwest", "axum"]),
    ("upstream", &["broker", "clock", "secret"], &["tonic", "prost", "redis", "redb", "axum"]),
    (
        "config",
        &["broker", "crash", "store", "upstream", "secret"],
        &["tonic", "prost", "reqwest", "redb", "axum"],
    ),
    ("telemetry", &["config"], &["tonic", "redis", "reqwest", "redb"]),
    ("lifecycle", &[], &["tonic", "redis", "reqwest", "redb"]),
    ("ops", &["telemetry"], &["redis", "reqwest", "redb"]),
    ("demo", &["clock", "secret", "store"], &["tonic", "redis", "reqwest", "redb"]),
    ("client", &["proto"], &["redis", "reqwest", "redb", "axum", "prometheus_client"]),
    (
        "app",
        &[
            "broker",
            "clock",
            "config",
            "lifecycle",
            "ops",
            "proto",
            "service",
            "store",
            "telemetry",
            "upstream",
        ],
        &["reqwest", "redb", "redis", "axum"],
    ),
    (
        "cli",
        &["app", "broker", "client", "clock", "config", "demo", "proto", "store", "telemetry"],
        &["redis", "reqwest", "redb", "axum"],
    ),
];

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
                if code.contains(&format!("crate::{other}::"))
                    || code.contains(&format!("crate::{other};"))
                {
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
