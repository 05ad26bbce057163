//! The programs: flags become a configuration, the configuration one call into a role. All that is
//! printed, and every exit code, is decided here and nowhere else in the library.

pub mod exit;
pub mod logging;
pub mod main_server;
pub mod signals;
pub mod storage_node;

pub use crate::size;
