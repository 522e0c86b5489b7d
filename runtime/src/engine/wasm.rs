//! Compiled Wasm modules, kept per node: each digest is compiled once for the engine settings of
//! this program, and its file is mapped by every process that runs it. What was found of a file that
//! cannot run is kept just so, and trying again costs nothing.
//!
//! The cache directory holds machine code that is run as root: it is root's alone, and files
//! appear in it by rename, whole.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use proa_sandbox::protocol::WasmShape;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::Mutex as AsyncMutex;

use super::compile::Verdict;
use super::lane::Lane;
use crate::child;

/// For files that are small and quickly compiled: one of milliseconds need not wait for one of minutes.
static QUICK: Lane = Lane::new();
/// For all others. Each may use every processor and much memory.
static SLOW: Lane = Lane::new();
/// Up to this size a file is small.
const SMALL_BYTES: u64 = 1 << 20;
/// What takes longer than this is not quick, however small it is.
const QUICK_LIMIT: Duration = Duration::from_secs(2);

/// How long a crash of the compiler counts. It may have had its cause outside of the file.
const CRASH_COUNTS: Duration = Duration::from_secs(3600);
/// Most bytes of what the child says.
const MAX_SAID: u64 = 64 << 10;

/// How the names of files end that are being made.
const UNFINISHED: &str = "tmp";
const UNFINISHED_NOTE: &str = "note";

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long one compilation may take, waiting for its turn not counted.
const LIMIT: Duration = Duration::from_secs(600);

/// A module that can be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The compiled file.
    pub path: PathBuf,
    /// How it is run.
    pub shape: WasmShape,
}

/// Why a module cannot be run.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CompileError {
    /// It wants what this node does not offer.
    #[error("component imports what this node does not offer: {}", .names.join(", "))]
    MissingImports {
        /// Full names, as `wasi:keyvalue/store@0.2.0`.
        names: Vec<String>,
    },
    /// It is broken, or exports nothing that can be run.
    #[error("invalid WebAssembly: {0}")]
    Invalid(String),
    /// The compiler was stopped, has crashed, or could not work.
    #[error("compile WebAssembly: {0}")]
    Failed(String),
}

/// What is known of a file, kept next to its compiled form if it has one.
#[derive(Serialize, Deserialize)]
struct Note {
    /// Of the program that found it: another may offer more.
    version: String,
    verdict: Verdict,
}

/// Gives the compiled form of `module`, whose content has this digest (`sha256:…`), compiling it
/// in a child process if `cache_dir` has none. Calls for the same digest share one compilation. Where
/// several wait, `owner`, the namespace of the pod, decides with the others whose turn it is.
pub async fn compile(
    module: &Path,
    digest: &str,
    owner: &str,
    cache_dir: &Path,
) -> Result<Compiled, CompileError> {
    let path = cache_dir.join(file_name(digest)?);
    if let Some(known) = cached(&path) {
        return known;
    }
    let turn = turn(&path);
    let compiled = {
        let _turn = turn.lock().await;
        match cached(&path) {
            Some(known) => known,
            None => compile_now(module, &path, owner).await,
        }
    };
    give_up(&path, turn);
    compiled
}

/// One lock per file under way.
type Turns = HashMap<PathBuf, Arc<AsyncMutex<()>>>;

fn turns() -> std::sync::MutexGuard<'static, Turns> {
    static TURNS: OnceLock<Mutex<Turns>> = OnceLock::new();
    TURNS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

fn turn(path: &Path) -> Arc<AsyncMutex<()>> {
    turns().entry(path.to_owned()).or_default().clone()
}

fn give_up(path: &Path, turn: Arc<AsyncMutex<()>>) {
    let mut turns = turns();
    drop(turn);
    if turns.get(path).is_some_and(|turn| Arc::strong_count(turn) == 1) {
        turns.remove(path);
    }
}

