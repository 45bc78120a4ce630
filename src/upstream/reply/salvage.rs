//! Tokens in text that cannot be read: broken off, malformed, wrapped into something else. Pure.
//!
//! Every place that looks like a member of the token's name is looked at, however it is quoted or
//! escaped. What has no end is no token.

use std::iter::{Peekable, successors};
use std::str::Chars;

use serde_json::{Map, Value};

use crate::secret::RefreshToken;

/// JSON in a string in JSON, and once more.
const LEVELS: usize = 4;
/// Longest that a name may be, written with escapes.
const NAME_MAX: usize = 96;

/// The refresh token that a reply brought, if there is one other than `sent`.
pub(super) fn refresh_token(text: &str, sent: Option<&RefreshToken>) -> Option<RefreshToken> {
    levels(text).find_map(|level| {
        let found = named(&level, "refreshtoken").into_iter();
        // Words for people are no token.
        let words = |token: &String| token.contains(' ');
        let found = found.filter(|token| !words(token));
        found.map(|token| RefreshToken::new(&token)).rfind(|token| Some(token) != sent)
    })
}

/// What belongs to an access token, by the names of the standard; empty where there is none.
pub(super) fn beside(text: &str) -> Map<String, Value> {
    let on_this = |level: String| {
        let last = |name: &str| named(&level, &letters(name)).pop().map(Value::String);
        let token = last("access_token")?;
        let words = ["token_type", "scope"].map(|name| (name, last(name)));
        let numbers = ["expires_in", "refresh_in"]
            .map(|name| (name, number(&level, &letters(name)).or_else(|| last(name))));
        let all = [("access_token", Some(token))].into_iter().chain(words).chain(numbers);
        Some(all.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    };
    levels(text).find_map(on_this).unwrap_or_default()
}

fn letters(name: &str) -> String {
    name.replace('_', "")
}

/// Whether there is a pair in it, other than the one that was sent.
pub(super) fn pair(text: &str, sent: Option<&RefreshToken>) -> bool {
    let access_token = |level: String| !named(&level, "accesstoken").is_empty();
    refresh_token(text, sent).is_some() && levels(text).any(access_token)
}

/// The text, and what it is with one level of escapes after the other taken away.
fn levels(text: &str) -> impl Iterator<Item = String> {
    let deeper = |level: &String| Some(unescaped(level)).filter(|inner| inner != level);
    successors(Some(text.to_owned()), deeper).take(LEVELS)
}

/// All values of a name in JSON, in text that resembles it, in a form or in XML, in their order.
fn named(level: &str, name: &str) -> Vec<String> {
    let mut found = members(level, name);
    found.extend(elements(level, name));
    if found.is_empty() {
        // An address within the reply has parameters, too.
        found = parameters(level, name);
    }
    found
}

/// `"name": "value"`, with either kind of quotes.
fn members(text: &str, name: &str) -> Vec<String> {
    let value =
        |mut rest: Rest<'_>| string(&mut rest, usize::MAX).filter(|value| !value.is_empty());
    after(text, name).filter_map(value).collect()
}

/// `"name": 12`, with its end.
fn number(text: &str, name: &str) -> Option<Value> {
    let value = |mut rest: Rest<'_>| {
        let digits: String =
            successors(rest.next_if(char::is_ascii_digit), |_| rest.next_if(char::is_ascii_digit))
                .collect();
        let number: u64 = digits.parse().ok()?;
        rest.next().map(|_end| number.into())
    };
    after(text, name).filter_map(value).last()
}

type Rest<'a> = Peekable<Chars<'a>>;

/// What follows each `"name":`.
fn after<'a>(text: &'a str, name: &str) -> impl Iterator<Item = Rest<'a>> {
    let quotes = text.match_indices(['"', '\'']);
    quotes.filter_map(move |(at, _)| {
        let mut rest = text[at..].chars().peekable();
        if !begins_with(&mut rest, name)? {
            return None;
        }
        spaces(&mut rest);
        rest.next_if(|c| matches!(c, ':' | '='))?;
        rest.next_if_eq(&'>');
        spaces(&mut rest);
        Some(rest)
    })
}

/// `<name>value</name>`
fn elements(text: &str, name: &str) -> Vec<String> {
    let value = |(at, _): (usize, &str)| {
        let tag = &text[at + 1..];
        let end = tag.bytes().take(NAME_MAX).position(|byte| byte == b'>')?;
        if !same(tag[..end].rsplit(':').next()?, name) {
            return None;
        }
        let (value, _) = tag[end + 1..].split_once('<')?;
        Some(value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    text.match_indices('<').filter_map(value).collect()
}

/// `name=value&`
fn parameters(text: &str, name: &str) -> Vec<String> {
    let Some((whole, _)) = text.rsplit_once('&') else { return Vec::new() };
    let pairs = form_urlencoded::parse(whole.trim_start().as_bytes());
    let named = pairs.filter(|(found, value)| same(found, name) && !value.is_empty());
    named.map(|(_, value)| value.into_owned()).collect()
}

/// `refresh_token`, `refreshToken`, `refresh-token` are one name.
pub(super) fn same(found: &str, name: &str) -> bool {
    let letters = found.chars().filter(|c| !matches!(c, '_' | '-'));
    letters.map(|c| c.to_ascii_lowercase()).eq(name.chars())
}

/// A string that is this name; looked at no longer than it may be. `None`: it has no end.
fn begins_with(rest: &mut Rest<'_>, name: &str) -> Option<bool> {
    let quote = rest.next_if(|c| matches!(c, '"' | '\''))?;
    let mut letters = name.chars();
    for _ in 0..NAME_MAX {
        let (c, escaped) = match rest.next()? {
            '\\' => (escape(rest)?, true),
            c => (c, false),
        };
        if c == quote && !escaped {
            return Some(letters.next().is_none());
        }
        if !matches!(c, '_' | '-') && letters.next() != Some(c.to_ascii_lowercase()) {
            return Some(false);
        }
    }
    Some(false)
}

fn spaces(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|c| c.is_whitespace()).is_some() {}
}

/// A string from its first quote to the same one, with the escapes of JSON. Control characters may
/// stand in it. `most` characters at most.
fn string(rest: &mut Peekable<Chars<'_>>, most: usize) -> Option<String> {
    let quote = rest.next_if(|c| matches!(c, '"' | '\''))?;
    let mut value = String::new();
    for _ in 0..most {
        match rest.next()? {
            '\\' => value.push(escape(rest)?),
            c if c == quote => return Some(value),
            c => value.push(c),
        }
    }
    None
}

/// What follows a backslash. Halves of a pair of surrogates do not occur in tokens.
fn escape(rest: &mut Peekable<Chars<'_>>) -> Option<char> {
    Some(match rest.next()? {
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'u' => {
            let digits: String = rest.by_ref().take(4).collect();
            char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?
        }
        other => other,
    })
}

/// The text with one level of escapes taken away.
fn unescaped(text: &str) -> String {
    let mut rest = text.chars().peekable();
    let mut plain = String::with_capacity(text.len());
    while let Some(c) = rest.next() {
        let c = if c == '\\' { escape(&mut rest) } else { Some(c) };
        plain.extend(c);
    }
    plain
}
