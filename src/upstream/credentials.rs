//! Credentials of ours that change: two secrets while one takes the place of the other, and what the file
//! holds now.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use crate::secret::ClientSecret;
use crate::upstream::assertion::ClientKey;

/// How the client proves who it is (RFC 6749 section 2.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAuth {
    /// Name and password in the `Authorization` header.
    Basic {
        /// The password.
        secret: ClientSecret,
        /// How both are written.
        encoding: BasicEncoding,
    },
    /// Name and password in the form.
    Post {
        /// The password.
        secret: ClientSecret,
    },
    /// Signed, anew for each request (RFC 7523).
    PrivateKey(ClientKey),
    /// Not at all: a public client, which only says its name.
    None,
}

/// How name and password are written in the `Authorization` header; providers disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BasicEncoding {
    /// Form-urlencoded first (RFC 6749 section 2.3.1).
    Rfc6749,
    /// As they are (RFC 7617).
    Raw,
}

/// How we prove to a provider who we are: in one way, or in another where that is refused.
#[derive(Debug)]
pub struct Credentials(ArcSwap<Ways>);

#[derive(Debug)]
struct Ways {
    /// At least one.
    all: Vec<ClientAuth>,
    /// The one that is used.
    at: AtomicUsize,
}

/// One way, as it is used for one request.
pub(crate) struct InUse<'a> {
    owner: &'a Credentials,
    ways: Arc<Ways>,
    at: usize,
}

impl Credentials {
    /// The first is used, until it is refused and the next one is not.
    pub fn new(first: ClientAuth, others: Vec<ClientAuth>) -> Self {
        Self(ArcSwap::from_pointee(Ways::new(first, others)))
    }

    /// From now on these are used; `false`: they are those of before.
    pub fn renew(&self, first: ClientAuth, others: Vec<ClientAuth>) -> bool {
        let newer = Ways::new(first, others);
        let changed = self.0.load().all != newer.all;
        if changed {
            self.0.store(Arc::new(newer));
        }
        changed
    }

    /// The one to use now.
    pub(crate) fn current(&self) -> InUse<'_> {
        self.after(0)
    }

    /// The one to try where that was refused.
    pub(crate) fn other(&self) -> InUse<'_> {
        self.after(1)
    }

    /// Tells what they are, part by part; what it is told to keeps no secrets.
    pub(crate) fn tell(&self, to: &mut impl FnMut(&[u8])) {
        for way in &self.0.load().all {
            match way {
                ClientAuth::Basic { secret, encoding } => {
                    let encoding = match encoding {
                        BasicEncoding::Rfc6749 => "basic",
                        BasicEncoding::Raw => "basic raw",
                    };
                    to(encoding.as_bytes());
                    to(secret.expose().as_bytes());
                }
                ClientAuth::Post { secret } => {
                    to(b"post");
                    to(secret.expose().as_bytes());
                }
                ClientAuth::PrivateKey(key) => key.tell(to),
                ClientAuth::None => to(b"none"),
            }
        }
    }

    /// The secrets, where there are any.
    pub(crate) fn secrets(&self) -> Vec<ClientSecret> {
        let ways = self.0.load();
        let secret = |way: &ClientAuth| match way {
            ClientAuth::Basic { secret, .. } | ClientAuth::Post { secret } => Some(secret.clone()),
            ClientAuth::PrivateKey(_) | ClientAuth::None => None,
        };
        ways.all.iter().filter_map(secret).collect()
    }

    fn after(&self, steps: usize) -> InUse<'_> {
        let ways = self.0.load_full();
        let at = (ways.at.load(Ordering::Relaxed) + steps) % ways.all.len();
        InUse { owner: self, ways, at }
    }
}

impl Ways {
    fn new(first: ClientAuth, others: Vec<ClientAuth>) -> Self {
        let all: Vec<_> = std::iter::once(first).chain(others).collect();
        Self { all, at: AtomicUsize::new(0) }
    }
}

impl InUse<'_> {
    pub(crate) fn auth(&self) -> &ClientAuth {
        &self.ways.all[self.at]
    }

    /// There is another one to try: a second, or what the file holds meanwhile.
    pub(crate) fn has_other(&self) -> bool {
        self.ways.all.len() > 1 || !Arc::ptr_eq(&self.ways, &self.owner.0.load())
    }

    /// The provider takes it; `true`: it took another one before.
    pub(crate) fn taken(&self) -> bool {
        self.ways.at.swap(self.at, Ordering::Relaxed) != self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(secret: &str) -> ClientAuth {
        ClientAuth::Post { secret: ClientSecret::new(secret) }
    }

    fn shown(in_use: &InUse<'_>) -> String {
        match in_use.auth() {
            ClientAuth::Post { secret } => secret.expose().to_owned(),
            _ => String::new(),
        }
    }

    #[test]
    fn the_other_one_is_used_once_it_was_taken() {
        let one = Credentials::new(post("only"), Vec::new());
        assert!(!one.current().has_other() && shown(&one.other()) == "only");

        let two = Credentials::new(post("new"), vec![post("old")]);
        assert!(two.current().has_other());
        assert_eq!((shown(&two.current()), shown(&two.other())), ("new".into(), "old".into()));
        assert_eq!(shown(&two.current()), "new", "a refusal alone moves nothing");
        assert!(two.other().taken() && shown(&two.current()) == "old");
        assert!(!two.current().taken() && shown(&two.other()) == "new");

        let before = two.current();
        assert!(!two.renew(post("new"), vec![post("old")]), "nothing new");
        assert!(two.renew(post("newest"), Vec::new()));
        assert!(before.has_other() && shown(&two.current()) == "newest", "the file had changed");
    }
}
