//! Credentials of ours that change: two secrets while one takes the place of the other, and what the file
//! holds now.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::secret::ClientSecret;
use crate::upstream::assertion::ClientKey;

/// How the client proves who it is (RFC 6749 section 2.3).
#[derive(Debug, Clone)]
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

/// What was refused is not worth trying again for so long.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// How we prove to a provider who we are: in one way, or in another where that is refused.
#[derive(Debug)]
pub struct Credentials(ArcSwap<Ways>);

#[derive(Debug)]
struct Ways {
    /// At least one.
    all: Vec<ClientAuth>,
    /// The one that is used.
    at: AtomicUsize,
    refused: Mutex<Vec<Option<Instant>>>,
}

/// One way, as it is used for one request.
pub(crate) struct InUse<'a> {
    owner: &'a Credentials,
    ways: Arc<Ways>,
    at: usize,
}

impl Credentials {
    /// The first is used, until it is refused; then the next.
    pub fn new(first: ClientAuth, others: Vec<ClientAuth>) -> Self {
        Self(ArcSwap::from_pointee(Ways::new(first, others)))
    }

    /// From now on these are used.
    pub fn renew(&self, first: ClientAuth, others: Vec<ClientAuth>) {
        self.0.store(Arc::new(Ways::new(first, others)));
    }

    /// The one to use now.
    pub(crate) fn current(&self) -> InUse<'_> {
        let ways = self.0.load_full();
        let at = ways.at.load(Ordering::Relaxed);
        InUse { owner: self, ways, at }
    }
}

impl Ways {
    fn new(first: ClientAuth, others: Vec<ClientAuth>) -> Self {
        let all: Vec<_> = std::iter::once(first).chain(others).collect();
        let refused = Mutex::new(vec![None; all.len()]);
        Self { all, at: AtomicUsize::new(0), refused }
    }
}

impl InUse<'_> {
    pub(crate) fn auth(&self) -> &ClientAuth {
        &self.ways.all[self.at]
    }

    /// The provider does not take it. Whether there is another one worth trying.
    pub(crate) fn refused(&self) -> bool {
        if !Arc::ptr_eq(&self.ways, &self.owner.0.load()) {
            // The file holds something else meanwhile.
            return true;
        }
        let mut refused = self.ways.refused.lock();
        refused[self.at] = Some(Instant::now());
        let next = (self.at + 1) % refused.len();
        if next == self.at {
            return false;
        }
        // Others may have found out, too.
        let (was, order) = (self.at, Ordering::Relaxed);
        let _ = self.ways.at.compare_exchange(was, next, order, order);
        refused[next].is_none_or(|at| at.elapsed() >= REFUSED_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(secret: &str) -> ClientAuth {
        ClientAuth::Post { secret: ClientSecret::new(secret) }
    }

    fn shown(credentials: &Credentials) -> String {
        match credentials.current().auth() {
            ClientAuth::Post { secret } => secret.expose().to_owned(),
            _ => String::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_gives_way_to_the_other() {
        let one = Credentials::new(post("only"), Vec::new());
        assert!(!one.current().refused() && shown(&one) == "only");

        let two = Credentials::new(post("new"), vec![post("old")]);
        let (first, late) = (two.current(), two.current());
        assert!(first.refused() && shown(&two) == "old", "not in force yet");
        assert!(late.refused() && shown(&two) == "old", "whoever was under way finds the same");
        assert!(!two.current().refused(), "both were refused just now");
        tokio::time::advance(REFUSED_FOR).await;
        assert!(two.current().refused() && shown(&two) == "old", "the other is worth another try");

        let before = two.current();
        two.renew(post("newest"), Vec::new());
        assert!(before.refused() && shown(&two) == "newest", "the file had changed by then");
    }
}
