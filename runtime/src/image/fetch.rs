//! Pulls in a child process of its own.
//!
//! What a registry sends is decoded, decompressed and unpacked where it can use up no memory but
//! its own and can be stopped. The child is given one [`Order`] and says [`Word`]s, a line of JSON
//! each; what it made is in the store when it has said that it is done. It ends with its parent.

use std::convert::Infallible;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdout};

use super::error::{ImageError, at};
use super::failures::Failures;
use super::layout::Layout;
use super::places::Places;
use super::transfer::{Credentials, Progress};
use super::workspace::{self, Workspace};
use super::{pull, registry};
use crate::backoff::go_duration;
use crate::child::{self, Limits};

/// The role in which the program is started.
pub const ROLE: &str = "fetch";

/// Pulls at a time, of which half may be one owner's.
static AT_A_TIME: Places = Places::new(4, 2);
/// Those beside them that have gone on for longer than [`SLOW`], so that registries that hardly send
/// anything hold up nobody else.
static SLOW_AT_A_TIME: Places = Places::new(12, 6);
const SLOW: Duration = Duration::from_secs(60);
/// How long one pull may take, waiting for its turn not counted. Blobs that came whole are kept for
/// the next try.
const DEADLINE: Duration = Duration::from_secs(3600);
/// Decompressing and hashing as much as an image may hold takes a small board less.
const LIMITS: Limits = Limits { cpu_seconds: 1800, address_space_bytes: 512 << 20 };
/// No order is longer: names, and the credentials for one registry.
const ORDER_LIMIT_BYTES: u64 = 1 << 20;
/// No word is longer.
const WORD_LIMIT_BYTES: u64 = 64 << 10;
/// How often the child tells how far it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Of the environment, what says whom TLS trusts.
const TRUST_VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// What to pull.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    /// The store.
    pub(super) images: PathBuf,
    /// Full name of the image.
    pub(super) reference: String,
    /// Tried one after the other.
    pub(super) credentials: Vec<Credentials>,
    /// An image that broke such a process not long ago is left alone.
    pub(super) cautious: bool,
    /// Registries without TLS.
    pub(super) insecure: Vec<String>,
}

/// What the child says.
#[derive(Serialize, Deserialize)]
enum Word {
    /// The digest of the manifest, before anything that it names is fetched.
    Manifest(String),
    Progress(Progress),
    Done,
    Failed(ImageError),
}

/// Pulls in a child for `owner`; the store has the image when this is well. `manifest` is the digest of
/// the image's manifest if it came to that.
pub(super) async fn fetch(
    order: &Order,
    owner: &str,
    progress: &(dyn Fn(Progress) + Send + Sync),
    manifest: &mut Option<String>,
) -> Result<(), ImageError> {
    let reference = order.reference.clone();
    let cannot = |error: std::io::Error| ImageError::Registry {
        reference: reference.clone(),
        message: format!("start the process that pulls: {error}"),
    };
    let place = AT_A_TIME.take(owner).await;
    let workspace = Workspace::new(&order.images.join("tmp")).map_err(cannot)?;
    let line = serde_json::to_string(order).map_err(|error| cannot(error.into()))?;
    let passed = registry::PROXY_VARIABLES.into_iter().chain(TRUST_VARIABLES);
    let passed = passed.filter_map(|name| Some((name, std::env::var_os(name)?)));
    let mut child = child::command(ROLE).arg(workspace.path()).envs(passed).spawn().map_err(cannot)?;
    let make_room = async {
        tokio::time::sleep(SLOW).await;
        let _slow = SLOW_AT_A_TIME.take(owner).await;
        drop(place);
        std::future::pending::<Infallible>().await
    };
    let conversation = async {
        tokio::select! {
            answer = converse(&mut child, &line, progress, manifest) => answer,
            never = make_room => match never {},
        }
    };
    let answer = tokio::time::timeout(DEADLINE, conversation).await;
    // It has said all that matters, or is past its time.
    let _ = child.kill().await;
    // Should that panic, the directory is swept with all others when nobody is at work.
    let _ = tokio::task::spawn_blocking(|| workspace.remove()).await;
    let broken = |message: String| ImageError::Broken { reference: reference.clone(), message };
    match answer {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Failure::Said(error))) => Err(*error),
        Ok(Err(Failure::Broke(message))) => Err(broken(message)),
        Err(_) => Err(broken(format!("it took longer than {}", go_duration(DEADLINE)))),
    }
}

