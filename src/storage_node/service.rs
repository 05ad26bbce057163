//! A connection to this node: `hello`, then `store` and `fetch`, in any number.

use std::sync::Arc;

use crate::server::{ServerConnection, Service};
use crate::wire::to_node::ToNode;
use crate::wire::{Fault, FaultCode, Hello, HelloReply, ParseError, Role};

use super::shared::Shared;
use super::{fetch, read_journal, store};

/// Serves clients, other nodes, and the main server when it looks whether this node can be reached.
pub(super) struct NodeService(pub Arc<Shared>);

impl Service for NodeService {
    fn serve(&self, connection: &mut ServerConnection) {
        let mut said_hello = false;
        while let Some(head) = connection.next_request() {
            let request = ToNode::parse(connection.request_json());
            // What it asks for may take long, and needs the text of it no more.
            connection.shrink();
            let is_open = match request {
                Ok(ToNode::Hello(hello)) => self.hello(connection, &hello, &mut said_hello),
                Ok(ToNode::Store(_) | ToNode::Fetch(_) | ToNode::ReadJournal(_))
                | Err(ParseError::UnknownRequest(_))
                    if !said_hello =>
                {
                    let why = "the first request on a connection is `hello`";
                    connection.reply::<()>(Err(Fault::new(FaultCode::HelloFirst, why)), &[])
                }
                Ok(ToNode::Store(request)) => {
                    store::serve(&self.0, connection, head.payload_bytes, request)
                }
                Ok(ToNode::ReadJournal(request)) => {
                    read_journal::serve(&self.0, connection, &request)
                }
                Ok(ToNode::Fetch(request)) => fetch::serve(&self.0, connection, request),
                Err(error) => connection.reply::<()>(Err(error.into()), &[]),
            };
            if !is_open {
                return;
            }
        }
    }
}

impl NodeService {
    fn hello(
        &self,
        connection: &mut ServerConnection,
        hello: &Hello,
        said_hello: &mut bool,
    ) -> bool {
        let version = match hello.agree() {
            Ok(version) => version,
            Err(fault) => return connection.reply::<()>(Err(fault), &[]),
        };
        // Anybody can say that it is a node: that alone gives it one of the nodes' places, and no
        // right. What it may do, its tokens say.
        if !connection.take_place(hello.role != Role::Client) {
            let why = "this node has all the connections that it takes";
            connection.reply::<()>(Err(Fault::new(FaultCode::Busy, why)), &[]);
            return false;
        }
        *said_hello = true;
        let membership = self.0.member().map(|member| member.membership);
        let reply = HelloReply {
            version,
            agent: Hello::new(Role::Node).agent,
            cluster: membership.map(|membership| membership.cluster),
            node: membership.map(|membership| membership.node),
            incarnation: Some(self.0.incarnation),
            time: self.0.time.now(),
        };
        connection.reply(Ok(reply), &[])
    }
}

/// What a node answers to transfers before it has joined, and once it stops.
pub(super) fn not_a_member() -> Fault {
    Fault::new(FaultCode::Busy, "this node has not joined its cluster yet, or is stopping")
}
