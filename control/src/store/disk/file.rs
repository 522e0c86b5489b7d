//! The redb file: how it is opened, read at start and written to.
//!
//! Owned by the [`Disk`](super::Disk).

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::entry::{Reader, entry_bytes, key_text, write_change, write_object};
use crate::store::backend::Loaded;
use crate::store::ballast::Ballast;
use crate::store::catalog::Catalog;
use crate::store::error::{FORMAT, StoreError};
use crate::store::object::{Event, Key, Object, Revision};

const OBJECTS: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");
const CHANGES: TableDefinition<u64, &[u8]> = TableDefinition::new("changes");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

const META_FORMAT: &str = "format";
/// No revision up to this one is handed out again after a restart.
const META_CEILING: &str = "revision-ceiling";
/// Changes up to this revision are no longer kept.
const META_COMPACTED: &str = "compacted";

/// A list of an empty store has this one: 0 means something else to clients.
const FIRST_REVISION: Revision = 1;
const CACHE_BYTES: usize = 8 << 20;
/// At start the file is compacted when it is larger than this many times what is in it …
const WORTHWHILE_FACTOR: u64 = 2;
/// … and this much more, because small files are not worth it.
const WORTHWHILE_SLACK_BYTES: u64 = 2 << 20;

/// How much of the past the file keeps.
#[derive(Clone, Copy, Debug)]
pub struct DiskLimits {
    /// Changes older than this go.
    pub age: Duration,
    /// The most changes.
    pub changes: usize,
    /// The most bytes of changes, whatever the size of the live data.
    pub change_bytes_min: u64,
}

/// What one commit changes.
#[derive(Default)]
pub(super) struct Commit<'a> {
    /// The new version of each object, or that it is gone.
    pub objects: Vec<(&'a Key, Option<&'a Object>)>,
    /// The changes to keep for watches.
    pub changes: Vec<&'a Event>,
    /// The new ceiling, if it is raised.
    pub ceiling: Option<Revision>,
    /// Changes of a commit that failed, which may be on disk all the same.
    pub forget: Vec<Revision>,
}

/// The open file.
pub(super) struct File {
    path: PathBuf,
    /// `None` after a fault, until it is opened again: redb refuses all work after one.
    database: Option<Database>,
    limits: DiskLimits,
    /// Size of each live entry is not kept, only the sum.
    live_bytes: u64,
    changes: VecDeque<Change>,
    change_bytes: u64,
    ballast: Ballast,
}

struct Change {
    revision: Revision,
    bytes: u64,
    since: Instant,
}

impl File {
    /// Opens or makes the file and reads all that is in it.
    pub fn open(
        path: &Path,
        catalog: &dyn Catalog,
        limits: DiskLimits,
    ) -> Result<(File, Loaded), StoreError> {
        let opened = without_panic(|| Self::open_and_load(path, catalog, limits));
        opened.unwrap_or_else(|what| Err(StoreError::Damaged { path: path.to_owned(), what }))
    }

    fn open_and_load(
        path: &Path,
        catalog: &dyn Catalog,
        limits: DiskLimits,
    ) -> Result<(File, Loaded), StoreError> {
        let mut database = if path.exists() { open(path)? } else { make(path)? };
        let mut file = File {
            path: path.to_owned(),
            database: None,
            limits,
            live_bytes: 0,
            changes: VecDeque::new(),
            change_bytes: 0,
            ballast: Ballast::of(path),
        };
        let loaded = file.load(&database, catalog)?;
        file.compact_if_worthwhile(&mut database)?;
        file.database = Some(database);
        Ok((file, loaded))
    }

