//! `make bench`: measures Proa beside the disk and beside its peers in the same run, prints one
//! line of JSON for each figure as it comes, and a table of all at the end.
//!
//! Runs the release binaries that lie beside it, in network and mount namespaces of its own without
//! a route to anywhere, with a data directory on the disk of the target directory. A measurement
//! that fails prints an error and no figure, and the exit status is 1 then; a goal that is missed
//! is a result like any other.

#![allow(clippy::print_stdout, reason = "the figures are the program's result")]
#![allow(clippy::large_futures, reason = "one of each runs, and only for a moment")]

mod api;
mod client;
mod cluster;
mod disk;
mod fleet;
mod idle;
mod pods;
mod process;
mod report;
mod requests;
mod runtimes;
mod scale;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::cluster::Cluster;
use crate::report::Report;

/// No run takes longer; what is not measured by then is an error.
const DEADLINE: Duration = Duration::from_secs(900);

/// Measures Proa.
#[derive(Parser)]
struct Options {
    /// The program to measure [default: the one that was built with this one]
    #[arg(long)]
    proa: Option<PathBuf>,
    /// The example component [default: the one in the target directory]
    #[arg(long)]
    wasm: Option<PathBuf>,
    /// Where the data directories are made [default: the target directory]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Parts to measure [default: all]
    parts: Vec<Part>,
}

/// What can be measured by itself.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The disk, and a bare redb commit on it
    Disk,
    /// Sizes of the programs
    Sizes,
    /// Container create to first instruction, beside crun and runc
    Runtimes,
    /// The API: creates, lists, watches
    Api,
    /// A cluster that has nothing to do
    Idle,
    /// Pods, from create to Ready
    Pods,
    /// Many requests under way, beside `wasmtime serve`
    Requests,
    /// The scheduler with 5,000 simulated nodes
    Schedule,
    /// Deployments on 1,000 simulated nodes
    Control,
    /// A control plane with 30,000 pods and nothing to do
    IdleScale,
}

/// Where everything is.
struct Places {
    proa: PathBuf,
    wasm: PathBuf,
    /// The component whose answers take time.
    wait: PathBuf,
    dir: PathBuf,
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// True if everything could be measured.
fn run(options: Options) -> Result<bool> {
    let places = places(&options)?;
    own_namespaces()?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut report = Report::default();
    let measured = runtime.block_on(async {
        let mut stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            done = tokio::time::timeout(DEADLINE, measure(&places, &options.parts, &mut report)) => {
                done.with_context(|| format!("not done after {} s", DEADLINE.as_secs()))
            }
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
            _ = stop.recv() => Err(anyhow::anyhow!("terminated")),
        }
    });
    if let Err(error) = measured {
        report.error("bench", &error);
    }
    report.print_table();
    Ok(report.is_complete())
}

fn places(options: &Options) -> Result<Places> {
    let this = std::env::current_exe()?;
    let profile = this.ancestors().nth(2).context("the bench lies in TARGET/<profile>/examples")?;
    let target = profile.parent().context("a target directory")?;
    let or = |given: &Option<PathBuf>, default: PathBuf| given.clone().unwrap_or(default);
    let places = Places {
        proa: or(&options.proa, profile.join("proa")),
        wasm: or(&options.wasm, target.join("examples/wasm32-wasip2/release/hello-wasm.wasm")),
        wait: target.join("examples/wasm32-wasip2/release/wait-wasm.wasm"),
        dir: or(&options.dir, target.to_owned()),
    };
    for file in [&places.proa, &places.wasm] {
        ensure!(file.is_file(), "{} is not there: run `make bench`", file.display());
    }
    Ok(places)
}

/// Must come before the first thread. Everything that is started inherits these namespaces.
fn own_namespaces() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "the bench makes namespaces and cgroups: run it as root");
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("cannot make namespaces")?;
    let nothing = None::<&Path>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("ip (iproute2)")?;
    ensure!(up.success(), "the loopback device cannot be set up");
    Ok(())
}

/// Each part by itself: what fails in one does not keep the others from being measured.
async fn measure(places: &Places, parts: &[Part], report: &mut Report) {
    let wanted = |part: Part| parts.is_empty() || parts.contains(&part);
    if wanted(Part::Disk) {
        let measured = tokio::task::block_in_place(|| disk::measure(&places.dir, report));
        report.check("disk", measured);
    }
    if wanted(Part::Sizes) {
        let measured = idle::sizes(&places.proa, report);
        report.check("sizes", measured);
    }
    if wanted(Part::Runtimes) {
        let measured = tokio::task::block_in_place(|| runtimes::measure(places, report));
        report.check("runtimes", measured);
    }
    if wanted(Part::Api)
        && let Some(cluster) = report.check("up", Cluster::start(places).await)
    {
        api::measure(&cluster, report).await;
    }
    if (wanted(Part::Idle) || wanted(Part::Pods))
        && let Some(cluster) = report.check("up", Cluster::start(places).await)
    {
        if wanted(Part::Idle) {
            let measured = idle::measure(&cluster, report).await;
            report.check("idle", measured);
        }
        if wanted(Part::Pods) {
            let measured = pods::measure(&cluster, &places.wasm, report).await;
            report.check("pods", measured);
        }
    }
    if wanted(Part::Requests)
        && let Some(cluster) = report.check("up", Cluster::start(places).await)
    {
        let measured = requests::measure(&cluster, &places.wait, report).await;
        report.check("requests", measured);
    }
    if wanted(Part::Schedule) {
        let measured = scale::schedule(places, report).await;
        report.check("schedule", measured);
    }
    if wanted(Part::Control) {
        let measured = scale::control(places, report).await;
        report.check("control", measured);
    }
    if wanted(Part::IdleScale) {
        let measured = scale::idle(places, report).await;
        report.check("idle_scale", measured);
    }
}
