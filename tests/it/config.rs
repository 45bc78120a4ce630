//! Configuration: layers, and mistakes told all at once and without their values.

use std::path::Path;

use token_broker::config::{Config, Environment, Problem, StoreConfig, load, schema};

const CANARY: &str = "canary-secret-value";

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn file(text: &str, pairs: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    std::fs::write(&path, text).unwrap();
    load(Some(&path), &environment(pairs))
}

fn paths(problems: &[Problem]) -> Vec<&str> {
    problems.iter().map(|problem| problem.path.as_str()).collect()
}

#[test]
fn nothing_at_all_is_a_configuration() {
    let config = load(None, &Environment::new()).unwrap();
    assert_eq!(config.listen.api.to_string(), "127.0.0.1:50051");
    assert!(
        matches!(config.store, StoreConfig::Redb(path) if path == Path::new("token-broker.redb"))
    );
}

#[test]
fn the_tutorials_variables_make_a_provider() {
    let config = load(
        None,
        &environment(&[
            ("OAUTH2_BASE_URL", "https://api.kroger.com/v1/connect/oauth2"),
            ("CLIENT_ID", "me"),
            ("CLIENT_SECRET", CANARY),
            ("REDIRECT_URL", "https://example.com/callback"),
        ]),
    );
    let [provider] = &config.unwrap().providers[..] else { panic!("one provider") };
    assert_eq!(provider.id.as_str(), "default");
    assert_eq!(provider.profile, "kroger");
    let token = provider.endpoints.token.as_deref();
    assert_eq!(token, Some("https://api.kroger.com/v1/connect/oauth2/token"));
    assert!(!format!("{provider:?}").contains(CANARY));
}

#[test]
fn the_environment_overrides_the_file() {
    let text = "listen: {api: '127.0.0.1:1', reflection: true}\ntiming: {attempts_max: 5}";
    let variables = [
        ("TOKEN_BROKER__LISTEN__API", "127.0.0.1:2"),
        ("TOKEN_BROKER__LISTEN__REFLECTION", "false"),
        ("TOKEN_BROKER__TIMING__FORCE_COOLDOWN", "1500ms"),
        ("TOKEN_BROKER__PROVIDERS__KROGER__PROFILE", "kroger"),
        ("TOKEN_BROKER__PROVIDERS__KROGER__CLIENT_ID", "123"),
        ("TOKEN_BROKER__PROVIDERS__KROGER__CLIENT_SECRET", "456"),
    ];
    let config = file(text, &variables).unwrap();
    assert_eq!(config.listen.api.port(), 2);
    assert!(!config.listen.reflection);
    assert_eq!(config.settings.force_cooldown.as_millis(), 1500);
    assert_eq!(config.settings.attempts_max, 5);
    assert_eq!(config.providers[0].client_id, "123", "a text stays a text");
}

#[test]
fn all_mistakes_are_told_at_once_and_never_a_value() {
    let text = format!(
        "listen: {{api: {CANARY}, opps: 1}}\n\
         store: {{timeout: {CANARY}}}\n\
         log: {{format: {CANARY}}}\n\
         timing: {{attempts_max: 99, due_batch: {CANARY}}}\n\
         providers: {{kroger: {{profile: {CANARY}, client_secret: {CANARY}}}}}\n\
         {CANARY}x: 1\n"
    );
    let problems = file(&text, &[("TOKEN_BROKER__LISTEN__NONSENSE", CANARY)]).unwrap_err();
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    for path in [
        "TOKEN_BROKER__LISTEN__NONSENSE",
        "listen.opps",
        "log.format",
        "providers.kroger.client_secret",
        "providers.kroger.profile",
        "store.timeout",
        "timing.attempts_max",
        "timing.due_batch",
    ] {
        assert!(paths(&problems).contains(&path), "{path} is missing in {told:#?}");
    }
    for line in told.iter().filter(|line| !line.starts_with(&format!("{CANARY}x"))) {
        assert!(!line.contains(CANARY), "{line}");
    }
    assert!(
        told.iter().any(|line| line == "log.format: must be one of: auto, human, json"),
        "{told:#?}"
    );
}

#[test]
fn what_the_schema_cannot_say_is_checked_too() {
    let text = "listen: {api: '0.0.0.0:50051'}\n\
        store: {url: 'redis://localhost'}\n\
        log: {level: 'token_broker=loud'}\n\
        timing: {retry_backoff: 2m}\n\
        providers:\n  kroger: {client_id: me, client_secret_file: /does/not/exist}\n  \
        plain: {token_url: 'http://example.com/token', client_id: me, listen_max: 10m, connect_timeout: 11m}\n";
    let problems = file(text, &[]).unwrap_err();
    for path in [
        "keys.file",
        "listen.api",
        "log.level",
        "providers.kroger.client_secret_file",
        "providers.kroger.token_url",
        "providers.plain.client_secret_file",
        "providers.plain.connect_timeout",
        "providers.plain.listen_max",
        "providers.plain.token_url",
        "timing.retry_backoff",
    ] {
        assert!(paths(&problems).contains(&path), "{path} is missing in {problems:#?}");
    }
}

