//! How the layers meet: the file, the environment over it, the schema as the judge of both.

use std::path::Path;

use serde_json::{Map, Value};

use crate::config::file::File;
use crate::config::{Config, Environment, Problem, Written, check, form, places};
use crate::textfile;
use crate::upstream::Provider;

/// Longest configuration.
const FILE_LEN_MAX: u64 = 4 * 1024 * 1024;
/// What variables of ours begin with.
const PREFIX: &str = "TOKEN_BROKER__";
/// Between the parts of a variable's name.
const SEPARATOR: &str = "__";
/// The tutorial's variables, and what they set in the provider `default`.
const TUTORIAL: [(&str, &str); 4] = [
    ("OAUTH2_BASE_URL", "base_url"),
    ("CLIENT_ID", "client_id"),
    ("CLIENT_SECRET", "client_secret"),
    ("REDIRECT_URL", "redirect_url"),
];

/// The JSON schema of the file.
pub fn schema() -> Value {
    schemars::schema_for!(File).to_value()
}

/// Loads the configuration, or says everything that is wrong with it.
pub fn load(path: Option<&Path>, environment: &Environment) -> Result<Config, Vec<Problem>> {
    let mut tree = match path {
        Some(path) => read(path).map_err(|problem| vec![problem])?,
        None => Value::Object(Map::new()),
    };
    let schema = schema();
    let mut problems = secrets_in_file(&tree);
    tutorial(&mut tree, environment);
    // A bare name asks for what it has by default.
    if let Some(section @ Value::Null) = tree.pointer_mut("/callers/kubernetes") {
        *section = Value::Object(Map::new());
    }
    // A section without anything in it is none.
    if let Some(sections) = tree.as_object_mut() {
        sections.retain(|_, section| !section.is_null());
    }
    if tree.pointer("/listen/tls").is_some_and(Value::is_null) {
        let why = "is there and empty; leave it out, or name `certificate_file` and `key_file`";
        problems.push(Problem::new("listen.tls", why));
    }
    problems.extend(overlay(&mut tree, environment, &schema));
    let written = Written::new(&tree, environment);
    let misfits = form::misfits(&tree, &schema);
    for misfit in &misfits {
        remove(&mut tree, &misfit.path);
    }
    problems.extend(misfits);
    let Ok(file) = serde_json::from_value::<File>(tree) else {
        if problems.is_empty() {
            let why = "cannot be read, though it fits the schema";
            problems.push(Problem::new("configuration", why));
        }
        return Err(sorted(problems));
    };
    // What was told of a setting may be the cause of what else is said of it.
    let told: Vec<_> = problems.iter().map(|problem| problem.path.clone()).collect();
    let checked = check::check(file, environment).map_err(|more| {
        more.into_iter().filter(|problem| !told.contains(&problem.path)).collect::<Vec<_>>()
    });
    let config = match checked {
        Ok(config) if problems.is_empty() => config,
        Ok(_) => return Err(sorted(problems)),
        Err(more) => return Err(sorted(problems.into_iter().chain(more).collect())),
    };
    Ok(Config { file: path.map(Path::to_owned), written, ..config })
}

/// Loads the same again, and says which settings have changed that hold from the next start on. What
/// failures of providers mean holds at once.
pub fn load_again(before: &Config) -> Result<Vec<String>, Vec<Problem>> {
    let newer = load(before.file.as_deref(), &before.written.environment)?;
    let mut changes = before.written.changes(&newer.written);
    for provider in &before.providers {
        let same = |other: &&Provider| other.id == provider.id;
        if let Some(newer) = newer.providers.iter().find(same) {
            provider.error_map.renew(&newer.error_map);
            let setting = format!("providers.{}.error_map", provider.id);
            changes.retain(|change| *change != setting);
        }
    }
    Ok(changes)
}

/// The level of the log as it is written now, whatever else stands there; `None`: it is none.
pub fn log_level(before: &Config) -> Option<String> {
    let mut tree = read(before.file.as_deref()?).ok()?;
    overlay(&mut tree, &before.written.environment, &schema());
    let level = match tree.pointer("/log/level") {
        None => File::default().log.level,
        Some(level) => level.as_str()?.to_owned(),
    };
    check::audible(&level).then_some(level)
}

fn sorted(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort();
    problems.dedup();
    problems
}

