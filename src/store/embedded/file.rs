//! The file under redb: whether it is still the one that was opened, and a stop to all writes where
//! it is not.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use redb::backends::FileBackend;
use redb::{BackendError, Builder, Database, DatabaseError, StorageBackend};

use crate::store::keyring::private_file;

/// The head of a redb file, which every write of redb changes.
const HEAD: usize = 512;
/// What the name of the copy ends in that is looked into.
const COPY: &str = ".look";

/// The file that was opened.
pub(super) struct StoreFile {
    pub(super) path: PathBuf,
    device: u64,
    inode: u64,
    left: Arc<Left>,
    /// What was looked into in its place, and why it is not taken.
    pub(super) refused: Option<(Look, String)>,
}

/// A state of a file; another one is worth another look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    inode: u64,
    len: u64,
    changed: (i64, i64),
}

/// The file as we left it.
#[derive(Debug)]
struct Left {
    head: Mutex<[u8; HEAD]>,
    len: AtomicU64,
    /// Nothing is written to it any more.
    cut: AtomicBool,
}

impl Left {
    fn is(&self, file: &File) -> bool {
        let len = file.metadata().map_or(0, |metadata| metadata.len());
        len == self.len.load(Ordering::SeqCst) && head(file) == *self.head.lock()
    }

    fn take(&self, file: &File) {
        *self.head.lock() = head(file);
    }
}

/// What stands in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The file, as we left it.
    Same,
    /// Nothing.
    Gone,
    /// Another file.
    Replaced,
    /// The file, written to by somebody else.
    Changed,
}

impl StoreFile {
    /// Opens the file. `make`: also if there is none, or an empty one.
    pub(super) fn open(path: &Path, make: bool) -> Result<(Database, Self), DatabaseError> {
        let options = OpenOptions::new().read(true).write(true).create(make).to_owned();
        let file = options.open(path)?;
        let (metadata, look) = (file.metadata()?, file.try_clone()?);
        if !metadata.is_file() {
            let odd = io::Error::new(io::ErrorKind::InvalidData, "it is no regular file");
            return Err(DatabaseError::from(odd));
        }
        if metadata.len() == 0 && !make {
            return Err(empty());
        }
        let left = Arc::new(Left {
            head: Mutex::new(head(&look)),
            len: AtomicU64::new(metadata.len()),
            cut: AtomicBool::new(false),
        });
        let file = FileBackend::new(file)?;
        let guarded = Guarded { file, look, left: Arc::clone(&left) };
        let database = Database::builder().create_with_backend(guarded)?;
        let (device, inode) = (metadata.dev(), metadata.ino());
        Ok((database, Self { path: path.to_owned(), device, inode, left, refused: None }))
    }

    /// The state of what stands in its place.
    pub(super) fn look(&self) -> io::Result<Look> {
        let metadata = self.path.metadata()?;
        let changed = (metadata.mtime(), metadata.mtime_nsec());
        Ok(Look { inode: metadata.ino(), len: metadata.len(), changed })
    }

    /// Looks into what stands in its place, without changing it: into a copy, because one that was
    /// not closed cleanly is mended by opening it.
    pub(super) fn look_into<T>(
        &self,
        look: impl FnOnce(&Database) -> T,
    ) -> Result<T, DatabaseError> {
        if self.path.metadata()?.len() == 0 {
            return Err(empty());
        }
        let mut copy = self.path.clone().into_os_string();
        copy.push(COPY);
        let copy = PathBuf::from(copy);
        let opened = private_copy(&self.path, &copy)
            .map_err(DatabaseError::from)
            .and_then(|()| Builder::new().open(&copy));
        let looked = opened.map(|database| look(&database));
        let _ = fs::remove_file(&copy);
        looked
    }

    /// Looks at what stands in its place.
    pub(super) fn compare(&self) -> io::Result<Found> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Gone),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if (metadata.dev(), metadata.ino()) != (self.device, self.inode) {
            Ok(Found::Replaced)
        } else if self.left.is(&file) {
            Ok(Found::Same)
        } else {
            Ok(Found::Changed)
        }
    }

    /// Lets nothing more be written to it: closing would write what is not its own any more.
    pub(super) fn cut(&self) {
        self.left.cut.store(true, Ordering::SeqCst);
    }
}

fn empty() -> DatabaseError {
    DatabaseError::from(io::Error::new(io::ErrorKind::InvalidData, "it is empty"))
}

fn private_copy(from: &Path, to: &Path) -> io::Result<()> {
    let _ = fs::remove_file(to);
    let mut copy = private_file(to)?;
    io::copy(&mut File::open(from)?, &mut copy).map(drop)
}

/// What is there of it; zeros where it is shorter.
fn head(file: &File) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    let mut read = 0;
    while let Ok(more @ 1..) = file.read_at(&mut head[read..], read as u64) {
        read += more;
    }
    head
}

/// The file as redb uses it, until it is cut off.
#[derive(Debug)]
struct Guarded {
    file: FileBackend,
    /// The same, to look at.
    look: File,
    left: Arc<Left>,
}

impl Guarded {
    fn writable(&self) -> io::Result<&FileBackend> {
        if self.left.cut.load(Ordering::SeqCst) {
            return Err(io::Error::other("the file is not the one that was opened"));
        }
        Ok(&self.file)
    }
}

type Range = Bound<u64>;

impl StorageBackend for Guarded {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.writable()?.set_len(len)?;
        self.left.len.store(len, Ordering::SeqCst);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.writable()?.sync_data()
    }

    /// The head is what makes everything else count: it is not written over that of somebody else.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let heads = offset < HEAD as u64;
        if heads && !self.left.is(&self.look) {
            self.left.cut.store(true, Ordering::SeqCst);
        }
        self.writable()?.write(offset, data)?;
        if heads {
            self.left.take(&self.look);
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Range, end: Range) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Range, end: Range) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Range, end: Range) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Range, end: Range) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Range, end: Range) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}
