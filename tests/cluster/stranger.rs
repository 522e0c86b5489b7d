//! A registry that nobody trusts: it answers what a test tells it to, and remembers what it was
//! asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use super::Cluster;

/// An answer to one path.
#[derive(Clone)]
pub struct Answer {
    /// Status and headers as they stand on the wire, such as `200 OK` or `302 Found\r\nLocation: …`.
    pub head: String,
    /// What comes then.
    pub body: Body,
}

#[derive(Clone)]
pub enum Body {
    Bytes(Vec<u8>),
    /// So many bytes of one letter, of which no length is told.
    Long(u64),
    /// A beginning, after which the connection stays open.
    Begun(Vec<u8>),
    /// Nothing, while the connection stays open.
    Silence,
}

impl Answer {
    /// The answer of a registry that has it.
    pub fn ok(body: impl Into<Vec<u8>>) -> Answer {
        Answer { head: "200 OK".to_owned(), body: Body::Bytes(body.into()) }
    }
}

/// The server; its threads end with the test.
pub struct Stranger {
    address: SocketAddr,
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Stranger {
    pub fn start(cluster: &Cluster, address: &str) -> Stranger {
        let address = address.parse().expect("an address");
        let listener = cluster.listen(address);
        let stranger = Stranger { address, answers: Arc::default(), asked: Arc::default() };
        let (answers, asked) = (stranger.answers.clone(), stranger.asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answers, asked) = (answers.clone(), asked.clone());
                // A client that goes away is none of the test's concern.
                std::thread::spawn(move || serve(stream, &answers, &asked).ok());
            }
        });
        stranger
    }

    /// The name by which an image here is pulled.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}:1", self.address)
    }

    pub fn answer(&self, path: &str, answer: Answer) {
        self.answers.lock().expect("no panic").insert(path.to_owned(), answer);
    }

    /// Answers the manifest of an image.
    pub fn manifest(&self, name: &str, answer: Answer) {
        self.answer(&format!("/v2/{name}/manifests/1"), answer);
    }

    /// How often a path has been asked for that begins so.
    pub fn asked(&self, path: &str) -> usize {
        self.asked.lock().expect("no panic").iter().filter(|asked| asked.starts_with(path)).count()
    }
}

fn serve(
    stream: TcpStream,
    answers: &Mutex<BTreeMap<String, Answer>>,
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let (mut reader, mut writer) = (BufReader::new(stream.try_clone()?), stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::from("-");
    while !line.trim().is_empty() {
        line.clear();
        reader.read_line(&mut line)?;
    }
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    asked.lock().expect("no panic").push(path.clone());
    let not_found = || Answer { head: "404 Not Found".to_owned(), body: Body::Bytes(Vec::new()) };
    let answer = answers.lock().expect("no panic").get(&path).cloned().unwrap_or_else(not_found);
    write!(writer, "HTTP/1.1 {}\r\nConnection: close\r\n\r\n", answer.head)?;
    match answer.body {
        Body::Bytes(bytes) => writer.write_all(&bytes),
        Body::Long(bytes) => {
            let chunk = [b'a'; 64 << 10];
            (0..bytes / chunk.len() as u64).try_for_each(|_| writer.write_all(&chunk))
        }
        Body::Begun(bytes) => {
            writer.write_all(&bytes)?;
            reader.read_line(&mut line).map(drop)
        }
        Body::Silence => reader.read_line(&mut line).map(drop),
    }
}
