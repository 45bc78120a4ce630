//! A broker before a strict authority, for people who consent.

use std::io::BufReader;
use std::path::Path;
use std::process::{Child, ChildStderr, Stdio};
use std::time::Duration;

use token_broker::client::Client;
use token_broker::proto::CompleteEnrollmentRequest;

use crate::herd::settings;
use crate::support::authority::Authority;
use crate::support::process::{Program, program};

pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) base: String,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) program: Program,
    pub(crate) client: Client,
}

impl World {
    pub(crate) async fn new(more: &[(&str, &str)]) -> Self {
        let authority = Authority::new();
        let base = authority.serve().await;
        Self::before(authority, base, more).await
    }

    /// Before an authority that serves at `base`.
    pub(crate) async fn before(authority: Authority, base: String, more: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = start(dir.path(), &base, more);
        let client = Client::connect(&format!("http://{}", program.api)).await.unwrap();
        Self { authority, base, dir, program, client }
    }

    /// The broker is killed, and started again.
    pub(crate) async fn die(&mut self, more: &[(&str, &str)]) {
        self.program.signal("KILL");
        self.program.end();
        self.program = start(self.dir.path(), &self.base, more);
        self.client = Client::connect(&format!("http://{}", self.program.api)).await.unwrap();
    }

    /// The token of a grant, and that its refresh token is good.
    pub(crate) fn lives(&self, id: &str) {
        let (ok, _, errors) = self.program.cli(&["get", id]);
        assert!(ok, "{errors}");
        std::thread::sleep(Duration::from_millis(250));
        let (ok, _, errors) = self.program.cli(&["refresh", id]);
        assert!(ok, "{errors}");
        self.authority.audit();
    }
}

/// A broker on a file of its own.
pub(crate) fn start(dir: &Path, base: &str, more: &[(&str, &str)]) -> Program {
    let mut environment = settings(base, "redb:store.redb");
    environment.extend_from_slice(more);
    Program::start(dir, &["serve"], &environment)
}

/// `grant enroll` that waits, and what it tells meanwhile.
pub(crate) fn enroll(broker: &Program, arguments: &[&str]) -> (Child, BufReader<ChildStderr>) {
    let mut enroll = program(Path::new("/"))
        .args(["grant", "enroll"])
        .args(arguments)
        .env("TOKEN_BROKER_ADDRESS", format!("http://{}", broker.api))
        .env("USER", "ana")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let told = BufReader::new(enroll.stderr.take().unwrap());
    (enroll, told)
}

/// What the provider appended to the redirect address.
pub(crate) fn answer(address: &str) -> CompleteEnrollmentRequest {
    let address = url::Url::parse(address).unwrap();
    let part = |name: &str| {
        let mut pairs = address.query_pairs();
        let found = pairs.find(|(found, _)| found == name).map(|(_, value)| value.into_owned());
        found.unwrap_or_default()
    };
    CompleteEnrollmentRequest { state: part("state"), code: part("code"), iss: part("iss") }
}
