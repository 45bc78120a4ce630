//! The token-broker program.

use std::process::ExitCode;

use clap::Parser as _;
use tikv_jemallocator::Jemalloc;
use token_broker::cli::Cli;

/// After a flood it gives back what it took; the usual one keeps it.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
