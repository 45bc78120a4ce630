//! TLS and client certificates, and files that change while the program runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use token_broker::client::{Bearer, Client};
use token_broker::proto::GetTokenRequest;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::herd::settings;
use crate::support::authority::Authority;
use crate::support::process::{Program, run};
use crate::support::turned_clock::TurnedClock;

const ORDERS: &str = "spiffe://example.org/ns/shop/sa/orders";
const ADMIN: &str = "spiffe://example.org/ns/platform/sa/admin";

fn policy(orders: &str) -> String {
    format!(
        "policies:
  - {{ name: orders, subjects: ['{orders}'], grants: ['kroger/*'], actions: [get_token] }}
  - {{ name: admin, subjects: ['{ADMIN}'], grants: ['**'], actions: [admin.*] }}
"
    )
}

/// Who signs.
pub(crate) struct Authorities {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authorities {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate and its key, in PEM.
    pub(crate) fn signs(&self, names: &[SanType]) -> (String, String) {
        self.signs_until(names, 2100)
    }

    /// The same, good until the first day of that year.
    fn signs_until(&self, names: &[SanType], year: i32) -> (String, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names.to_vec();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

struct World {
    dir: TempDir,
    signs: Authorities,
    authority: Authority,
    program: Program,
}

impl World {
    async fn new() -> Self {
        Self::with(tempfile::tempdir().unwrap(), &[]).await
    }

    async fn with(dir: TempDir, more: &[(&str, &str)]) -> Self {
        let authority = Authority::new();
        let base = authority.serve().await;
        let signs = Authorities::new();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("ca.crt"), &signs.pem).unwrap();
        std::fs::write(at("policy.yaml"), policy(ORDERS)).unwrap();
        let world_files = Self::server(&signs);
        std::fs::write(at("tls.crt"), world_files.0).unwrap();
        std::fs::write(at("tls.key"), world_files.1).unwrap();
        let mut environment = settings(&base, "redb:store.redb");
        environment.extend(ENVIRONMENT);
        environment.extend(more);
        let program = Program::start(dir.path(), &["serve"], &environment);
        let world = Self { dir, signs, authority, program };
        world.comes_as("admin", &[uri(ADMIN)]);
        world.comes_as("orders", &[uri(ORDERS)]);
        std::fs::write(world.at("refresh-token"), world.authority.consent("alice")).unwrap();
        let import = ["grant", "import", "kroger/alice", "--provider", "default"];
        let (ok, errors) =
            world.cli("admin", &[&import[..], &["--refresh-token-file", "refresh-token"]].concat());
        assert!(ok, "{errors}");
        world
    }

    fn server(signs: &Authorities) -> (String, String) {
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        signs.signs(&[SanType::IpAddress(address)])
    }

    /// What the program was started with, but for its provider.
    fn environment() -> Vec<(&'static str, &'static str)> {
        let mut environment = settings("http://127.0.0.1:1", "redb:store.redb");
        environment.extend(ENVIRONMENT);
        environment
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn comes_as(&self, who: &str, names: &[SanType]) {
        self.writes(who, self.signs.signs(names));
    }

    fn writes(&self, who: &str, (certificate, key): (String, String)) {
        std::fs::write(self.at(&format!("{who}.crt")), certificate).unwrap();
        std::fs::write(self.at(&format!("{who}.key")), key).unwrap();
    }

    fn cli(&self, who: &str, arguments: &[&str]) -> (bool, String) {
        let (certificate, key) = (format!("{who}.crt"), format!("{who}.key"));
        let proof = ["--tls-ca", "ca.crt", "--tls-cert", &certificate, "--tls-key", &key];
        self.asks("https", &[arguments, &proof].concat())
    }

    fn asks(&self, scheme: &str, arguments: &[&str]) -> (bool, String) {
        let address = format!("{scheme}://{}", self.program.api);
        let told = run(self.dir.path(), arguments, &[("TOKEN_BROKER_ADDRESS", &address)]);
        (told.status.success(), String::from_utf8_lossy(&told.stderr).into_owned())
    }
}

const ENVIRONMENT: [(&str, &str); 5] = [
    ("TOKEN_BROKER__LISTEN__API", "127.0.0.1:0"),
    ("TOKEN_BROKER__LISTEN__TLS__CERTIFICATE_FILE", "tls.crt"),
    ("TOKEN_BROKER__LISTEN__TLS__KEY_FILE", "tls.key"),
    ("TOKEN_BROKER__LISTEN__TLS__CLIENT_CA_FILE", "ca.crt"),
    ("TOKEN_BROKER__POLICY__FILE", "policy.yaml"),
];

const GET: [&str; 2] = ["get", "kroger/alice"];

#[tokio::test(flavor = "multi_thread")]
async fn certificates_prove_who_calls() {
    let world = World::new().await;
    let (ok, errors) = world.cli("orders", &GET);
    assert!(ok, "{errors}");
    let (ok, errors) = world.cli("orders", &["refresh", "kroger/alice"]);
    assert!(!ok && errors.contains("POLICY_DENIED") && errors.contains(ORDERS), "{errors}");
    for (who, names) in [
        ("two", vec![uri(ORDERS), uri(ADMIN)]),
        ("none", vec![SanType::DnsName("orders.shop".try_into().unwrap())]),
        ("web", vec![uri("https://example.org/ns/shop/sa/orders")]),
        ("star", vec![uri("spiffe://example.org/ns/shop/sa/%2A")]),
    ] {
        world.comes_as(who, &names);
        let (ok, errors) = world.cli(who, &GET);
        assert!(!ok && errors.contains("CALLER_UNAUTHENTICATED"), "{who}: {errors}");
    }
    world.writes("foreign", Authorities::new().signs(&[uri(ORDERS)]));
    let (ok, errors) = world.cli("foreign", &GET);
    assert!(!ok && !errors.contains("POLICY_DENIED"), "not even let in: {errors}");
    let (ok, errors) = world.asks("https", &[&GET[..], &["--tls-ca", "ca.crt"]].concat());
    assert!(!ok && errors.contains("CALLER_UNAUTHENTICATED"), "{errors}");
    let (ok, errors) = world.asks("http", &GET);
    assert!(!ok && errors.contains("https://"), "plaintext is told of TLS: {errors}");
    std::fs::write(world.at("other-ca.crt"), Authorities::new().pem).unwrap();
    let (ok, errors) = world.asks("https", &[&GET[..], &["--tls-ca", "other-ca.crt"]].concat());
    assert!(!ok && errors.contains("certificate"), "{errors}");
    let (ok, errors) = world.asks("https", &[&GET[..], &["--tls-ca", "policy.yaml"]].concat());
    assert!(!ok && errors.contains("no certificate in PEM"), "{errors}");
    let plaintext = [&GET[..], &["--tls-ca", "ca.crt"]].concat();
    let (ok, errors) = world.asks("http", &plaintext);
    assert!(!ok && errors.contains("name it with https://"), "nothing is sent: {errors}");
    std::fs::write(world.at("empty"), "\n").unwrap();
    for (file, told) in [("empty", "holds no token"), ("nowhere", "cannot be read")] {
        let (ok, errors) = world.cli("orders", &[&GET[..], &["--token-file", file]].concat());
        assert!(!ok && errors.contains(told) && !errors.contains("no answer"), "{errors}");
    }
    let metrics = world.program.page("/metrics");
    let counted = "tokenbroker_connections_closed_total{port=\"api\",why=\"tls\"}";
    assert!(metrics.contains(counted), "{metrics}");
    let plaintext =
        Program::start(world.dir.path(), &["serve"], &settings("http://127.0.0.1:1", "memory:"));
    let address = format!("https://{}", plaintext.api);
    let environment = [("TOKEN_BROKER_ADDRESS", address.as_str())];
    let told = run(world.dir.path(), &[&GET[..], &["--tls-ca", "ca.crt"]].concat(), &environment);
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("name it with http://"), "{told}");
}

/// A session that was resumed has the certificate that it began with.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_proves_nothing_once_it_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TurnedClock::new(dir.path());
    let world = World::with(dir, &clock.environment()).await;
    let read = |name: &str| std::fs::read_to_string(world.at(name)).unwrap();
    world.writes("short", world.signs.signs_until(&[uri(ORDERS)], 2030));
    let identity = Identity::from_pem(read("short.crt"), read("short.key"));
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read("ca.crt")))
        .identity(identity);
    let address = format!("https://{}", world.program.api);
    let mut client = Client::connect_as(&address, Bearer::none(), tls).await.unwrap();
    let wish =
        || GetTokenRequest { grant_id: "kroger/alice".to_owned(), ..GetTokenRequest::default() };
    client.tokens.get_token(wish()).await.unwrap();
    // Ten years later; what is refused is the proof, not the grant.
    clock.turn(10 * 365 * 24 * 3_600);
    let error = client.tokens.get_token(wish()).await.unwrap_err();
    assert!(error.message().contains("the client certificate has expired"), "{error:?}");
    clock.turn(0);
    client.tokens.get_token(wish()).await.unwrap();
}

