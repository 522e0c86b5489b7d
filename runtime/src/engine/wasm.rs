//! Compiled Wasm modules, kept per node: each digest is compiled once for the engine settings of
//! this program, and its file is mapped by every process that runs it.
//!
//! The cache directory holds machine code that is run as root: it is root's alone, and files
//! appear in it by rename, whole.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use proa_sandbox::protocol::WasmShape;
use serde::{Deserialize, Serialize};
use tokio::io::BufReader;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use super::compile::Verdict;
use crate::child;

/// Compilations at a time: each may use every processor and much memory.
static AT_A_TIME: Semaphore = Semaphore::const_new(1);

/// How long one compilation may take, waiting for its turn not counted.
const LIMIT: Duration = Duration::from_secs(600);
/// No verdict is longer: most of one is the names of what is missing.
const VERDICT_LIMIT_BYTES: u64 = 1 << 20;

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
    /// The compiler was stopped, or could not work.
    #[error("compile WebAssembly: {0}")]
    Failed(String),
}

/// What is known of a compiled file beside its content, in a file next to it.
#[derive(Serialize, Deserialize)]
struct Note {
    shape: WasmShape,
}

/// Gives the compiled form of `module`, whose content has this digest (`sha256:…`), compiling it
/// in a child process if `cache_dir` has none. Calls for the same digest share one compilation.
pub async fn compile(module: &Path, digest: &str, cache_dir: &Path) -> Result<Compiled, CompileError> {
    let path = cache_dir.join(file_name(digest)?);
    if let Some(compiled) = cached(&path) {
        return Ok(compiled);
    }
    let turn = turn(&path);
    let compiled = {
        let _turn = turn.lock().await;
        match cached(&path) {
            Some(compiled) => Ok(compiled),
            None => compile_now(module, &path).await,
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

/// Both files, or neither: the note is renamed into place last.
fn cached(path: &Path) -> Option<Compiled> {
    let note: Note = serde_json::from_slice(&std::fs::read(note_path(path)).ok()?).ok()?;
    path.is_file().then(|| Compiled { path: path.to_owned(), shape: note.shape })
}

async fn compile_now(module: &Path, path: &Path) -> Result<Compiled, CompileError> {
    let failed = |error: io::Error| CompileError::Failed(error.to_string());
    let _permit = AT_A_TIME.acquire().await.map_err(|e| CompileError::Failed(e.to_string()))?;
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    }
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let result = match run_child(module, &temporary).await {
        Ok(Verdict::Compiled { shape }) => {
            keep(&temporary, path, shape).map(|()| Compiled { path: path.to_owned(), shape }).map_err(failed)
        }
        Ok(Verdict::MissingImports { names }) => Err(CompileError::MissingImports { names }),
        Ok(Verdict::Invalid { message }) => Err(CompileError::Invalid(message)),
        Err(message) => Err(CompileError::Failed(message)),
    };
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

async fn run_child(module: &Path, output: &Path) -> Result<Verdict, String> {
    let failed = |error: io::Error| error.to_string();
    let mut child = child::command("compile").arg(module).arg(output).spawn().map_err(failed)?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("no pipes".to_owned());
    };
    // Closed after the line: a child that would say more ends.
    let answer = async move { child::line(&mut BufReader::new(stdout), VERDICT_LIMIT_BYTES).await };
    let ended = async {
        let (line, said) = tokio::join!(answer, child::last_words(stderr));
        let (line, status) = (line.map_err(failed)?, child.wait().await.map_err(failed)?);
        if !status.success() {
            return Err(format!("{said} ({status})"));
        }
        serde_json::from_slice(&line.unwrap_or_default()).map_err(|e| e.to_string())
    };
    let ended = tokio::time::timeout(LIMIT, ended).await;
    ended.map_err(|_| "context deadline exceeded".to_owned())?
}

fn keep(temporary: &Path, path: &Path, shape: WasmShape) -> io::Result<()> {
    let note = temporary.with_extension("note");
    std::fs::write(&note, serde_json::to_vec(&Note { shape })?)?;
    std::fs::rename(temporary, path)?;
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
}
