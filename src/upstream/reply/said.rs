//! What a provider says of a failure, for operators: bounded, and without anything that could be a
//! secret. Pure.

use serde_json::{Map, Value};

/// Members that say what is wrong, in the words of many providers.
const MEMBERS: [&str; 14] = [
    "error",
    "error_code",
    "code",
    "status",
    "type",
    "reason",
    "title",
    "message",
    "error_message",
    "error_description",
    "description",
    "detail",
    "details",
    "hint",
];
/// Most characters of one member, ...
const MEMBER_MAX: usize = 160;
/// ... and of all.
const ALL_MAX: usize = 400;
/// A word as long as this, with letters and digits, may be a secret; shorter ones are no use to anybody.
const SECRET_MIN: usize = 16;
/// What takes its place.
const LEFT_OUT: &str = "[…]";

/// `name: value` of each member that says what is wrong, also within `error`; `None`: there is none.
pub(super) fn said(fields: Option<&Map<String, Value>>, sent: &[&str]) -> Option<String> {
    let fields = fields?;
    let nested = ["error", "errors"].into_iter().filter_map(|name| match fields.get(name)? {
        Value::Object(inner) => Some(inner),
        Value::Array(list) => list.first()?.as_object(),
        _ => None,
    });
    let parts: Vec<String> = std::iter::once(fields)
        .chain(nested)
        .flat_map(|fields| MEMBERS.iter().filter_map(|name| member(name, fields.get(*name)?)))
        .map(|part| cleaned(&part, sent))
        .collect();
    let all = cut(&parts.join(", "), ALL_MAX);
    (!all.is_empty()).then_some(all)
}

fn member(name: &str, value: &Value) -> Option<String> {
    let value = match value {
        Value::String(text) if !text.trim().is_empty() => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        _ => return None,
    };
    Some(format!("{name}: {}", cut(&value, MEMBER_MAX)))
}

/// The text without control characters, without what we sent, and without words that may be secrets.
pub(crate) fn cleaned(text: &str, sent: &[&str]) -> String {
    let visible: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    let known = sent.iter().filter(|known| !known.is_empty());
    let without = known.fold(visible, |text, known| text.replace(known, LEFT_OUT));
    let mut cleaned = String::new();
    for piece in without.split_inclusive(|c: char| !in_secrets(c)) {
        let word = piece.trim_end_matches(|c: char| !in_secrets(c));
        if may_be_secret(word) {
            cleaned.push_str(LEFT_OUT);
            cleaned.push_str(&piece[word.len()..]);
        } else {
            cleaned.push_str(piece);
        }
    }
    cleaned.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Tokens, codes and passwords are made of these.
fn in_secrets(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~' | '+' | '/' | '=' | '$' | '!')
}

/// A word for people has no digits among its letters, or is short.
fn may_be_secret(word: &str) -> bool {
    let letters = word.chars().filter(char::is_ascii_alphabetic).count();
    let digits = word.chars().filter(char::is_ascii_digit).count();
    let mixed = word.chars().any(|c| c.is_ascii_uppercase())
        && word.chars().any(|c| c.is_ascii_lowercase())
        && !word.contains(['.', '/', '-', '_'])
        && word.len() >= 2 * SECRET_MIN;
    word.len() >= SECRET_MIN && ((letters > 0 && digits > 0) || digits >= SECRET_MIN || mixed)
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(body: &str) -> Option<String> {
        let fields: Value = serde_json::from_str(body).unwrap();
        said(fields.as_object(), &["the-sent-token"])
    }

    #[test]
    fn what_is_wrong_is_told_in_the_providers_words() {
        for (body, words) in [
            (
                r#"{"error":"unauthorized_client","error_description":"refresh_token is invalid"}"#,
                "error: unauthorized_client, error_description: refresh_token is invalid",
            ),
            (
                r#"{"code":1042,"message":"user\u0007 has\nleft"}"#,
                "code: 1042, message: user has left",
            ),
            (
                r#"{"error":{"code":"E7","message":"closed"},"status":403}"#,
                "status: 403, code: E7, message: closed",
            ),
            (
                r#"{"errors":[{"title":"Gone","detail":"tenant closed"}]}"#,
                "title: Gone, detail: tenant closed",
            ),
            (r#"{"status":"pending"}"#, "status: pending"),
        ] {
            assert_eq!(told(body).as_deref(), Some(words), "{body}");
        }
        assert_eq!(told(r#"{"access_token":"canary","error":"","message":[]}"#), None);
    }

    #[test]
    fn nothing_that_could_be_a_secret_is_told() {
        for secret in [
            "the-sent-token",
            "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
            "1//0gdGhpc2lzYXRva2Vu-x_y",
            "AKIAIOSFODNN7EXAMPLE",
            "4f8c2e1ab09d4f8c2e1a",
            "1234567890123456",
            "abcDEFghiJKLmnoPQRstuVWXyzABCdefGHI",
        ] {
            let body = serde_json::json!({"message": format!("bad token '{secret}' given")});
            let told = told(&body.to_string()).unwrap();
            assert_eq!(told, "message: bad token '[…]' given", "{secret}");
        }
        let long =
            serde_json::json!({"message": "word ".repeat(900), "detail": "more ".repeat(900)});
        assert!(told(&long.to_string()).unwrap().chars().count() <= ALL_MAX + 1);
        assert_eq!(
            cleaned("refresh_token_expired_or_revoked", &[]),
            "refresh_token_expired_or_revoked"
        );
    }
}
