//! What a token says of itself, which nobody has proven: for whoever looks for the cause.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// Longest part that is shown, in characters.
const SHOWN_MAX: usize = 200;

/// Whom a token claims to be from, of and for; what may stand in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    issuer: String,
    subject: String,
    audience: String,
}

impl Claimed {
    /// Of a header `authorization` with three parts (RFC 7519); `None`: it says nothing.
    pub fn by(header: &str) -> Option<Self> {
        let payload = header.split('.').nth(1)?;
        let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
        let claims: Value = serde_json::from_slice(&payload).ok()?;
        let text = |name: &str| shown(claims[name].as_str().unwrap_or_default());
        let audience = audience(&claims["aud"]);
        Some(Self { issuer: text("iss"), subject: text("sub"), audience })
    }
}

impl fmt::Display for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { issuer, subject, audience } = self;
        write!(f, "iss={issuer} sub={subject} aud={audience}")
    }
}

/// One audience, or several.
pub(super) fn audience(claim: &Value) -> String {
    match claim {
        Value::String(one) => shown(one),
        Value::Array(all) => {
            let all: Vec<_> = all.iter().filter_map(Value::as_str).collect();
            shown(&all.join(","))
        }
        _ => String::new(),
    }
}

/// Visible ASCII, and not too much of it: whoever wrote it may be anybody.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_token_claims_is_cleaned_and_cut() {
        let says =
            |claims: &str| Claimed::by(&format!("Bearer a.{}.c", URL_SAFE_NO_PAD.encode(claims)));
        let claimed =
            says(r#"{"iss":"https://x\u001b[2J","sub":"a b","aud":["c","d\n"]}"#).unwrap();
        assert_eq!(claimed.to_string(), "iss=https://x?[2J sub=a?b aud=c,d?");
        let long = says(&format!(r#"{{"iss":"{}","aud":7}}"#, "x".repeat(10_000))).unwrap();
        assert_eq!(
            (long.issuer.len(), long.subject.as_str(), long.audience.as_str()),
            (SHOWN_MAX, "", "")
        );
        for nothing in ["Bearer x", "Bearer a.!.c", "Bearer a.e30"] {
            assert_eq!(Claimed::by(nothing).is_some(), nothing.ends_with("e30"), "{nothing}");
        }
    }
}
