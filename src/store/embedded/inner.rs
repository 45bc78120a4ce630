//! The database while it is open: steps on a file that is the one that was opened.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase, WriteTransaction};
use tracing::info;

use crate::broker::store::StoreError;
use crate::clock::Clock;
use crate::store::backend::StoreResult;
use crate::store::embedded::failure::{closed, foreign, gone, odd, unavailable};
use crate::store::embedded::file::{Found, StoreFile};
use crate::store::embedded::tables::{DUE, GRANTS, IDENTITY, META, NOTES, identity};
use crate::store::identity::Identity;

pub(super) struct Inner {
    /// `None` while it cannot be reopened, and after it was closed.
    pub(super) database: RwLock<Option<Database>>,
    /// Held during every write; `None` in memory.
    pub(super) file: Option<Mutex<StoreFile>>,
    /// A step failed: redb refuses all further ones until the file is opened anew.
    pub(super) spoiled: AtomicBool,
    /// A step failed, and no longer one has succeeded since.
    pub(super) cramped: AtomicBool,
    pub(super) closed: AtomicBool,
    /// It was opened anew, and nobody has looked at it since.
    pub(super) reopened: AtomicBool,
    /// Whose store it is; one of another deployment is not written to.
    pub(super) deployment: OnceLock<String>,
    pub(super) clock: Clock,
}

impl Inner {
    /// Whether the file is the one that was opened. Who writes to it has looked already.
    pub(super) fn check(&self) -> StoreResult<()> {
        let file = self.file.as_ref().and_then(Mutex::try_lock);
        file.map_or(Ok(()), |mut file| self.mend(&mut file))
    }

    /// Opens the file anew where that is needed and possible; it is never made anew: another file
    /// would hide what this one holds.
    fn mend(&self, file: &mut StoreFile) -> StoreResult<()> {
        let found = file.compare().map_err(unavailable)?;
        match found {
            _ if self.closed.load(Ordering::SeqCst) => return Err(closed()),
            Found::Same if !self.spoiled.load(Ordering::SeqCst) => return Ok(()),
            Found::Gone => return Err(gone(&file.path)),
            Found::Same => {}
            Found::Replaced | Found::Changed => self.look_into(file)?,
        }
        let mut database = self.database.write();
        if found != Found::Same {
            file.cut();
        }
        if found != Found::Replaced {
            // The file is locked until the one that had it open is dropped.
            drop(database.take());
        }
        let (opened, anew) =
            StoreFile::open(&file.path, false).map_err(|error| odd(&file.path, &error))?;
        self.same_deployment(&opened).inspect_err(|_| anew.cut())?;
        *database = Some(opened);
        *file = anew;
        self.spoiled.store(false, Ordering::SeqCst);
        self.reopened.store(true, Ordering::SeqCst);
        info!(file = %file.path.display(), ?found, "opened the store anew");
        Ok(())
    }

    /// Whether what stands in the place of the file is ours; nothing of it is changed.
    fn look_into(&self, file: &mut StoreFile) -> StoreResult<()> {
        let look = file.look().map_err(unavailable)?;
        if let Some((refused, why)) = &file.refused
            && *refused == look
        {
            return Err(StoreError::Unavailable(why.clone().into()));
        }
        let looked = file.look_into(|opened| self.same_deployment(opened));
        // No room for the copy, or no right to read: that passes.
        let passes = matches!(&looked, Err(DatabaseError::Storage(redb::StorageError::Io(_))));
        let judged = looked.map_err(|error| odd(&file.path, &error)).and_then(|same| same);
        if let Err(StoreError::Unavailable(why)) = &judged
            && !passes
        {
            // What is written to it from now on is worth another look.
            file.refused = Some((look, why.to_string()));
        }
        judged
    }

    fn same_deployment(&self, opened: &impl ReadableDatabase) -> StoreResult<()> {
        if self.deployment.get().is_none() {
            return Ok(());
        }
        let transaction = opened.begin_read().map_err(unavailable)?;
        let meta = transaction.open_table(META).map_err(unavailable)?;
        let found =
            identity(meta.get(IDENTITY).map_err(unavailable)?.map(|found| found.value().to_vec()))?;
        // One that says nothing is another one: it was never ours.
        if found.is_some_and(|found| !self.is_foreign(&found)) { Ok(()) } else { Err(foreign()) }
    }

    pub(super) fn is_foreign(&self, identity: &Identity) -> bool {
        self.deployment.get().is_some_and(|ours| identity.deployment != *ours)
    }

    pub(super) fn begin_read(&self) -> StoreResult<ReadTransaction> {
        let database = self.database.read();
        database.as_ref().ok_or_else(closed)?.begin_read().map_err(unavailable)
    }

    /// One durable step, in a file that is the one that was opened. `step` says whether there is
    /// anything to keep.
    pub(super) fn write<T>(
        &self,
        step: impl FnOnce(&WriteTransaction) -> StoreResult<(T, bool)>,
    ) -> StoreResult<T> {
        let mut file = self.file.as_ref().map(Mutex::lock);
        if let Some(file) = file.as_deref_mut() {
            self.mend(file)?;
        }
        self.transact(step)
    }

    fn transact<T>(
        &self,
        step: impl FnOnce(&WriteTransaction) -> StoreResult<(T, bool)>,
    ) -> StoreResult<T> {
        let database = self.database.read();
        let transaction =
            database.as_ref().ok_or_else(closed)?.begin_write().map_err(unavailable)?;
        let (answer, keep) = step(&transaction)?;
        if keep {
            transaction.commit().map_err(unavailable)?;
        }
        Ok(answer)
    }

    pub(super) fn make_tables(&self) -> StoreResult<()> {
        self.write(|transaction| {
            transaction.open_table(GRANTS).map_err(unavailable)?;
            transaction.open_table(DUE).map_err(unavailable)?;
            transaction.open_table(META).map_err(unavailable)?;
            transaction.open_table(NOTES).map_err(unavailable)?;
            Ok(((), true))
        })
    }

    pub(super) fn close(&self) -> StoreResult<()> {
        self.closed.store(true, Ordering::SeqCst);
        let database = self.database.write().take();
        database.map_or(Ok(()), |database| database.close().map_err(unavailable))
    }
}
