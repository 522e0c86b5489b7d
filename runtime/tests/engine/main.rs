//! Real sandboxes with real containers and real Wasm.
//!
//! A sandbox is started as `<this program> sandbox DIR`, so this test is a program of its own
//! that takes the roles the `proa` binary has. It needs root and cgroups; each pod has a network
//! namespace without any route, so nothing leaves the machine. Give part of a test's name to run
//! only that one.

mod confinement;
mod containers;
mod guests;
mod requests;
mod world;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use world::World;

type Test = fn(Arc<World>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["sandbox", dir] => proa_sandbox::main(Path::new(dir)),
        ["wasm", rest @ ..] => proa_wasm::main(&rest.iter().map(ToString::to_string).collect::<Vec<_>>()),
        ["compile", input, output] => {
            proa_runtime::engine::compile::main(Path::new(input), Path::new(output))
        }
        _ => run(words.iter().find(|word| !word.starts_with('-')).copied()),
    }
}

fn run(filter: Option<&str>) -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: sandboxes need root");
        return if std::env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let world = Arc::new(World::new().await);
        let mut failed = 0;
        let tests =
            confinement::TESTS.iter().chain(containers::TESTS).chain(guests::TESTS).chain(requests::TESTS);
        for (name, test) in tests.filter(|(name, _)| filter.is_none_or(|part| name.contains(part))) {
            let begin = Instant::now();
            let ended =
                tokio::time::timeout(Duration::from_secs(120), tokio::spawn(test(world.clone()))).await;
            let good = matches!(ended, Ok(Ok(())));
            failed += u32::from(!good);
            eprintln!("test {name} ... {} ({:.2?})", if good { "ok" } else { "FAILED" }, begin.elapsed());
        }
        proa_runtime::engine::reap::remove_cgroup(world::CGROUP).expect("nothing left");
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    })
}

/// Makes a function of an async one, for the tables of tests.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        /// The tests of this file, by name.
        pub const TESTS: &[(&str, $crate::Test)] = &[$((stringify!($name), |world| Box::pin($name(world)))),*];
    };
}
