//! The command line. Results go to stdout, everything else to stderr.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Environment, Problem};

mod confirm_store;
mod cores;
mod dev;
mod doctor;
mod enroll;
mod grant;
mod grants;
mod keys;
mod out;
mod policy;
mod provider;
mod resolve;
mod serve;
mod status;
mod token;
mod update;
mod view;
mod watch;

/// Bad configuration, as `sysexits.h` has it.
const EXIT_CONFIG: u8 = 78;

/// Keeps OAuth 2.0 access tokens alive, and spends each single-use refresh token once.
#[derive(Debug, Parser)]
#[command(name = "token-broker", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a broker with a strict demo provider, to look around.
    Dev(dev::Dev),
    /// Run the broker.
    Serve(serve::Serve),
    /// Check the configuration and say all that is wrong with it.
    CheckConfig(ConfigFile),
    /// Look at everything that a broker with this configuration rests on, and say what to mend.
    Doctor(doctor::Doctor),
    /// Print the JSON schema of the configuration file.
    ConfigSchema,
    /// Print an access token.
    Get(token::Get),
    /// Replace an access token that an API rejected, and print the new one.
    Refresh(token::Refresh),
    /// Print a grant's token, and each that follows it.
    Watch(watch::Watch),
    /// Manage grants.
    #[command(subcommand)]
    Grant(grant::Grant),
    /// Look at providers and at what is known of them.
    #[command(subcommand)]
    Provider(provider::Provider),
    /// Show how the broker is.
    Status(status::Status),
    /// Say that the store is as it is meant to be: this replica then waits for no other that may know
    /// more.
    ConfirmStore(confirm_store::ConfirmStore),
    /// Manage the key ring.
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Say what a policy means for a caller, without a broker.
    #[command(subcommand)]
    Policy(policy::Policy),
}

/// Where the configuration is.
#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file (YAML). Variables `TOKEN_BROKER__SECTION__KEY` override it.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Which broker to call.
#[derive(Debug, Args)]
struct Target {
    /// The broker to call.
    #[arg(
        long,
        env = "TOKEN_BROKER_ADDRESS",
        default_value = "http://127.0.0.1:50051",
        global = true
    )]
    address: String,
    /// File with the token that proves who calls; it is read for each call.
    #[arg(long, value_name = "FILE", env = "TOKEN_BROKER_TOKEN_FILE", global = true)]
    token_file: Option<PathBuf>,
    /// Who signed the broker's certificate (PEM), for an `https://` address.
    #[arg(long, value_name = "FILE", env = "TOKEN_BROKER_TLS_CA", global = true)]
    tls_ca: Option<PathBuf>,
    /// Our certificate (PEM), which proves who calls.
    #[arg(
        long,
        value_name = "FILE",
        env = "TOKEN_BROKER_TLS_CERT",
        global = true,
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, value_name = "FILE", env = "TOKEN_BROKER_TLS_KEY", global = true)]
    tls_key: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        cores::forbid();
        let result = match self.command {
            Command::Dev(dev) => block_on(dev.run()),
            Command::Serve(serve) => match load(&serve.file) {
                Ok(config) => block_on(serve.run(config)),
                Err(code) => return code,
            },
            Command::CheckConfig(file) => {
                return match load(&file) {
                    Ok(config) => {
                        for Problem { path, message } in &config.warnings {
                            out::note(format_args!("warning: {path}: {message}"));
                        }
                        out::line(view::config(&config));
                        ExitCode::SUCCESS
                    }
                    Err(code) => code,
                };
            }
            Command::Doctor(doctor) => match load(&doctor.file) {
                Ok(config) => block_on(doctor.run(config)),
                Err(code) => return code,
            },
            Command::ConfigSchema => {
                out::line(serde_json::to_string_pretty(&config::schema()).unwrap_or_default());
                Ok(())
            }
            Command::Get(get) => block_on(get.run()),
            Command::Refresh(refresh) => block_on(refresh.run()),
            Command::Watch(watch) => block_on(watch.run()),
            Command::Grant(grant) => block_on(grant.run()),
            Command::Provider(provider) => block_on(provider.run()),
            Command::Status(status) => block_on(status.run()),
            Command::ConfirmStore(confirm) => block_on(confirm.run()),
            Command::Keys(keys) => keys.run(),
            Command::Policy(policy) => return policy.run(),
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                out::note(format_args!("error: {failure}"));
                ExitCode::FAILURE
            }
        }
    }
}

/// What goes wrong is told in words; the kind does not matter here.
type Failure = String;

fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("the runtime cannot start: {error}"))?;
    let result = runtime.block_on(work);
    // Blocking work of a store that hangs must not keep the process.
    runtime.shutdown_background();
    result
}

fn load(file: &ConfigFile) -> Result<config::Config, ExitCode> {
    config::load(file.config.as_deref(), &environment()).map_err(|problems| {
        for Problem { path, message } in problems {
            out::note(format_args!("error: {path}: {message}"));
        }
        ExitCode::from(EXIT_CONFIG)
    })
}

/// Variables that are not text cannot be ours.
fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
