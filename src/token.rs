//! Tokens: the main server's word that a transfer may happen, checked by a node without asking.
//!
//! Minting and checking are pure. The layout is that of protocol.md: `v1.<claims>.<mac>`, both
//! parts base64url without padding, the mac HMAC-SHA256 over the claims' bytes exactly as sent.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::clock::WallTime;
use crate::ids::{AccountId, ChunkId, HashAlgorithm, KeyId, NodeId, Secret, Serial};

const VERSION: &str = "v1";
const CLAIMS_BYTES: usize = 68;
const MAC_BYTES: usize = 32;

/// What a token lets its bearer do with one chunk on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Operation {
    /// A client stores; the node then asks the main server where to duplicate.
    Store = 1,
    /// Anybody reads.
    Fetch = 2,
    /// A node stores on another; that one asks for no further copies.
    Duplicate = 3,
    /// The main server orders copies deleted; the id is of the list of their serials.
    Remove = 4,
}

/// Everything that a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub key: KeyId,
    pub operation: Operation,
    pub node: NodeId,
    pub id: ChunkId,
    pub serial: Serial,
    /// Bytes of the chunk.
    pub length: u32,
    pub account: AccountId,
    /// Copies wanted. It and `reason` ride along so that a `stored` is whole in itself, even for a
    /// main server that lost the reservation in a crash.
    pub wanted: u8,
    /// Why placement chose this node, by placement's code.
    pub reason: u8,
    /// By the main server's clock.
    pub expires: WallTime,
}

/// A token as it travels. Opaque to clients; shown by no `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Why a token is not good. A peer learns only `denied` or `token_expired`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is not good for this")]
    Denied,
    /// Only the time is wrong, or the key is one that this node does not have (any more).
    #[error("the token has expired")]
    Expired,
}

/// The key that tokens for one node are made with. Whoever holds it can make tokens for that node
/// alone.
pub fn node_key(master: &Secret, node: NodeId, key: KeyId) -> Secret {
    let mut mac = mac_with(master);
    mac.update(b"p2pdfs node key\0");
    mac.update(&node.0.to_be_bytes());
    mac.update(&key.0.to_be_bytes());
    Secret::from_bytes(mac.finalize().into_bytes().into())
}

fn mac_with(key: &Secret) -> Hmac<Sha256> {
    Hmac::new_from_slice(key.as_bytes()).expect("HMAC takes a key of any size")
}

impl Claims {
    /// Makes the token, with the key `self.key` of the node `self.node`.
    pub fn mint(&self, key: &Secret) -> Token {
        let claims = self.encode();
        let mut mac = mac_with(key);
        mac.update(&claims);
        let mac: [u8; MAC_BYTES] = mac.finalize().into_bytes().into();
        let mut text = String::with_capacity(VERSION.len() + 2 + 91 + 43);
        text.push_str(VERSION);
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut text);
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(mac, &mut text);
        Token(text)
    }

    fn encode(&self) -> [u8; CLAIMS_BYTES] {
        let mut out = [0; CLAIMS_BYTES];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&self.key.0.to_be_bytes());
        put(&[self.operation as u8]);
        put(&self.node.0.to_be_bytes());
        put(&[self.id.algorithm() as u8]);
        let mut digest = [0; 32];
        digest[..self.id.digest().len()].copy_from_slice(self.id.digest());
        put(&digest);
        put(&self.serial.0.to_be_bytes());
        put(&self.length.to_be_bytes());
        put(&self.account.0.to_be_bytes());
        put(&[self.wanted, self.reason]);
        put(&self.expires.0.to_be_bytes());
        out
    }

    fn decode(bytes: &[u8; CLAIMS_BYTES]) -> Option<Claims> {
        let u32_at = |at: usize| {
            u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes of a fixed array"))
        };
        let u64_at = |at: usize| {
            u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes of a fixed array"))
        };
        let operation = match bytes[4] {
            1 => Operation::Store,
            2 => Operation::Fetch,
            3 => Operation::Duplicate,
            4 => Operation::Remove,
            _ => return None,
        };
        let algorithm = HashAlgorithm::from_number(bytes[9])?;
        let digest = &bytes[10..10 + algorithm.digest_bytes()];
        Some(Claims {
            key: KeyId(u32_at(0)),
            operation,
            node: NodeId(u32_at(5)),
            id: ChunkId::from_digest(algorithm, digest)?,
            serial: Serial(u64_at(42)),
            length: u32_at(50),
            account: AccountId(u32_at(54)),
            wanted: bytes[58],
            reason: bytes[59],
            expires: WallTime(u64_at(60)),
        })
    }
}

impl Token {
    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A token as it came from a peer, unchecked.
    pub fn from_text(text: String) -> Token {
        Token(text)
    }