    fn load(&mut self, database: &Database, catalog: &dyn Catalog) -> Result<Loaded, StoreError> {
        let mut loaded = Loaded {
            objects: HashMap::new(),
            events: HashMap::new(),
            compacted: 0,
            revision: FIRST_REVISION,
        };
        let read = database.begin_read().map_err(|e| self.fault(e))?;
        match read.open_table(META) {
            Err(TableError::TableDoesNotExist(_)) => {
                return Err(self.damaged("its tables are missing".to_owned()));
            }
            Err(error) => return Err(self.fault(error)),
            Ok(meta) => {
                let number = |name: &str| -> Result<u64, StoreError> {
                    Ok(meta.get(name).map_err(|e| self.fault(e))?.map_or(0, |value| value.value()))
                };
                let found = number(META_FORMAT)?;
                if found != FORMAT {
                    return Err(StoreError::Format { path: self.path.clone(), found });
                }
                loaded.compacted = number(META_COMPACTED)?;
                loaded.revision = number(META_CEILING)?;
            }
        }
        let reader = Reader { path: &self.path, catalog, since: Instant::now() };
        let mut newest: HashMap<Key, Arc<Object>> = HashMap::new();
        let objects = read.open_table(OBJECTS).map_err(|e| self.fault(e))?;
        for entry in objects.iter().map_err(|e| self.fault(e))? {
            let (key, value) = entry.map_err(|e| self.fault(e))?;
            self.live_bytes += entry_bytes(key.value(), value.value());
            let object = Arc::new(reader.read_object(key.value(), value.value())?);
            loaded.objects.entry(object.key.resource.clone()).or_default().push(object.clone());
            newest.insert(object.key.clone(), object);
        }
        let changes = read.open_table(CHANGES).map_err(|e| self.fault(e))?;
        let mut events = Vec::new();
        for entry in changes.iter().map_err(|e| self.fault(e))?.rev() {
            let (revision, value) = entry.map_err(|e| self.fault(e))?;
            let (revision, value) = (revision.value(), value.value());
            let bytes = value.len() as u64;
            self.changes.push_front(Change { revision, bytes, since: reader.since });
            self.change_bytes += bytes;
            match reader.read_change(revision, value, &mut newest) {
                Ok(event) => events.push(event),
                // Only watches from before the restart need it: they begin anew.
                Err(error) => {
                    tracing::warn!(%error, "watches cannot be resumed from before this change");
                    loaded.compacted = revision;
                    break;
                }
            }
        }
        loaded.revision = loaded.revision.max(FIRST_REVISION);
        for event in events.into_iter().rev() {
            loaded.events.entry(event.object.key.resource.clone()).or_default().push(Arc::new(event));
        }
        Ok(loaded)
    }

    /// Writes one commit durably, and forgets changes that are over the limits with it. Where there
    /// is no space for it, the room that was kept for the store is given up.
    pub fn commit(&mut self, commit: &Commit<'_>) -> Result<(), StoreError> {
        match self.try_commit(commit) {
            Err(error) if error.is_no_space() && self.ballast.give_up(&self.path) => self.try_commit(commit),
            done => done,
        }
    }

    /// True while there is room only for what makes room again.
    pub fn is_full(&self) -> bool {
        self.ballast.is_given_up()
    }

    /// Keeps room for the store again if there is any.
    pub fn keep_room(&mut self) {
        self.ballast.restore();
    }

    fn try_commit(&mut self, commit: &Commit<'_>) -> Result<(), StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open(&self.path)?,
        };
        let now = Instant::now();
        let (expired, expired_bytes) = self.expired(now);
        let written = self.write(&database, commit, expired)?;
        // Only a database without a fault is kept; after one it is opened again.
        self.database = Some(database);
        self.live_bytes = self.live_bytes + written.put_bytes - written.removed_bytes.min(self.live_bytes);
        self.changes.drain(..expired);
        self.change_bytes -= expired_bytes;
        for (event, bytes) in commit.changes.iter().zip(written.change_bytes) {
            self.changes.push_back(Change { revision: event.revision, bytes, since: now });
            self.change_bytes += bytes;
        }
        Ok(())
    }

    fn write(&self, database: &Database, commit: &Commit<'_>, expired: usize) -> Result<Written, StoreError> {
        let mut written = Written::default();
        let write = database.begin_write().map_err(|e| self.fault(e))?;
        {
            let mut objects = write.open_table(OBJECTS).map_err(|e| self.fault(e))?;
            let mut buffer = Vec::new();
            for (key, object) in &commit.objects {
                let key = key_text(key);
                let before = match object {
                    Some(object) => {
                        write_object(&mut buffer, object);
                        written.put_bytes += entry_bytes(&key, &buffer);
                        objects.insert(key.as_str(), buffer.as_slice())
                    }
                    None => objects.remove(key.as_str()),
                };
                let before = before.map_err(|e| self.fault(e))?;
                written.removed_bytes += before.map_or(0, |before| entry_bytes(&key, before.value()));
            }
        }
        let touched = !commit.changes.is_empty() || !commit.forget.is_empty() || expired > 0;
        if touched || commit.ceiling.is_some() {
            let mut changes = write.open_table(CHANGES).map_err(|e| self.fault(e))?;
            let mut buffer = Vec::new();
            for revision in
                self.changes.iter().take(expired).map(|c| c.revision).chain(commit.forget.iter().copied())
            {
                changes.remove(revision).map_err(|e| self.fault(e))?;
            }
            for event in &commit.changes {
                write_change(&mut buffer, event);
                written.change_bytes.push(buffer.len() as u64);
                changes.insert(event.revision, buffer.as_slice()).map_err(|e| self.fault(e))?;
            }
        }
        let compacted = self.changes.get(expired.wrapping_sub(1)).map(|change| change.revision);
        if compacted.is_some() || commit.ceiling.is_some() {
            let mut meta = write.open_table(META).map_err(|e| self.fault(e))?;
            let numbers =
                [(META_FORMAT, Some(FORMAT)), (META_COMPACTED, compacted), (META_CEILING, commit.ceiling)];
            for (name, number) in numbers {
                if let Some(number) = number {
                    meta.insert(name, number).map_err(|e| self.fault(e))?;
                }
            }
        }
        write.commit().map_err(|e| self.fault(e))?;
        Ok(written)
    }

    /// How many of the oldest changes are over the limits, and their size.
    fn expired(&self, now: Instant) -> (usize, u64) {
        let limit = self.limits.change_bytes_min.max(self.live_bytes / 2);
        let (mut count, mut bytes) = (0, 0);
        for change in &self.changes {
            let fits =
                self.changes.len() - count <= self.limits.changes && self.change_bytes - bytes <= limit;
            if fits && now.duration_since(change.since) <= self.limits.age {
                break;
            }
            count += 1;
            bytes += change.bytes;
        }
        (count, bytes)
    }

    /// True if a commit would forget changes that are long past their time.
    pub fn trim_is_due(&self) -> bool {
        self.changes.front().is_some_and(|change| change.since.elapsed() > self.limits.age * 2)
    }

    /// Makes the file smaller if it is much larger than what is in it. Takes about as long as
    /// writing all that is in it, so it is done where no write waits. Room that is free in a file
    /// that is open is used again.
    fn compact_if_worthwhile(&self, database: &mut Database) -> Result<(), StoreError> {
        let size = std::fs::metadata(&self.path)
            .map_err(|source| StoreError::Io { path: self.path.clone(), source })?
            .len();
        let content = self.live_bytes + self.change_bytes;
        if size > content * WORTHWHILE_FACTOR + WORTHWHILE_SLACK_BYTES {
            database.compact().map_err(|e| self.fault(e))?;
            tracing::debug!(before_bytes = size, content_bytes = content, "compacted the store");
        }
        Ok(())
    }

    fn damaged(&self, what: String) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), what }
    }

    fn fault(&self, error: impl Into<redb::Error>) -> StoreError {
        match error.into() {
            redb::Error::Io(source) => StoreError::Io { path: self.path.clone(), source },
            redb::Error::Corrupted(what) => self.damaged(what),
            source => StoreError::Database { path: self.path.clone(), source },
        }
    }
}

