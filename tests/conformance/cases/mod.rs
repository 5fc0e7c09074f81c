//! One function per case; `main.rs` lists them.

pub mod exec;
pub mod failures;
pub mod health;
pub mod lifecycle;
pub mod logs;
pub mod network;
pub mod processes;
pub mod tasks;
pub mod timing;
