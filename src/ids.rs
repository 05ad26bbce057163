//! The vocabulary: what chunks, nodes, accounts and versions are called.
//!
//! A value of these types has been checked. Nothing here touches a socket, a file or a clock, and
//! nothing here imports anything else of ours.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most bytes that one chunk may have.
pub const MAX_CHUNK_BYTES: u32 = 16 * 1024 * 1024;

/// The copies of a chunk that are made when nothing else is asked for.
pub const DEFAULT_COPIES: u8 = 3;

/// The most copies of a chunk that can be asked for.
pub const MAX_COPIES: u8 = 16;

/// The copies that must be durable before a file counts as stored, of `copies` wanted.
pub fn min_copies(copies: u8) -> u8 {
    copies.min(2)
}

/// Why a text is not one of the values below.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error(
        "a chunk id is `blake3:` and 64 or `sha1:` and 40 lowercase hexadecimal digits, not {0:?}"
    )]
    ChunkId(String),
    #[error("{what} is {digits} lowercase hexadecimal digits")]
    Hex { what: &'static str, digits: usize },
    #[error("a hash is `blake3` or `sha1`, not {0:?}")]
    Algorithm(String),
}

/// Shortens what a peer sent before it goes into a message for people.
fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The hash functions that can name a chunk. The numbers are those of tokens and segment records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum HashAlgorithm {
    Blake3 = 1,
    Sha1 = 2,
}

impl HashAlgorithm {
    /// Digest size in bytes.
    pub fn digest_bytes(self) -> usize {
        match self {
            HashAlgorithm::Blake3 => 32,
            HashAlgorithm::Sha1 => 20,
        }
    }

    /// The prefix of the text form.
    pub fn name(self) -> &'static str {
        match self {
            HashAlgorithm::Blake3 => "blake3",
            HashAlgorithm::Sha1 => "sha1",
        }
    }

    /// The algorithm that `number` stands for in tokens and segment records.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(HashAlgorithm::Blake3),
            2 => Some(HashAlgorithm::Sha1),
            _ => None,
        }
    }
}

impl FromStr for HashAlgorithm {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        match text {
            "blake3" => Ok(HashAlgorithm::Blake3),
            "sha1" => Ok(HashAlgorithm::Sha1),
            _ => Err(IdError::Algorithm(excerpt(text))),
        }
    }
}

/// Names a chunk by the hash of its bytes: its key on the wire, on disk and in the catalog.
///
/// Text form: the algorithm, a colon, lowercase hex. No way in but `ChunkId::of`, `from_digest` and
/// `FromStr`. The bytes behind the digest's own are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ChunkId {
    algorithm: HashAlgorithm,
    digest: [u8; 32],
}

impl ChunkId {
    /// The id of `bytes`.
    pub fn of(algorithm: HashAlgorithm, bytes: &[u8]) -> Self {
        use sha1::Digest;
        match algorithm {
            HashAlgorithm::Blake3 => ChunkId { algorithm, digest: *blake3::hash(bytes).as_bytes() },
            HashAlgorithm::Sha1 => {
                let mut digest = [0; 32];
                digest[..20].copy_from_slice(&sha1::Sha1::digest(bytes));
                ChunkId { algorithm, digest }
            }
        }
    }

    /// The id with this digest, of exactly `algorithm.digest_bytes()` bytes; `None` for another size.
    pub fn from_digest(algorithm: HashAlgorithm, digest: &[u8]) -> Option<Self> {
        if digest.len() != algorithm.digest_bytes() {
            return None;
        }
        let mut padded = [0; 32];
        padded[..digest.len()].copy_from_slice(digest);
        Some(ChunkId { algorithm, digest: padded })
    }

    /// The hash function.
    pub fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }

    /// The digest: 32 bytes for BLAKE3, 20 for SHA-1.
    pub fn digest(&self) -> &[u8] {
        &self.digest[..self.algorithm.digest_bytes()]
    }
}

impl FromStr for ChunkId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError::ChunkId(excerpt(text));
        let (name, digits) = text.split_once(':').ok_or_else(error)?;
        let algorithm: HashAlgorithm = name.parse().map_err(|_| error())?;
        let size = algorithm.digest_bytes();
        if digits.len() != size * 2 || digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(error());
        }
        let mut digest = [0; 32];
        hex::decode_to_slice(digits, &mut digest[..size]).map_err(|_| error())?;
        Ok(ChunkId { algorithm, digest })
    }
}

