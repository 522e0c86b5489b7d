//! Runs one Wasm container: an HTTP component, a command, or a core module, from a compiled file.
//!
//! The pod's sandbox starts one such process per Wasm container, in the pod's namespaces and in a
//! cgroup of its own. The process ends as a container's would: with the guest's exit code, 134
//! after a trap, 137 when the guest asked for more memory than it may have, 143 when it had to be
//! interrupted after SIGTERM, and 1 when it could not be started. It never compiles anything: a
//! file made for other engine settings is refused with a message.
//!
//! `engine` and `link` are also used by the crate that compiles, so that the two sides agree.

pub mod config;
pub mod engine;
pub mod link;
pub mod shape;

mod command;
mod confine;
mod core_module;
mod exchange;
mod host;
mod http;
mod instances;
mod outcome;
mod outgoing;
mod patient;
mod program;
mod report;
mod room;
mod root;
mod seccomp;
mod stop;
mod ticker;

use std::path::Path;
use std::process::ExitCode;

use config::RunConfig;
use outcome::Outcome;
use program::Program;
use report::Reporter;

/// Runs the container described by the file named in `args`, the arguments after the program's
/// own name, and gives its exit code.
pub fn main(args: &[String]) -> ExitCode {
    let [path] = args else {
        eprintln!("usage: proa-wasm CONFIG.json (started by the sandbox of a pod)");
        return ExitCode::from(2);
    };
    let config: RunConfig = match read_config(Path::new(path)) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("proa-wasm: {path}: {error}");
            return ExitCode::from(1);
        }
    };
    // SAFETY: the sandbox opened it for this process alone, and it is taken here once.
    let mut reporter = unsafe { Reporter::new(config.report_fd) };
    let outcome = run(&config, &mut reporter).unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
    if let Some((reason, message)) = outcome.report() {
        eprintln!("proa-wasm: {}", outcome.details().unwrap_or(&message));
        reporter.end(reason, &message);
    }
    // Leaving at once spares unmapping what the kernel drops anyway.
    std::process::exit(outcome.exit_code());
}

fn read_config(path: &Path) -> Result<RunConfig, String> {
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    serde_json::from_slice(&bytes).map_err(|e| e.to_string())
}

/// What needs the node's own files and the rights of root comes first: the port, the compiled file,
/// the number of processors. Then the process confines itself, before any thread exists, because a
/// mount namespace and capabilities belong to threads.
fn run(config: &RunConfig, reporter: &mut Reporter) -> anyhow::Result<Outcome> {
    let program = Program::load(config)?;
    let worker_threads = worker_threads();
    let config = &confine::enter(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads)
        .thread_stack_size(512 << 10)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match program {
            Program::Http(listener, served) => http::serve(config, listener, served, reporter).await,
            Program::Command(engine, component) => command::run(config, engine, component, reporter).await,
            Program::CoreModule(engine, module) => core_module::run(config, engine, module, reporter).await,
        }
    })
}

/// At least two, so that a guest that spins does not keep the process from seeing SIGTERM.
fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get()).clamp(2, 8)
}
