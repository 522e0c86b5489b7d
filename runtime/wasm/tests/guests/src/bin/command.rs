//! A command whose first argument says what to do.

use std::io::{Read, Write};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let arg = |n: usize| args.get(n).map(String::as_str).unwrap_or_default();
    match arg(1) {
        "hello" => {
            println!("hello {} from {}", arg(2), std::env::var("HOSTNAME").unwrap_or_default());
            eprintln!("GREETING={}", std::env::var("GREETING").unwrap_or_default());
        }
        "exit" => std::process::exit(arg(2).parse().unwrap_or(0)),
        "trap" => core::arch::wasm32::unreachable(),
        "spin" => {
            println!("spinning");
            loop {
                std::hint::black_box(0);
            }
        }
        "sleep" => {
            println!("sleeping");
            std::thread::sleep(std::time::Duration::from_secs(3600));
        }
        // Takes memory and uses it, a mebibyte at a time.
        "eat" => {
            let mut eaten = Vec::new();
            loop {
                eaten.push(std::hint::black_box(vec![1_u8; 1 << 20]));
            }
        }
        "write" => report(std::fs::write(arg(2), arg(3))),
        "read" => match std::fs::read_to_string(arg(2)) {
            Ok(text) => print!("{text}"),
            Err(error) => report(Err(error)),
        },
        "fetch" => match fetch(arg(2)) {
            Ok(text) => println!("{text}"),
            Err(error) => report(Err(error)),
        },
        other => {
            eprintln!("unknown: {other}");
            std::process::exit(1);
        }
    }
}

fn report(result: std::io::Result<()>) {
    if let Err(error) = result {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

/// The last line of what an HTTP server at `address` says.
fn fetch(address: &str) -> std::io::Result<String> {
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.lines().last().unwrap_or_default().to_owned())
}
