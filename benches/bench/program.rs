//! The real program as a child, and a client of it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use token_broker::client::{Bearer, Calls, Client};
use token_broker::proto::grant_admin_service_client::GrantAdminServiceClient;
use token_broker::proto::token_service_client::TokenServiceClient;
use token_broker::proto::{GetTokenRequest, GetTokenResponse, ImportGrantRequest};
use token_broker::store::Keyring;
use tonic::transport::ClientTlsConfig;

use crate::trust::Trust;

/// Where the program keeps its grants.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Store {
    Memory,
    Redb,
    Redis,
    /// The same without a journal: what the disk of the replica costs.
    RedisWithoutJournal,
    /// The same with a replica of Redis, which confirms each claim (`WAIT`).
    RedisWithReplica,
}

impl Store {
    pub(crate) const ALL: [Self; 5] =
        [Self::Memory, Self::Redb, Self::Redis, Self::RedisWithoutJournal, Self::RedisWithReplica];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redb => "redb",
            Self::Redis => "Redis",
            Self::RedisWithoutJournal => "no journal",
            Self::RedisWithReplica => "a replica",
        }
    }
}

/// Ends with its processes.
pub(crate) struct Program {
    process: Child,
    servers: Vec<Child>,
    pub(crate) address: String,
    pub(crate) tokens: TokenServiceClient<Calls>,
    admin: GrantAdminServiceClient<Calls>,
    _dir: TempDir,
}

impl Program {
    /// Starts the program on free ports, in front of `provider`.
    pub(crate) async fn start(store: Store, provider: &str) -> Self {
        Self::start_for(store, provider, None).await
    }

    /// The same for a caller that proves who it is.
    pub(crate) async fn start_for(store: Store, provider: &str, trust: Option<&Trust>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        let (url, servers) = match store {
            Store::Memory => ("memory:".to_owned(), Vec::new()),
            Store::Redb => (format!("redb:{}", dir.path().join("store").display()), Vec::new()),
            Store::Redis | Store::RedisWithoutJournal => {
                let (port, primary) = redis(&dir, None);
                (format!("redis://127.0.0.1:{port}"), vec![primary])
            }
            Store::RedisWithReplica => {
                let (port, primary) = redis(&dir, None);
                let (_, replica) = redis(&dir, Some(&port));
                // It is attached with the first acknowledgement, after a second.
                std::thread::sleep(Duration::from_secs(3));
                (format!("redis://127.0.0.1:{port}"), vec![primary, replica])
            }
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_token-broker"));
        command
            .arg("serve")
            .current_dir(dir.path())
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if !servers.is_empty() {
            Keyring::generate().create(&keys).unwrap();
            command.env("TOKEN_BROKER__KEYS__FILE", &keys);
        }
        if matches!(store, Store::RedisWithoutJournal) {
            command.env("TOKEN_BROKER__STORE__JOURNAL", "");
        }
        command
            .env("TOKEN_BROKER__LISTEN__API", "127.0.0.1:0")
            .env("TOKEN_BROKER__LISTEN__OPS", "127.0.0.1:0")
            .env("TOKEN_BROKER__LOG__FORMAT", "json")
            .env("TOKEN_BROKER__STORE__URL", url)
            .env("OAUTH2_BASE_URL", provider)
            // As fast as it goes.
            .env("TOKEN_BROKER__PROVIDERS__DEFAULT__RATE", "100000")
            .env("CLIENT_ID", "bench")
            .env("CLIENT_SECRET", "bench");
        command.envs(trust.into_iter().flat_map(Trust::settings));
        let mut process = command.spawn().unwrap();
        let address = ready(&mut process);
        let bearer = trust.map_or_else(Bearer::none, |trust| Bearer::from_file(trust.at("token")));
        let tls = ClientTlsConfig::new();
        let Client { tokens, admin } =
            Client::connect_as(&format!("http://{address}"), bearer, tls).await.unwrap();
        Self { process, servers, address, tokens, admin, _dir: dir }
    }

    pub(crate) async fn import(&self, grant: &str) {
        let request = ImportGrantRequest {
            grant_id: grant.to_owned(),
            provider_id: "default".to_owned(),
            refresh_token: format!("first-{grant}"),
            ..ImportGrantRequest::default()
        };
        self.admin.clone().import_grant(request).await.unwrap();
    }

    pub(crate) async fn get(&self, grant: &str) -> GetTokenResponse {
        let request = GetTokenRequest { grant_id: grant.to_owned(), ..GetTokenRequest::default() };
        self.tokens.clone().get_token(request).await.unwrap().into_inner()
    }

    /// Memory of the process that is in use, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        for child in [&mut self.process].into_iter().chain(&mut self.servers) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Reads the log until the program is ready, and throws away what comes after.
fn ready(process: &mut Child) -> String {
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let ready = lines.by_ref().map_while(Result::ok).find(|line| line.contains("\"ready\""));
    let line = ready.expect("the program ended before it was ready");
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    let fields: BTreeMap<String, serde_json::Value> = serde_json::from_str(&line).unwrap();
    fields["api"].as_str().unwrap().to_owned()
}

/// A Redis that writes an append-only file, as one that holds tokens should; or a replica of one. Its
/// port, and its process.
fn redis(dir: &TempDir, of: Option<&str>) -> (String, Child) {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    drop(socket);
    let dir = dir.path().join(&port);
    std::fs::create_dir(&dir).unwrap();
    let process = Command::new("redis-server")
        .args(["--repl-diskless-sync-delay", "0"])
        .args(of.iter().flat_map(|primary| ["--replicaof", "127.0.0.1", primary]))
        .args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "yes",
            "--port",
            &port,
            "--dir",
        ])
        .arg(&dir)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is missing: run `make tools`");
    // The program waits for it.
    std::thread::sleep(Duration::from_millis(100));
    (port, process)
}
