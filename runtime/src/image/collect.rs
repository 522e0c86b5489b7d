//! Gives back the disk's room that images have and nobody needs.
//!
//! Driven by the node (`node/pressure.rs`), which knows what its pods use. What is needed by no image
//! and no pod goes after a while: blobs that came whole before a pull broke off are worth keeping for
//! the next try. What an image that cannot be used has brought in goes at once. Images themselves go
//! when room is short, those first that have been unused for longest, and never those that were made
//! or brought here by hand.
//! Source: <https://kubernetes.io/docs/concepts/architecture/garbage-collection/#containers-images>.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::error::{ImageError, at};
use super::needed::{compiled_digest, needed};
use super::record::Image;
use super::{ImageStore, recognize};

/// An image is not removed sooner after it came: a container that is just being started may want it.
pub const MIN_AGE: Duration = Duration::from_secs(120);

/// What the pods of the node use.
#[derive(Clone, Debug, Default)]
pub struct InUse {
    /// Full names of images.
    pub names: BTreeSet<String>,
    /// Digests of manifests: a name may by now be that of another image.
    pub manifests: BTreeSet<String>,
}

impl InUse {
    fn has(&self, image: &Image) -> bool {
        self.names.contains(&image.reference) || self.manifests.contains(&image.digest)
    }
}

/// Remembers since when what is not needed.
pub struct Collector {
    store: ImageStore,
    /// Since when a file or directory has been found to be needed by nobody.
    unneeded: HashMap<PathBuf, Instant>,
    /// When an image was last found in use, by its full name.
    used: HashMap<String, Instant>,
}

impl Collector {
    /// Begins to remember.
    pub fn new(store: ImageStore) -> Self {
        Collector { store, unneeded: HashMap::new(), used: HashMap::new() }
    }

    /// Removes what nobody has needed for so long. False if somebody is at work in the store, and
    /// nothing was done.
    pub fn collect(&mut self, in_use: &InUse, keep: Duration, now: Instant) -> Result<bool, ImageError> {
        let layout = &self.store.layout;
        let Some(_lock) = layout.try_lock_exclusive()? else { return Ok(false) };
        let needed = needed(layout, &in_use.manifests)?;
        let spoiled = std::mem::take(&mut *self.store.spoiled());
        let mut still = HashMap::new();
        let old = &self.unneeded;
        let mut is_over = |path: &Path, at_once: bool| {
            let since = old.get(path).copied().unwrap_or(now);
            let over = at_once || now.duration_since(since) >= keep;
            if !over {
                still.insert(path.to_owned(), since);
            }
            over
        };
        layout.sweep(|path, name| !needed.names.contains(name) && is_over(path, spoiled.contains(name)))?;
        sweep_compiled(&self.store.compiled, |path, digest| {
            !needed.wasm.contains(digest) && is_over(path, false)
        })?;
        self.unneeded = still;
        // Nobody is at work, so nothing in there is on its way.
        layout.sweep_temporary_locked()?;
        Ok(true)
    }

    /// Removes images that nobody uses, until there is `enough`. False if somebody is at work in the
    /// store, and nothing was done.
    pub fn evict(
        &mut self,
        in_use: &InUse,
        enough: &dyn Fn() -> bool,
        now: Instant,
    ) -> Result<bool, ImageError> {
        let layout = self.store.layout.clone();
        let Some(_lock) = layout.try_lock_exclusive()? else { return Ok(false) };
        let mut candidates: Vec<_> = layout
            .records()
            .filter(|image| image.pulled && !in_use.has(image))
            .filter_map(|image| Some((layout.recorded_at(&image.reference)?, image)))
            .filter(|(at, _)| SystemTime::now().duration_since(*at).is_ok_and(|age| age >= MIN_AGE))
            .map(|(at, image)| (self.used.get(&image.reference).copied(), at, image.reference, image.digest))
            .collect();
        candidates.sort();
        for (_, _, reference, digest) in candidates {
            if enough() {
                break;
            }
            // Without its manifest nothing is known of it; the rest goes in time.
            let names = recognize::files_of(&layout, &digest).unwrap_or_default();
            layout.forget(&reference)?;
            let needed = needed(&layout, &in_use.manifests)?;
            layout.sweep(|_, name| names.contains(name) && !needed.names.contains(name))?;
            tracing::info!(image = reference, "removed an image that no pod uses, to make room");
        }
        self.used.retain(|_, at| now.duration_since(*at) < Duration::from_secs(30 * 24 * 3600));
        Ok(true)
    }

    /// Remembers which images are in use now.
    pub fn note(&mut self, in_use: &InUse, now: Instant) {
        self.used.extend(in_use.names.iter().map(|name| (name.clone(), now)));
    }
}

/// Removes compiled Wasm for which `is_useless` is true of the file and of the digest of what it was
/// made of.
fn sweep_compiled(
    compiled: &Path,
    mut is_useless: impl FnMut(&Path, &str) -> bool,
) -> Result<(), ImageError> {
    // Without the directory nothing was ever compiled.
    for entry in std::fs::read_dir(compiled).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if compiled_digest(&name.to_string_lossy()).is_some_and(|digest| is_useless(&path, digest)) {
            std::fs::remove_file(&path).map_err(at(&path))?;
        }
    }
    Ok(())
}
