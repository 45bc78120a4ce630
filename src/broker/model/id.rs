//! Names: of grants and of providers.

use std::fmt;
use std::sync::Arc;

/// Longest name of a grant, in characters.
const ID_LEN_MAX: usize = 200;
/// Shortest name of a grant, in characters.
const ID_LEN_MIN: usize = 2;

/// Name of a grant, such as `kroger/alice`. Opaque: the part before the slash implies no provider.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantId(Arc<str>);

impl GrantId {
    /// Accepts 2 to 200 characters of `a-z 0-9 . _ / -` with a letter or digit at both ends.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let end = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let inner = |byte: u8| end(byte) || matches!(byte, b'.' | b'_' | b'/' | b'-');
        let bytes = text.as_bytes();
        let valid = (ID_LEN_MIN..=ID_LEN_MAX).contains(&bytes.len())
            && bytes.iter().all(|&byte| inner(byte))
            && bytes.first().is_some_and(|&byte| end(byte))
            && bytes.last().is_some_and(|&byte| end(byte));
        if valid {
            Ok(Self(text.into()))
        } else {
            Err("must be 2 to 200 characters of a-z, 0-9, '.', '_', '/' and '-', and begin and \
                 end with a letter or digit, such as \"kroger/alice\"")
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of a provider in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProviderId(Arc<str>);

impl ProviderId {
    /// Wraps the name.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_grants() {
        for good in ["a1", "kroger/alice", "a.b_c/d-e", &"a".repeat(200)] {
            assert!(GrantId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "/a", "a/", "Kroger/alice", "a b", "ä1", "a\n", &"a".repeat(201)] {
            assert!(GrantId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
