//! A command of WASI 0.3.

wasip3::cli::command::export!(Guest);

struct Guest;

impl wasip3::exports::cli::run::Guest for Guest {
    async fn run() -> Result<(), ()> {
        println!("a command of 0.3");
        Err(())
    }
}
