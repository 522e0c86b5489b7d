//! What one pod may make its node copy out of the API.
//!
//! A spec of a megabyte can name one object thousands of times: what it would make is counted
//! before each copy, not when all is there. Pure; read by `env.rs`, `objects.rs` and the volumes.

/// How much, and what is said where it is more.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Most bytes.
    pub bytes: usize,
    /// Most pieces, however small.
    pub pieces: usize,
    /// Said of more bytes.
    pub too_large: &'static str,
    /// Said of more pieces.
    pub too_many: &'static str,
}

/// The files of all volumes of a pod.
pub const FILES: Limit = Limit {
    bytes: 32 << 20,
    pieces: 16_384,
    too_large: "its files are larger than 32 MiB",
    too_many: "the pod has more than 16384 files out of the API",
};

/// The objects that are fetched at a time for a pod's volumes, or for one container.
pub const OBJECTS: Limit = Limit {
    bytes: 64 << 20,
    pieces: 512,
    too_large: "the objects that it refers to are larger than 64 MiB",
    too_many: "it refers to more than 512 objects",
};

/// A container's environment, and its arguments: as much as Linux gives to a new program
/// (`execve(2)`), so that what is refused here could not be started anyway.
pub const STRINGS: Limit = Limit {
    bytes: 2 << 20,
    pieces: usize::MAX,
    too_large: "argument list too long: over 2097152 bytes",
    too_many: "argument list too long",
};

/// What is left of a limit.
#[derive(Clone, Debug)]
pub struct Budget {
    limit: Limit,
    bytes: usize,
    pieces: usize,
}

impl Budget {
    /// All of it.
    pub fn new(limit: Limit) -> Self {
        Budget { limit, bytes: limit.bytes, pieces: limit.pieces }
    }

    /// Takes one piece of so many bytes.
    pub fn take(&mut self, bytes: usize) -> Result<(), String> {
        self.pieces = self.pieces.checked_sub(1).ok_or(self.limit.too_many)?;
        self.take_bytes(bytes)
    }

    /// Takes so many bytes of a piece that is taken already.
    pub fn take_bytes(&mut self, bytes: usize) -> Result<(), String> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or(self.limit.too_large)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_pieces_end() {
        let limit = Limit { bytes: 10, pieces: 3, too_large: "large", too_many: "many" };
        let taken = |sizes: &[usize]| {
            let mut budget = Budget::new(limit);
            sizes.iter().try_for_each(|size| budget.take(*size))
        };
        assert_eq!(taken(&[4, 6, 0]), Ok(()));
        assert_eq!(taken(&[4, 7]), Err("large".to_owned()));
        assert_eq!(taken(&[usize::MAX]), Err("large".to_owned()));
        assert_eq!(taken(&[0, 0, 0, 0]), Err("many".to_owned()));
    }
}
