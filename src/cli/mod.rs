//! What the user types.

mod image;
mod token;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::{agent, config, print, up};

/// A Kubernetes-compatible cluster in one small program, with WebAssembly and containers side by
/// side in its pods.
#[derive(Parser)]
#[command(version, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a whole cluster on this node until SIGTERM or Ctrl-C; its pods go on running after that.
    Up(Box<config::Options>),
    /// Stops the cluster or node and its pods, and removes all but the data.
    Down(DataDir),
    /// Runs this machine as a node of a cluster that is up elsewhere.
    Agent(Box<agent::Options>),
    /// Makes and removes the tokens by which machines join.
    #[command(subcommand)]
    Token(token::Command),
    /// Works with the images of this node.
    #[command(subcommand)]
    Image(image::Command),
}

/// Where the cluster keeps its state.
#[derive(Args)]
pub struct DataDir {
    /// Directory of the cluster's state
    #[arg(long, env = "PROA_DATA_DIR", default_value = config::DEFAULT_DATA_DIR, value_parser = config::absolute)]
    pub data_dir: PathBuf,
}

/// Runs a command; an error becomes one line on standard error and exit status 1.
pub fn run(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Command::Up(options) => up::up(*options),
        Command::Down(data) => up::down(&data.data_dir),
        Command::Agent(options) => agent::run(*options),
        Command::Token(command) => token::run(command),
        Command::Image(command) => image::run(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print::complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
