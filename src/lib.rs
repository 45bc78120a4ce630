//! Keeps OAuth 2.0 access tokens alive for every service of a company, and spends each single-use
//! refresh token once.
//!
//! ```text
//! proto → service → broker → { store , upstream }              calls and data run downhill only
//!          │         (the domain: plain Rust and tokio time; owns the traits Store, TokenEndpoint)
//! app wires everything once; cli, config, lifecycle, ops, telemetry beside it; listener is how
//! clients are let in, and bound; caller is who they are, policy what they may do, audit what is
//! written down of it; clock, secret, textfile and crash (moments at which tests stop) are leaves;
//! pages is what people see who consent; demo is the provider of `dev`; client is what Rust callers use
//! ```
//!
//! Reading order: [`proto`] the contract, `service` the gRPC edge, `broker` the domain, `store`
//! and `upstream` the two places where the process ends, `app` how it is put together; the README
//! follows a call through them. Rust callers need only [`client`] and [`proto`]: the feature
//! `client` without `server`.

// Results and messages leave through `cli::out`, which knows of pipes and terminals.
#![warn(clippy::print_stdout, clippy::print_stderr)]

#[cfg(feature = "client")]
pub mod client;
pub mod proto;

#[cfg(feature = "server")]
pub mod app;
#[cfg(feature = "server")]
pub mod audit;
#[cfg(feature = "server")]
pub mod broker;
#[cfg(feature = "server")]
pub mod caller;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod clock;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod crash;
#[cfg(feature = "server")]
pub mod demo;
#[cfg(feature = "server")]
pub mod lifecycle;
#[cfg(feature = "server")]
pub mod listener;
#[cfg(feature = "server")]
pub mod ops;
#[cfg(feature = "server")]
pub mod pages;
#[cfg(feature = "server")]
pub mod policy;
#[cfg(feature = "server")]
pub mod secret;
#[cfg(feature = "server")]
pub mod service;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
pub mod telemetry;
#[cfg(feature = "server")]
pub mod textfile;
#[cfg(feature = "server")]
pub mod upstream;
