//! The files of one log: the one that is written, `N.log`, and older parts, `N.log.1` being the
//! newest of them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes read at once.
const BLOCK: usize = 64 << 10;

/// A place in a log: a file that is open, and which one it is.
pub struct Place {
    file: File,
    /// Tells the file from others after it was renamed.
    inode: u64,
}

/// All files that are there now, oldest first.
pub fn paths(log: &Path) -> Vec<PathBuf> {
    let older = |n: u32| PathBuf::from(format!("{}.{n}", log.display()));
    let mut all: Vec<PathBuf> = (1..).map(older).take_while(|path| path.exists()).collect();
    all.reverse();
    all.push(log.to_owned());
    all
}

/// The place from which the last `tail` lines begin; the oldest place there is if `None`.
pub fn open(log: &Path, tail: Option<u64>) -> io::Result<Place> {
    let mut files = Vec::new();
    for path in paths(log) {
        match File::open(&path) {
            Ok(file) => files.push(file),
            // Rotated away between the listing and now.
            Err(error) if error.kind() == io::ErrorKind::NotFound && files.is_empty() => {}
            Err(error) => return Err(error),
        }
    }
    let mut missing = tail;
    let mut start = None;
    for file in files.into_iter().rev() {
        let mut file = file;
        let offset = match &mut missing {
            None => 0,
            Some(lines) => last_lines(&mut file, lines)?,
        };
        file.seek(SeekFrom::Start(offset))?;
        start = Some(Place { inode: file.metadata()?.ino(), file });
        if missing == Some(0) {
            break;
        }
    }
    start.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{}: no such log", log.display())))
}

impl Place {
    /// Reads on in this file; 0 at its present end.
    pub fn read(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        let before = into.len();
        into.resize(before + BLOCK, 0);
        let read = self.file.read(&mut into[before..]);
        into.truncate(before + read.as_ref().copied().unwrap_or(0));
        read
    }

    /// The file that follows this one, if this one is no longer written.
    pub fn next(&self, log: &Path) -> io::Result<Option<Place>> {
        let mut follows = false;
        for path in paths(log) {
            let Ok(file) = File::open(&path) else { continue };
            let inode = file.metadata()?.ino();
            if follows {
                return Ok(Some(Place { file, inode }));
            }
            follows = inode == self.inode;
        }
        if follows {
            return Ok(None);
        }
        // It was removed by rotation meanwhile: what is left begins with the oldest file.
        match paths(log).into_iter().find_map(|path| File::open(path).ok()) {
            Some(file) => Ok(Some(Place { inode: file.metadata()?.ino(), file })),
            None => Ok(None),
        }
    }
}

/// Where the last `lines` lines of a file begin. Takes off `lines` those that were found.
fn last_lines(file: &mut File, lines: &mut u64) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    if *lines == 0 || end == 0 {
        return Ok(end);
    }
    // The line feed of the last line ends no line before it.
    let mut skip_last = true;
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(BLOCK)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        for (at, byte) in block.iter().enumerate().rev() {
            let is_last = std::mem::take(&mut skip_last);
            if *byte == b'\n' && !is_last {
                *lines -= 1;
                if *lines == 0 {
                    return Ok(start + at as u64 + 1);
                }
            }
        }
        end = start;
    }
    *lines -= 1;
    Ok(0)
}
