//! The real program by hand: dev, serve, the command line, grpcurl.

use std::io::BufRead as _;
use std::time::Duration;

use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::herd::{import, redis_settings, settings};
use crate::support::authority::Authority;
use crate::support::browser::Browser;
use crate::support::process::{Program, program, run, text};
use crate::support::redis::RedisServer;

#[test]
fn dev_prints_lines_that_work_as_pasted_and_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Program::start(dir.path(), &["dev"], &[]);
    dev.wait_for("Ctrl-C stops");
    let lines: Vec<String> = dev.seen.iter().map(|line| line.trim().to_owned()).collect();
    let pasted =
        lines.iter().filter(|line| line.contains(" --address ") || line.starts_with("grpcurl "));
    let mut tried = 0;
    for line in pasted {
        if line.contains(" grant enroll ") {
            enrolls(line, dir.path());
            // Another consent of the same person is a chain of its own.
            enrolls(&line.replace("demo/bob", "demo/bob-too"), dir.path());
            for grant in ["demo/bob", "demo/bob-too"] {
                let (ok, _, errors) = dev.cli(&["grant", "rotate", grant]);
                assert!(ok, "{grant}: {errors}");
            }
            continue;
        }
        tried += 1;
        let grpcurl = crate::support::process::grpcurl().display().to_string();
        let line = line.replace("grpcurl ", &format!("{grpcurl} "));
        let output =
            std::process::Command::new("sh").args(["-c", &line]).current_dir(dir.path()).output();
        let output = output.unwrap();
        let all = text(&output.stdout) + &text(&output.stderr);
        let expected = if line.contains("demo/nobody") {
            all.contains("GRANT_NOT_FOUND")
        } else if line.starts_with(&grpcurl) && line.contains("other-team/") {
            all.contains("POLICY_DENIED")
        } else {
            // Straight after a rotation the cooldown answers; that is an answer, too.
            output.status.success() || all.contains("FORCE_REFRESH_COOLDOWN")
        };
        assert!(expected, "{line}\n{all}");
    }
    assert!(tried >= 7, "{lines:#?}");
    reads_as_the_readme_says(&dev);
    let (_, before, _) = dev.cli(&["get", "demo/alice", "--json"]);
    let (code, log) = dev.stop();
    assert_eq!(code, Some(0), "{log}");

    let mut again = Program::start(dir.path(), &["dev"], &[]);
    again.wait_for("Ctrl-C stops");
    let (ok, after, errors) = again.cli(&["get", "demo/alice", "--json"]);
    assert!(ok, "{errors}");
    let number = |json: &str| {
        serde_json::from_str::<serde_json::Value>(json).unwrap()["generation"].as_i64().unwrap()
    };
    assert!(number(&after) >= number(&before));
    assert!(
        again.seen.iter().all(|line| !line.contains("a new chain begins")),
        "the old one goes on"
    );
}

/// What the README says of enrolment, after the line that needs a browser.
fn reads_as_the_readme_says(dev: &Program) {
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let block = readme.split("```sh\n").find(|block| block.contains("enroll demo/bob")).unwrap();
    let lines = block.split("```").next().unwrap().lines();
    let commands: Vec<Vec<&str>> = lines
        .map(|line| line.split('#').next().unwrap().split_whitespace().skip(1).collect())
        .collect();
    assert_eq!(commands.len(), 6);
    for command in commands.iter().filter(|command| !command.contains(&"enroll")) {
        let (ok, _, errors) = dev.cli(command);
        assert!(ok, "{command:?}: {errors}");
    }
    let (_, shown, _) = dev.cli(&["grant", "show", "demo/bob"]);
    assert!(shown.contains("REVOKED"), "{shown}");
}

