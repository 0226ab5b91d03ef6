//! The one hash of the project: XXH3, 64 bits, seed 0 (<https://xxhash.com>). It detects damage, not malice.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// The 64-bit XXH3 of `bytes`.
pub fn hash(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// The same hash over bytes that come in pieces.
#[derive(Clone, Default)]
pub struct Hasher(Xxh3);

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all pieces so far.
    pub fn finish(&self) -> u64 {
        self.0.digest()
    }
}
