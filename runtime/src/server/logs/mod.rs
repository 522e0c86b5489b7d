//! Reading container logs for `kubectl logs`.
//!
//! The sandbox writes them (CRI format, with rotation); `http.rs` serves what is read here.
//! Nothing here writes.

pub mod cri;
mod files;
pub mod notice;
pub mod read;

/// Removes a log and its older parts. Not an error if it is not there.
pub fn remove(log: &std::path::Path) {
    for path in files::paths(log) {
        let _ = std::fs::remove_file(path);
    }
}

/// The last text of a log, at most so many lines and bytes; empty if there is none.
pub fn last_text(log: &std::path::Path, lines: u64, bytes: usize) -> String {
    let mut raw = Vec::new();
    if let Ok(mut place) = files::open(log, Some(lines)) {
        loop {
            match place.read(&mut raw) {
                Ok(n) if n > 0 => {}
                // A log that was just rotated has its last lines in the next file.
                _ => match place.next(log) {
                    Ok(Some(next)) => place = next,
                    _ => break,
                },
            }
        }
    }
    let mut text = Vec::new();
    for line in raw.split(|byte| *byte == b'\n').filter_map(cri::Line::parse) {
        text.extend_from_slice(line.text);
        if !line.partial {
            text.push(b'\n');
        }
    }
    let start = text.len().saturating_sub(bytes);
    String::from_utf8_lossy(&text[start..]).into_owned()
}
