//! The recovery key, and what is derived from it.
//!
//! The recovery key is shown once, when the catalog is made, and kept nowhere. From it come the key
//! that seals, which the main server keeps, and the secret by which nodes let the journal be read,
//! of which the main server and the nodes know the fingerprint alone. Both derivations are BLAKE3's
//! `derive_key` with a context of their own.

use std::fmt;
use std::str::FromStr;

use crate::ids::{Fingerprint, IdError, Secret};

const SEALING: &str = "p2pdfs 2026-11 journal: the key that seals";
const READING: &str = "p2pdfs 2026-11 journal: the secret that lets it be read";

/// What opens the journal, and with it the catalog. Its text form is 64 lowercase hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryKey(Secret);

/// The key by which pieces are sealed and opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SealingKey(pub(super) [u8; 32]);

impl RecoveryKey {
    /// Draws a new one.
    pub fn random() -> RecoveryKey {
        RecoveryKey(Secret::random())
    }

    /// The text to be shown, once, to a person who keeps it.
    pub fn to_text(&self) -> String {
        String::from(self.0)
    }

    /// The key that seals.
    pub fn sealing(&self) -> SealingKey {
        SealingKey(blake3::derive_key(SEALING, self.0.as_bytes()))
    }

    /// The secret by which a node lets its copy be read.
    pub fn reading(&self) -> Secret {
        Secret::from_bytes(blake3::derive_key(READING, self.0.as_bytes()))
    }

    /// The fingerprint of `reading`.
    pub fn reader(&self) -> Fingerprint {
        Fingerprint::from_bytes(self.reading().fingerprint())
    }
}

impl FromStr for RecoveryKey {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let secret = text.parse();
        secret.map(RecoveryKey).map_err(|_| IdError::Hex { what: "a recovery key", digits: 64 })
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey(..)")
    }
}

impl SealingKey {
    /// The key as it was kept.
    pub fn from_secret(secret: &Secret) -> SealingKey {
        SealingKey(*secret.as_bytes())
    }

    /// The key as it is kept: in a file that its owner alone can read.
    pub fn to_secret(self) -> Secret {
        Secret::from_bytes(self.0)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(..)")
    }
}
