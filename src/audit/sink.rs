//! Where lines go: a thread of its own writes them, so that no caller waits for a disk.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _, stdout};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{error, info};

/// Lines that wait to be written. A disk that stands still for longer loses some.
const WAITING_MAX: usize = 10_000;
/// How often it is told that nothing can be written.
const TOLD_EACH: Duration = Duration::from_secs(60);
/// Who reads it: whoever runs the program.
const MODE: u32 = 0o600;

/// Where the audit log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Beside the log of the program.
    Stdout,
    /// At the end of a file. One that was moved away is made again.
    File(PathBuf),
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("file:") {
            Some(path) if !path.is_empty() => Ok(Self::File(path.into())),
            None if text == "stdout" => Ok(Self::Stdout),
            _ => Err("must be `stdout`, or `file:` and a path"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// The audit log cannot be written.
#[derive(Debug, Error)]
#[error("the audit log {path} cannot be written: {source}")]
pub struct SinkError {
    path: String,
    source: io::Error,
}

/// Takes lines.
pub(super) struct Sink {
    lines: SyncSender<Item>,
    failures: Counter,
}

/// A line, and who waits for it to be written.
struct Item {
    line: String,
    written: Option<oneshot::Sender<()>>,
}

impl Sink {
    pub(super) fn open(place: &Place, failures: Counter) -> Result<Self, SinkError> {
        let failed = |source| SinkError { path: place.to_string(), source };
        let output = Output::open(place).map_err(failed)?;
        let (lines, waiting) = sync_channel(WAITING_MAX);
        let counted = failures.clone();
        thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write(&waiting, output, &counted))
            .map_err(failed)?;
        Ok(Self { lines, failures })
    }

    /// Hands a line over.
    pub(super) fn send(&self, line: String) {
        if self.lines.try_send(Item { line, written: None }).is_err() {
            self.failures.inc();
        }
    }

    /// So many lines are lost.
    pub(super) fn lost(&self, lines: u64) {
        self.failures.inc_by(lines);
    }

    /// Hands a line over, and waits until it and those before it are written; `None`: it is not.
    pub(super) async fn write(&self, line: String) -> Option<()> {
        let (written, told) = oneshot::channel();
        if self.lines.try_send(Item { line, written: Some(written) }).is_err() {
            self.failures.inc();
            return None;
        }
        told.await.ok()
    }
}

fn write(waiting: &Receiver<Item>, mut output: Output, failures: &Counter) {
    let (mut broken, mut told) = (false, None::<Instant>);
    while let Ok(Item { line, written }) = waiting.recv() {
        match output.write(&line) {
            Ok(()) => {
                if broken {
                    info!("the audit log is written again");
                }
                broken = false;
                // Whoever gave up waiting was told so.
                if let Some(written) = written {
                    let _ = written.send(());
                }
            }
            Err(failure) => {
                failures.inc();
                // A disk that is full now and then is told of once a minute.
                if !broken && told.is_none_or(|told| told.elapsed() >= TOLD_EACH) {
                    (broken, told) = (true, Some(Instant::now()));
                    error!(error = %failure, "the audit log takes nothing: what happens is not written down");
                }
            }
        }
    }
}

enum Output {
    Stdout,
    File {
        path: PathBuf,
        file: File,
        /// The end may be half a line.
        half: bool,
    },
}

impl Output {
    fn open(place: &Place) -> io::Result<Self> {
        match place {
            Place::Stdout => Ok(Self::Stdout),
            Place::File(path) => {
                let (path, file) = (path.clone(), append(path)?);
                let half = is_half(&file)?;
                Ok(Self::File { path, file, half })
            }
        }
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = stdout().lock();
                stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush())
            }
            Self::File { path, file, half } => {
                if moved(path, file)? {
                    *file = append(path)?;
                    *half = is_half(file)?;
                }
                if *half {
                    file.write_all(b"\n")?;
                }
                *half = true;
                file.write_all(line.as_bytes())?;
                *half = false;
                Ok(())
            }
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    // A pipe without a reader would be waited for.
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return Err(io::Error::other("it is no regular file"));
    }
    OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path)
}

/// A crash has left half a line at its end.
fn is_half(file: &File) -> io::Result<bool> {
    let mut last = [b'\n'];
    if let Some(at) = file.metadata()?.len().checked_sub(1) {
        file.read_at(&mut last, at)?;
    }
    Ok(last != *b"\n")
}

/// Somebody has put the file away, or another one in its place.
fn moved(path: &Path, file: &File) -> io::Result<bool> {
    let open = file.metadata()?;
    match path.metadata() {
        Ok(there) => Ok((there.dev(), there.ino()) != (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sink(path: &Path) -> (Sink, Counter) {
        let failures = Counter::default();
        let sink = Sink::open(&Place::File(path.to_owned()), failures.clone()).ok().unwrap();
        (sink, failures)
    }

    #[tokio::test]
    async fn a_file_that_is_moved_away_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("audit"), dir.path().join("audit.1"));
        let (sink, failures) = sink(&path);
        sink.send("1\n".to_owned());
        sink.write("2\n".to_owned()).await.unwrap();
        std::fs::rename(&path, &old).unwrap();
        sink.write("3\n".to_owned()).await.unwrap();
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "1\n2\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "3\n");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, MODE);
        // What a crash has cut is a line of its own.
        std::fs::write(&path, "hal").unwrap();
        std::fs::rename(&path, &old).unwrap();
        std::fs::write(&path, "hal").unwrap();
        sink.write("3\n".to_owned()).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "hal\n3\n");
        // Nor is anything lost in silence.
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(sink.write("4\n".to_owned()).await.is_none());
        assert_eq!(failures.get(), 1);
        std::fs::remove_dir(&path).unwrap();
        sink.write("5\n".to_owned()).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "5\n");
    }

    #[test]
    fn places_are_read() {
        assert_eq!("stdout".parse(), Ok(Place::Stdout));
        assert_eq!("file:/a/b".parse(), Ok(Place::File("/a/b".into())));
        for wrong in ["", "file:", "/a/b", "stderr"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