/// A person enters the code, and presses `Allow`.
fn enrolls(line: &str, dir: &std::path::Path) {
    use std::process::{Command, Stdio};

    let mut enroll = Command::new("sh")
        .args(["-c", line])
        .current_dir(dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told =
        std::io::BufReader::new(enroll.stderr.take().unwrap()).lines().map_while(Result::ok);
    let url = told.find(|line| line.contains("http")).unwrap().trim().to_owned();
    let code = told.find(|line| line.contains("code")).unwrap();
    let browser = Browser::new();
    let page = browser.open(&url);
    let page = browser.enter(&url, &page, code.split_whitespace().last().unwrap());
    let question = page.link();
    let page = browser.open(&question);
    assert!(page.body.contains("demo-client") && page.head.contains("default-src 'none'"));
    let press = ["-s", "-o", "/dev/null", "-w", "%{redirect_url}", "-d", "decision=allow"];
    let address = Command::new("curl").args(press).arg(&question).output().unwrap();
    assert_eq!(browser.open(&text(&address.stdout)).title(), "Connected");
    let output = enroll.wait_with_output().unwrap();
    assert!(text(&output.stdout).contains("demo/bob"), "{output:?}");
}

#[test]
fn dev_recovers_after_being_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Program::start(dir.path(), &["dev"], &[]);
    dev.wait_for("Ctrl-C stops");
    dev.signal("KILL");
    dev.end();
    let mut again = Program::start(dir.path(), &["dev"], &[]);
    again.wait_for("Ctrl-C stops");
    let (ok, _, errors) = again.cli(&["get", "demo/alice"]);
    assert!(ok, "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_sees_methods_manuals_tokens_and_decoded_errors() {
    let authority = Authority::new();
    let base = authority.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let program = Program::start(dir.path(), &["serve"], &settings(&base, "memory:"));
    import(&program, dir.path(), "kroger/alice", &authority.consent("alice"));
    let (ok, shown) = program.grpcurl(r#"{"grant_id":"kroger/alice"}"#, "TokenService/GetToken");
    assert!(ok && shown.contains("\"accessToken\": \"access-canary-"), "{shown}");
    let (ok, shown) = program.grpcurl(r#"{"grant_id":"kroger/bob"}"#, "TokenService/GetToken");
    assert!(!ok);
    for part in
        ["NotFound", "google.rpc.ErrorInfo", "GRANT_NOT_FOUND", "tokenbroker.dev", "kroger/bob"]
    {
        assert!(shown.contains(part), "{part} is missing in {shown}");
    }
    let (_, shown) = program.grpcurl(r#"{"grant_id":"!"}"#, "TokenService/GetToken");
    assert!(
        shown.contains("google.rpc.BadRequest") && shown.contains("fieldViolations"),
        "{shown}"
    );
    let big = format!(r#"{{"grant_id":"{}"}}"#, "a".repeat(100_000));
    let (_, shown) = program.grpcurl(&big, "TokenService/GetToken");
    assert!(shown.contains("INVALID_REQUEST"), "oversize: {shown}");
    let (_, shown) = program.grpcurl("{}", "GrantAdminService/RewrapKeys");
    assert!(shown.contains("NOT_IMPLEMENTED"), "{shown}");
    let described = std::process::Command::new(crate::support::process::grpcurl())
        .args(["-plaintext", &program.api, "describe", "tokenbroker.v1.TokenService.GetToken"])
        .output()
        .unwrap();
    assert!(text(&described.stdout).contains("Returns an access token that is valid now"));
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_and_tokens_survive_a_restart() {
    let authority = Authority::new();
    let base = authority.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let environment = settings(&base, "redb:store.redb");
    let program = Program::start(dir.path(), &["serve"], &environment);
    import(&program, dir.path(), "kroger/alice", &authority.consent("alice"));
    let (_, token, _) = program.cli(&["get", "kroger/alice"]);
    assert!(token.starts_with("access-canary-"));
    program.stop();

    let program = Program::start(dir.path(), &["serve"], &environment);
    let (_, again, _) = program.cli(&["get", "kroger/alice"]);
    assert_eq!(again, token);
    assert_eq!(authority.posts(), 1);
    let second = Program::spawn(dir.path(), &["serve"], &environment);
    let (code, log) = { second }.end();
    assert_eq!(code, Some(1));
    assert!(log.contains("in use by another process"), "{log}");

    let keys = dir.path().join("store.redb.keys");
    program.stop();
    std::fs::rename(&keys, dir.path().join("elsewhere")).unwrap();
    let (code, log) = Program::spawn(dir.path(), &["serve"], &environment).end();
    assert!(code == Some(1) && log.contains("store.redb.keys does not exist"), "{log}");
    assert!(!keys.exists(), "no new ring is made for an old store");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_waits_for_the_pair() {
    let authority = Authority::new();
    let base = authority.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let environment = settings(&base, "redb:store.redb");
    let program = Program::start(dir.path(), &["serve"], &environment);
    import(&program, dir.path(), "kroger/alice", &authority.consent("alice"));
    authority.delay(Duration::from_millis(1_500));
    let mut client =
        token_broker::client::Client::connect(&format!("http://{}", program.api)).await.unwrap();
    let request = token_broker::proto::GetTokenRequest {
        grant_id: "kroger/alice".to_owned(),
        ..Default::default()
    };
    let asked = client.tokens.get_token(request);
    let stopped = async {
        while authority.posts() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::task::spawn_blocking(move || program.stop()).await.unwrap()
    };
    let (asked, (code, log)) = tokio::join!(asked, stopped);
    assert!(asked.is_ok(), "the caller who waits is answered: {asked:?}");
    assert_eq!(code, Some(0), "{log}");
    let program = Program::start(dir.path(), &["serve"], &environment);
    let (_, token, _) = program.cli(&["get", "kroger/alice"]);
    assert_eq!(token.trim(), asked.unwrap().into_inner().token.unwrap().access_token);
    assert_eq!(authority.posts(), 1);
    authority.audit();
}

/// Clients that stay for ever do not keep the program from stopping cleanly.
#[tokio::test(flavor = "multi_thread")]
async fn open_streams_and_silent_connections_do_not_keep_it_from_stopping() {
    const CONNECTIONS: usize = 10;
    const STREAMS: usize = 100;
    let dir = tempfile::tempdir().unwrap();
    let mut environment = settings("http://127.0.0.1:1", "redb:store.redb");
    environment.push(("TOKEN_BROKER__SHUTDOWN__DRAIN_MAX", "3s"));
    let mut program = Program::start(dir.path(), &["serve"], &environment);
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(tokio::net::TcpStream::connect(&program.api).await.unwrap());
    }
    let mut watched = Vec::new();
    for _ in 0..CONNECTIONS {
        let channel = Channel::from_shared(format!("http://{}", program.api)).unwrap();
        let mut client = HealthClient::new(channel.connect().await.unwrap());
        for _ in 0..STREAMS {
            let mut stream =
                client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
            assert_eq!(stream.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
            watched.push(stream);
        }
    }
    program.signal("INT");
    let told = watched[0].message().await.unwrap().unwrap();
    assert_eq!(told.status(), ServingStatus::NotServing, "watchers hear of it");
    let (code, log) = program.end();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!((silent.len(), watched.len()), (100, CONNECTIONS * STREAMS), "held to the end");
}

#[test]
fn dev_goes_elsewhere_if_its_port_is_taken() {
    let _taken = std::net::TcpListener::bind("127.0.0.1:50051");
    let dir = tempfile::tempdir().unwrap();
    let mut dev =
        program(dir.path()).arg("dev").stdout(std::process::Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufReader::new(dev.stdout.take().unwrap()).lines();
    let api = lines.map_while(Result::ok).find(|line| line.starts_with("  API "));
    let api = api.expect("the banner comes");
    assert!(api.contains("127.0.0.1:") && !api.contains("127.0.0.1:50051"), "{api}");
    dev.kill().unwrap();
    dev.wait().unwrap();
}

#[test]
fn a_pipe_that_closed_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_token-broker"))
        .arg("config-schema")
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}

/// The disk takes no further byte while a refresh is on the wire, and later does again.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_provider_is_listened_to_after_callers_gave_up() {
    let authority = Authority::new();
    let base = authority.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let mut environment = settings(&base, "redb:store.redb");
    environment.push(("TOKEN_BROKER__TIMING__CALLER_WAIT_MAX", "300ms"));
    let program = Program::start(dir.path(), &["serve"], &environment);
    import(&program, dir.path(), "kroger/alice", &authority.consent("alice"));
    // 12 s of a provider and 10 s of a caller, scaled down.
    authority.delay(Duration::from_millis(1_500));
    let (ok, _, errors) = program.cli(&["get", "kroger/alice"]);
    assert!(!ok && errors.contains("REFRESH_IN_PROGRESS"), "{errors}");
    let (code, log) = program.stop();
    assert_eq!(code, Some(0), "SIGTERM waits for the answer: {log}");
    assert_eq!(authority.posts(), 1);

    let program = Program::start(dir.path(), &["serve"], &environment);
    let (ok, token, errors) = program.cli(&["get", "kroger/alice"]);
    assert!(ok && token.starts_with("access-canary-"), "{errors}");
    assert_eq!(authority.posts(), 1, "what came late was kept");
    authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_until_there_is_room() {
    let authority = Authority::new();
    let base = authority.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let environment = settings(&base, "redb:store.redb");
    let program = Program::start(dir.path(), &["serve"], &environment);
    import(&program, dir.path(), "kroger/alice", &authority.consent("alice"));
    // What is there can be overwritten; nothing can be added.
    let length = std::fs::metadata(dir.path().join("store.redb")).unwrap().len();
    program.limit_files(&length.to_string());
    let labels: Vec<_> = (0..16).map(|n| format!("label-{n}={}", "x".repeat(60))).collect();
    let failed = (0..2_000).any(|n| {
        let grant = format!("kroger/service-{n}");
        let mut arguments = vec!["grant", "create", &grant, "--provider", "default"];
        arguments.extend(labels.iter().flat_map(|label| ["--label", label]));
        !program.cli(&arguments).0
    });
    assert!(failed, "the store takes everything");
    let told = |what: &str, told: bool| {
        let page =
            program.page("/readyz") + &program.page("/metrics") + &program.cli(&["status"]).1;
        page.contains(what) == told
    };
    let mut seen = false;
    for _ in 0..100 {
        seen = told("tokenbroker_store_up 0", true) && told("File too large", true);
        if seen {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(seen, "{} {}", program.page("/readyz"), program.cli(&["status"]).1);
    // It is not forgotten by the next look.
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(told("tokenbroker_store_up 0", true), "{}", program.page("/readyz"));
    }
    program.limit_files("unlimited");
    let well = |_: &usize| told("tokenbroker_store_up 1", true);
    assert!((0..100).any(|n| well(&n) || {
        std::thread::sleep(Duration::from_millis(100));
        false
    }));
}

#[cfg(target_os = "linux")]
#[test]
fn its_memory_is_written_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings("http://127.0.0.1:1", "memory:");
    let mut program = Program::start(dir.path(), &["serve"], &settings);
    let proc = std::path::PathBuf::from(format!("/proc/{}", program.id()));
    let limits = std::fs::read_to_string(proc.join("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
    program.signal("ABRT");
    assert_eq!(program.end().0, None, "it was killed");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().collect();
    let cores = left.iter().filter(|file| file.file_name().to_string_lossy().starts_with("core"));
    assert_eq!(cores.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_gone_beside_its_ring_is_no_first_start() {
    let dir = tempfile::tempdir().unwrap();
    let environment = settings("http://127.0.0.1:1", "redb:store.redb");
    let (code, log) = Program::start(dir.path(), &["serve"], &environment).stop();
    assert_eq!(code, Some(0), "{log}");
    let (store, aside) = (dir.path().join("store.redb"), dir.path().join("aside"));
    std::fs::rename(&store, &aside).unwrap();
    for command in ["serve", "doctor"] {
        let output = run(dir.path(), &[command], &environment);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(!output.status.success() && said.contains("put the file back"), "{said}");
        assert!(!store.exists(), "nothing was made in its place");
    }
    std::fs::rename(&aside, &store).unwrap();
    assert_eq!(Program::start(dir.path(), &["serve"], &environment).stop().0, Some(0));
    // A first start that ended before its store was made has lost none.
    std::fs::remove_file(dir.path().join("store.redb.keys")).unwrap();
    std::fs::write(&store, "").unwrap();
    assert_eq!(Program::start(dir.path(), &["serve"], &environment).stop().0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_written_is_opened_anew() {
    let authority = Authority::new();
    let base = authority.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let environment = settings(&base, "redb:store.redb");
    let program = Program::start(dir.path(), &["serve"], &environment);
    import(&program, dir.path(), "kroger/alice", &authority.consent("alice"));
    let (_, before, _) = program.cli(&["get", "kroger/alice"]);
    tokio::time::sleep(Duration::from_millis(250)).await;
    authority.delay(Duration::from_millis(800));
    let address = format!("http://{}", program.api);
    let refreshed = tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let arguments = ["refresh", "kroger/alice", "--address", &address];
            let refreshing = scope.spawn(move || run(std::path::Path::new("/"), &arguments, &[]));
            while authority.posts() < 2 {
                std::thread::sleep(Duration::from_millis(5));
            }
            program.limit_files("1");
            refreshing.join().unwrap()
        })
    });
    let (token, errors) = (text(&refreshed.stdout), text(&refreshed.stderr));
    assert!(refreshed.status.success() && token != before, "served from memory: {errors}");
    assert!(program.page("/metrics").contains("tokenbroker_unpublished_pairs 1"));
    program.limit_files("unlimited");
    let mut stored = false;
    for _ in 0..100 {
        stored = program.page("/metrics").contains("tokenbroker_unpublished_pairs 0");
        if stored {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(stored, "the pair is stored once the file can be written");
    let (code, log) = program.stop();
    assert!(code == Some(0) && log.contains("opened the store anew"), "{log}");
    let program = Program::start(dir.path(), &["serve"], &environment);
    assert_eq!(program.cli(&["get", "kroger/alice"]).1, token);
    assert_eq!(authority.posts(), 2);
    authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_goes_away_is_survived() {
    let authority = Authority::new().lifetime(Duration::from_secs(3));
    let base = authority.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let server = RedisServer::start(&[]);
    let url = server.url();
    let mut environment = redis_settings(dir.path(), &base, &url);
    environment.push(("TOKEN_BROKER__STORE__TIMEOUT", "200ms"));
    let program = Program::start(dir.path(), &["serve"], &environment);
    import(&program, dir.path(), "kroger/alice", &authority.consent("alice"));
    let (_, token, _) = program.cli(&["get", "kroger/alice"]);
    server.signal("STOP");
    let (ok, same, errors) = program.cli(&["get", "kroger/alice"]);
    assert!(ok && same == token, "served from memory: {errors}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let posts = authority.posts();
    let (ok, _, errors) = program.cli(&["get", "kroger/alice"]);
    assert!(!ok && errors.contains("STORE_UNAVAILABLE"), "{errors}");
    assert_eq!(authority.posts(), posts, "nothing is sent without a claim");
    server.signal("CONT");
    let mut recovered = false;
    for _ in 0..50 {
        recovered = program.cli(&["get", "kroger/alice"]).0;
        if recovered {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(recovered, "the connection is replaced once Redis answers");
    authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_went_back_in_time_is_healed_before_anything_is_spent() {
    let authority = Authority::new();
    let base = authority.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let server = RedisServer::start(&[]);
    let url = server.url();
    let environment = redis_settings(dir.path(), &base, &url);
    let program = Program::start(dir.path(), &["serve"], &environment);
    import(&program, dir.path(), "kroger/alice", &authority.consent("alice"));
    let key = server.cli(&["KEYS", "tb:*:g:kroger/alice"]);
    server.cli(&["COPY", &key, "before"]);
    let refresh = |times: usize| {
        for _ in 0..times {
            std::thread::sleep(Duration::from_millis(250));
            let (ok, _, errors) = program.cli(&["refresh", "kroger/alice"]);
            assert!(ok, "{errors}");
        }
    };
    tokio::task::block_in_place(|| refresh(2));
    assert_eq!(server.cli(&["COPY", "before", &key, "REPLACE"]), "1");
    tokio::task::block_in_place(|| refresh(2));
    assert_eq!(authority.posts(), 4);
    authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_whose_record_is_gone_is_kept() {
    let authority = Authority::new();
    let base = authority.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let server = RedisServer::start(&[]);
    let url = server.url();
    let mut environment = redis_settings(dir.path(), &base, &url);
    environment.push(("TOKEN_BROKER__TIMING__STORE_WATCH", "50ms"));
    let program = Program::start(dir.path(), &["serve"], &environment);
    import(&program, dir.path(), "kroger/alice", &authority.consent("alice"));
    // Redis is emptied while the provider works.
    authority.delay(Duration::from_millis(800));
    let emptied = std::thread::spawn({
        let authority = authority.clone();
        move || {
            while authority.posts() == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            server.cli(&["FLUSHALL"]);
            server
        }
    });
    let (ok, token, errors) = program.cli(&["get", "kroger/alice"]);
    assert!(ok, "{errors}");
    let server = emptied.join().unwrap();
    let remade = "tokenbroker_remade_grants_total{provider=\"default\"} 1";
    assert!(program.page("/metrics").contains(remade));
    // And once more while nothing happens.
    server.cli(&["FLUSHALL"]);
    std::thread::sleep(Duration::from_millis(250));
    authority.delay(Duration::ZERO);
    let (ok, next, errors) = program.cli(&["refresh", "kroger/alice"]);
    assert!(ok && next != token, "{errors}");
    let (code, log) = program.stop();
    assert_eq!(code, Some(0), "{log}");
    let program = Program::start(dir.path(), &["serve"], &environment);
    let (ok, again, errors) = program.cli(&["get", "kroger/alice"]);
    assert!(ok && again == next, "{errors}");
    assert_eq!(authority.posts(), 2);
    authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healed_grant_is_due_as_before() {
    let authority = Authority::new();
    let base = authority.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let server = RedisServer::start(&[]);
    let url = server.url();
    let environment = redis_settings(dir.path(), &base, &url);
    let program = Program::start(dir.path(), &["serve"], &environment);
    import(&program, dir.path(), "kroger/alice", &authority.consent("alice"));
    assert!(program.cli(&["get", "kroger/alice"]).0);
    let key = server.cli(&["KEYS", "tb:*:g:kroger/alice"]);
    let due = key.replace(":g:kroger/alice", ":due");
    let before = server.cli(&["ZSCORE", &due, "kroger/alice"]);
    assert!(!before.is_empty());
    server.cli(&["DEL", &key, &due]);
    let (ok, shown, errors) = program.cli(&["grant", "show", "kroger/alice"]);
    assert!(ok && shown.contains("ACTIVE"), "{errors}");
    assert_eq!(server.cli(&["ZSCORE", &due, "kroger/alice"]), before);
}

#[test]
fn the_operators_port_tells_the_truth() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::start(dir.path(), &["dev"], &[]);
    assert!(program.page("/livez").starts_with("HTTP/1.1 200"));
    assert!(program.page("/readyz").starts_with("HTTP/1.1 200"));
    program.cli(&["get", "demo/alice"]);
    let metrics = program.page("/metrics");
    for name in [
        "rpc_server_call_duration_seconds_count{rpc_method=\"tokenbroker.v1.TokenService/GetToken\"",
        "tokenbroker_token_requests_total{provider=\"demo\"",
        "tokenbroker_refreshes_total{provider=\"demo\"",
        "tokenbroker_refresh_duration_seconds_count{provider=\"demo\"}",
        "tokenbroker_unpublished_pairs 0",
        "tokenbroker_store_up 1",
        "tokenbroker_build_info{version=",
        "# TYPE tokenbroker_refresh_persist_failures counter",
    ] {
        assert!(metrics.contains(name), "{name} is missing in\n{metrics}");
    }
}

#[test]
fn a_broker_whose_store_is_away_is_alive_and_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &["keys", "generate", "--file", "keys.json"], &[]);
    let ops = format!("127.0.0.1:{}", crate::support::redis::free_port());
    let url = format!("redis://127.0.0.1:{}", crate::support::redis::free_port());
    let environment = [
        ("TOKEN_BROKER__STORE__URL", url.as_str()),
        ("TOKEN_BROKER__KEYS__FILE", "keys.json"),
        ("TOKEN_BROKER__LISTEN__OPS", ops.as_str()),
    ];
    let mut program = Program::spawn(dir.path(), &["serve"], &environment);
    program.wait_for("waiting for the token store");
    program.ops = ops.clone();
    assert!(program.page("/livez").starts_with("HTTP/1.1 200"));
    assert!(program.page("/readyz").starts_with("HTTP/1.1 503"));
    assert_eq!(program.stop().0, Some(0));
}

#[test]
fn bad_configuration_ends_the_program_before_any_port_opens() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("bad.yaml"), "listen: {api: nowhere, secret: canary}").unwrap();
    for command in ["serve", "check-config"] {
        let output = run(dir.path(), &[command, "--config", "bad.yaml"], &[]);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{errors}");
        assert!(errors.contains("listen.secret: there is no such setting"), "{errors}");
        assert!(!errors.contains("canary"), "{errors}");
    }
    let output = run(dir.path(), &["check-config"], &[]);
    assert!(output.status.success() && text(&output.stdout).contains("is valid"));
    let output = run(dir.path(), &["config-schema"], &[]);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    let output = run(dir.path(), &["serve"], &[("TOKEN_BROKER__KEYS__FILE", "no-such-ring")]);
    assert!(text(&output.stderr).contains("keys generate"), "{}", text(&output.stderr));
}

#[test]
fn the_command_line_manages_grants_and_explains_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = Program::start(dir.path(), &["dev"], &[]);
    program.wait_for("Ctrl-C stops");
    let (ok, table, _) = program.cli(&["grant", "list"]);
    assert!(ok && table.contains("GRANT") && table.contains("demo/service"), "{table}");
    let (ok, made, errors) =
        program.cli(&["grant", "create", "demo/second", "--provider", "demo", "--label", "a=b"]);
    assert!(ok && made.contains("CLIENT_CREDENTIALS") && made.contains("a=b"), "{errors}");
    let (ok, _, errors) = program.cli(&["grant", "create", "demo/third", "--provider", "nobody"]);
    assert!(!ok && errors.contains("PROVIDER_NOT_CONFIGURED"), "{errors}");
    let (ok, rotated, errors) = program.cli(&["grant", "rotate", "demo/second"]);
    assert!(ok && rotated.contains("token expires"), "{errors}");
    assert!(program.cli(&["grant", "delete", "demo/second"]).0);
    let (ok, _, errors) = program.cli(&["grant", "show", "demo/second"]);
    assert!(!ok && errors.contains("GRANT_NOT_FOUND"), "{errors}");
    let output = run(dir.path(), &["get", "demo/alice", "--address", "http://127.0.0.1:1"], &[]);
    let errors = text(&output.stderr);
    assert!(!output.status.success() && errors.contains("no broker answers"), "{errors}");
    let first = run(dir.path(), &["keys", "generate", "--file", "ring"], &[]);
    assert!(first.status.success());
    let second = run(dir.path(), &["keys", "generate", "--file", "ring"], &[]);
    assert!(text(&second.stderr).contains("never overwritten"));
}
