//! The disk, which everything durable waits for, and the least that a commit to redb takes on it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use redb::{Database, TableDefinition};

use crate::report::{Figure, Goal, Report, percentile};

const SYNCS: usize = 1000;
const COMMITS: u64 = 300;
const BLOCK: usize = 4096;
/// About what a small object takes.
const VALUE: usize = 1024;

pub fn measure(dir: &Path, report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir_in(dir)?;
    let mut file = Appended::create(dir.path())?;
    let mut syncs = (0..SYNCS).map(|_| file.sync()).collect::<Result<Vec<_>>>()?;
    let fdatasync = percentile(&mut syncs, 50.0);
    report.add(Figure::new("disk_fdatasync_p50", fdatasync, "ms", Goal::None));
    report.add(Figure::new("disk_fdatasync_p99", percentile(&mut syncs, 99.0), "ms", Goal::None));
    let mut commits = commits(dir.path())?;
    let commit = Figure::new("redb_commit_p50", percentile(&mut commits, 50.0), "ms", Goal::None);
    report.add(commit.beside("fdatasync", fdatasync));
    Ok(())
}

/// A file that is appended to durably.
pub struct Appended(File);

impl Appended {
    /// Makes the file in `dir`.
    pub fn create(dir: &Path) -> Result<Appended> {
        Ok(Appended(File::create(dir.join("appended"))?))
    }

    /// Appends a block and waits until the disk has it; milliseconds.
    pub fn sync(&mut self) -> Result<f64> {
        let start = Instant::now();
        self.0.write_all(&[b'x'; BLOCK])?;
        self.0.sync_data()?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }
}

fn commits(dir: &Path) -> Result<Vec<f64>> {
    const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("objects");
    let database = Database::create(dir.join("bare.redb"))?;
    let mut samples = Vec::new();
    for number in 0..COMMITS {
        let start = Instant::now();
        let transaction = database.begin_write()?;
        transaction.open_table(TABLE)?.insert(number, [b'x'; VALUE].as_slice())?;
        transaction.commit()?;
        samples.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(samples)
}