    /// The claims, if the token was made with a key of `node` that `key_of` finds, allows what is
    /// asked, and has not expired at `now`. The mac is checked, in constant time, before anything in
    /// the claims but the key id is used. `Expired` only when nothing but the time is wrong.
    pub fn check(
        &self,
        node: NodeId,
        key_of: impl Fn(KeyId) -> Option<Secret>,
        allows: impl FnOnce(&Claims) -> bool,
        now: WallTime,
    ) -> Result<Claims, TokenError> {
        let claims = self.check_proof(node, key_of)?;
        match (allows(&claims), now >= claims.expires) {
            (false, _) => Err(TokenError::Denied),
            (true, true) => Err(TokenError::Expired),
            (true, false) => Ok(claims),
        }
    }

    /// As `check`, whatever the time: what a token once allowed stays proof that it was allowed.
    pub fn check_proof(
        &self,
        node: NodeId,
        key_of: impl Fn(KeyId) -> Option<Secret>,
    ) -> Result<Claims, TokenError> {
        let (claims, sent_mac) = self.parts().ok_or(TokenError::Denied)?;
        let key = KeyId(u32::from_be_bytes([claims[0], claims[1], claims[2], claims[3]]));
        let key = key_of(key).ok_or(TokenError::Expired)?;
        let mut mac = mac_with(&key);
        mac.update(&claims);
        mac.verify_slice(&sent_mac).map_err(|_| TokenError::Denied)?;
        let claims = Claims::decode(&claims).ok_or(TokenError::Denied)?;
        if claims.node == node { Ok(claims) } else { Err(TokenError::Denied) }
    }

    /// The node that the token says it is for, unchecked: to know whose keys to check it with.
    pub fn claimed_node(&self) -> Option<NodeId> {
        let (claims, _) = self.parts()?;
        Some(NodeId(u32::from_be_bytes([claims[5], claims[6], claims[7], claims[8]])))
    }

    fn parts(&self) -> Option<([u8; CLAIMS_BYTES], [u8; MAC_BYTES])> {
        let (claims, mac) = self.0.strip_prefix(VERSION)?.strip_prefix('.')?.split_once('.')?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        Some((decode(claims)?.try_into().ok()?, decode(mac)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            key: KeyId(7),
            operation: Operation::Store,
            node: NodeId(3),
            id: ChunkId::of(HashAlgorithm::Sha1, b"hello"),
            serial: Serial(1 << 48),
            length: 5,
            account: AccountId(1),
            wanted: 3,
            reason: 2,
            expires: WallTime(1_000_000),
        }
    }

    fn key() -> Secret {
        node_key(&Secret::from_bytes([1; 32]), NodeId(3), KeyId(7))
    }

    fn check(token: &Token, now: u64) -> Result<Claims, TokenError> {
        token.check(NodeId(3), |id| (id == KeyId(7)).then(key), |_| true, WallTime(now))
    }

    #[test]
    fn a_token_says_what_it_was_made_with() {
        for operation in
            [Operation::Store, Operation::Fetch, Operation::Duplicate, Operation::Remove]
        {
            let claims = Claims { operation, ..claims() };
            assert_eq!(check(&claims.mint(&key()), 999_999), Ok(claims));
        }
    }

    #[test]
    fn a_token_with_any_one_character_changed_is_denied() {
        let token = claims().mint(&key());
        for at in 0..token.0.len() {
            for other in [b'A', b'B', b'.', b'_', b'=', b'!'] {
                let mut text = token.0.clone().into_bytes();
                if text[at] == other {
                    continue;
                }
                text[at] = other;
                let changed = Token(String::from_utf8(text).expect("still ASCII"));
                let verdict = check(&changed, 0);
                // Another key id is a key that the node does not have: that alone reads as expiry.
                let in_key_id = (3..9).contains(&at);
                assert!(
                    verdict == Err(TokenError::Denied)
                        || in_key_id && verdict == Err(TokenError::Expired),
                    "byte {at} as {other} gave {verdict:?}"
                );
            }
        }
    }

    #[test]
    fn a_token_is_good_for_its_own_node_and_time_alone() {
        let token = claims().mint(&key());
        assert_eq!(check(&token, 1_000_000), Err(TokenError::Expired));
        let not_this = |claims: &Claims| claims.operation == Operation::Fetch;
        for now in [0, 1_000_000] {
            let verdict = token.check(NodeId(3), |_| Some(key()), not_this, WallTime(now));
            assert_eq!(verdict, Err(TokenError::Denied), "whatever the time");
        }
        let elsewhere = token.check(NodeId(4), |_| Some(key()), |_| true, WallTime(0));
        assert_eq!(elsewhere, Err(TokenError::Denied));
        let without_key = token.check(NodeId(3), |_| None, |_| true, WallTime(0));
        assert_eq!(without_key, Err(TokenError::Expired));
        let other_key = node_key(&Secret::from_bytes([1; 32]), NodeId(4), KeyId(7));
        let verdict = token.check(NodeId(3), |_| Some(other_key), |_| true, WallTime(0));
        assert_eq!(verdict, Err(TokenError::Denied));
    }
}