fn read(path: &Path) -> Result<Value, Problem> {
    let shown = path.display().to_string();
    let text = textfile::read(path, FILE_LEN_MAX)
        .map_err(|error| Problem::new(&shown, format!("cannot be read: {error}")))?;
    // Only the place is told: the text around it may hold a secret.
    let value: Option<Value> = serde_saphyr::from_str(text.as_str()).map_err(|error| {
        let place = error
            .location()
            .map_or(String::new(), |at| format!(" at line {}, column {}", at.line(), at.column()));
        Problem::new(&shown, format!("is not valid YAML{place}{}", hint(&text, &error.to_string())))
    })?;
    let mut tree = value.unwrap_or_else(|| Value::Object(Map::new()));
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        places::follow(&mut tree, folder);
    }
    Ok(tree)
}

/// What is usually wrong; never a word of the file.
fn hint(text: &str, error: &str) -> &'static str {
    let tabbed = |line: &str| line.trim_start_matches(' ').starts_with('\t');
    if text.lines().any(tabbed) {
        ": a line begins with a tab, and YAML wants spaces"
    } else if error.to_lowercase().contains("duplicate") {
        ": a name stands twice in one section"
    } else {
        ""
    }
}

/// Secrets do not belong into a file that ends up in a `ConfigMap`.
fn secrets_in_file(tree: &Value) -> Vec<Problem> {
    let providers = tree.get("providers").and_then(Value::as_object);
    let secret = |(name, provider): (&String, &Value)| {
        provider.get("client_secret").map(|_| {
            Problem::new(
                format!("providers.{name}.client_secret"),
                "does not belong into the file; write it to a file of its own and name that in \
                 `client_secret_file`",
            )
        })
    };
    providers.into_iter().flatten().filter_map(secret).collect()
}

/// The tutorial's own variables start a provider named `default`, with Kroger's habits.
fn tutorial(tree: &mut Value, environment: &Environment) {
    if !environment.contains_key(TUTORIAL[0].0) {
        return;
    }
    for (variable, key) in TUTORIAL {
        if let Some(value) = environment.get(variable).filter(|value| !value.is_empty()) {
            set(tree, &["providers", "default", key], Value::String(value.clone()));
        }
    }
    let default = tree.pointer_mut("/providers/default").and_then(Value::as_object_mut);
    if let Some(default) = default {
        default.entry("profile").or_insert_with(|| "kroger".into());
    }
}

/// Lays `TOKEN_BROKER__SECTION__KEY` over the file. The schema says which type a text stands for.
fn overlay(tree: &mut Value, environment: &Environment, schema: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (variable, text) in environment {
        let Some(name) = variable.strip_prefix(PREFIX) else { continue };
        let name = name.to_lowercase();
        let path: Vec<&str> = name.split(SEPARATOR).collect();
        let Some(kind) = type_of(schema, schema, &path) else {
            problems.push(Problem::new(variable, "there is no such setting"));
            continue;
        };
        let value = match kind {
            "string" => Value::String(text.clone()),
            _ => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone())),
        };
        set(tree, &path, value);
    }
    problems
}

/// The type of the setting at `path`.
fn type_of<'a>(root: &'a Value, node: &'a Value, path: &[&str]) -> Option<&'a str> {
    let node = form::resolve(root, node);
    let Some((first, rest)) = path.split_first() else {
        let kind = form::kind(node);
        return Some(if kind.is_empty() { "string" } else { kind });
    };
    let child = node
        .get("properties")
        .and_then(|properties| properties.get(*first))
        .or_else(|| node.get("additionalProperties").filter(|child| child.is_object()))?;
    type_of(root, child, rest)
}

fn set(tree: &mut Value, path: &[&str], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        *tree = value;
        return;
    };
    if !tree.is_object() {
        *tree = Value::Object(Map::new());
    }
    if let Some(object) = tree.as_object_mut() {
        set(object.entry(*first).or_insert(Value::Null), rest, value);
    }
}

/// Takes out what is wrong in form, so that the rest can be looked at too.
fn remove(tree: &mut Value, path: &str) {
    let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
    let pointer: String = parents
        .split('.')
        .filter(|part| !part.is_empty())
        .fold(String::new(), |pointer, part| pointer + "/" + part);
    match tree.pointer_mut(&pointer) {
        Some(Value::Object(object)) => drop(object.remove(last)),
        Some(several @ Value::Array(_)) => *several = Value::Array(Vec::new()),
        _ => {}
    }
}
