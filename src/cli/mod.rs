//! What the user types.

mod image;
mod token;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::DataDir;
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