#[derive(Default)]
struct Written {
    put_bytes: u64,
    removed_bytes: u64,
    change_bytes: Vec<u64>,
}

/// Opens the file. An empty one was not left by this program: it makes the file under another name.
fn open(path: &Path) -> Result<Database, StoreError> {
    let io = |source| StoreError::Io { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(io)?.len() == 0 {
        return Err(StoreError::Damaged { path: path.to_owned(), what: "it is empty".to_owned() });
    }
    Builder::new().set_cache_size(CACHE_BYTES).open(path).map_err(|error| open_fault(path, error))
}

/// Makes the file. It has its name when it can be opened again with all its tables, whatever happens
/// in between: one that cannot has been damaged.
fn make(path: &Path) -> Result<Database, StoreError> {
    let io = |source| StoreError::Io { path: path.to_owned(), source };
    let temporary = path.with_extension("new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    // It will hold Secrets.
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(&temporary).map_err(io)?;
    let made = Builder::new().set_cache_size(CACHE_BYTES).create_file(file);
    let database = made.map_err(|error| open_fault(path, error))?;
    make_tables(&database).map_err(|source| StoreError::Database { path: path.to_owned(), source })?;
    std::fs::rename(&temporary, path).map_err(io)?;
    if let Some(parent) = path.parent() {
        std::fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(io)?;
    }
    Ok(database)
}

fn make_tables(database: &Database) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    write.open_table(OBJECTS)?;
    write.open_table(CHANGES)?;
    let mut meta = write.open_table(META)?;
    meta.insert(META_FORMAT, FORMAT)?;
    meta.insert(META_CEILING, FIRST_REVISION)?;
    drop(meta);
    Ok(write.commit()?)
}

fn open_fault(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path),
        DatabaseError::UpgradeRequired(_) => StoreError::Format { path, found: 0 },
        error => match redb::Error::from(error) {
            // So redb calls what does not begin as its files do.
            redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
                StoreError::Damaged { path, what: source.to_string() }
            }
            redb::Error::Io(source) => StoreError::Io { path, source },
            redb::Error::Corrupted(what) => StoreError::Damaged { path, what },
            source => StoreError::Database { path, source },
        },
    }
}

thread_local! {
    /// This thread's panics are told as errors.
    static TOLD: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// redb takes some damage for a fault of its own and panics. Nothing that was being read is used
/// after that. The error is what it said.
fn without_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !TOLD.get() {
                others(info);
            }
        }));
    });
    TOLD.set(true);
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    TOLD.set(false);
    done.map_err(|payload| {
        let said = payload.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        said.lines().next().unwrap_or_default().to_owned()
    })
}
