//! The file of the journal: a name in the first line, an entry in each line after it, and a lock that
//! ends with the process, however that ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use tracing::info;

use crate::store::OpenError;
use crate::store::keyring::{self, private_file};

/// Bytes of randomness in a name.
const NAME_BYTES: usize = 8;
/// A name, in hexadecimal digits, and a newline.
const HEAD: usize = 2 * NAME_BYTES + 1;
/// Longest file that is read: a minute of rotations is far shorter.
const FILE_MAX: u64 = 256 * 1024 * 1024;
/// Times that the file may be replaced by its holder while it is opened.
const REPLACED_MAX: u32 = 5;
/// What the name of a file ends in that is to take its place.
const BESIDE: &str = ".new";

/// The open file; nobody else has it.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    name: String,
    /// Where the next line goes.
    end: u64,
    /// There may be something behind that.
    half: bool,
    /// The folder may not know yet that this is the file.
    unnamed: bool,
}

impl Log {
    /// Takes the file, or makes it; gives its lines. Half a line at the end was never promised.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<Vec<u8>>), OpenError> {
        let failed = |error: io::Error| failed(path, &error);
        let file = take(path)?;
        // A link to it stays one.
        let path = &path.canonicalize().map_err(failed)?;
        let mut bytes = Vec::new();
        let long = (&file).take(FILE_MAX).read_to_end(&mut bytes).map_err(failed)?;
        if long as u64 == FILE_MAX {
            return Err(failed(io::Error::other("it is longer than any journal")));
        }
        // Less than a name: its first start was cut short.
        if bytes.len() < HEAD && bytes.iter().all(u8::is_ascii_hexdigit) {
            let mut random = [0; NAME_BYTES];
            keyring::fill(&mut random);
            bytes = keyring::hexadecimal(&random).into_bytes();
            bytes.push(b'\n');
            file.write_all_at(&bytes, 0).map_err(failed)?;
            file.sync_all().and_then(|()| sync_folder(path)).map_err(failed)?;
            info!(file = %path.display(), "a journal is begun; if this replica had one before, put that back");
        }
        let head = bytes.get(..HEAD).and_then(|head| std::str::from_utf8(head).ok());
        let name = head.and_then(|head| head.strip_suffix('\n')).filter(|name| is_name(name));
        let Some(name) = name.map(str::to_owned) else {
            let shown = path.display();
            return Err(OpenError::Refused(format!(
                "the file {shown} (`store.journal`) was not made by token-broker; name another"
            )));
        };
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(HEAD, |at| at + 1);
        let lines = bytes[HEAD..whole].split(|byte| *byte == b'\n');
        let lines = lines.filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect();
        let end = whole as u64;
        let half = whole < bytes.len();
        Ok((Self { path: path.clone(), file, name, end, half, unnamed: false }, lines))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Says no where another file cannot take its place: it would grow for ever. A disk that is full
    /// now need not be so later.
    pub(super) fn prove_rewritable(&mut self, lines: &[Vec<u8>]) -> Result<(), OpenError> {
        let all: Vec<u8> =
            lines.iter().flat_map(|line| line.iter().chain(b"\n").copied()).collect();
        // As if there were some: without any, the file itself is cut.
        match self.replace(&all) {
            Err(error) if error.kind() != io::ErrorKind::StorageFull => {
                Err(failed(&self.path, &error))
            }
            _ => Ok(()),
        }
    }

