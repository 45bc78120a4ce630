//! The members of a reply: leniently read, and nothing that could harm whoever gets them. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

/// Numbers from here on can only be a moment, in seconds since 1970, and from there on in milliseconds:
/// nothing lives for thirty years.
const MOMENT_S: f64 = 1e9;
const MOMENT_MS: f64 = 1e12;

/// Without the line feeds and spaces that some programs leave around it.
pub(super) fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name)?.as_str().map(str::trim).filter(|text| !text.is_empty())
}

/// A lifetime in seconds, as number, float or text; zero for what is over. A moment since 1970 stands
/// for what is left until then.
pub(super) fn lifetime(value: &Value, now: SystemTime, max: Duration) -> Option<Duration> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => match text.trim().parse() {
            Ok(number) => number,
            Err(_) => date(text.trim())?,
        },
        _ => return None,
    };
    if !number.is_finite() {
        return None;
    }
    let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let seconds = match number {
        ms if ms >= MOMENT_MS => ms / 1_000.0 - since_1970,
        s if s >= MOMENT_S => s - since_1970,
        seconds => seconds,
    };
    Some(Duration::from_secs_f64(seconds.clamp(0.0, max.as_secs_f64())))
}

/// A moment as text (RFC 3339), in seconds since 1970.
fn date(text: &str) -> Option<f64> {
    let moment = humantime::parse_rfc3339_weak(text).ok()?;
    Some(moment.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
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

/// Those members that the provider's settings name, with dots between the steps to them; of visible ASCII
/// and spaces.
pub(super) fn attributes(
    names: &[String],
    fields: &Map<String, Value>,
) -> BTreeMap<String, String> {
    let value = |name: &String| {
        // A member of that very name, or one behind the steps.
        let found = fields.get(name).or_else(|| {
            let (first, rest) = name.split_once('.')?;
            rest.split('.').try_fold(fields.get(first)?, |at, step| at.get(step))
        });
        let value = match found? {
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
