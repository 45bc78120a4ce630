//! What browsers send: names and values, each once.

use std::borrow::Cow;

/// The value of `name`; none if it is missing, empty, or there twice (RFC 6749 section 3.1).
pub(super) fn one<'a>(encoded: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let mut values = form_urlencoded::parse(encoded.as_bytes())
        .filter(|(found, _)| found == name)
        .map(|(_, value)| value);
    match (values.next(), values.next()) {
        (Some(value), None) if !value.is_empty() => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_twice_is_not_there() {
        assert_eq!(one("a=1&b=%262", "b").as_deref(), Some("&2"));
        for query in ["", "a=1", "b=", "b=1&b=1"] {
            assert_eq!(one(query, "b"), None, "{query}");
        }
    }
}
