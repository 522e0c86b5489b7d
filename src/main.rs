//! The `proa` program: the command line, and the wiring of the parts into one process.
//!
//! One file serves every role. The roles that are started once per pod, container or compilation
//! are dispatched before anything else is set up, as their start is on the way of every pod.

mod agent;
mod cli;
mod config;
mod data_dir;
mod lock;
mod node_ip;
mod parts;
mod print;
mod up;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["sandbox", dir] => proa_sandbox::main(Path::new(dir)),
        ["wasm", ..] => proa_wasm::main(&arguments[1..]),
        ["compile", input, output] => {
            proa_runtime::engine::compile::main(Path::new(input), Path::new(output))
        }
        [proa_runtime::image::fetch::ROLE, workspace] => {
            proa_runtime::image::fetch::main(Path::new(workspace))
        }
        _ => {
            forgo_huge_pages();
            cli::run(cli::Cli::parse())
        }
    }
}

/// A heap of which little is in use is several times as large in memory where the kernel backs it with huge
/// pages. The sandbox takes this back for the containers.
fn forgo_huge_pages() {
    // A kernel without them has nothing to forgo.
    let _ = nix::sys::prctl::set_thp_disable(true);
}
