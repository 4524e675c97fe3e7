//! The run-time half of the annotations: switches, clock and sinks.
//!
//! | environment variable      | on stderr, or in the file                                             |
//! |---------------------------|-----------------------------------------------------------------------|
//! | `BITNET_PARITY=1`         | a line of [`parity`](crate::parity) per generated token               |
//! | `BITNET_TRACE_QUANT=1`    | `quant_dispatch: tensor=.. format=.. kernel=.. shape=[..]` per tensor |
//! | `BITNET_TRACE_TIMING=1`   | four lines `timing: embed_us=3` (forward, logits, sample) per token   |
//! | `BITNET_TRACE_FILE=t.json`| every span as Chrome trace events, written by [`finish`]              |
//!
//! A switch is on when it is `1` and off when it is unset, empty or `0`; anything else is refused by [`init`],
//! which reads the environment, once. Before `init` everything is off.
//!
//! A token's four phases are what its loop spends, less some calls between them and the rounding to microseconds: with
//! a token of 100 us or more their sum is within 2 % of `Generated::elapsed`. Lines are written when the token has been
//! chosen and its time taken: writing them belongs to no phase and to no token.
//!
//! Without the `instrument` feature this module is [`init`], which then can only say that it cannot obey, and
//! the few names a caller needs so that it need not know which build it is in.
//!
//! Where to start: `switches` for the variables, `span` for what an annotation opens and what it costs,
//! `lane` and `packed` for how spans are kept, `chrome` and `report` for how they come out.

// Macros are part of tracing: `use crate::trace::trace_timing`.
pub use bitnet_trace_macros::{parity_trace, quant_trace, trace_timing};

#[cfg(feature = "instrument")]
mod chrome;
#[cfg(feature = "instrument")]
mod clock;
#[cfg(feature = "instrument")]
mod lane;
#[cfg(feature = "instrument")]
mod lines;
#[cfg(not(feature = "instrument"))]
mod notice;
#[cfg(feature = "instrument")]
mod packed;
#[cfg(feature = "instrument")]
mod report;
#[cfg(feature = "instrument")]
mod span;
#[cfg(feature = "instrument")]
mod switches;

#[cfg(feature = "instrument")]
pub use lines::{drop_phases, parity_line, quant_line};
#[cfg(feature = "instrument")]
pub use report::report;
#[cfg(feature = "instrument")]
pub use span::{Field, Site, Span, Value};
#[cfg(feature = "instrument")]
pub use switches::{detail_on, finish, init, parity_on, phase_on, profile, quant_on, record_to};

#[cfg(not(feature = "instrument"))]
pub use notice::{drop_phases, finish, init, parity_on, profile, record_to, report};

use std::time::Duration;

/// Whether the annotations are in this build.
pub const AVAILABLE: bool = cfg!(feature = "instrument");

/// The switches, and the file.
const PARITY: &str = "BITNET_PARITY";
const QUANT: &str = "BITNET_TRACE_QUANT";
const TIMING: &str = "BITNET_TRACE_TIMING";
const FILE: &str = "BITNET_TRACE_FILE";

/// All spans of one name, for a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The span's name.
    pub name: &'static str,
    /// The module it stands in.
    pub module: &'static str,
    /// Spans closed.
    pub calls: u64,
    /// Their time, summed over threads.
    pub total: Duration,
    /// Their time less that of the spans they opened on the same thread: these add up to the whole.
    pub own: Duration,
    /// The sum of their `bytes` fields.
    pub bytes: u64,
    /// The sum of their `macs` fields: multiply-adds.
    pub macs: u64,
}

/// The environment. Its one reader.
#[expect(clippy::disallowed_methods, reason = "the one place where the environment is read")]
fn environment(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}