impl TryFrom<String> for ChunkId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<ChunkId> for String {
    fn from(id: ChunkId) -> String {
        id.to_string()
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 64];
        let digits = &mut text[..self.algorithm.digest_bytes() * 2];
        hex::encode_to_slice(self.digest(), digits)
            .expect("two digits for each byte of the digest");
        let digits = std::str::from_utf8(digits).expect("hexadecimal digits are ASCII");
        write!(f, "{}:{digits}", self.algorithm.name())
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Declares a number that names something and cannot be mixed up with another such number.
macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

numbered!(
    /// A storage node of this cluster, numbered from 1 in the order of joining.
    NodeId(u32)
);
numbered!(
    /// An account of this cluster, numbered from 1.
    AccountId(u32)
);
numbered!(
    /// One storing of one chunk by one account. Below 2^53 (so that every JSON reader keeps it
    /// whole), and never used again, not even by a catalog restored from a backup: a delete that
    /// names a serial can never hit the same bytes stored anew.
    Serial(u64)
);
numbered!(
    /// One content of one file. From the same sequence as serials, so never used again either.
    Version(u64)
);
numbered!(
    /// How far a main server's books are: it rises with what is made durable in them. Below 2^53.
    BooksMark(u64)
);
numbered!(
    /// A token key of one node, counted up from 1 with each renewal.
    KeyId(u32)
);

/// Declares random bytes with a text form of lowercase hex.
macro_rules! random_bytes {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Draws a new one from the operating system's generator.
            pub fn random() -> Self {
                let mut bytes = [0; $bytes];
                getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
                $name(bytes)
            }

            /// The value with these bytes, as stored before.
            pub fn from_bytes(bytes: [u8; $bytes]) -> Self {
                $name(bytes)
            }

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0; $bytes];
                let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
                match hex::decode_to_slice(text, &mut bytes) {
                    Ok(()) if lower => Ok($name(bytes)),
                    _ => Err(IdError::Hex { what: $what, digits: 2 * $bytes }),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                hex::encode(value.0)
            }
        }
    };
}

random_bytes!(
    /// Names one mutation, chosen by its sender: a repeat under the same id gets the same answer.
    RequestId, 16, "a request id"
);
random_bytes!(
    /// One start of a main server or of a node's directory.
    Incarnation, 16, "an incarnation"
);
random_bytes!(
    /// Names a cluster; drawn at the main server's first start.
    ClusterId, 16, "a cluster id"
);
random_bytes!(
    /// A key, or a secret of a machine or a node. Shown by no `Display` and no `Debug`; written
    /// out only by serialization, into a file of mode 0600 or a message to whom it belongs.
    Secret, 32, "a key"
);
random_bytes!(
    /// What a server keeps or tells of a secret: enough to recognise it, not enough to use it.
    Fingerprint, 32, "a fingerprint"
);

/// `Display` and `Debug` as lowercase hex, for those that are no secret.
macro_rules! shown_as_hex {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
shown_as_hex!(RequestId, Incarnation, ClusterId, Fingerprint);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// What a server keeps of a secret: enough to recognise it, not enough to use it.
    pub fn fingerprint(&self) -> [u8; 32] {
        *blake3::hash(&self.0).as_bytes()
    }
}

/// Where a server can be reached: a name or an address, a colon, a port.
///
/// Checked for form only; a name is resolved when it is dialled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(String);

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an address is HOST:PORT, as in 127.0.0.1:7000 or [::1]:7000, not {0:?}")]
pub struct AddressError(String);

impl Address {
    /// The text form, which `std::net` resolves.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError(excerpt(text));
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let host_is_good = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.len() <= 253 && host.chars().all(plain),
        };
        if !host_is_good || port.parse::<u16>().is_err() {
            return Err(error());
        }
        Ok(Address(text.to_string()))
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.0
    }
}

impl From<std::net::SocketAddr> for Address {
    fn from(address: std::net::SocketAddr) -> Address {
        Address(address.to_string())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_id_reads_back_from_its_own_text() {
        for algorithm in [HashAlgorithm::Blake3, HashAlgorithm::Sha1] {
            let id = ChunkId::of(algorithm, b"hello");
            assert_eq!(id.to_string().parse::<ChunkId>(), Ok(id));
            assert_eq!(ChunkId::from_digest(algorithm, id.digest()), Some(id));
        }
        let sha1 = ChunkId::of(HashAlgorithm::Sha1, b"hello");
        assert_eq!(sha1.to_string(), "sha1:aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d");
    }

    #[test]
    fn a_text_that_is_no_chunk_id_is_refused() {
        let good = ChunkId::of(HashAlgorithm::Sha1, b"hello").to_string();
        let bad = [
            "",
            "sha1",
            "sha1:",
            &good[..good.len() - 1],
            &good.to_uppercase(),
            &good.replace("sha1", "md5"),
            &good.replace("sha1", "blake3"),
            &format!("{good}0"),
            "sha1:zzf4c61ddcc5e8a2dabede0f3b482cd9aea9434d",
            "sha1:éaf4c61ddcc5e8a2dabede0f3b482cd9aea943",
        ];
        for text in bad {
            assert!(text.parse::<ChunkId>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::from_bytes([0xab; 32]);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[test]
    fn an_address_needs_a_host_and_a_port() {
        for good in ["127.0.0.1:7000", "[::1]:7000", "node-1.example:65535"] {
            assert!(good.parse::<Address>().is_ok(), "{good} was refused");
        }
        for bad in ["", ":7000", "host", "host:", "host:70000", "a b:1", "::1:7000", "[x]:1"] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?} was taken");
        }
    }
}
