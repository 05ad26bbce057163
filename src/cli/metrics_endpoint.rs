//! The flag `--metrics` of both servers.

use std::net::SocketAddr;

use super::exit::{Exit, Failure};
use crate::metrics::{Endpoint, EndpointError, Page, bind};

/// Serves metrics at this address, for as long as what comes back is kept.
pub fn start(
    address: SocketAddr,
    insecure_plaintext: bool,
    fill: impl Fn(&mut Page) + Send + Sync + 'static,
) -> Result<Endpoint, Failure> {
    let what = "cannot serve metrics";
    let listener = bind(address, insecure_plaintext).map_err(|error| match &error {
        EndpointError::NotLoopback(_) => Failure::because(Exit::Usage, what, &error)
            .hint("listen on 127.0.0.1, or add --insecure-plaintext where the network is trusted"),
        EndpointError::Listen { .. } => Failure::because(Exit::Failed, what, &error)
            .hint("is it in use? Choose another address with --metrics"),
    })?;
    let endpoint = listener.local_addr().and_then(|at| {
        let endpoint = Endpoint::start(listener, fill)?;
        // Port 0 is any: the log says which.
        log::info!("metrics at http://{at}/metrics");
        Ok(endpoint)
    });
    endpoint.map_err(|error| Failure::because(Exit::Failed, what, &error))
}
