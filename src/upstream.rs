//! Providers: how their token endpoints are asked, and how what they answer is read.
//!
//! Reading order: [`provider`] what is configured, `form` what is sent, `reply` how answers are
//! read, [`http`] the one request.

pub mod authorize;
mod form;
pub mod http;
pub mod provider;
pub mod reply;

pub use http::Http;
pub use provider::{BasicEncoding, ClientAuth, Meaning, Provider, Rule};
