//! Load: h2load of nghttp2, whose own cost is small, run once against one address.

use std::path::Path;
use std::process::Command;

/// Connections, and streams on each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) connections: u32,
    pub(crate) streams: u32,
    /// Requests of one run: about a second of work.
    pub(crate) requests: u32,
}

/// What one run showed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Bytes of replies, without headers.
    pub(crate) data: u64,
}

/// Sends the same gRPC request over and over; with a token, if there is one.
pub(crate) fn run(
    address: &str,
    path: &str,
    body: &Path,
    bearer: Option<&str>,
    shape: Shape,
) -> Run {
    let log = body.with_extension("log");
    let _ = std::fs::remove_file(&log);
    let output = Command::new("h2load")
        .args(["-t", "1", "-n", &shape.requests.to_string()])
        .args(["-c", &shape.connections.to_string(), "-m", &shape.streams.to_string()])
        .args(bearer.iter().flat_map(|it| ["-H".to_owned(), format!("authorization: Bearer {it}")]))
        .args(["-H", "content-type: application/grpc", "-H", "te: trailers", "-d"])
        .arg(body)
        .arg("--log-file")
        .arg(&log)
        .arg(format!("http://{address}/{path}"))
        .output()
        .expect("h2load is missing: install nghttp2-client");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let succeeded = format!("{} succeeded, 0 failed", shape.requests);
    assert!(text.contains(&succeeded), "not all requests were answered:\n{text}");
    let latencies = std::fs::read_to_string(&log).unwrap();
    let mut latencies: Vec<u32> =
        latencies.lines().filter_map(|line| line.rsplit('\t').next()?.parse().ok()).collect();
    latencies.sort_unstable();
    let at = |hundredth: usize| f64::from(latencies[(latencies.len() - 1) * hundredth / 100]);
    Run {
        per_second: between(&text, "finished in ", " req/s")
            .rsplit(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap(),
        p50_us: at(50),
        p99_us: at(99),
        data: between(&text, "space savings ", ") data")
            .rsplit('(')
            .next()
            .unwrap()
            .parse()
            .unwrap(),
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let start = text.find(before).map(|at| at + before.len());
    let rest = start.map(|start| &text[start..]);
    rest.and_then(|rest| rest.split(after).next()).expect("h2load speaks as it used to")
}
