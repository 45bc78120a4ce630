//! Who this process is among several on one store: a random name in a file whose lock it holds.
//!
//! The name outlives the process, the lock does not. So whoever holds the lock knows that every
//! earlier process of this name has ended, and what a claim of theirs means.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use crate::store::OpenError;
use crate::store::keyring;

/// Bytes of randomness in a name.
const NAME_BYTES: usize = 8;
/// Longest file that is read: a name and a newline.
const FILE_MAX: u64 = 64;

/// The name of this replica, for as long as this value lives.
#[derive(Debug)]
pub struct Replica {
    name: String,
    /// Locked; the lock ends with the process, however that ends.
    _file: File,
}

impl Replica {
    /// Takes the name in `path`, or makes one up at the first start.
    pub fn take(path: &Path) -> Result<Self, OpenError> {
        let shown = path.display();
        let failed = |error: std::io::Error| {
            OpenError::Refused(format!(
                "the file {shown} (`store.replica_file`) cannot be used: {error}; name one on a \
                 volume of this replica, which survives restarts"
            ))
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(std::io::Error::other("it is no regular file")));
        }
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::Refused(format!(
                "another token-broker runs with the file {shown} (`store.replica_file`); each \
                 replica needs one of its own"
            )),
            TryLockError::Error(error) => failed(error),
        })?;
        let mut text = String::new();
        (&file).take(FILE_MAX).read_to_string(&mut text).map_err(failed)?;
        let mut name = text.trim().to_owned();
        if name.is_empty() {
            let mut random = [0; NAME_BYTES];
            keyring::fill(&mut random);
            name = keyring::hexadecimal(&random);
            let written = file.rewind().and_then(|()| writeln!(file, "{name}"));
            written.and_then(|()| file.sync_all()).map_err(failed)?;
        }
        let valid = name.len() == 2 * NAME_BYTES && name.bytes().all(|b| b.is_ascii_hexdigit());
        if !valid {
            return Err(OpenError::Refused(format!(
                "the file {shown} (`store.replica_file`) was not made by token-broker; name another"
            )));
        }
        Ok(Self { name, _file: file })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_and_belongs_to_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("replica");
        let first = Replica::take(&path).unwrap();
        let second = Replica::take(&path).unwrap_err();
        assert!(second.to_string().contains("another token-broker"), "{second}");
        let name = first.name().to_owned();
        drop(first);
        assert_eq!(Replica::take(&path).unwrap().name(), name);
        std::fs::write(&path, "something else\n").unwrap();
        assert!(Replica::take(&path).is_err(), "a file of somebody else is left alone");
    }
}
