//! Providers: how their token endpoints are asked, and how what they answer is read.
//!
//! Reading order: [`provider`] what is configured, `discovery` what providers say of themselves,
//! `form` what is sent, `reply` how answers are read, [`http`] the one request.

pub mod authorize;
mod discovery;
mod form;
pub mod http;
pub mod provider;
pub mod reply;

pub use http::Http;
pub use provider::{BasicEncoding, ClientAuth, Endpoints, Meaning, Provider, Rule, is_private};
