//! Whether what is written has the form that the schema describes, and how mistakes are told: each
//! with its place and what is expected there, never with the value, which may be a secret.
//!
//! It knows the keywords of JSON schema that `schemars` makes of the settings and no others; a test
//! holds that none is left out.

use serde_json::{Map, Value};

use crate::config::Problem;
use crate::config::file::{PREFIX_PATTERN, Span};

/// A pattern of the schema: how it reads there, what fits it, and what is said of what does not.
type Pattern = (&'static str, fn(&str) -> bool, &'static str);

/// The patterns of the schema.
const PATTERNS: [Pattern; 2] = [
    (Span::PATTERN, Span::is_one, "must be a time such as 500ms, 10s, 5m, 1h or 7d"),
    (PREFIX_PATTERN, is_prefix, "must be 1 to 64 letters, digits, dots, underscores or dashes"),
];
/// Names this alike are taken for the same one, mistyped.
const ALIKE_MIN: f64 = 0.75;
/// Bounds of whole numbers that the schema names by their format only.
const FORMATS: [(&str, u64); 2] = [("uint32", u32::MAX as u64), ("uint64", u64::MAX)];

/// Everything in `tree` that has not the form that `schema` describes.
pub(super) fn misfits(tree: &Value, schema: &Value) -> Vec<Problem> {
    let mut form = Form { schema, problems: Vec::new() };
    form.look("", tree, schema);
    form.problems
}

/// Follows references, and the alternative that is not null.
pub(super) fn resolve<'a>(schema: &'a Value, node: &'a Value) -> &'a Value {
    if let Some(target) = node.get("$ref").and_then(Value::as_str) {
        let at = schema.pointer(target.trim_start_matches('#'));
        return at.map_or(node, |at| resolve(schema, at));
    }
    let choices = node.get("anyOf").and_then(Value::as_array);
    let choice =
        choices.and_then(|all| all.iter().find(|one| one.get("type") != Some(&"null".into())));
    choice.map_or(node, |choice| resolve(schema, choice))
}

struct Form<'a> {
    schema: &'a Value,
    problems: Vec<Problem>,
}

impl Form<'_> {
    fn say(&mut self, path: &str, message: impl Into<String>) {
        let path = if path.is_empty() { "configuration" } else { path };
        self.problems.push(Problem::new(path, message));
    }

    fn look(&mut self, path: &str, value: &Value, written: &Value) {
        let node = resolve(self.schema, written);
        if value.is_null() && (may_be_null(written) || may_be_null(node)) {
            return;
        }
        if let Some(names) = names(node) {
            let fits = value.as_str().is_some_and(|text| names.contains(&text));
            return if !fits {
                self.say(path, format!("must be one of: {}", names.join(", ")));
            };
        }
        match (kind(node), value) {
            ("object", Value::Object(fields)) => self.fields(path, fields, node),
            ("array", Value::Array(items)) => {
                let Some(wanted) = node.get("items") else { return };
                for (index, item) in items.iter().enumerate() {
                    self.look(&below(path, &index.to_string()), item, wanted);
                }
            }
            ("string", Value::String(text)) => {
                if let Some((_, fits, message)) = pattern(node)
                    && !fits(text)
                {
                    self.say(path, message);
                }
            }
            ("integer", Value::Number(_)) => {
                let (least, most) = (bound(node, "minimum"), bound(node, "maximum"));
                let most = most.or_else(|| format_bound(node));
                let fits = |number| {
                    least.is_none_or(|least| number >= least)
                        && most.is_none_or(|most| number <= most)
                };
                if !whole(value).is_some_and(fits) {
                    self.say(path, between(least, most));
                }
            }
            ("boolean", Value::Bool(_)) | ("", _) => {}
            (kind, _) => {
                let expected =
                    pattern(node).map_or_else(|| described(kind), |(.., message)| message);
                self.say(path, expected);
            }
        }
    }

    fn fields(&mut self, path: &str, fields: &Map<String, Value>, node: &Value) {
        let known = node.get("properties").and_then(Value::as_object);
        for (name, value) in fields {
            let at = below(path, name);
            let wanted = known
                .and_then(|known| known.get(name))
                .or_else(|| node.get("additionalProperties").filter(|other| other.is_object()));
            match wanted {
                Some(wanted) => self.look(&at, value, wanted),
                None => self.say(&at, no_such_setting(name, known)),
            }
        }
        for name in node.get("required").and_then(Value::as_array).into_iter().flatten() {
            if let Some(name) = name.as_str().filter(|name| !fields.contains_key(*name)) {
                self.say(&below(path, name), "is missing");
            }
        }
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn no_such_setting(name: &str, known: Option<&Map<String, Value>>) -> String {
    let alike = |known: &&String| strsim::jaro_winkler(name, known) >= ALIKE_MIN;
    let nearest = known.into_iter().flat_map(Map::keys).filter(alike).max_by(|one, other| {
        strsim::jaro_winkler(name, one).total_cmp(&strsim::jaro_winkler(name, other))
    });
    nearest.map_or_else(
        || "there is no such setting".to_owned(),
        |nearest| format!("there is no such setting; did you mean `{nearest}`?"),
    )
}

fn may_be_null(node: &Value) -> bool {
    let null = Value::from("null");
    let of_type = match node.get("type") {
        Some(Value::Array(kinds)) => kinds.contains(&null),
        other => other == Some(&null),
    };
    let choices = node.get("anyOf").and_then(Value::as_array);
    of_type || choices.is_some_and(|all| all.iter().any(|one| one.get("type") == Some(&null)))
}

/// The type of a setting; of optional ones the one that is not null.
pub(super) fn kind(node: &Value) -> &str {
    let named = match node.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().find(|kind| *kind != "null"),
        other => other,
    };
    named.and_then(Value::as_str).unwrap_or_default()
}

