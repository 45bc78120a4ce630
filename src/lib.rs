//! Keeps OAuth 2.0 access tokens alive for every service of a company.

#[cfg(feature = "server")]
pub mod broker;
#[cfg(feature = "server")]
pub mod clock;
pub mod proto;
#[cfg(feature = "server")]
pub mod secret;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
pub mod upstream;
#[cfg(feature = "server")]
pub mod service;
#[cfg(feature = "server")]
pub mod config;
