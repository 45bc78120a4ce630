//! The members of a reply: leniently read, and nothing that could harm whoever gets them. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

/// Longest lifetime that is believed: ten years.
const LIFETIME_MAX_S: f64 = 10.0 * 365.0 * 86_400.0;
/// Shortest lifetime that is believed.
const LIFETIME_MIN_S: f64 = 1.0;

pub(super) fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name)?.as_str().filter(|text| !text.is_empty())
}

/// Seconds as number, float or text; nothing for what is not above zero.
pub(super) fn seconds(value: &Value) -> Option<Duration> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    (number > 0.0 && number.is_finite())
        .then(|| Duration::from_secs_f64(number.clamp(LIFETIME_MIN_S, LIFETIME_MAX_S)))
}

/// Scopes in one text or in a list. What is no scope by RFC 6749 section 3.3 is left out: callers
/// may put it into headers.
pub(super) fn scopes(value: Option<&Value>) -> Vec<String> {
    let words: Vec<&str> = match value {
        Some(Value::String(text)) => text.split_whitespace().collect(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let scope = |word: &&str| visible(word) && !word.contains(['"', '\\']);
    words.into_iter().filter(scope).map(str::to_owned).collect()
}

/// Those members that the provider's settings name, of visible ASCII and spaces.
pub(super) fn attributes(
    names: &[String],
    fields: &Map<String, Value>,
) -> BTreeMap<String, String> {
    let value = |name: &String| {
        let value = match fields.get(name)? {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            _ => return None,
        };
        let harmless = value.split(' ').all(|word| word.is_empty() || visible(word));
        harmless.then(|| (name.clone(), value))
    };
    names.iter().filter_map(value).collect()
}

/// A word of visible ASCII: nothing that ends a header, or turns text around.
pub(super) fn visible(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic())
}
