//! Providers: how their token endpoints are asked, and how what they answer is read.
//!
//! Reading order: [`provider`] what is configured, `discovery` what providers say of themselves,
//! `form` what is sent (with [`authorize`], [`credentials`] and [`assertion`]), `reply` how answers are read (with
//! `id_token`), [`http`] the one request.

pub mod assertion;
pub mod authorize;
pub mod credentials;
mod discovery;
mod form;
pub mod http;
pub(crate) mod id_token;
pub mod provider;
pub mod reply;

pub use assertion::ClientKey;
pub use credentials::{BasicEncoding, ClientAuth, Credentials};
pub use http::Http;
pub use provider::{Endpoints, ErrorMap, Meaning, Provider, Rule, is_private};
