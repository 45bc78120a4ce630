//! Secrets are types that cannot be printed.
//!
//! None of them has `Display`; `Debug` shows `[redacted]`; memory is wiped on drop; equality takes
//! the same time wherever the values differ. `expose` is the only way to the value, so a search
//! for it finds every place where a secret leaves its type.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};

/// Bytes of SHA-256 that make a fingerprint: enough to tell tokens apart, useless to guess one.
const FINGERPRINT_BYTES: usize = 12;

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(SecretString);

        impl $name {
            /// Wraps the value.
            pub fn new(value: impl Into<String>) -> Self {
                Self(SecretString::from(value.into()))
            }

            /// The value itself. Whoever calls this must not print it.
            pub fn expose(&self) -> &str {
                self.0.expose_secret()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "([redacted])"))
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                verify_slices_are_equal(self.expose().as_bytes(), other.expose().as_bytes()).is_ok()
            }
        }

        impl Eq for $name {}
    };
}

secret! {
    /// What a service presents to an outside API.
    AccessToken
}

secret! {
    /// What the broker presents to get the next access token; usually good for one use.
    RefreshToken
}

secret! {
    /// The password of our client registration at a provider.
    ClientSecret
}

secret! {
    /// What a provider gives for a person's consent; buys a token pair, once.
    AuthorizationCode
}

secret! {
    /// What binds a code to whoever asked for it (RFC 7636).
    CodeVerifier
}

secret! {
    /// What binds an answer to the enrolment that asked for it.
    EnrolmentState
}

/// Bytes of randomness in what nobody may guess; 43 characters, as RFC 7636 wants at least.
const RANDOM_BYTES: usize = 32;

/// # Panics
/// If the operating system has no randomness: nothing could be kept secret then.
fn random() -> String {
    let mut bytes = [0; RANDOM_BYTES];
    #[expect(clippy::expect_used, reason = "there is nothing to go on with")]
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has no randomness");
    URL_SAFE_NO_PAD.encode(bytes)
}

impl EnrolmentState {
    /// One that nobody can guess.
    pub fn random() -> Self {
        Self::new(random())
    }
}

impl CodeVerifier {
    /// One that nobody can guess.
    pub fn random() -> Self {
        Self::new(random())
    }

    /// What the provider is shown before (RFC 7636 section 4.2, S256).
    pub fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, self.expose().as_bytes()).as_ref())
    }
}

impl AccessToken {
    /// base64url of the first 12 bytes of SHA-256: safe to log, fit to compare.
    pub fn fingerprint(&self) -> String {
        let hash = digest(&SHA256, self.expose().as_bytes());
        URL_SAFE_NO_PAD.encode(&hash.as_ref()[..FINGERPRINT_BYTES])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_the_value() {
        let token = RefreshToken::new("canary");
        assert_eq!(format!("{token:?}"), "RefreshToken([redacted])");
        assert_eq!(format!("{:?}", Some(&token)), "Some(RefreshToken([redacted]))");
    }

    #[test]
    fn the_fingerprint_is_the_head_of_sha_256() {
        // printf abc | openssl dgst -sha256 -binary | head -c 12 | basenc --base64url
        assert_eq!(AccessToken::new("abc").fingerprint(), "ungWv48Bz-pBQUDe");
    }
}
