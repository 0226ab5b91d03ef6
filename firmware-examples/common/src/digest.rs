//! A hash over pieces that keeps 8 bytes between them.

use sarit_core::hash;

/// Equal pieces in equal order give equal digests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest(u64);

impl Digest {
    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        let both = [self.0, hash(bytes)];
        self.0 = hash(bytemuck::cast_slice(&both));
    }

    /// The digest of all pieces so far.
    pub fn value(self) -> u64 {
        self.0
    }
}
