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

secret! {
    /// A word that is used once (OpenID Connect Core section 3.1.2.1, RFC 7519 section 4.1.7).
    Nonce
}

secret! {
    /// What a provider signs of a person.
    IdToken
}

secret! {
    /// Whose consent a grant stands on, as the provider calls that person.
    Account
}

secret! {
    /// Names an enrolment for whoever began it. Nothing can be connected with it alone.
    EnrolmentId
}

secret! {
    /// What a command line shows and a page asks for.
    UserCode
}

secret! {
    /// What tells one browser from all others: the value of its cookie.
    Browser
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

impl Nonce {
    /// One that nobody can guess.
    pub fn random() -> Self {
        Self::new(random())
    }
}

impl EnrolmentId {
    /// One that nobody can guess.
    pub fn random() -> Self {
        Self::new(random())
    }
}

impl Browser {
    /// One that nobody can guess.
    pub fn random() -> Self {
        Self::new(random())
    }

    /// What a form of ours holds, so that only a page that this browser got from here can send it.
    pub fn form_proof(&self) -> String {
        let hash = digest(&SHA256, format!("form {}", self.expose()).as_bytes());
        URL_SAFE_NO_PAD.encode(hash.as_ref())
    }
}

/// Letters that are not taken for each other, and spell nothing (RFC 8628 section 6.1).
const CODE_LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
/// Letters of a code, in two groups: 34 bits, of which five tries are allowed.
const CODE_LEN: usize = 8;

impl UserCode {
    /// One that nobody guesses in a few tries, such as `WDJB-MJHT`.
    pub fn random() -> Self {
        let letters = random().into_bytes().into_iter().filter_map(letter);
        // Of 43 characters at least eight are letters that fit, but for one draw in 10^7.
        let code: String = letters.take(CODE_LEN).map(char::from).collect();
        match code.split_at_checked(CODE_LEN / 2) {
            Some((head, tail)) if code.len() == CODE_LEN => Self::new(format!("{head}-{tail}")),
            _ => Self::random(),
        }
    }

    /// Whether somebody typed it, in whatever case and with whatever between the letters.
    pub fn is(&self, typed: &str) -> bool {
        let letters = |text: &str| -> String {
            text.chars().filter(char::is_ascii_alphabetic).collect::<String>().to_uppercase()
        };
        Self::new(letters(self.expose())) == Self::new(letters(typed))
    }
}

/// Two characters of base64 for each letter, so that all are equally likely; none for the others.
fn letter(byte: u8) -> Option<u8> {
    CODE_LETTERS.iter().copied().find(|letter| *letter == byte.to_ascii_uppercase())
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
    fn a_code_is_read_as_people_type() {
        let code = UserCode::random();
        let shown = code.expose().to_owned();
        assert_eq!((shown.len(), shown.as_bytes()[4]), (CODE_LEN + 1, b'-'));
        assert!(
            code.is(&shown) && code.is(&format!(" {} ", shown.to_lowercase().replace('-', "")))
        );
        assert!(!code.is("") && !code.is(&shown[1..]) && !code.is(UserCode::random().expose()));
    }

    #[test]
    fn the_fingerprint_is_the_head_of_sha_256() {
        // printf abc | openssl dgst -sha256 -binary | head -c 12 | basenc --base64url
        assert_eq!(AccessToken::new("abc").fingerprint(), "ungWv48Bz-pBQUDe");
    }
}
