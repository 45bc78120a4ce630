//! What users would miss if it broke.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod accounts;
mod agreement;
mod attack;
mod audit;
mod bounds;
mod callers;
mod chaos;
mod clocks;
mod config;
mod continuity;
mod crash;
mod damage;
mod discovery;
mod doctor;
mod domain;
mod doubt;
mod enrol;
mod failover;
mod failures;
mod follow;
mod format_1;
mod governor;
mod herd;
mod interop;
mod journal;
mod neighbours;
mod pages;
mod program;
mod redis_admission;
mod redis_connections;
mod redis_replicas;
mod reload;
mod replies;
mod revoke;
mod secrets;
mod situations;
mod store_contract;
mod support;
mod telling;
mod tls;
mod upstream;
mod watch;
mod ways_out;
mod whose_trouble;
