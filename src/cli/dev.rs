//! `token-broker dev`: everything in one process, to look around.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::app::{Addresses, App};
use crate::broker::admin::State;
use crate::broker::error::Error;
use crate::broker::model::{GrantId, ProviderId};
use crate::broker::{Broker, NewGrant};
use crate::cli::{EXIT_CONFIG, Failure, environment, out};
use crate::clock::Clock;
use crate::config::{self, Config, Environment, StoreConfig};
use crate::demo::{CLIENT_ID, DemoProvider};
use crate::telemetry;

/// A rejected token can be reported again sooner than in earnest.
const COOLDOWN: &str = "2s";

/// Where `serve` listens unless told otherwise; `dev` goes elsewhere if somebody is there.
const API_PORT: u16 = 50_051;
/// See [`API_PORT`].
const OPS_PORT: u16 = 9_464;
/// See [`API_PORT`]; `serve` has no pages unless told to.
const PAGES_PORT: u16 = 9_465;
/// A grant that nobody gets.
const FOREIGN: &str = "other-team/service";
/// What everybody may do, to see a policy at work.
const POLICY: &str = "\
# What anyone may do here. Change it: two seconds later it holds.
policies:
  - name: anyone-gets-what-is-for-show
    subjects: [anyone]
    grants: ['demo/*']
    actions: [get_token, watch_token, force_refresh]
  - name: anyone-is-operator
    subjects: [anyone]
    grants: ['**']
    actions: [admin.*]
    providers: ['**']
";
/// Where the demo provider listens, unless somebody is there: a question that a browser shows is
/// answered after a restart too.
const PROVIDER_PORT: u16 = 9_466;

#[derive(Debug, Args)]
pub(super) struct Dev {
    /// Directory for the store, its key ring and the demo provider's memory.
    #[arg(long, default_value = ".token-broker-dev", value_name = "DIR")]
    dir: PathBuf,
    /// Lifetime of the demo provider's access tokens.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    token_lifetime: Duration,
}

impl Dev {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let clock = Clock::system();
        let told = |what: &str| {
            let dir = self.dir.display().to_string();
            let what = what.to_owned();
            move |error: std::io::Error| format!("{dir}: {what}: {error}")
        };
        fs::create_dir_all(&self.dir).map_err(told("cannot be made"))?;
        let policy = self.dir.join("policy.yaml");
        if !policy.exists() {
            fs::write(&policy, POLICY).map_err(told("the policy cannot be written"))?;
        }
        let provider =
            DemoProvider::open(&self.dir.join("provider.json"), self.token_lifetime, clock)
                .map_err(told("the demo provider's memory cannot be read"))?;
        let listener = match TcpListener::bind(("127.0.0.1", PROVIDER_PORT)).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind(("127.0.0.1", 0)).await.map_err(told("loopback"))?,
        };
        let upstream = listener.local_addr().map_err(told("loopback"))?;
        let config = self.config(&provider, upstream, &policy)?;
        telemetry::start_log(&config.log);
        let tasks = TaskTracker::new();
        tasks.spawn(provider.clone().serve(listener));

        let store = config.store.clone();
        let app = App::open(config, clock).await.map_err(|error| error.to_string())?;
        let Some(app) = app else { return Ok(()) };
        let seeded = seed(app.broker(), &provider).await;
        let addresses = app.addresses();
        let running = app.start().await;
        match seeded {
            Ok(()) => {
                let lifetime = self.token_lifetime;
                out::line(banner(addresses, &store, lifetime, upstream, &policy));
            }
            Err(error) => out::note(format_args!("error: the demo grants cannot be made: {error}")),
        }
        running.until_stopped().await.map_err(|error| error.to_string())
    }

    /// The configuration of `serve`, with the demo provider laid over the environment.
    fn config(
        &self,
        provider: &DemoProvider,
        upstream: SocketAddr,
        policy: &Path,
    ) -> Result<Config, Failure> {
        let mut layered: Environment = environment()
            .into_iter()
            .filter(|(name, _)| {
                let ours = ["PROVIDERS__", "CALLERS__", "LISTEN__TLS__"];
                let ours = ours.map(|part| format!("TOKEN_BROKER__{part}"));
                !ours.iter().any(|part| name.starts_with(part)) && name != "OAUTH2_BASE_URL"
            })
            .collect();
        for (setting, port) in [("API", API_PORT), ("OPS", OPS_PORT), ("PAGES", PAGES_PORT)] {
            let name = format!("TOKEN_BROKER__LISTEN__{setting}");
            layered.entry(name).or_insert_with(|| {
                if taken(port) {
                    out::note(format_args!("port {port} is taken; another one is used"));
                    return "127.0.0.1:0".to_owned();
                }
                format!("127.0.0.1:{port}")
            });
        }
        let mut set = |name: &str, value: String| {
            layered.entry(format!("TOKEN_BROKER__{name}")).or_insert(value);
        };
        let store = self.dir.join("store.redb");
        set("STORE__URL", format!("redb:{}", store.display()));
        set("POLICY__FILE", policy.display().to_string());
        set("AUDIT__SINK", format!("file:{}", self.dir.join("audit.jsonl").display()));
        set("TIMING__FORCE_COOLDOWN", COOLDOWN.to_owned());
        set("PROVIDERS__DEMO__BASE_URL", format!("http://{upstream}"));
        set("PROVIDERS__DEMO__REVOKE_URL", format!("http://{upstream}/revoke"));
        set("PROVIDERS__DEMO__ACCOUNT_FIELD", "person".to_owned());
        set("PROVIDERS__DEMO__CLIENT_ID", CLIENT_ID.to_owned());
        set("PROVIDERS__DEMO__CLIENT_SECRET", provider.client_secret().expose().to_owned());
        config::load(None, &layered).map_err(|problems| {
            let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
            format!(
                "the configuration is wrong (exit code of `serve`: {EXIT_CONFIG})\n{}",
                lines.join("\n")
            )
        })
    }
}

