//! A second reader of a store's directory.
