//! The verbs, one file each.

mod generate;
mod load;
mod prompt;
pub(crate) mod run;

#[cfg(feature = "full-cli")]
pub(crate) mod bench;
#[cfg(feature = "full-cli")]
pub(crate) mod chat;
#[cfg(feature = "full-cli")]
pub(crate) mod convert;
#[cfg(feature = "full-cli")]
pub(crate) mod doctor;
#[cfg(feature = "full-cli")]
pub(crate) mod eval;
#[cfg(feature = "full-cli")]
pub(crate) mod inspect;
#[cfg(feature = "full-cli")]
pub(crate) mod parity;
#[cfg(feature = "full-cli")]
pub(crate) mod perplexity;
#[cfg(feature = "full-cli")]
pub(crate) mod profile;
#[cfg(feature = "full-cli")]
pub(crate) mod quantize;
#[cfg(feature = "full-cli")]
pub(crate) mod synth;