#[test]
fn what_the_schema_tells_does_not_hide_the_rest() {
    let text = "listen: {api: 'nowhere', ops: '127.0.0.1:9', pages: '127.0.0.1:9', \
        pages_url: 'https://u:p@b.example'}\n\
        timing: {poll: soon}\n\
        providers: {kroger: {token_url: 'https://example.com/token', client_id: [], \
        account_field: 'a..b', colour: red}}";
    let secret = ("TOKEN_BROKER__PROVIDERS__KROGER__CLIENT_SECRET", "s");
    let problems = file(text, &[secret]).unwrap_err();
    let expected = [
        "listen.api",
        "listen.pages",
        "listen.pages_url",
        "providers.kroger.account_field",
        "providers.kroger.client_id",
        "providers.kroger.colour",
        "timing.poll",
    ];
    assert_eq!(paths(&problems), expected, "{problems:#?}");
}

#[test]
fn what_would_spin_starve_or_leak_is_refused() {
    let text = "timing: {poll: 0s, send_gate: 0ms}\n\
        providers: {kroger: {token_url: 'https://example.com/token', client_id: me, \
        attributes: [refresh_token], default_lifetime: 0s, \
        error_map: [{means: client}, {status: 500, means: reauth}, {status: 503, means: unavailable}]}}";
    let secret = ("TOKEN_BROKER__PROVIDERS__KROGER__CLIENT_SECRET", "s");
    let problems = file(text, &[secret]).unwrap_err();
    assert_eq!(
        paths(&problems),
        [
            "providers.kroger.attributes",
            "providers.kroger.default_lifetime",
            "providers.kroger.error_map.0",
            "providers.kroger.error_map.1",
            "timing.poll",
            "timing.send_gate",
        ]
    );
}

#[test]
fn the_door_is_opened_to_anyone_only_by_a_setting_that_says_so() {
    let open = "listen: {api: '0.0.0.0:50051', anyone_may_take_tokens: true}";
    assert!(file(open, &[]).is_ok());
    let problems = file("listen: {api: '0.0.0.0:50051'}", &[]).unwrap_err();
    assert!(problems[0].message.contains("anyone_may_take_tokens"));
}

#[test]
fn a_stop_that_may_lose_a_pair_is_told() {
    let provider = "providers: {kroger: {token_url: 'https://example.com/token', client_id: me}}";
    let secret = ("TOKEN_BROKER__PROVIDERS__KROGER__CLIENT_SECRET", "s\n");
    let hasty = file(&format!("shutdown: {{drain_max: 2s}}\n{provider}"), &[secret]).unwrap();
    let told = hasty.warnings[0].to_string();
    assert!(told.contains("refresh token then never arrives") && told.contains("1m 5s"), "{told}");
    for fine in [provider.to_owned(), format!("shutdown: {{drain_max: 65s}}\n{provider}")] {
        assert!(file(&fine, &[secret]).unwrap().warnings.is_empty(), "{fine}");
    }
}

#[test]
fn inside_kubernetes_the_store_must_be_named() {
    let inside = ("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    assert_eq!(paths(&load(None, &environment(&[inside])).unwrap_err()), ["store.url"]);
    let named = ("TOKEN_BROKER__STORE__URL", "redb:/data/store");
    assert!(load(None, &environment(&[inside, named])).is_ok());
}

#[test]
fn broken_yaml_is_placed_but_not_shown() {
    for text in [format!("a: [{CANARY}"), format!("{CANARY}: {{"), format!("\"{CANARY}")] {
        let problems = file(&text, &[]).unwrap_err();
        let line = problems[0].to_string();
        assert!(line.contains("is not valid YAML at line"), "{line}");
        assert!(!line.contains(CANARY), "{line}");
    }
    let tabbed = format!("listen:\n\tapi: {CANARY}\n");
    let twice = format!("log: {{level: info}}\nlog: {{level: {CANARY}}}\n");
    for (text, hint) in [(tabbed, "begins with a tab"), (twice, "stands twice")] {
        let line = file(&text, &[]).unwrap_err()[0].to_string();
        assert!(line.contains(hint) && !line.contains(CANARY), "{line}");
    }
    assert!(file(CANARY, &[]).is_err(), "a text is no configuration");
    assert!(file("", &[]).is_ok(), "an empty file is one");
}

/// A configuration with the files that it names.
fn with_files(name: &str) -> Result<token_broker::config::Config, Vec<Problem>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let mut text = std::fs::read_to_string(root.join(name)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["broker.example.com".to_owned()];
    let certificate =
        rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap().pem();
    let policy = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    for (path, content) in [
        ("secrets/kroger-client-secret", "s".to_owned()),
        ("secrets/redis-password", "s".to_owned()),
        ("secrets/keys.json", "s".to_owned()),
        ("secrets/callers", "laptop 0123456789abcdef0123".to_owned()),
        ("tls/tls.crt", certificate.clone()),
        ("tls/ca.crt", certificate),
        ("tls/tls.key", key.serialize_pem()),
        ("policy.yaml", policy("policy.example.yaml")),
        ("policy/policy.yaml", policy("kubernetes/base/policy.yaml")),
    ] {
        let file = dir.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, content).unwrap();
        text = text.replace(&format!("/etc/token-broker/{path}"), &file.display().to_string());
    }
    file(&text, &[])
}

