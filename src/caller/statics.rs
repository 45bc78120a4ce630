//! Static tokens: for development, and for callers outside of any cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use thiserror::Error;

use crate::caller::is_name;
use crate::textfile;

/// Longest file.
const FILE_LEN_MAX: u64 = 1024 * 1024;
/// Shorter ones can be guessed.
const TOKEN_LEN_MIN: usize = 20;

/// Why the file cannot be used. Never says what stands in it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct StaticTokensError(String);

/// Digests of tokens, by the names of their callers.
#[derive(Clone)]
pub struct StaticTokens(BTreeMap<String, Vec<u8>>);

impl fmt::Debug for StaticTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl StaticTokens {
    /// Reads a file with `NAME TOKEN` on each line; empty lines and those that begin with # are left out.
    pub fn load(path: &Path) -> Result<Self, StaticTokensError> {
        let shown = path.display();
        let text = textfile::read(path, FILE_LEN_MAX)
            .map_err(|error| StaticTokensError(format!("{shown} cannot be read: {error}")))?;
        Self::parse(&text).map_err(|why| StaticTokensError(format!("{shown} {why}")))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = BTreeMap::new();
        let lines = text.lines().map(str::trim).enumerate();
        for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let wrong = |what: &str| Err(format!("line {}: {what}", index + 1));
            let Some((name, token)) = line.split_once(char::is_whitespace) else {
                return wrong("must be `NAME TOKEN`");
            };
            if !is_name(name) {
                return wrong("a name has letters, digits, dots, underscores and hyphens only");
            }
            let token = token.trim();
            if token.len() < TOKEN_LEN_MIN || token.contains(char::is_whitespace) {
                return wrong(
                    "a token has 20 characters or more and no spaces; `openssl rand -hex 20` makes one",
                );
            }
            if tokens.values().any(|known| *known == of(token)) {
                return wrong("another line has the same token");
            }
            if tokens.insert(name.to_owned(), of(token)).is_some() {
                return wrong("another line has the same name");
            }
        }
        if tokens.is_empty() { Err("names no token".to_owned()) } else { Ok(Self(tokens)) }
    }

    /// Whose token it is. All are compared, each in the same time.
    pub(super) fn name_of(&self, token: &str) -> Option<&str> {
        let wanted = of(token);
        let mut found = None;
        for (name, known) in &self.0 {
            if verify_slices_are_equal(known, &wanted).is_ok() {
                found = Some(name.as_str());
            }
        }
        found
    }
}

fn of(token: &str) -> Vec<u8> {
    digest(&SHA256, token.as_bytes()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_their_tokens() {
        let text =
            "# for the laptop\nalice  0123456789abcdef0123\n\nbob abcdefabcdefabcdefabcdef\n";
        let tokens = StaticTokens::parse(text).ok().unwrap();
        assert_eq!(tokens.name_of("abcdefabcdefabcdefabcdef"), Some("bob"));
        assert_eq!(tokens.name_of("abcdefabcdefabcdefabcdeg"), None);
        for wrong in [
            "",
            "alice",
            "alice short",
            "al/ice 0123456789abcdef0123",
            "a 0123456789abcdef0123\na 1123456789abcdef0123",
            "a 0123456789 abcdef0123",
        ] {
            let why = StaticTokens::parse(wrong).err().unwrap();
            assert!(!why.contains("0123456789"), "{why}");
        }
    }
}