/// The note is renamed into place last, so that a compiled file is there when its note is.
fn cached(path: &Path) -> Option<Result<Compiled, CompileError>> {
    let note_path = note_path(path);
    let note: Note = serde_json::from_slice(&std::fs::read(&note_path).ok()?).ok()?;
    let counts = match &note.verdict {
        Verdict::Compiled { .. } => path.is_file(),
        Verdict::MissingImports { .. } | Verdict::Invalid { .. } => note.version == VERSION,
        Verdict::Crashed { .. } => {
            let written = note_path.metadata().and_then(|m| m.modified()).ok()?;
            SystemTime::now().duration_since(written).is_ok_and(|age| age < CRASH_COUNTS)
        }
    };
    counts.then(|| outcome(note.verdict, path))
}

fn outcome(verdict: Verdict, path: &Path) -> Result<Compiled, CompileError> {
    match verdict {
        Verdict::Compiled { shape } => Ok(Compiled { path: path.to_owned(), shape }),
        Verdict::MissingImports { names } => Err(CompileError::MissingImports { names }),
        Verdict::Invalid { message } => Err(CompileError::Invalid(message)),
        Verdict::Crashed { message } => Err(CompileError::Failed(message)),
    }
}

async fn compile_now(module: &Path, path: &Path, owner: &str) -> Result<Compiled, CompileError> {
    let failed = |error: io::Error| CompileError::Failed(error.to_string());
    let small = std::fs::metadata(module).map_err(failed)?.len() <= SMALL_BYTES;
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    }
    let temporary = Temporary(path.with_extension(format!("{}.{UNFINISHED}", std::process::id())));
    let verdict = run_in_turn(module, &temporary.0, owner, small).await.map_err(CompileError::Failed)?;
    keep(&temporary.0, path, &verdict).map_err(failed)?;
    outcome(verdict, path)
}

/// A small file whose compilation is not quick begins again behind the others, so that it holds up
/// quick ones no longer than that.
async fn run_in_turn(module: &Path, output: &Path, owner: &str, small: bool) -> Result<Verdict, String> {
    if small {
        let _slot = QUICK.enter(owner).await;
        if let Ok(verdict) = tokio::time::timeout(QUICK_LIMIT, run_child(module, output)).await {
            return verdict;
        }
        // It has been killed, but may not be gone: what it writes yet is not to be in the next one's file.
        let _ = std::fs::remove_file(output);
    }
    let _slot = SLOW.enter(owner).await;
    let in_time = tokio::time::timeout(LIMIT, run_child(module, output)).await;
    in_time.unwrap_or_else(|_| Ok(Verdict::Crashed { message: "context deadline exceeded".to_owned() }))
}

/// A file that is being made. What became of it has another name by the time that this is dropped.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Removes what compilations that were cut short have left. Called before there is any.
pub fn sweep_temporary(cache_dir: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(cache_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == UNFINISHED || kind == UNFINISHED_NOTE) {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// An error is of this moment, such as a disk that is full: it tells nothing of the file.
async fn run_child(module: &Path, output: &Path) -> Result<Verdict, String> {
    let mut child = child::command("compile").arg(module).arg(output).spawn().map_err(|e| e.to_string())?;
    // Its input is kept open until it has ended: with this process it ends too.
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(_input), Some(out), Some(err)) = pipes else {
        return Err("no pipes".to_owned());
    };
    let (out, err, status) = tokio::join!(said(out), child::last_words(err), child.wait());
    let status = status.map_err(|e| e.to_string())?;
    if status.success() {
        return serde_json::from_slice(&out).map_err(|e| e.to_string());
    }
    let message = format!("{err} ({status})");
    match status.signal() {
        // Whoever stops this node may stop its children too.
        None | Some(libc::SIGINT | libc::SIGTERM | libc::SIGHUP) => Err(message),
        // A limit, or a fault of the compiler.
        Some(_) => Ok(Verdict::Crashed { message }),
    }
}

/// The first part of what the child writes. What it cannot write ends it.
async fn said(stream: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What has come counts, whatever stopped the rest.
    let _ = stream.take(MAX_SAID).read_to_end(&mut bytes).await;
    bytes
}

fn keep(temporary: &Path, path: &Path, verdict: &Verdict) -> io::Result<()> {
    let note = temporary.with_extension(UNFINISHED_NOTE);
    let known = Note { version: VERSION.to_owned(), verdict: verdict.clone() };
    std::fs::write(&note, serde_json::to_vec(&known)?)?;
    if matches!(verdict, Verdict::Compiled { .. }) {
        std::fs::rename(temporary, path)?;
    }
    std::fs::rename(note, note_path(path))
}

fn note_path(path: &Path) -> PathBuf {
    path.with_extension("json")
}

/// `<digest>-<settings>.cwasm`: a program with other settings makes its own.
fn file_name(digest: &str) -> Result<String, CompileError> {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    if hex.is_empty() || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(CompileError::Failed(format!("{digest:?} is not a digest")));
    }
    Ok(format!("{hex}-{}.cwasm", settings()?))
}

