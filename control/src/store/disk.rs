//! The redb file: what is in it, how it is read at start and how a commit is written.
//!
//! Fed by the writer thread, which owns it. Live objects are read from here only at start.
//!
//! | table | key | value |
//! |---|---|---|
//! | `objects` | `resource NUL namespace NUL name` | header, JSON |
//! | `changes` | revision | kind, key, the version before (header, JSON) |
//! | `meta` | name | number |
//!
//! A change holds only the version that it replaced: the one that it made is the one that the
//! next change of the object replaced, or the live one. So a create is written once.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::ballast::Ballast;
use super::catalog::Catalog;
use super::object::{Event, EventKind, Key, Object, Revision, indexed};

const OBJECTS: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");
const CHANGES: TableDefinition<u64, &[u8]> = TableDefinition::new("changes");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// The layout described above. Another one needs another number.
const FORMAT: u64 = 1;
const META_FORMAT: &str = "format";
/// No revision up to this one is handed out again after a restart.
const META_CEILING: &str = "revision-ceiling";
/// Changes up to this revision are no longer kept.
const META_COMPACTED: &str = "compacted";

/// Revision (8 bytes) and where it stands in the JSON (4 bytes).
const HEADER_BYTES: usize = 12;
/// A list of an empty store has this one: 0 means something else to clients.
const FIRST_REVISION: Revision = 1;
const CACHE_BYTES: usize = 8 << 20;
/// The file is compacted when it is larger than this many times what is in it …
const WORTHWHILE_FACTOR: u64 = 2;
/// … and this much more, because small files are not worth it.
const WORTHWHILE_SLACK_BYTES: u64 = 2 << 20;

/// Why the store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{} is in use by another process: is proa already running on this data directory?", .0.display())]
    InUse(PathBuf),
    /// It was written by another version of Proa.
    #[error("{} has format {found}, but this version of proa reads format {FORMAT}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it says it is.
        found: u64,
    },
    /// What it holds is not what was written.
    #[error("{} is damaged: {what}; put a copy from before in its place", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and how.
        what: String,
    },
    /// It is not there, though it was once.
    #[error(
        "{} is missing, and {} tells that there was a cluster here: put a copy in its place, \
         or remove that directory too to begin a new cluster", .path.display(), .sign.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// What tells that it was there.
        sign: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("cannot use {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Any other fault of the database.
    #[error("{}: {source}", .path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What redb says.
        source: redb::Error,
    },
}

impl StoreError {
    fn is_no_space(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, StoreError::Io { source, .. } if matches!(source.kind(), QuotaExceeded | StorageFull))
    }
}

/// How much of the past the file keeps.
#[derive(Clone, Copy, Debug)]
pub struct DiskLimits {
    /// Changes older than this go.
    pub age: Duration,
    /// The most changes.
    pub changes: usize,
    /// The most bytes of changes, whatever the size of the live data.
    pub change_bytes_min: u64,
    /// The least time between two compactions of the file.
    pub compact_interval: Duration,
}

/// What the file held at start.
pub struct Loaded {
    /// Live objects per resource.
    pub objects: HashMap<Arc<str>, Vec<Arc<Object>>>,
    /// Recent changes per resource, oldest first.
    pub events: HashMap<Arc<str>, Vec<Arc<Event>>>,
    /// Changes up to this one are gone.
    pub compacted: Revision,
    /// No revision up to this one may be handed out.
    pub ceiling: Revision,
}

/// What one commit changes.
#[derive(Default)]
pub struct Commit<'a> {
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
pub struct Disk {
    path: PathBuf,
    /// `None` after a fault, until it is opened again: redb refuses all work after one.
    database: Option<Database>,
    limits: DiskLimits,
    /// Size of each live entry is not kept, only the sum.
    live_bytes: u64,
    changes: VecDeque<Change>,
    change_bytes: u64,
    compacted_at: Instant,
    ballast: Ballast,
}

struct Change {
    revision: Revision,
    bytes: u64,
    since: Instant,
}

