//! A real redis-server for one test.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longest wait for the server to answer.
const START_MAX: Duration = Duration::from_secs(10);

pub(crate) struct RedisServer {
    process: Child,
    arguments: Vec<String>,
    pub(crate) port: u16,
    pub(crate) dir: TempDir,
}

impl RedisServer {
    /// Starts a server with these further arguments.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let arguments: Vec<_> = arguments.iter().map(|part| (*part).to_owned()).collect();
        // Another process may take the port between the two lines; then the server exits.
        for _ in 0..5 {
            let port = free_port();
            let mut process = spawn(port, &dir, &arguments);
            if answers(&mut process, port) {
                return Self { process, arguments, port, dir };
            }
        }
        panic!("redis-server does not start");
    }

    /// Kills the server, and starts it again with what is on its disk.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.process = spawn(self.port, &self.dir, &self.arguments);
        assert!(answers(&mut self.process, self.port), "redis-server does not start again");
    }

    /// Kills the server.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Waits until it has what `primary` has, and acknowledges it.
    pub(crate) async fn follows(&self, primary: &Self) {
        for _ in 0..200 {
            primary.cli(&["SET", "probe", "there"]);
            let attached = primary.cli(&["INFO", "replication"]).contains("state=online");
            if attached && self.cli(&["GET", "probe"]) == "there" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the replica is not attached");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Sends the server a signal, such as STOP.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Runs redis-cli.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(arguments)
            .output()
            .expect("redis-cli is missing: run `make tools`");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A Sentinel that watches over one primary, named `main`.
pub(crate) struct Sentinel(RedisServer);

impl Sentinel {
    pub(crate) fn start(primary: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let file = dir.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {primary} 1\n\
             sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
        );
        std::fs::write(&file, text).unwrap();
        let mut process = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is missing: run `make tools`");
        assert!(answers(&mut process, port), "Sentinel does not start");
        Self(RedisServer { process, arguments: Vec::new(), port, dir })
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}/main", self.0.port)
    }

    /// What it answers to `SENTINEL WORD main`.
    pub(crate) fn says(&self, word: &str) -> String {
        self.0.cli(&["SENTINEL", word, "main"])
    }
}

fn spawn(port: u16, dir: &TempDir, arguments: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(dir.path())
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is missing: run `make tools`")
}

/// Below the ports that the system gives to connections and to listeners that ask for any, so that
/// nobody else takes one between our look and its use.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// A port where nobody listens, and that no other test is given.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let count = u32::from(PORTS.end - PORTS.start);
    loop {
        // Two runs at once begin at different places.
        let step =
            NEXT.fetch_add(1, Ordering::SeqCst).wrapping_add(std::process::id().wrapping_mul(97));
        let port = PORTS.start + u16::try_from(step % count).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "waits for a real process")]
fn answers(process: &mut Child, port: u16) -> bool {
    let start = Instant::now();
    while start.elapsed() < START_MAX {
        if process.try_wait().unwrap().is_some() {
            return false;
        }
        if greets(port).is_some() {
            return true;
        }
        sleep(Duration::from_millis(10));
    }
    false
}

/// It is a Redis that answers, be it that it wants a password.
fn greets(port: u16) -> Option<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.write_all(b"PING\r\n").ok()?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).ok()?;
    matches!(&answer, b"+PONG" | b"-NOAU").then_some(())
}