    /// Adds lines; they are on the disk then, or none of them counts.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.half {
            self.file.set_len(self.end)?;
        }
        if self.unnamed {
            sync_folder(&self.path)?;
        }
        (self.half, self.unnamed) = (true, false);
        self.file.write_all_at(lines, self.end)?;
        self.file.sync_data()?;
        self.half = false;
        self.end += lines.len() as u64;
        Ok(())
    }

    /// Has these lines and no others from now on; a crash leaves the old ones or the new ones.
    pub(super) fn rewrite(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            self.file.set_len(HEAD as u64)?;
            (self.end, self.half) = (HEAD as u64, false);
            return self.file.sync_data();
        }
        self.replace(lines)
    }

    /// Makes it again, with these lines, where it is gone; says whether it was. Where another file stands
    /// in its place, that is left alone.
    pub(super) fn stand(&mut self, lines: impl FnOnce() -> Vec<u8>) -> io::Result<bool> {
        let gone = !self.is_there()?;
        if gone {
            self.replace(&lines())?;
        }
        Ok(gone)
    }

    fn is_there(&self) -> io::Result<bool> {
        let there = match self.path.metadata() {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let ours = self.file.metadata()?;
        if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) {
            return Ok(true);
        }
        Err(io::Error::other(
            "another file was put in its place, which is left alone; put the right one back, or start \
             this replica again",
        ))
    }

    fn replace(&mut self, lines: &[u8]) -> io::Result<()> {
        self.is_there()?;
        let mut beside = self.path.clone().into_os_string();
        beside.push(BESIDE);
        let beside = PathBuf::from(beside);
        // Left over where a crash came between the two steps.
        let _ = fs::remove_file(&beside);
        let mut file = private_file(&beside)?;
        file.write_all(format!("{}\n", self.name).as_bytes())?;
        file.write_all(lines)?;
        file.sync_all()?;
        file.try_lock().map_err(io::Error::from)?;
        fs::rename(&beside, &self.path)?;
        // From here on it is ours, even if the folder could not be synchronized.
        self.file = file;
        self.end = (HEAD + lines.len()) as u64;
        (self.half, self.unnamed) = (false, true);
        sync_folder(&self.path)?;
        self.unnamed = false;
        Ok(())
    }
}

/// Opens and locks the file. Its holder may have put another in its place meanwhile.
fn take(path: &Path) -> Result<File, OpenError> {
    let failed = |error: io::Error| failed(path, &error);
    let options =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).clone();
    for _ in 0..REPLACED_MAX {
        let file = options.open(path).map_err(failed)?;
        let ours = file.metadata().map_err(failed)?;
        if !ours.is_file() {
            return Err(failed(io::Error::other("it is no regular file")));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(taken(path)),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let there = path.metadata().map_err(failed)?;
        if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) {
            return Ok(file);
        }
    }
    Err(taken(path))
}

fn is_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Without this a new file may be gone after a crash of the machine.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn taken(path: &Path) -> OpenError {
    let shown = path.display();
    OpenError::Refused(format!(
        "another token-broker runs with the file {shown} (`store.journal`); each replica needs one \
         of its own"
    ))
}

fn failed(path: &Path, error: &io::Error) -> OpenError {
    let shown = path.display();
    OpenError::Refused(format!(
        "the file {shown} (`store.journal`) cannot be used: {error}; name one on a volume of this \
         replica, which survives restarts"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(path: &Path) -> (Log, Vec<String>) {
        let (log, lines) = Log::open(path).unwrap();
        let text = |line: Vec<u8>| String::from_utf8(line).unwrap();
        (log, lines.into_iter().map(text).collect())
    }

    #[test]
    fn a_name_stays_and_belongs_to_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (first, _) = opened(&path);
        let second = Log::open(&path).unwrap_err();
        assert!(second.to_string().contains("another token-broker"), "{second}");
        let name = first.name().to_owned();
        drop(first);
        assert_eq!(opened(&path).0.name(), name);
        fs::write(&path, "something else than a name\n").unwrap();
        assert!(Log::open(&path).is_err(), "a file of somebody else is left alone");
    }

    #[test]
    fn what_was_written_is_there_and_half_a_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut log, _) = opened(&path);
        log.append(b"one\ntwo\n").unwrap();
        drop(log);
        let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
        torn.write_all(b"thr").unwrap();
        let (mut log, lines) = opened(&path);
        assert_eq!(lines, ["one", "two"]);
        log.append(b"four\n").unwrap();
        drop(log);
        assert_eq!(opened(&path).1, ["one", "two", "four"]);
    }

    #[test]
    fn a_file_that_takes_its_place_is_held_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut log, _) = opened(&path);
        log.append(b"one\ntwo\n").unwrap();
        log.rewrite(b"two\n").unwrap();
        assert!(Log::open(&path).is_err(), "it is locked still");
        log.append(b"three\n").unwrap();
        drop(log);
        let (mut log, lines) = opened(&path);
        assert_eq!(lines, ["two", "three"]);
        log.rewrite(b"").unwrap();
        drop(log);
        assert!(opened(&path).1.is_empty());
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o077, 0, "nobody else reads it");
    }
}
