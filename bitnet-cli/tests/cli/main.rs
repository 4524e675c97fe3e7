//! The binary as a user meets it: stdout, stderr, exit code.
#![allow(clippy::unwrap_used, reason = "a test that cannot read its own output should stop there")]

mod misuse;
mod support;

#[cfg(feature = "full-cli")]
mod bad_config;
#[cfg(feature = "full-cli")]
mod bad_models;
#[cfg(feature = "full-cli")]
mod bench;
#[cfg(feature = "full-cli")]
mod cheap;
#[cfg(feature = "full-cli")]
mod completions;
#[cfg(feature = "full-cli")]
mod convert;
#[cfg(all(feature = "full-cli", feature = "demo"))]
mod demo;
#[cfg(feature = "full-cli")]
mod doctor;
#[cfg(feature = "full-cli")]
mod eval;
#[cfg(feature = "full-cli")]
mod formats;
#[cfg(feature = "full-cli")]
mod golden;
#[cfg(feature = "full-cli")]
mod hostile;
#[cfg(feature = "full-cli")]
mod inspect;
#[cfg(feature = "full-cli")]
mod instrument;
#[cfg(all(unix, feature = "full-cli"))]
mod interrupt;
#[cfg(feature = "full-cli")]
mod parity;
#[cfg(feature = "full-cli")]
mod perplexity;
#[cfg(feature = "full-cli")]
mod place;
#[cfg(feature = "full-cli")]
mod profile;
#[cfg(feature = "full-cli")]
mod quantize;
#[cfg(feature = "full-cli")]
mod readme;
#[cfg(feature = "full-cli")]
mod run;
#[cfg(all(unix, target_pointer_width = "64", feature = "full-cli"))]
mod scarce;
#[cfg(feature = "full-cli")]
mod tiny;
