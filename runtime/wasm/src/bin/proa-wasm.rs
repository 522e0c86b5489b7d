//! The stand-alone program: nothing but the library and an allocator that starts fast in a static
//! binary.

use std::process::ExitCode;

#[cfg(feature = "static-binary")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    proa_wasm::main(&args)
}
