//! Servers that others wrote: a certified one with clients of many habits, and one that shares
//! nothing with it. `make interop` prints server by check, and goes through Chromium.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use token_broker::client::Client;
use token_broker::proto::StartEnrollmentRequest;

use crate::support::browser::Browser;
use crate::support::chromium::Chromium;
use crate::support::consent::enroll;
use crate::support::front::Front;
use crate::support::process::Program;
use crate::support::signer::Signer;

const PERSON: &str = "alice";

/// A foreign server behind a front, and a broker that knows it.
struct World {
    name: &'static str,
    _server: Server,
    front: Front,
    /// Before the pages of the broker.
    pages: Front,
    issuer: String,
    callback: String,
    dir: tempfile::TempDir,
    settings: Vec<(String, String)>,
    program: Program,
    browser: Browser,
}

/// With the port on which it listens.
struct Server(Child, u16);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Waits until it listens.
    fn start(command: &mut Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().expect("run `make tools`");
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        let port = lines.find_map(|line| line.strip_prefix("listening on ")?.parse().ok());
        // Whatever else it says is read, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self(process, port.expect("it ended; run `make tools`"))
    }
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

impl World {
    async fn new(
        name: &'static str,
        path: &str,
        start: impl FnOnce(&str, &str) -> Server,
        clients: &[(&str, &[(&str, &str)])],
    ) -> Self {
        let (front, pages) = (Front::default(), Front::default());
        let issuer = format!("http://{}{path}", front.serve().await);
        let base = format!("http://{}", pages.serve().await);
        let callback = format!("{base}/oauth/callback");
        let server = start(&issuer, &callback);
        front.leads_to(server.1);
        let mut settings = vec![
            ("STORE__URL".to_owned(), "redb:store.redb".to_owned()),
            ("LISTEN__PAGES".to_owned(), "127.0.0.1:0".to_owned()),
            ("LISTEN__PAGES_URL".to_owned(), base),
            ("TIMING__RETRY_BACKOFF".to_owned(), "50ms".to_owned()),
            ("TIMING__SETTLE_MARGIN".to_owned(), "10ms".to_owned()),
        ];
        for (client, more) in clients {
            let mut set = |key: &str, value: &str| {
                settings.push((format!("PROVIDERS__{client}__{key}"), value.to_owned()));
            };
            set("ISSUER", &issuer);
            set("CLIENT_ID", client);
            set("LISTEN_MAX", "4s");
            for (key, value) in *more {
                set(key, &value.replace("ISSUER", &issuer));
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let program = Self::broker(dir.path(), &settings, &pages);
        let browser = Browser::new();
        Self {
            name,
            _server: server,
            front,
            pages,
            issuer,
            callback,
            dir,
            settings,
            program,
            browser,
        }
    }

    fn broker(dir: &Path, settings: &[(String, String)], pages: &Front) -> Program {
        let settings: Vec<_> = settings
            .iter()
            .map(|(key, value)| (format!("TOKEN_BROKER__{key}"), value.clone()))
            .collect();
        let settings: Vec<_> =
            settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let program = Program::start(dir, &["serve"], &settings);
        pages.leads_to(program.pages.rsplit(':').next().unwrap().parse().unwrap());
        program
    }

    fn passed(&self, client: &str, check: &str) {
        println!("{:22} {client:8} {check}", self.name);
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let (ok, shown, errors) = self.program.cli(arguments);
        if ok { Ok(shown) } else { Err(errors) }
    }

    fn grant(client: &str) -> String {
        format!("{client}/{PERSON}")
    }

    /// A person consents, from the broker's first page to its last.
    async fn enrol(&self, client: &str) {
        let mut broker = Client::connect(&format!("http://{}", self.program.api)).await.unwrap();
        let request = StartEnrollmentRequest {
            grant_id: Self::grant(client),
            provider_id: client.to_owned(),
            scopes: vec!["openid".to_owned(), "api".to_owned()],
            ..StartEnrollmentRequest::default()
        };
        let asked = broker.admin.start_enrollment(request).await.unwrap().into_inner();
        let page = self.browser.open(&asked.start_url);
        let page = self.browser.enter(&asked.start_url, &page, &asked.user_code);
        let answer = self.browser.consent(&page.link(), PERSON, &self.callback);
        let page = self.browser.open(&answer);
        assert_eq!(page.title(), "Connected", "{page:?}");
        self.passed(client, "enrol");
    }

    fn refresh(&self, client: &str) {
        let grant = Self::grant(client);
        for _ in 0..2 {
            self.run(&["grant", "rotate", &grant]).unwrap();
        }
        self.run(&["get", &grant]).unwrap();
        self.passed(client, "refresh");
    }

    fn state(&self, client: &str) -> String {
        let shown = self.run(&["grant", "show", &Self::grant(client), "--json"]).unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        shown["state"].as_str().unwrap().to_owned()
    }

    fn comes_to(&self, client: &str, state: &str) {
        for _ in 0..150 {
            if self.state(client) == state {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{client} is {} and not {state}", self.state(client));
    }

    /// Somebody else has used the token that was spent last.
    async fn reuse(&self, client: &str, token_url: &str) {
        let spent = self.front.presented().pop().unwrap();
        let form = format!(
            "grant_type=refresh_token&client_id={client}&client_secret=interop-secret&refresh_token={spent}"
        );
        let answer = Browser::new().send(token_url, &form);
        assert!(answer.status == 400 && answer.body.contains("invalid_grant"), "{answer:?}");
        let error = self.run(&["grant", "rotate", &Self::grant(client)]).unwrap_err();
        assert!(error.contains("GRANT_REAUTH_REQUIRED"), "{error}");
        self.passed(client, "reuse");
        // Consent in place, by the same account.
        self.enrol(client).await;
        self.run(&["grant", "rotate", &Self::grant(client)]).unwrap();
        self.passed(client, "mend");
    }

    /// The answer with the new pair is lost; what then comes of the grant depends on the server.
    fn lost(&self, client: &str, becomes: &str) {
        let grant = Self::grant(client);
        self.front.lose_next();
        let error = self.run(&["grant", "rotate", &grant]).unwrap_err();
        if error.contains("PROVIDER_UNAVAILABLE") {
            // Where no use spends a refresh token, nothing is in doubt.
            self.run(&["grant", "rotate", &grant]).unwrap();
        } else {
            assert!(error.contains("REFRESH_OUTCOME_UNKNOWN"), "{error}");
            self.run(&["grant", "resolve", &grant, "--by", "retry"]).unwrap();
        }
        self.comes_to(client, becomes);
        self.passed(client, &format!("lost reply: {becomes}"));
    }

    /// The broker is killed, and goes on.
    fn restart(&mut self, client: &str) {
        self.program.signal("KILL");
        self.program.end();
        self.program = Self::broker(self.dir.path(), &self.settings, &self.pages);
        self.run(&["get", &Self::grant(client)]).unwrap();
        self.run(&["grant", "rotate", &Self::grant(client)]).unwrap();
        self.passed(client, "restart");
    }

    fn revoke(&self, client: &str) {
        self.run(&["grant", "revoke", &Self::grant(client)]).unwrap();
        assert_eq!(self.state(client), "REVOKED");
        self.passed(client, "revoke");
    }

    fn client_credentials(&self, client: &str) {
        let grant = format!("{client}/service");
        self.run(&["grant", "create", &grant, "--provider", client, "--scope", "api"]).unwrap();
        self.run(&["get", &grant]).unwrap();
        self.passed(client, "client credentials");
    }

    /// Two refresh tokens came again: what a stranger reused, and what was resent after a lost answer.
    fn audit(&self) {
        let mut presented = self.front.presented();
        let all = presented.len();
        presented.sort();
        presented.dedup();
        assert_eq!(all - presented.len(), 2, "of {all}");
    }
}

fn oidc_provider(issuer: &str, callback: &str, client: &Signer) -> Server {
    Server::start(
        Command::new("node")
            .arg(here("tests/interop/oidc-provider.mjs"))
            .env("MODULES", here(".tools/node_modules"))
            .envs([("ISSUER", issuer), ("REDIRECT", callback)])
            .env("CLIENT_JWKS", client.published().to_string())
            .stderr(Stdio::null()),
    )
}

fn django(issuer: &str, callback: &str) -> Server {
    Server::start(
        Command::new(here(".tools/python/bin/python"))
            .arg(here("tests/interop/django_oauth_toolkit.py"))
            .envs([("ISSUER", issuer), ("REDIRECT", callback)]),
    )
}

const SECRET: (&str, &str) = ("CLIENT_SECRET", "interop-secret");

#[tokio::test(flavor = "multi_thread")]
async fn oidc_provider_rotates_always_never_and_by_age() {
    let client = Signer::new();
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&key, client.pem()).unwrap();
    let id = client.published()["keys"][0]["kid"].as_str().unwrap().to_owned();
    let reusable: &[_] = &[SECRET, ("REFRESH_TOKENS", "reusable")];
    let signed: &[_] = &[
        ("CLIENT_AUTH", "private_key_jwt"),
        ("CLIENT_KEY_FILE", key.path().to_str().unwrap()),
        ("CLIENT_KEY_ID", &id),
    ];
    let clients: &[(&str, &[(&str, &str)])] = &[
        ("always", &[SECRET]),
        ("never", reusable),
        ("age", &[SECRET]),
        ("idle", &[SECRET]),
        ("public", &[("CLIENT_AUTH", "none")]),
        ("signed", signed),
    ];
    let start = |issuer: &str, back: &str| oidc_provider(issuer, back, &client);
    let mut world = World::new("oidc-provider 9", "", start, clients).await;
    let token_url = format!("{}/token", world.issuer);

    world.enrol("always").await;
    world.refresh("always");
    world.restart("always");
    world.reuse("always", &token_url).await;
    world.lost("always", "REAUTH_REQUIRED");
    world.enrol("always").await;
    world.revoke("always");
    world.client_credentials("always");
    world.audit();

    world.enrol("age").await;
    world.refresh("age");
    let first = world.front.presented().pop();
    while world.front.presented().pop() == first {
        std::thread::sleep(Duration::from_millis(200));
        world.run(&["grant", "rotate", "age/alice"]).unwrap();
    }
    world.passed("age", "rotates at 70 %");

    world.enrol("never").await;
    world.refresh("never");
    world.lost("never", "ACTIVE");
    world.restart("never");
    world.revoke("never");

    world.enrol("idle").await;
    std::thread::sleep(Duration::from_millis(3_200));
    let error = world.run(&["grant", "rotate", "idle/alice"]).unwrap_err();
    assert!(error.contains("GRANT_REAUTH_REQUIRED"), "{error}");
    world.passed("idle", "ends while idle");
    world.enrol("idle").await;

    for client in ["public", "signed"] {
        world.enrol(client).await;
        world.refresh(client);
        world.restart(client);
        world.revoke(client);
    }
    world.client_credentials("signed");
}

#[tokio::test(flavor = "multi_thread")]
async fn django_oauth_toolkit_rotates_and_protects() {
    let django_client: &[_] = &[SECRET, ("REVOKE_URL", "ISSUER/revoke_token/")];
    let clients: &[(&str, &[(&str, &str)])] = &[("django", django_client), ("service", &[SECRET])];
    let mut world = World::new("django-oauth-toolkit 3", "/o", django, clients).await;
    let token_url = format!("{}/token/", world.issuer);
    world.enrol("django").await;
    world.refresh("django");
    world.restart("django");
    world.reuse("django", &token_url).await;
    world.lost("django", "REAUTH_REQUIRED");
    world.enrol("django").await;
    world.revoke("django");
    world.client_credentials("service");
    world.audit();
}

/// The only client of a server, for whoever looks at pages.
async fn one_client() -> World {
    let client = Signer::new();
    let start = |issuer: &str, back: &str| oidc_provider(issuer, back, &client);
    let clients: &[(&str, &[(&str, &str)])] = &[("always", &[SECRET])];
    World::new("chromium", "", start, clients).await
}

/// A command line that waits: the link and the code that it shows.
fn enrolling(world: &World, more: &[&str]) -> (Child, String, String) {
    let arguments = [&["always/alice", "--scope", "openid"], more].concat();
    let (waits, told) = enroll(&world.program, &arguments);
    let mut told = told.lines().map_while(Result::ok);
    let url = told.find(|line| line.contains("http")).unwrap().trim().to_owned();
    let code = told.find(|line| line.contains("code") || line.contains("Paste")).unwrap();
    std::thread::spawn(move || told.for_each(drop));
    (waits, url, code.split_whitespace().last().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make interop"]
async fn chromium_goes_from_the_command_line_to_a_token() {
    let world = one_client().await;
    let chromium = Chromium::start();
    // A person who says no.
    let (waits, url, code) = enrolling(&world, &[]);
    chromium.open(&url);
    chromium.fill("#code", &code);
    chromium.press("form button");
    chromium.press("a[href$=abort]");
    chromium.shows("Not connected", "0-denied");
    assert!(!waits.wait_with_output().unwrap().status.success());

    let (waits, url, code) = enrolling(&world, &[]);
    chromium.open(&url);
    chromium.shows("Connect an account", "1-start");
    chromium.fill("#code", "BBBB-BBBB");
    chromium.press("form button");
    chromium.shows("Connect an account", "2-wrong-code");
    chromium.fill("#code", &code.to_lowercase());
    chromium.press("form button");
    chromium.shows("Continue at the provider", "3-go");
    // The page goes on by itself.
    chromium.appears("input[name=login]");
    chromium.fill("input[name=login]", PERSON);
    chromium.fill("input[name=password]", "interop");
    chromium.press("button[type=submit]");
    chromium.appears("input[value=consent]");
    chromium.press("button[type=submit]");
    chromium.shows("Connected", "4-connected");
    let ended = waits.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    world.run(&["get", "always/alice"]).unwrap();
    world.run(&["grant", "rotate", "always/alice"]).unwrap();

    // Links that lead nowhere, and answers of others.
    chromium.open(&url);
    chromium.shows("Nothing waits here", "5-nothing-waits");
    let (waits, url, code) = enrolling(&world, &[]);
    let page = world.browser.open(&url);
    let question = world.browser.enter(&url, &page, &code).link();
    let answer = world.browser.consent(&question, PERSON, &world.callback);
    chromium.open(&answer);
    chromium.shows("Not this browser", "6-other-browser");
    assert_eq!(world.browser.open(&answer).title(), "Connected");
    assert!(waits.wait_with_output().unwrap().status.success());

    // The address is pasted where no browser reaches the pages.
    let (mut waits, url, _) = enrolling(&world, &["--paste"]);
    chromium.open(&url);
    // The server knows this browser, and asks no more.
    chromium.shows("Nearly there", "7-paste");
    writeln!(waits.stdin.take().unwrap(), "{}", chromium.address()).unwrap();
    assert!(waits.wait_with_output().unwrap().status.success());
    world.run(&["grant", "rotate", "always/alice"]).unwrap();
    assert_eq!(chromium.complaints(&world.callback), Vec::<String>::new());
    world.passed("always", "enroll to get in Chromium");
}
