//! The real program, and the real grpcurl.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

/// Longest wait for a line of the log.
const LINE_MAX: Duration = Duration::from_secs(30);

pub(crate) struct Program {
    process: Child,
    lines: Receiver<String>,
    /// Everything that was printed and read so far.
    pub(crate) seen: Vec<String>,
    pub(crate) api: String,
    pub(crate) ops: String,
    /// Empty if there are none.
    pub(crate) pages: String,
}

/// The program with nothing of our environment. Over the limit of `limit_files` a write is to fail,
/// not to kill.
pub(crate) fn program(dir: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_token-broker")]);
    command.current_dir(dir).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// Runs the program to its end.
pub(crate) fn run(dir: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    program(dir).args(arguments).envs(environment.iter().copied()).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Program {
    /// Starts `arguments` on free ports and waits until it is ready.
    pub(crate) fn start(dir: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut started = Self::spawn(dir, arguments, environment);
        let line = started.wait_for("\"message\":\"ready\"");
        let fields: BTreeMap<String, serde_json::Value> = serde_json::from_str(&line).unwrap();
        let address = |name: &str| fields[name].as_str().unwrap().to_owned();
        (started.api, started.ops) = (address("api"), address("ops"));
        started.pages = fields.get("pages").map_or_else(String::new, |_| address("pages"));
        started
    }

    /// Starts `arguments` on free ports.
    pub(crate) fn spawn(dir: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut process = program(dir)
            .args(arguments)
            .env("TOKEN_BROKER__LISTEN__API", "127.0.0.1:0")
            .env("TOKEN_BROKER__LISTEN__OPS", "127.0.0.1:0")
            .envs((arguments[0] == "dev").then_some(("TOKEN_BROKER__LISTEN__PAGES", "127.0.0.1:0")))
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let outputs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(process.stdout.take().unwrap()), Box::new(process.stderr.take().unwrap())];
        for output in outputs {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        let none = String::new;
        Self { process, lines, seen: Vec::new(), api: none(), ops: none(), pages: none() }
    }

    /// Reads what is printed until a line holds `part`.
    pub(crate) fn wait_for(&mut self, part: &str) -> String {
        loop {
            match self.lines.recv_timeout(LINE_MAX) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no line with {part:?} came:\n{}", self.seen.join("\n"));
                }
            }
        }
    }

    /// The same, and does something again and again until it comes.
    pub(crate) fn wait_for_while(&mut self, part: &str, mut again: impl FnMut()) {
        let begin = Instant::now();
        while begin.elapsed() < LINE_MAX {
            again();
            while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(50)) {
                self.seen.push(line);
                if self.seen.last().is_some_and(|line| line.contains(part)) {
                    return;
                }
            }
        }
        panic!("no line with {part:?} came:\n{}", self.seen.join("\n"));
    }

    /// Sends SIGTERM and waits for the end; gives the exit code and all that was printed.
    pub(crate) fn stop(mut self) -> (Option<i32>, String) {
        self.signal("TERM");
        self.end()
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Memory that it holds.
    #[cfg(target_os = "linux")]
    pub(crate) fn resident_kb(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Sets how long the files may get that the program writes, in bytes.
    #[cfg(target_os = "linux")]
    pub(crate) fn limit_files(&self, bytes: &str) {
        let id = self.process.id().to_string();
        let limit = format!("--fsize={bytes}:unlimited");
        assert!(Command::new("prlimit").args(["--pid", &id, &limit]).status().unwrap().success());
    }

    /// Waits for the end.
    pub(crate) fn end(&mut self) -> (Option<i32>, String) {
        let status = self.process.wait().unwrap();
        self.seen.extend(self.lines.iter());
        (status.code(), self.seen.join("\n"))
    }

    pub(crate) fn grpcurl(&self, request: &str, method: &str) -> (bool, String) {
        let output = Command::new(grpcurl())
            .args(["-plaintext", "-d", request, &self.api, &format!("tokenbroker.v1.{method}")])
            .output()
            .expect("grpcurl is missing: run `make tools`");
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    }

    /// Runs a command of the CLI against this broker.
    pub(crate) fn cli(&self, arguments: &[&str]) -> (bool, String, String) {
        let address = format!("http://{}", self.api);
        let output = run(Path::new("/"), arguments, &[("TOKEN_BROKER_ADDRESS", &address)]);
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }

    /// Reads a page of the operators' port.
    pub(crate) fn page(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.ops);
        let output = Command::new("curl").args(["-s", "-i", &url]).output().unwrap();
        text(&output.stdout)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The one that `make tools` installs, or the one on the path.
pub(crate) fn grpcurl() -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/python/bin/grpcurl");
    if ours.exists() { ours } else { PathBuf::from("grpcurl") }
}
