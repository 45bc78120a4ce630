//! What the tests stand on: a strict authorization server with a ledger, worlds on paused time,
//! real Redis servers and the real program.

pub(crate) mod authority;
pub(crate) mod browser;
pub(crate) mod calls;
pub(crate) mod chromium;
pub(crate) mod consent;
pub(crate) mod flaky;
pub(crate) mod front;
pub(crate) mod pages;
pub(crate) mod process;
pub(crate) mod redis;
pub(crate) mod rude;
pub(crate) mod signer;
pub(crate) mod turned_clock;
pub(crate) mod workers;
pub(crate) mod world;