/// Names the engine settings of this program, in sixteen hexadecimal digits.
fn settings() -> Result<&'static str, CompileError> {
    static SETTINGS: OnceLock<Result<String, String>> = OnceLock::new();
    let settings = SETTINGS.get_or_init(|| {
        let engine = proa_wasm::engine::on_demand().map_err(|e| format!("{e:#}"))?;
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(format!("{:016x}", hasher.finish()))
    });
    settings.as_deref().map_err(|e| CompileError::Failed(e.clone()))
}

/// FNV-1a: the same in every release of Rust, unlike the standard hasher.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_name_files() {
        let name = file_name("sha256:00ff").expect("a name");
        assert!(name.starts_with("00ff-") && name.ends_with(".cwasm"), "{name}");
        assert_eq!(name.len(), "00ff-0123456789abcdef.cwasm".len());
        assert!(file_name("sha256:../../etc/passwd").is_err());
        assert!(file_name("").is_err());
    }

    #[test]
    fn what_was_cut_short_is_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        sweep_temporary(&dir.path().join("none")).expect("nothing to do");
        for name in ["00-0.cwasm", "00-0.json", "00-0.7.tmp", "00-0.7.note"] {
            std::fs::write(dir.path().join(name), "").expect("a file");
        }
        sweep_temporary(dir.path()).expect("swept");
        let left = std::fs::read_dir(dir.path()).expect("a directory").flatten();
        let mut left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        left.sort();
        assert_eq!(left, ["00-0.cwasm", "00-0.json"]);
    }

    #[test]
    fn what_was_found_counts_as_long_as_it_may_be_true() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("00-0.cwasm");
        let note = |version: &str, verdict: Verdict| {
            let note = Note { version: version.to_owned(), verdict };
            std::fs::write(note_path(&path), serde_json::to_vec(&note).expect("JSON")).expect("a note");
            cached(&path).map(|known| known.map_err(|e| e.to_string()))
        };
        let shape = WasmShape::Command;
        assert_eq!(note(VERSION, Verdict::Compiled { shape }), None, "the compiled file is missing");
        std::fs::write(&path, "").expect("a file");
        assert_eq!(note("0", Verdict::Compiled { shape }), Some(Ok(Compiled { path: path.clone(), shape })));

        let message = || "m".to_owned();
        let invalid = Some(Err("invalid WebAssembly: m".to_owned()));
        assert_eq!(note(VERSION, Verdict::Invalid { message: message() }), invalid);
        assert_eq!(
            note("0", Verdict::Invalid { message: message() }),
            None,
            "another program may know better"
        );
        let crashed = Some(Err("compile WebAssembly: m".to_owned()));
        assert_eq!(note("0", Verdict::Crashed { message: message() }), crashed);
        let written = SystemTime::now() - CRASH_COUNTS;
        let file = std::fs::File::options().write(true).open(note_path(&path)).expect("the note");
        file.set_modified(written).expect("a time");
        assert!(cached(&path).is_none(), "the machine may have been short of memory then");
    }
}
