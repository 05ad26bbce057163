//! The wire: frames, the messages to the main server and to a node, faults, and the client end of
//! a connection. Plain data, as protocol.md says it; what a message means is the roles' business.

pub mod admin;
pub mod connection;
pub mod fault;
pub mod frame;
pub mod list;
pub mod node_to_main;
#[cfg(test)]
mod protocol_doc;
mod sockets;
#[cfg(test)]
mod tests;
pub mod to_main;
pub mod to_node;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use connection::{CallError, Connection};
pub use fault::{Fault, FaultCode, Outcome, RefusedNode};
pub use list::List;
pub use sockets::{Dialled, Sockets};

use crate::clock::WallTime;
use crate::ids::{ClusterId, Incarnation, NodeId, Secret};

/// The lowest and the highest protocol version that this program speaks.
pub const VERSIONS: [u32; 2] = [1, 1];
/// The most bytes of a message's JSON.
pub const MAX_JSON_BYTES: u32 = 1 << 20;
/// The most bytes of a message's payload.
pub const MAX_PAYLOAD_BYTES: u32 = 16 << 20;
/// The most bytes of JSON that a connection takes before `hello`; no payload goes with it.
pub const MAX_HELLO_BYTES: u32 = 4096;
/// The most chunks, files or names in one message.
pub const MAX_ITEMS: usize = 1024;
/// The most chunks in one staged part of a manifest.
pub const MAX_PART_CHUNKS: usize = 4096;
/// The most copies in one `stored` or `duplicated`: fewer than elsewhere, since the answer can name
/// many targets for each, and must fit into a message.
pub const MAX_CONFIRMATIONS: usize = 256;
/// The most incarnations in the `previous` of an `add_me`: a node draws one at each start, and keeps
/// them all until one is known to be taken.
pub const MAX_PREVIOUS: usize = 256;

/// A request: its name on the wire and what a good answer to it holds.
pub trait Message: Serialize {
    const NAME: &'static str;
    type Reply: Serialize + DeserializeOwned;
}

/// Why a request's JSON was not understood. The stream is in step all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("there is no request called {0:?}")]
    UnknownRequest(String),
    #[error("the request is not what the protocol says: {0}")]
    Malformed(String),
}

impl From<ParseError> for Fault {
    fn from(error: ParseError) -> Fault {
        let code = match &error {
            ParseError::UnknownRequest(_) => FaultCode::UnknownRequest,
            ParseError::Malformed(_) => FaultCode::Malformed,
        };
        Fault::new(code, error.to_string())
    }
}

/// Declares the requests that one kind of server takes, beside `hello`: an enum of them, their names
/// and replies, and a parser that goes from the JSON straight to the typed struct of the one named.
macro_rules! requests {
    ($(#[$doc:meta])* $set:ident { $($name:literal => $request:ident -> $reply:ty,)* }) => {
        $(impl $crate::wire::Message for $request {
            const NAME: &'static str = $name;
            type Reply = $reply;
        })*

        $(#[$doc])*
        #[derive(Debug)]
        pub enum $set {
            Hello($crate::wire::Hello),
            $($request($request),)*
        }

        impl $set {
            /// The names of all requests.
            pub const NAMES: &'static [&'static str] = &["hello", $($name),*];

            /// What the tests of protocol.md need to know of each.
            #[cfg(test)]
            pub(crate) fn described() -> Vec<$crate::wire::protocol_doc::Described> {
                use $crate::wire::protocol_doc::describe;
                vec![describe::<$crate::wire::Hello>(), $(describe::<$request>()),*]
            }

            /// Reads a request: an object with one member, whose name is the request.
            pub fn parse(json: &[u8]) -> Result<$set, $crate::wire::ParseError> {
                struct Envelope;
                impl<'de> serde::de::Visitor<'de> for Envelope {
                    type Value = Result<$set, String>;
                    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                        f.write_str("an object with one member, named after the request")
                    }
                    fn visit_map<A: serde::de::MapAccess<'de>>(
                        self,
                        mut map: A,
                    ) -> Result<Self::Value, A::Error> {
                        use serde::de::Error;
                        let name = map.next_key::<std::borrow::Cow<str>>()?;
                        let name = name.ok_or_else(|| A::Error::custom("no request is named"))?;
                        let request = match name.as_ref() {
                            "hello" => Ok($set::Hello(map.next_value()?)),
                            $($name => Ok($set::$request(map.next_value()?)),)*
                            other => {
                                map.next_value::<serde::de::IgnoredAny>()?;
                                Err(other.chars().take(80).collect())
                            }
                        };
                        match map.next_key::<serde::de::IgnoredAny>()? {
                            None => Ok(request),
                            Some(_) => Err(A::Error::custom("more than one request is named")),
                        }
                    }
                }
                let malformed = |error: serde_json::Error| {
                    $crate::wire::ParseError::Malformed(error.to_string())
                };
                let mut reader = serde_json::Deserializer::from_slice(json);
                let parsed = serde::Deserializer::deserialize_map(&mut reader, Envelope);
                let request = parsed.map_err(malformed)?;
                reader.end().map_err(malformed)?;
                request.map_err($crate::wire::ParseError::UnknownRequest)
            }
        }
    };
}
pub(crate) use requests;

/// Opens a connection, to either kind of server: the first request on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// The lowest and highest protocol version that the sender speaks.
    pub versions: [u32; 2],
    pub role: Role,
    /// The program and its version, for the log; at most 128 bytes are kept.
    pub agent: String,
    /// To the main server, from a client: the account key of its machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
    /// To the main server, from a node that has joined: its number and its secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// From a node that has joined: its own start, so that a stale copy of its directory, which has
    /// the same secret, cannot speak for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Incarnation>,
    /// From a node that has joined, on a connection by which it tells of its copies: the number of that
    /// connection, which rises with each since the node's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dial: Option<u64>,
}

impl Message for Hello {
    const NAME: &'static str = "hello";
    type Reply = HelloReply;
}

impl Hello {
    /// A `hello` of this program.
    pub fn new(role: Role) -> Hello {
        let agent = format!("p2pdfs/{}", env!("CARGO_PKG_VERSION"));
        Hello {
            versions: VERSIONS,
            role,
            agent,
            key: None,
            node: None,
            secret: None,
            incarnation: None,
            dial: None,
        }
    }

    /// The highest version that both sides speak, or the fault that says which would do.
    pub fn agree(&self) -> Result<u32, Fault> {
        let [low, high] = VERSIONS;
        let version = high.min(self.versions[1]);
        if version >= low.max(self.versions[0]) {
            return Ok(version);
        }
        let message = format!("this server speaks protocol versions {low} to {high}");
        let mut fault = Fault::new(FaultCode::UnsupportedVersion, message);
        fault.versions = Some(VERSIONS);
        Err(fault)
    }
}

/// In what capacity a peer connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Client,
    Node,
    /// The main server, when it looks whether a joining node can be reached.
    Main,
}

/// The answer to `hello`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HelloReply {
    /// The protocol version that both sides use from now on.
    pub version: u32,
    pub agent: String,
    /// `None` from a node that has not joined yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterId>,
    /// From a node: its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Of this start of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Incarnation>,
    /// The server's wall clock; from a node, the main server's as the node reckons it.
    pub time: WallTime,
}
