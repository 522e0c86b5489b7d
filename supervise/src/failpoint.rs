//! Places where a test makes this process panic.
//!
//! Only a build with debug assertions has them: where there are none, nothing is looked at and nothing
//! can be told. The environment names a directory, which is there when the process starts; a file in it
//! that is called as a place makes that place panic once.

#[cfg(debug_assertions)]
pub use told::{hit, in_reach};
#[cfg(not(debug_assertions))]
pub use untold::{hit, in_reach};

#[cfg(debug_assertions)]
mod told {
    use std::path::PathBuf;
    use std::sync::LazyLock;
    use std::time::Duration;

    static DIRECTORY: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        let named = std::env::var_os("PROA_FAILPOINTS").map(PathBuf::from);
        named.filter(|directory| directory.is_dir())
    });

    /// Panics if that was told of this place.
    pub fn hit(place: &str) {
        let Some(directory) = &*DIRECTORY else { return };
        assert!(std::fs::remove_file(directory.join(place)).is_err(), "told to at {place}");
    }

    /// Does the work, and panics in the middle of it if that is told.
    pub async fn in_reach<T>(place: &str, work: impl Future<Output = T>) -> T {
        let hits = async {
            if DIRECTORY.is_none() {
                std::future::pending::<()>().await;
            }
            loop {
                hit(place);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            done = work => done,
            () = hits => unreachable!("it ends in a panic only"),
        }
    }
}

#[cfg(not(debug_assertions))]
mod untold {
    /// Does nothing.
    pub fn hit(_place: &str) {}

    /// The work, and nothing else.
    pub fn in_reach<F: Future>(_place: &str, work: F) -> F {
        work
    }
}