#[test]
fn the_example_is_valid() {
    let config = with_files("config.example.yaml").unwrap();
    assert!(matches!(config.store, StoreConfig::Redis { .. }));
    assert_eq!(config.providers.len(), 2);
}

#[test]
fn the_configuration_for_kubernetes_is_valid() {
    let config = with_files("kubernetes/base/config.yaml").unwrap();
    assert!(config.policy.is_some() && config.callers.kubernetes.is_some());
    assert!(config.listen.tls.is_some() && !config.listen.api.ip().is_loopback());
}

/// Every setting stands in the example, so that it is the manual.
#[test]
fn the_example_names_every_setting() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = std::fs::read_to_string(root.join("deploy/config.example.yaml")).unwrap();
    let schema = schema();
    let mut missing = Vec::new();
    for section in schema["$defs"].as_object().unwrap().values() {
        for name in section["properties"].as_object().into_iter().flatten().map(|(name, _)| name) {
            // A secret never stands in a file.
            if !example.contains(&format!("{name}:")) && name != "client_secret" {
                missing.push(name.clone());
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

/// Whatever stands where a file is expected: a clear error at once, and nothing is made of it.
#[test]
fn files_that_are_none_end_the_program_at_once() {
    use std::os::unix::fs::symlink;

    use crate::support::process::{run, text};

    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("folder")).unwrap();
    std::fs::write(at("empty"), "").unwrap();
    std::fs::write(at("bytes"), [0xff, 0xfe, 0x00]).unwrap();
    std::fs::File::create(at("huge")).unwrap().set_len(1 << 40).unwrap();
    symlink("/dev/zero", at("device")).unwrap();
    symlink("nowhere", at("loose")).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(at("pipe")).status();
    assert!(pipe.unwrap().success());
    let odd = ["folder", "bytes", "huge", "device", "loose", "pipe"];
    let serve = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut all = vec![
            ("TOKEN_BROKER__LISTEN__API", "127.0.0.1:0"),
            ("TOKEN_BROKER__LISTEN__OPS", "127.0.0.1:0"),
            ("TOKEN_BROKER__STORE__URL", "memory:"),
        ];
        all.extend_from_slice(variables);
        let output = run(dir.path(), arguments, &all);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(
            matches!(output.status.code(), Some(1 | 2 | 78)),
            "{variables:?} {arguments:?}: {said}"
        );
        assert!(!said.contains("panicked") && said.len() < 2_000, "{said}");
        said
    };
    for name in odd {
        let said = serve(&[], &["serve", "--config", name]);
        assert!(said.contains(name), "{said}");
        for (variable, more) in [
            ("TOKEN_BROKER__KEYS__FILE", &[][..]),
            (
                "TOKEN_BROKER__PROVIDERS__P__CLIENT_SECRET_FILE",
                &[
                    ("TOKEN_BROKER__PROVIDERS__P__BASE_URL", "http://127.0.0.1:1"),
                    ("TOKEN_BROKER__PROVIDERS__P__CLIENT_ID", "id"),
                ][..],
            ),
        ] {
            let mut variables = more.to_vec();
            variables.push((variable, name));
            let said = serve(&variables, &["serve"]);
            assert!(said.contains(name), "{variable}: {said}");
        }
        let store = format!("redb:{name}");
        let variables =
            [("TOKEN_BROKER__STORE__URL", store.as_str()), ("TOKEN_BROKER__KEYS__FILE", "keys")];
        if !at("keys").exists() {
            assert!(run(dir.path(), &["keys", "generate", "--file", "keys"], &[]).status.success());
        }
        if name != "loose" && name != "huge" {
            let said = serve(&variables, &["serve"]);
            assert!(said.contains(name), "{said}");
        }
    }
    // An empty configuration is one that says nothing; an empty secret or key ring is none.
    let said = serve(&[("TOKEN_BROKER__KEYS__FILE", "empty")], &["serve"]);
    assert!(said.contains("empty"), "{said}");
}
