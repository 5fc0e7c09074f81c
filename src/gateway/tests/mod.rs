//! The gateway over real sockets: real instances, a real route feed.

mod abuse;
mod access;
mod demand;
mod failover;
mod feed;
mod pages;
mod patience;
mod protocol;
mod streaming;
mod support;
