//! The flag `--metrics` of both servers.

use std::net::{SocketAddr, TcpListener};

use super::exit::{Exit, Failure};
use crate::metrics::{Endpoint, EndpointError, Page, bind};

const CANNOT: &str = "cannot serve metrics";

/// Listens for whom `start` will answer: before anything else is done, since it can be wrong use.
pub fn listen(
    address: Option<SocketAddr>,
    insecure_plaintext: bool,
) -> Result<Option<TcpListener>, Failure> {
    let listener = address.map(|address| bind(address, insecure_plaintext)).transpose();
    listener.map_err(|error| match &error {
        EndpointError::NotLoopback(_) => Failure::because(Exit::Usage, CANNOT, &error)
            .hint("listen on 127.0.0.1, or add --insecure-plaintext where the network is trusted"),
        EndpointError::Listen { .. } => Failure::because(Exit::Failed, CANNOT, &error)
            .hint("is it in use? Choose another address with --metrics"),
    })
}

/// Serves metrics for as long as what comes back is kept.
pub fn start(
    listener: Option<TcpListener>,
    fill: impl Fn(&mut Page) + Send + Sync + 'static,
) -> Result<Option<Endpoint>, Failure> {
    let Some(listener) = listener else { return Ok(None) };
    let endpoint = listener.local_addr().and_then(|address| {
        let endpoint = Endpoint::start(listener, fill)?;
        // Port 0 is any: the log says which.
        log::info!("metrics at http://{address}/metrics");
        Ok(endpoint)
    });
    endpoint.map(Some).map_err(|error| Failure::because(Exit::Failed, CANNOT, &error))
}
