//! What token endpoints answer: a corpus of replies in files, over real sockets.
//!
//! A file is a head of `# name: value`, then the reply as on the wire. `refresh` is the refresh token
//! that must be found, or `none`; `answer` is `TOKEN LIFETIME TYPE`, or the reason and what it says of
//! the refresh token. `escapes: yes`: `\xNN`, `\r` and `\n` stand for bytes. The length of the body is
//! told in a header unless there is one, or `framing` says otherwise.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::Duration;

use token_broker::broker::endpoint::{Disposition, Proof, Reply, Request, TokenEndpoint as _};
use token_broker::broker::model::ProviderId;
use token_broker::clock::Clock;
use token_broker::config;
use token_broker::secret::RefreshToken;
use token_broker::upstream::Http;

/// At the least; the corpus only grows.
const CASES: usize = 120;
/// What every case is asked with.
const SENT: &str = "RT1";
/// No reply takes longer to read.
const SOON: Duration = Duration::from_secs(5);

struct Case {
    name: String,
    head: BTreeMap<String, String>,
    wire: Vec<u8>,
}

impl Case {
    fn of(path: &Path) -> Self {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(path).unwrap();
        let mut head = BTreeMap::new();
        let mut rest = text.as_str();
        while let Some(line) = rest.strip_prefix("# ") {
            let (line, after) = line.split_once('\n').unwrap();
            rest = after;
            if let Some((name, value)) = line.split_once(": ") {
                head.insert(name.to_owned(), value.to_owned());
            }
        }
        let plain = |text: &str| match head.get("escapes") {
            Some(_) => bytes(text),
            None => text.as_bytes().to_vec(),
        };
        let wire = wire(rest.strip_suffix('\n').unwrap(), &head, plain);
        Self { name, head, wire }
    }

    fn expected(&self) -> BTreeMap<&'static str, String> {
        let names = ["refresh", "answer", "scopes", "attributes"];
        names.into_iter().filter_map(|name| Some((name, self.head.get(name)?.clone()))).collect()
    }
}

/// The bytes of a reply.
fn wire(rest: &str, head: &BTreeMap<String, String>, plain: impl Fn(&str) -> Vec<u8>) -> Vec<u8> {
    let framing = head.get("framing").map_or("length", String::as_str);
    if framing == "bare" {
        return plain(rest.trim_start());
    }
    // Of two heads the last one is the answer's.
    let hints = if rest.starts_with("HTTP/1.1 1") { rest.find("\n\n").unwrap() + 2 } else { 0 };
    let at = hints + rest[hints..].find("\n\n").unwrap();
    let (lines, body) = (&rest[..at], plain(&rest[at + 2..]));
    let framed = ["content-length", "transfer-encoding"].iter().any(|name| lines.contains(name));
    let length = match framing {
        "length" | "line feeds" if !framed => format!("\ncontent-length: {}", body.len()),
        _ => String::new(),
    };
    let ending = if framing == "line feeds" { "\n" } else { "\r\n" };
    let lines = format!("{lines}{length}\n\n").replace('\n', ending);
    [bytes(&lines), body].concat()
}

/// What the answer is, in the words of the file.
fn told(reply: &Reply) -> BTreeMap<&'static str, String> {
    let mut told = BTreeMap::new();
    let token = reply.refresh_token.as_ref().map_or("none", RefreshToken::expose);
    told.insert("refresh", escaped(token));
    match &reply.issued {
        Ok(issued) => {
            let lifetime = issued.lifetime.as_secs();
            let token = issued.access_token.expose();
            told.insert("answer", format!("{token} {lifetime}s {}", issued.token_type));
            if !issued.scopes.is_empty() {
                told.insert("scopes", issued.scopes.join(" "));
            }
            for (name, value) in &issued.attributes {
                told.insert("attributes", format!("{name}={value}"));
            }
        }
        Err(failure) => {
            let said = match failure.disposition {
                Disposition::NotSent => "not sent",
                Disposition::NotProcessed => "not processed",
                Disposition::Refused => "refused",
                Disposition::Unknown(_) => "in doubt",
            };
            told.insert("answer", format!("{} {said}", failure.reason.name()));
        }
    }
    told
}

