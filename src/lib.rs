//! p2pdfs
pub mod catalog;
pub mod clock;
pub mod durable;
pub mod ids;
pub mod remote_path;
pub mod segments;
