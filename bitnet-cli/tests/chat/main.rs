//! `bitnet chat`: from a pipe, and at a terminal.
#![cfg(feature = "full-cli")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../cli/support.rs"]
mod support;
#[path = "../cli/tiny.rs"]
mod tiny;

#[cfg(all(target_os = "linux", feature = "demo"))]
mod demo;
mod pipe;
#[cfg(target_os = "linux")]
mod pty;
#[cfg(target_os = "linux")]
mod terminal;