/// `\xNN`, `\r`, `\n` and `\\` as the bytes that they stand for.
fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match (byte, byte == b'\\') {
            (_, true) => match rest.next().unwrap() {
                b'x' => {
                    let digits: Vec<u8> = rest.by_ref().take(2).collect();
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                b'r' => b'\r',
                b'n' => b'\n',
                other => other,
            },
            (byte, false) => byte,
        });
    }
    bytes
}

fn escaped(text: &str) -> String {
    let escape = |c: char| match c {
        c if c.is_ascii_control() => format!("\\x{:02x}", u32::from(c)),
        c => c.to_string(),
    };
    text.chars().map(escape).collect()
}

/// Answers one request with these bytes, and closes.
fn serve(wire: Vec<u8>) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        // The body comes later than the head, as it does over long ways.
        let end = [b"\r\n\r\n".as_slice(), b"\n\n"];
        let end = end.iter().find_map(|end| {
            Some(wire.windows(end.len()).position(|window| window == *end)? + end.len())
        });
        let (head, body) = wire.split_at(end.unwrap_or(0));
        let _ = stream.set_nodelay(true);
        let _ = stream.write_all(head);
        thread::sleep(Duration::from_millis(20));
        let _ = stream.write_all(body);
    });
    url
}

/// A provider of this profile, as the configuration makes it.
fn endpoint(profile: &str, url: &str) -> Http {
    let settings = [
        ("PROVIDERS__P__PROFILE", profile),
        ("PROVIDERS__P__TOKEN_URL", url),
        ("PROVIDERS__P__CLIENT_ID", "id"),
        ("PROVIDERS__P__CLIENT_SECRET", "secret"),
        ("PROVIDERS__P__LISTEN_MAX", "4s"),
        ("STORE__URL", "memory:"),
    ];
    let environment =
        settings.map(|(name, value)| (format!("TOKEN_BROKER__{name}"), value.to_owned())).into();
    let mut config = config::load(None, &environment).unwrap();
    config.providers[0].attributes = vec!["instance_url".to_owned()];
    Http::new(config.providers, Clock::system()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_refresh_token_is_lost_in_any_reply() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/replies");
    let mut paths: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect();
    paths.sort();
    let mut wrong = Vec::new();
    for path in &paths {
        let case = Case::of(path);
        let profile = case.head.get("profile").map_or("generic", String::as_str);
        let endpoint = endpoint(profile, &serve(case.wire.clone()));
        let request = Request::RefreshToken(RefreshToken::new(SENT));
        let provider = ProviderId::new("p");
        let asked = endpoint.exchange(&provider, request, Proof::InUse);
        let Ok(reply) = tokio::time::timeout(SOON, asked).await else {
            wrong.push(format!("{}: hangs", case.name));
            continue;
        };
        let (told, expected) = (told(&reply), case.expected());
        if told != expected {
            wrong.push(format!("{}:\n  expected {expected:?}\n  got      {told:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {} replies:\n{}", wrong.len(), paths.len(), wrong.join("\n"));
    assert!(paths.len() >= CASES, "{}", paths.len());
    let mut kinds = BTreeMap::<_, usize>::new();
    for path in &paths {
        *kinds.entry(kind(path.file_stem().unwrap().to_str().unwrap())).or_default() += 1;
    }
    for (kind, count) in kinds {
        println!("{count:>4} {kind}");
    }
    println!("{:>4} replies, 0 refresh tokens lost", paths.len());
}

/// What a reply of that name tries.
fn kind(name: &str) -> &'static str {
    match name.split('_').next().unwrap() {
        "access" => "access tokens that are hard to find",
        "bytes" => "encodings and character sets",
        "chunked" | "framing" => "lengths and chunks",
        "form" => "forms",
        "head" => "heads",
        "kroger" => "documented by Kroger",
        "no" => "refusals",
        quirk if quirk.starts_with('q') => "quirks of known providers",
        _ => "bodies",
    }
}
