//! The token-broker program.

use std::process::ExitCode;

use clap::Parser as _;
use token_broker::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
