//! A command whose first argument says what to do.

use std::io::{Read, Write};
use std::net::ToSocketAddrs;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let arg = |n: usize| args.get(n).map(String::as_str).unwrap_or_default();
    match arg(1) {
        "hello" => {
            println!("hello {} from {}", arg(2), std::env::var("HOSTNAME").unwrap_or_default());
            eprintln!("GREETING={}", std::env::var("GREETING").unwrap_or_default());
        }
        "args" => args.iter().for_each(|arg| println!("{arg}")),
        "env" => std::env::vars().for_each(|(name, value)| println!("{name}={value}")),
        "cwd" => report(std::env::current_dir().map(|dir| println!("{}", dir.display()))),
        "stdin" => {
            let mut text = String::new();
            report(std::io::stdin().read_to_string(&mut text).map(|bytes| println!("{bytes} bytes")));
        }
        // Waits until a file holds a text.
        "await" => {
            while std::fs::read_to_string(arg(2)).unwrap_or_default() != arg(3) {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        }
        "list" => report(list(arg(2))),
        "lookup" => report(lookup(arg(2))),
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

fn list(dir: &str) -> std::io::Result<()> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    names.iter().for_each(|name| println!("{name}"));
    Ok(())
}

/// The addresses of a host.
fn lookup(host: &str) -> std::io::Result<()> {
    (host, 0).to_socket_addrs()?.for_each(|address| println!("{}", address.ip()));
    Ok(())
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