/// The words that a setting may be.
fn names(node: &Value) -> Option<Vec<&str>> {
    let choices = node.get("oneOf").or_else(|| node.get("enum"))?.as_array()?;
    Some(choices.iter().filter_map(|one| one.get("const").unwrap_or(one).as_str()).collect())
}

fn pattern(node: &Value) -> Option<Pattern> {
    let written = node.get("pattern")?.as_str()?;
    PATTERNS.into_iter().find(|(pattern, ..)| *pattern == written)
}

fn is_prefix(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=64).contains(&text.len()) && text.chars().all(allowed)
}

fn whole(value: &Value) -> Option<i128> {
    value.as_u64().map(i128::from).or_else(|| value.as_i64().map(i128::from))
}

fn bound(node: &Value, name: &str) -> Option<i128> {
    node.get(name).and_then(whole)
}

fn format_bound(node: &Value) -> Option<i128> {
    let format = node.get("format")?.as_str()?;
    let known = FORMATS.iter().find(|(name, _)| *name == format);
    known.map(|(_, most)| i128::from(*most))
}

fn between(least: Option<i128>, most: Option<i128>) -> String {
    match (least, most) {
        (Some(least), Some(most)) => format!("must be a whole number from {least} to {most}"),
        (Some(least), None) => format!("must be a whole number, at least {least}"),
        (None, Some(most)) => format!("must be a whole number, at most {most}"),
        (None, None) => described("integer").to_owned(),
    }
}

fn described(kind: &str) -> &'static str {
    match kind {
        "object" => "must be a section: lines of `name: value` below it",
        "array" => "must be a list",
        "string" => "must be a text; put it in quotes",
        "integer" => "must be a whole number",
        "boolean" => "must be true or false",
        _ => "has the wrong form; `token-broker config-schema` describes it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema;

    /// What `look` heeds, and what only describes.
    const KEYWORDS: [&str; 19] = [
        "$defs",
        "$ref",
        "$schema",
        "additionalProperties",
        "anyOf",
        "const",
        "default",
        "description",
        "enum",
        "format",
        "items",
        "maximum",
        "minimum",
        "oneOf",
        "pattern",
        "properties",
        "required",
        "title",
        "type",
    ];

    fn walk(node: &Value, each: &mut impl FnMut(&str, &Value)) {
        for (keyword, value) in node.as_object().into_iter().flatten() {
            each(keyword, value);
            let below: Vec<&Value> = match (keyword.as_str(), value) {
                ("properties" | "$defs", Value::Object(below)) => below.values().collect(),
                ("anyOf" | "oneOf", Value::Array(below)) => below.iter().collect(),
                ("items" | "additionalProperties", below) => vec![below],
                _ => Vec::new(),
            };
            for node in below {
                walk(node, each);
            }
        }
    }

    #[test]
    fn no_keyword_of_the_schema_is_passed_over() {
        walk(&schema(), &mut |keyword, value| {
            assert!(KEYWORDS.contains(&keyword), "{keyword}");
            let text = value.as_str().unwrap_or_default();
            if keyword == "pattern" {
                assert!(PATTERNS.iter().any(|(pattern, ..)| *pattern == text), "{text}");
            }
            let bounded = ["uint8", "uint16", "uint", "uint32", "uint64"];
            assert!(keyword != "format" || bounded.contains(&text), "{text}");
        });
    }

    #[test]
    fn what_is_expected_is_told_in_words() {
        let tree = serde_json::json!({
            "listen": {"opps": 1, "tls": {"key_fil": "x"}, "reflection": "yes"},
            "provider": {},
            "store": {"prefix": "a b", "replicas_min": 17, "timeout": 5},
            "timing": {"attempts_max": 0, "due_batch": 1.5},
            "providers": {"p": {"rate": 4_294_967_296_u64, "error_map": [{"status": 99}], "client_id": 7}},
            "log": [],
        });
        let told: Vec<_> = misfits(&tree, &schema()).iter().map(ToString::to_string).collect();
        for line in [
            "listen.opps: there is no such setting; did you mean `ops`?",
            "listen.reflection: must be true or false",
            "listen.tls.key_fil: there is no such setting; did you mean `key_file`?",
            "log: must be a section: lines of `name: value` below it",
            "provider: there is no such setting; did you mean `providers`?",
            "providers.p.client_id: must be a text; put it in quotes",
            "providers.p.error_map.0.means: is missing",
            "providers.p.error_map.0.status: must be a whole number from 100 to 599",
            "providers.p.rate: must be a whole number from 1 to 100000",
            "store.prefix: must be 1 to 64 letters, digits, dots, underscores or dashes",
            "store.replicas_min: must be a whole number from 0 to 16",
            "store.timeout: must be a time such as 500ms, 10s, 5m, 1h or 7d",
            "timing.attempts_max: must be a whole number from 1 to 10",
            "timing.due_batch: must be a whole number from 1 to 10000",
        ] {
            assert!(told.iter().any(|said| said == line), "{line} is missing in {told:#?}");
        }
        assert_eq!(told.len(), 14, "{told:#?}");
    }

    #[test]
    fn what_may_be_left_out_may_be_null() {
        let tree =
            serde_json::json!({"listen": {"tls": null, "admin": null}, "keys": {"file": null}});
        assert!(misfits(&tree, &schema()).is_empty());
    }
}
