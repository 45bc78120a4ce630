//! Members of a reply: those that belong together, however they are wrapped. Pure.
//!
//! A reply is an object of JSON, or a form. Where its tokens stand elsewhere, the access token is taken
//! from beside the refresh token; and from text that resembles a reply, if it is none.

use serde_json::{Map, Value};

use crate::secret::RefreshToken;
use crate::upstream::reply::raw::Text;
use crate::upstream::reply::salvage;
use crate::upstream::reply::value::text;

/// What belongs to an access token, by its own name and by those that are read in its place.
const BESIDE: [(&str, &[&str]); 5] = [
    ("access_token", &["accesstoken", "token"]),
    ("token_type", &["tokentype"]),
    ("expires_in", &["expiresin", "expiresat", "expiresatutc", "expirationtime"]),
    ("refresh_in", &["refreshin"]),
    ("scope", &["scope", "scopes"]),
];
/// Objects within objects that are looked into.
const DEPTH_MAX: usize = 16;

/// The members of a JSON object, or of a form (some providers answer with one). Of a form that
/// broke off, those that are whole.
pub(super) fn members(body: &Text<'_>) -> Option<Map<String, Value>> {
    let text = body.text.trim_start_matches('\u{feff}').trim();
    if text.starts_with('{') {
        // Some servers write more behind it.
        let mut objects = serde_json::Deserializer::from_str(text).into_iter();
        return objects.next()?.ok();
    }
    let form = text.contains('=') && !text.contains(['<', '\n', '{']);
    let whole =
        if body.whole { text } else { text.rsplit_once('&').map_or("", |(whole, _)| whole) };
    form.then(|| {
        form_urlencoded::parse(whole.as_bytes())
            .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
            .collect()
    })
}

/// The same, with what stands beside the refresh token that was found, or with an access token that stands
/// elsewhere. `None`: there is no access token, nor anything else that could be read.
pub(super) fn completed(
    body: &Text<'_>,
    top: Option<Map<String, Value>>,
    refresh_token: Option<&RefreshToken>,
) -> Option<Map<String, Value>> {
    let at_the_top = top.as_ref().is_some_and(|top| text(top, "access_token").is_some());
    let tree = tree(&body.text);
    let mut objects = Vec::new();
    if let Some(tree) = &tree {
        collect(tree, DEPTH_MAX, &mut objects);
    }
    let beside = objects.iter().copied().find(|object| {
        let refresh_token = refresh_token.map(RefreshToken::expose);
        refresh_token.is_some() && text_of(object, "refreshtoken").map(str::trim) == refresh_token
    });
    let beside = beside.map(|object| plainly(object, true)).filter(has_access_token);
    let elsewhere = || objects.iter().map(|object| plainly(object, false)).find(has_access_token);
    let resembling = || Some(salvage::beside(&body.text)).filter(has_access_token);
    let found = match (beside, at_the_top) {
        (Some(beside), _) => Some(beside),
        (None, true) => None,
        (None, false) => elsewhere().or_else(resembling),
    };
    match (top, found) {
        (Some(top), Some(found)) => Some(top.into_iter().chain(found).collect()),
        (top, found) => top.or(found),
    }
}

/// The refresh token of the reply's objects other than `sent`: one that stands beside an access token, or else
/// the last.
pub(super) fn refresh_token(text: &str, sent: Option<&RefreshToken>) -> Option<RefreshToken> {
    let tree = tree(text)?;
    let mut objects = Vec::new();
    collect(&tree, DEPTH_MAX, &mut objects);
    let token = |object: &Map<String, Value>| {
        let token = text_of(object, "refreshtoken").map(str::trim)?;
        let token = Some(token).filter(|token| !token.is_empty() && !token.contains(' '));
        token.map(RefreshToken::new).filter(|token| Some(token) != sent)
    };
    let with_access = |object: &&&Map<String, Value>| text_of(object, "accesstoken").is_some();
    let beside = objects.iter().filter(with_access).rev().find_map(|object| token(object));
    beside.or_else(|| objects.iter().rev().find_map(|object| token(object)))
}

/// What begins like JSON in it comes to its end.
pub(super) fn is_complete(text: &str) -> bool {
    let Some(at) = text.find(['{', '[']) else { return false };
    let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
    values.next().is_some_and(|value| value.is_ok())
}

/// JSON, wherever it begins: some servers write a warning before it.
fn tree(text: &str) -> Option<Value> {
    let begins = text.match_indices(['{', '[']).map(|(at, _)| at).take(DEPTH_MAX);
    let mut parsed = begins.filter_map(|at| {
        serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>().next()?.ok()
    });
    parsed.next()
}

/// All objects, the outer before the inner.
fn collect<'a>(value: &'a Value, depth: usize, objects: &mut Vec<&'a Map<String, Value>>) {
    if depth == 0 {
        return;
    }
    match value {
        Value::Object(object) => {
            objects.push(object);
            object.values().for_each(|inner| collect(inner, depth - 1, objects));
        }
        Value::Array(list) => list.iter().for_each(|inner| collect(inner, depth - 1, objects)),
        _ => {}
    }
}

/// What of an object belongs to a token, by the names of the standard. `beside`: it holds the refresh token,
/// so that a `token` in it is the other one.
fn plainly(object: &Map<String, Value>, beside: bool) -> Map<String, Value> {
    let known = BESIDE.iter().filter_map(|(name, others)| {
        let others = if beside || *name != "access_token" { others } else { &others[..1] };
        let of = |wanted: &str| object.iter().find(|(name, _)| salvage::same(name, wanted));
        let (_, value) = others.iter().find_map(|wanted| of(wanted))?;
        Some(((*name).to_owned(), value.clone()))
    });
    known.collect()
}

fn has_access_token(members: &Map<String, Value>) -> bool {
    text(members, "access_token").is_some()
}

fn text_of<'a>(object: &'a Map<String, Value>, wanted: &str) -> Option<&'a str> {
    object.iter().find(|(name, _)| salvage::same(name, wanted))?.1.as_str()
}