enum Failure {
    /// The child worked, and says so.
    Said(Box<ImageError>),
    /// The child did not get that far.
    Broke(String),
}

async fn converse(
    child: &mut Child,
    order: &str,
    progress: &(dyn Fn(Progress) + Send + Sync),
    manifest: &mut Option<String>,
) -> Result<(), Failure> {
    let broke = |error: std::io::Error| Failure::Broke(error.to_string());
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else {
        return Err(Failure::Broke("no pipes".to_owned()));
    };
    // Kept open until the answer: its end is the parent's.
    let told = stdin.write_all(format!("{order}\n").as_bytes()).await;
    let (answer, said) = tokio::join!(listen(stdout, progress, manifest), child::last_words(stderr));
    drop(stdin);
    if let Some(answer) = answer.map_err(broke)? {
        return answer;
    }
    told.map_err(broke)?;
    let status = child.wait().await.map_err(broke)?;
    Err(Failure::Broke(format!(
        "the process that unpacks it, which may use {} MiB of memory, ended with {status}: {said}",
        LIMITS.address_space_bytes >> 20
    )))
}

/// What the child says in the end; `None` if it ends without a word. `manifest` is told on the way.
async fn listen(
    stdout: ChildStdout,
    progress: &(dyn Fn(Progress) + Send + Sync),
    manifest: &mut Option<String>,
) -> std::io::Result<Option<Result<(), Failure>>> {
    let mut stdout = BufReader::new(stdout);
    while let Some(line) = child::line(&mut stdout, WORD_LIMIT_BYTES).await? {
        match serde_json::from_slice(&line)? {
            Word::Manifest(digest) => *manifest = Some(digest),
            Word::Progress(so_far) => progress(so_far),
            Word::Done => return Ok(Some(Ok(()))),
            Word::Failed(error) => return Ok(Some(Err(Failure::Said(Box::new(error))))),
        }
    }
    Ok(None)
}

/// The child: pulls what its standard input says, by way of this workspace in the store.
pub fn main(workspace: &Path) -> ExitCode {
    LIMITS.apply();
    let mut line = String::new();
    let mut stdin = std::io::Read::take(std::io::stdin().lock(), ORDER_LIMIT_BYTES);
    let order = match stdin.read_line(&mut line).map(|_| serde_json::from_str::<Order>(&line)) {
        Ok(Ok(order)) => order,
        _ => return ExitCode::FAILURE,
    };
    drop(stdin);
    child::end_with_parent(|| ());
    // A second call would find it set, which is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return ExitCode::FAILURE };
    let done = runtime.block_on(work(&order, workspace));
    say(&done.map_or_else(Word::Failed, |()| Word::Done));
    ExitCode::SUCCESS
}

async fn work(order: &Order, workspace: &Path) -> Result<(), ImageError> {
    let _at_work = workspace::occupy(workspace).map_err(at(workspace))?;
    let layout = Layout::open(&order.images)?.by_way_of(workspace);
    let _lock = layout.lock_shared()?;
    let failures = Failures::of(&order.images);
    let go_on = |manifest: &str| {
        say(&Word::Manifest(manifest.to_owned()));
        let held = order.cautious.then(|| failures.hold(&order.reference, manifest, Timestamp::now()));
        match held.flatten() {
            Some(message) => Err(ImageError::HeldBack { reference: order.reference.clone(), message }),
            None => Ok(()),
        }
    };
    let last: Mutex<Option<Instant>> = Mutex::new(None);
    let progress = |progress: Progress| {
        let Ok(mut last) = last.lock() else { return };
        if last.is_none_or(|last| last.elapsed() >= PROGRESS_EVERY) {
            *last = Some(Instant::now());
            say(&Word::Progress(progress));
        }
    };
    let (name, credentials) = (&order.reference, &order.credentials);
    pull::pull(&layout, name, credentials, &order.insecure, &go_on, &progress).await.map(drop)
}

fn say(word: &Word) {
    let line = serde_json::to_string(word).unwrap_or_default();
    // Without a listener there is nobody to tell, and the thread on the input ends this process.
    let _ = writeln!(std::io::stdout(), "{line}");
}
