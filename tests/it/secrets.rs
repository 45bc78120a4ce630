//! No secret in the clear, wherever one could look: `cargo test --test it -- secrets:: --nocapture` prints
//! what was looked at.

use std::path::Path;

use crate::herd::settings;
use crate::support::authority::{Authority, Fault};
use crate::support::process::{Program, run};
use crate::support::redis::RedisServer;

/// What a caller proves itself by.
const CALLER: &str = "caller-canary-0123456789abcdef";
const POLICY: &str = "policies: [{ name: all, subjects: ['static:**'], grants: ['**'], \
                      actions: [get_token, force_refresh, admin.*] }]";

/// Where one could look, and what stands there.
type Places = Vec<(String, Vec<u8>)>;

/// Drives a program through good and bad times; gives all secrets, and all that it told.
async fn drive(dir: &Path, store: &str, more: &[(&str, &str)]) -> (Vec<String>, Places) {
    let authority = Authority::new();
    let base = authority.serve().await;
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
    write("callers", &format!("laptop {CALLER}\n"));
    write("caller", CALLER);
    write("policy.yaml", POLICY);
    let mut environment = settings(&base, store);
    environment.extend([
        ("TOKEN_BROKER__LOG__LEVEL", "trace"),
        ("TOKEN_BROKER__TIMING__FORCE_COOLDOWN", "0s"),
        ("TOKEN_BROKER__CALLERS__TOKENS_FILE", "callers"),
        ("TOKEN_BROKER__POLICY__FILE", "policy.yaml"),
        ("TOKEN_BROKER__AUDIT__SINK", "file:audit.jsonl"),
    ]);
    environment.extend(more);
    let program = Program::start(dir, &["serve"], &environment);
    let (proof, import) = (dir.join("caller"), dir.join("refresh-token"));
    let (proof, import) = (proof.display().to_string(), import.display().to_string());
    let cli = |arguments: &[&str]| program.cli(&[arguments, &["--token-file", &proof]].concat());
    write("refresh-token", &authority.consent("alice"));
    let importing = ["grant", "import", "kroger/alice", "--refresh-token-file", &import];
    let (ok, _, errors) = cli(&[&importing[..], &["--provider", "default"]].concat());
    assert!(ok, "{errors}");
    let mut told = String::new();
    let mut tell = |(_, output, errors): (bool, String, String)| {
        told.push_str(&output);
        told.push_str(&errors);
    };
    let (ok, token, _) = cli(&["get", "kroger/alice"]);
    assert!(ok && token.contains("access-canary"), "a token is what GetToken is for");
    for fault in
        [Fault::OnlyRefreshToken, Fault::Answer(403, "blocked"), Fault::Answer(503, "busy")]
    {
        authority.next(fault);
        tell(cli(&["grant", "rotate", "kroger/alice"]));
    }
    tell(cli(&["refresh", "kroger/alice"]));
    tell(cli(&["grant", "show", "kroger/alice", "--json"]));
    tell(cli(&["grant", "list", "--json"]));
    tell(cli(&["status", "--json"]));
    tell(cli(&[&importing[..], &["--provider", "nobody"]].concat()));
    tell(program.cli(&["get", "kroger/alice"]));
    let metrics = program.page("/metrics");
    let (_, shown) = program.grpcurl(
        r#"{"grant_id":"!","refresh_token":"refresh-canary-in-a-bad-request"}"#,
        "GrantAdminService/ImportGrant",
    );
    told.push_str(&shown);
    let (code, log) = program.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("\"level\":\"TRACE\""), "the log is at TRACE");
    assert!(authority.posts() >= 3);
    let mut secrets = authority.secrets();
    secrets.extend(["client-secret-canary", "in-a-bad-request", CALLER].map(str::to_owned));
    let file = |name: &str| (name.to_owned(), std::fs::read(dir.join(name)).unwrap());
    let places = vec![
        ("log at TRACE".to_owned(), log.into_bytes()),
        ("metrics".to_owned(), metrics.into_bytes()),
        ("errors and answers of operators".to_owned(), told.into_bytes()),
        file("audit.jsonl"),
    ];
    (secrets, places)
}

/// Looks for every secret in every place.
fn assert_none(secrets: &[String], places: &Places) {
    let mut all = 0;
    for (place, bytes) in places {
        assert!(!bytes.is_empty(), "{place} is empty: nothing was looked at");
        let stands = |secret: &&String| {
            bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
        };
        let found = secrets.iter().filter(stands).count();
        println!("{place:<34} {:>8} bytes {:>3} secrets {found} found", bytes.len(), secrets.len());
        all += found;
    }
    assert_eq!(all, 0, "a secret stands in the clear");
}

#[tokio::test(flavor = "multi_thread")]
async fn none_on_redb() {
    let dir = tempfile::tempdir().unwrap();
    let (secrets, mut places) = drive(dir.path(), "redb:store.redb", &[]).await;
    places.push(("redb".to_owned(), std::fs::read(dir.path().join("store.redb")).unwrap()));
    assert_none(&secrets, &places);
}

#[tokio::test(flavor = "multi_thread")]
async fn none_on_redis() {
    let dir = tempfile::tempdir().unwrap();
    let server = RedisServer::start(&["--appendonly", "yes", "--slowlog-log-slower-than", "0"]);
    run(dir.path(), &["keys", "generate", "--file", "keys.json"], &[]);
    let more = [
        ("TOKEN_BROKER__KEYS__FILE", "keys.json"),
        // `journal::` looks into one that holds a pair.
        ("TOKEN_BROKER__STORE__JOURNAL", "journal"),
    ];
    let (secrets, mut places) = drive(dir.path(), &server.url(), &more).await;
    places.push(("slow log of Redis".to_owned(), server.cli(&["SLOWLOG", "GET", "128"]).into()));
    assert_eq!(server.cli(&["SAVE"]), "OK");
    let mut folders = vec![server.dir.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                // The manifest names files, and holds nothing else.
                places.push((format!("Redis: {name}"), std::fs::read(&path).unwrap()));
            }
        }
    }
    let files = places.iter().filter(|(place, _)| place.starts_with("Redis: ")).count();
    assert!(files >= 2, "the dump and the append-only file");
    assert_none(&secrets, &places);
}