impl Disk {
    /// Opens or makes the file and reads all that is in it.
    pub fn open(
        path: &Path,
        catalog: &dyn Catalog,
        limits: DiskLimits,
    ) -> Result<(Disk, Loaded), StoreError> {
        let opened = without_panic(|| Self::open_and_load(path, catalog, limits));
        opened.unwrap_or_else(|what| Err(StoreError::Damaged { path: path.to_owned(), what }))
    }

    fn open_and_load(
        path: &Path,
        catalog: &dyn Catalog,
        limits: DiskLimits,
    ) -> Result<(Disk, Loaded), StoreError> {
        let database = if path.exists() { open(path)? } else { make(path)? };
        let now = Instant::now();
        let mut disk = Disk {
            path: path.to_owned(),
            database: None,
            limits,
            live_bytes: 0,
            changes: VecDeque::new(),
            change_bytes: 0,
            compacted_at: now,
            ballast: Ballast::of(path),
        };
        let loaded = disk.load(&database, catalog)?;
        disk.database = Some(database);
        Ok((disk, loaded))
    }

    fn load(&mut self, database: &Database, catalog: &dyn Catalog) -> Result<Loaded, StoreError> {
        let mut loaded =
            Loaded { objects: HashMap::new(), events: HashMap::new(), compacted: 0, ceiling: FIRST_REVISION };
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
                loaded.ceiling = number(META_CEILING)?;
            }
        }
        let mut newest: HashMap<Key, Arc<Object>> = HashMap::new();
        let objects = read.open_table(OBJECTS).map_err(|e| self.fault(e))?;
        for entry in objects.iter().map_err(|e| self.fault(e))? {
            let (key, value) = entry.map_err(|e| self.fault(e))?;
            self.live_bytes += entry_bytes(key.value(), value.value());
            let object = Arc::new(self.read_object(key.value(), value.value(), catalog)?);
            loaded.objects.entry(object.key.resource.clone()).or_default().push(object.clone());
            newest.insert(object.key.clone(), object);
        }
        let changes = read.open_table(CHANGES).map_err(|e| self.fault(e))?;
        let mut events = Vec::new();
        for entry in changes.iter().map_err(|e| self.fault(e))?.rev() {
            let (revision, value) = entry.map_err(|e| self.fault(e))?;
            let (revision, value) = (revision.value(), value.value());
            let bytes = value.len() as u64;
            self.changes.push_front(Change { revision, bytes, since: self.compacted_at });
            self.change_bytes += bytes;
            match self.read_change(revision, value, &mut newest, catalog) {
                Ok(event) => events.push(event),
                // Only watches from before the restart need it: they begin anew.
                Err(error) => {
                    tracing::warn!(%error, "watches cannot be resumed from before this change");
                    loaded.compacted = revision;
                    break;
                }
            }
        }
        loaded.ceiling = loaded.ceiling.max(FIRST_REVISION);
        for event in events.into_iter().rev() {
            loaded.events.entry(event.object.key.resource.clone()).or_default().push(Arc::new(event));
        }
        Ok(loaded)
    }

    fn read_object(&self, key: &str, value: &[u8], catalog: &dyn Catalog) -> Result<Object, StoreError> {
        let damaged = |what: &str| self.damaged(format!("{}: {what}", key.replace('\0', "/")));
        let mut parts = key.split('\0');
        let (Some(resource), Some(namespace), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(damaged("the key has not three parts"));
        };
        let Some((header, json)) = value.split_at_checked(HEADER_BYTES) else {
            return Err(damaged("the entry is too short"));
        };
        let revision = u64::from_le_bytes(header[..8].try_into().expect("eight bytes"));
        let revision_at = u32::from_le_bytes(header[8..].try_into().expect("four bytes")) as usize;
        let parsed: serde_json::Value =
            serde_json::from_slice(json).map_err(|error| damaged(&error.to_string()))?;
        let digits = revision.to_string();
        if json.get(revision_at..revision_at + digits.len()) != Some(digits.as_bytes()) {
            return Err(damaged("its revision is not where the header says"));
        }
        let (labels, uid, deleting) = indexed(&parsed);
        Ok(Object {
            key: Key::new(resource, namespace, name),
            revision,
            bytes: Bytes::copy_from_slice(json),
            labels,
            fields: catalog.fields(resource, &parsed),
            uid,
            deleting,
            revision_at,
            since: self.compacted_at,
        })
    }

    /// Reads a change; `newest` holds each object as it was after it, and then before it.
    fn read_change(
        &self,
        revision: Revision,
        value: &[u8],
        newest: &mut HashMap<Key, Arc<Object>>,
        catalog: &dyn Catalog,
    ) -> Result<Event, StoreError> {
        let damaged = || self.damaged(format!("change {revision} cannot be read"));
        let (&[kind, low, high], rest) = value.split_first_chunk::<3>().ok_or_else(damaged)?;
        let length = usize::from(u16::from_le_bytes([low, high]));
        let (key, previous) = rest.split_at_checked(length).ok_or_else(damaged)?;
        let key = std::str::from_utf8(key).map_err(|_| damaged())?;
        let previous = match previous {
            [] => None,
            bytes => Some(Arc::new(self.read_object(key, bytes, catalog)?)),
        };
        let object_key = match &previous {
            Some(previous) => previous.key.clone(),
            None => {
                let mut parts = key.splitn(3, '\0').map(str::to_owned);
                let mut part = || parts.next().unwrap_or_default();
                Key::new(part(), &part(), &part())
            }
        };
        let kind = match kind {
            0 => EventKind::Added,
            1 => EventKind::Modified,
            2 => EventKind::Deleted,
            _ => return Err(damaged()),
        };
        let object = match (kind, &previous) {
            (EventKind::Deleted, Some(previous)) => Arc::new(previous.at_revision(revision)),
            _ => newest.get(&object_key).filter(|o| o.revision == revision).cloned().ok_or_else(damaged)?,
        };
        match &previous {
            Some(previous) => newest.insert(object_key, previous.clone()),
            None => newest.remove(&object_key),
        };
        Ok(Event::new(kind, object, previous))
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
    /// writing all that is in it, so it is done rarely.
    pub fn compact_if_worthwhile(&mut self) -> Result<bool, StoreError> {
        if self.compacted_at.elapsed() < self.limits.compact_interval {
            return Ok(false);
        }
        let size = std::fs::metadata(&self.path)
            .map_err(|source| StoreError::Io { path: self.path.clone(), source })?
            .len();
        let content = self.live_bytes + self.change_bytes;
        if size <= content * WORTHWHILE_FACTOR + WORTHWHILE_SLACK_BYTES {
            return Ok(false);
        }
        self.compacted_at = Instant::now();
        let Some(mut database) = self.database.take() else { return Ok(false) };
        let compacted = database.compact().map_err(|e| self.fault(e))?;
        self.database = Some(database);
        Ok(compacted)
    }

    /// Bytes of the live entries, keys and headers included.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
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

fn key_text(key: &Key) -> String {
    [&*key.resource, "\0", &*key.namespace, "\0", &*key.name].concat()
}

fn entry_bytes(key: &str, value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}

fn write_object(buffer: &mut Vec<u8>, object: &Object) {
    buffer.clear();
    append_object(buffer, object);
}

fn append_object(buffer: &mut Vec<u8>, object: &Object) {
    let revision_at = u32::try_from(object.revision_at).expect("a request body is far below 4 GiB");
    buffer.extend_from_slice(&object.revision.to_le_bytes());
    buffer.extend_from_slice(&revision_at.to_le_bytes());
    buffer.extend_from_slice(&object.bytes);
}

fn write_change(buffer: &mut Vec<u8>, event: &Event) {
    let key = key_text(&event.object.key);
    let length = u16::try_from(key.len()).expect("names are at most a few hundred bytes");
    buffer.clear();
    buffer.push(event.kind as u8);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(key.as_bytes());
    if let Some(previous) = &event.previous {
        append_object(buffer, previous);
    }
}
