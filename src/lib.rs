//! p2pdfs
pub mod catalog;
pub mod cli;
pub mod client;
pub mod clock;
pub mod durable;
pub mod ids;
pub mod main_server;
pub mod policy;
pub mod remote_path;
pub mod segments;
pub mod server;
pub mod size;
pub mod storage_node;
pub mod token;
pub mod wire;