/// Certificate and policy change under callers: none of their calls fails, and new ones get the new.
#[tokio::test(flavor = "multi_thread")]
async fn what_changes_under_callers_fails_no_call() {
    let world = World::new().await;
    assert!(world.cli("orders", &GET).0);
    let identity = |who: &str| {
        let read = |name: String| std::fs::read(world.at(&name)).unwrap();
        let (certificate, key) = (read(format!("{who}.crt")), read(format!("{who}.key")));
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&world.signs.pem))
            .identity(tonic::transport::Identity::from_pem(certificate, key))
    };
    let address = format!("https://{}", world.program.api);
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let tls = identity("orders");
    #[expect(clippy::disallowed_methods, reason = "ends with the test")]
    let caller = tokio::spawn({
        let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
        async move {
            while !stop.load(Ordering::SeqCst) {
                let client = Client::connect_as(&address, Bearer::none(), tls.clone()).await;
                let mut client = client.unwrap();
                for _ in 0..20 {
                    let grant_id = "kroger/alice".to_owned();
                    let request = GetTokenRequest { grant_id, ..Default::default() };
                    client.tokens.get_token(request).await.unwrap();
                    calls.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    });
    // A key alone does not fit the certificate: nothing is taken before both are there.
    let (certificate, key) = World::server(&world.signs);
    std::fs::write(world.at("tls.key"), key).unwrap();
    let good = |program: &Program, file: &str, value: u8| {
        let line = format!("tokenbroker_config_last_reload_successful{{file=\"{file}\"}} {value}");
        program.page("/metrics").contains(&line)
    };
    let becomes = async |file: &str, value: u8| {
        for _ in 0..200 {
            if good(&world.program, file, value) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{file} does not become {value}");
    };
    becomes("listen.tls", 0).await;
    std::fs::write(world.at("tls.crt"), certificate).unwrap();
    becomes("listen.tls", 1).await;
    // Nor is one taken that no client would take.
    let ours = ["tls.crt", "tls.key"].map(|name| std::fs::read(world.at(name)).unwrap());
    let address = SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    world.writes("tls", world.signs.signs_until(&[address], 2020));
    becomes("listen.tls", 0).await;
    let told = run(world.dir.path(), &["doctor"], &World::environment());
    assert!(String::from_utf8_lossy(&told.stdout).contains("certificate has expired"), "{told:?}");
    std::fs::write(world.at("tls.crt"), &ours[0]).unwrap();
    std::fs::write(world.at("tls.key"), &ours[1]).unwrap();
    becomes("listen.tls", 1).await;
    let metrics = world.program.page("/metrics");
    assert!(metrics.contains("tls_certificate_expiry_timestamp_seconds 4102444800"), "{metrics}");
    std::fs::write(world.at("policy.yaml"), "policies: [{ name: half").unwrap();
    becomes("policy.file", 0).await;
    std::fs::write(world.at("policy.yaml"), policy("spiffe://example.org/ns/shop/**")).unwrap();
    becomes("policy.file", 1).await;
    world.comes_as("carts", &[uri("spiffe://example.org/ns/shop/sa/carts")]);
    let (ok, errors) = world.cli("carts", &GET);
    assert!(ok, "the new policy: {errors}");
    stop.store(true, Ordering::SeqCst);
    caller.await.unwrap();
    assert!(calls.load(Ordering::SeqCst) > 100);
    std::fs::write(world.at("policy.yaml"), policy("spiffe://example.org/nobody")).unwrap();
    for _ in 0..200 {
        let (ok, errors) = world.cli("orders", &GET);
        if !ok {
            assert!(errors.contains("POLICY_DENIED"), "{errors}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("what was taken away is still there");
}

#[test]
fn beyond_loopback_there_must_be_tls_callers_and_a_policy() {
    let dir = tempfile::tempdir().unwrap();
    let signs = Authorities::new();
    let (certificate, key) = World::server(&signs);
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("tls.crt", &certificate);
    write("tls.key", &key);
    write("other.key", &World::server(&signs).1);
    write("policy.yaml", &policy(ORDERS));
    let api = ("TOKEN_BROKER__LISTEN__API", "0.0.0.0:50051");
    let certificate = ("TOKEN_BROKER__LISTEN__TLS__CERTIFICATE_FILE", "tls.crt");
    let key = |name| ("TOKEN_BROKER__LISTEN__TLS__KEY_FILE", name);
    let policy = ("TOKEN_BROKER__POLICY__FILE", "policy.yaml");
    let told = |environment: &[(&str, &str)]| {
        let told = run(dir.path(), &["check-config"], environment);
        (told.status.success(), String::from_utf8_lossy(&told.stderr).into_owned())
    };
    let (ok, errors) = told(&[api]);
    assert!(!ok && errors.contains("`listen.tls`, `callers` and `policy.file`"), "{errors}");
    let (ok, errors) = told(&[api, certificate, key("tls.key")]);
    assert!(!ok && errors.contains("policy.file"), "{errors}");
    let (ok, errors) = told(&[api, certificate, key("other.key"), policy]);
    assert!(!ok && errors.contains("do not fit"), "{errors}");
    let (ok, errors) = told(&[api, certificate, key("tls.crt"), policy]);
    assert!(!ok && errors.contains("no private key"), "{errors}");
    let (ok, errors) = told(&[api, certificate, key("tls.key"), policy]);
    assert!(ok, "{errors}");
}
