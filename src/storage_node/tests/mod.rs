//! What a node promises, over real sockets and real directories, against a main server of the
//! tests' own that can be told how to behave.

mod books;
mod confirming;
mod damage;
mod duplicate;
mod fake_main;
mod fetch;
mod life;
mod removal;
mod start;
mod stopping;
mod store;
mod talk;