/// Somebody else listens there.
fn taken(port: u16) -> bool {
    std::net::TcpListener::bind(("127.0.0.1", port)).is_err()
}

/// Makes the grants, or mends alice's where a crash left it without a refresh token.
async fn seed(broker: &Arc<Broker>, provider: &DemoProvider) -> Result<(), Failure> {
    let grant = |name: &str| GrantId::parse(name).map_err(str::to_owned);
    let new = |id, refresh_token| NewGrant {
        id,
        provider: ProviderId::new("demo"),
        refresh_token,
        scopes: Vec::new(),
        labels: [("made-by".to_owned(), "token-broker dev".to_owned())].into(),
        keep_warm: true,
        replace: true,
    };
    let alice = grant("demo/alice")?;
    let usable = match broker.show_grant(&alice).await {
        Ok(overview) => {
            overview.state != State::ReauthRequired && overview.view.grant.intent.is_none()
        }
        Err(_) => false,
    };
    if !usable || !provider.knows_alice() {
        let token = provider.consent().map_err(|error| error.to_string())?;
        broker.create_grant(new(alice, Some(token))).await.map_err(|error| error.to_string())?;
    }
    for service in [grant("demo/service")?, grant(FOREIGN)?] {
        match broker.show_grant(&service).await {
            Err(Error::GrantNotFound(_)) => {
                let made =
                    broker.create_grant(NewGrant { keep_warm: false, ..new(service, None) }).await;
                made.map(drop).map_err(|error| error.to_string())?;
            }
            other => other.map(drop).map_err(|error| error.to_string())?,
        }
    }
    Ok(())
}

fn banner(
    addresses: Addresses,
    store: &StoreConfig,
    lifetime: Duration,
    upstream: SocketAddr,
    policy: &Path,
) -> String {
    let Addresses { api, ops, .. } = addresses;
    let program = program();
    let audit = policy.with_file_name("audit.jsonl");
    let policy = policy.display();
    let call = |method: &str| format!("{api} tokenbroker.v1.{method}");
    let store = match store {
        StoreConfig::Redb(path) => format!("redb:{}", path.display()),
        StoreConfig::Memory => "memory:".to_owned(),
        StoreConfig::Redis { .. } => "redis".to_owned(),
    };
    format!(
        r#"
token-broker dev: a broker, and a strict demo provider with single-use refresh tokens

  API       {api}
  ops       http://{ops}/metrics
  provider  http://{upstream} (access tokens live {lifetime})
  store     {store}

Get a token, from the broker's memory:
  grpcurl -plaintext -d '{{"grant_id":"demo/alice"}}' {get}
  {program} get demo/alice{address}

Say that an API rejected it; one refresh, however many callers say so (a token younger than 2 s
is not replaced: FORCE_REFRESH_COOLDOWN):
  grpcurl -plaintext -d '{{"grant_id":"demo/alice"}}' {force}
  {program} refresh demo/alice{address}

Let a person consent in a browser:
  {program} grant enroll demo/bob{address}

Use it at the demo API:
  curl -H "Authorization: Bearer $({program} get demo/alice{address})" http://{upstream}/me

See the grants, and an error with its reason:
  {program} grant list{address}
  grpcurl -plaintext -d '{{"grant_id":"demo/nobody"}}' {get}

A grant that the policy gives to nobody, and why; add its name to {policy}, and within two
seconds it is given. {audit} has who got what:
  grpcurl -plaintext -d '{{"grant_id":"{FOREIGN}"}}' {get}
  {program} policy explain --file {policy} --subject anyone --action get_token --grant {FOREIGN}

demo/alice is kept warm: its rotations appear below. Ctrl-C stops; the next start goes on.
"#,
        lifetime = humantime::format_duration(lifetime),
        get = call("TokenService/GetToken"),
        force = call("TokenService/ForceRefresh"),
        address = address(api),
        audit = audit.display(),
    )
}

/// Only where it is not the default of the command line.
fn address(api: SocketAddr) -> String {
    if api.port() == API_PORT { String::new() } else { format!(" --address http://{api}") }
}

/// How this program can be called from here.
fn program() -> String {
    let here = std::env::current_dir().unwrap_or_default();
    match std::env::current_exe() {
        Ok(path) => match path.strip_prefix(&here) {
            Ok(below) => format!("./{}", below.display()),
            Err(_) => path.display().to_string(),
        },
        Err(_) => "token-broker".to_owned(),
    }
}
