//! Ctrl-C, and being told to end: the first signal asks for a clean end, the second one does not wait for it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// What is shared with the signal handlers. Relaxed: these are flags alone, nothing is published with them.
#[derive(Default)]
struct Signals {
    /// The last one that came; 0: none.
    last: Arc<AtomicUsize>,
    /// The next Ctrl-C ends the process at once.
    ctrl_c_ends: Arc<AtomicBool>,
    /// The next signal of the other kinds does.
    others_end: Arc<AtomicBool>,
}

static SIGNALS: LazyLock<Signals> = LazyLock::new(Signals::default);

/// From here on, Ctrl-C and being told to end are [`pressed`] instead of the end of the process.
pub(crate) fn watch() {
    let Signals { last, ctrl_c_ends, others_end } = &*SIGNALS;
    let shared = Arc::clone;
    for signal in watched() {
        let ends = if signal == SIGINT { ctrl_c_ends } else { others_end };
        // Without a handler the signal ends the process at once: less polite, and the same exit code in a shell.
        let _ = flag::register_conditional_shutdown(signal, 128 + signal, shared(ends));
        let _ = flag::register(signal, shared(ctrl_c_ends));
        let _ = flag::register(signal, shared(others_end));
        let _ = flag::register_usize(signal, Arc::clone(last), signal.unsigned_abs() as usize);
    }
}

/// The signals that ask for an end. A hangup that is ignored, as `nohup` asks for, stays so; Ctrl-C is taken even from
/// a script's background, where shells ignore it: who sends it means this process.
fn watched() -> impl Iterator<Item = i32> {
    let ignored = ignored();
    #[cfg(unix)]
    let all = [SIGINT, SIGTERM, signal_hook::consts::SIGHUP];
    #[cfg(not(unix))]
    let all = [SIGINT, SIGTERM];
    all.into_iter().filter(move |&signal| signal == SIGINT || ignored >> (signal - 1) & 1 == 0)
}

/// A bit for each signal that is ignored, the lowest for signal 1. Where the system does not tell, a hangup may be.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(1)
}

/// Whether an end was asked for. Ask between steps: a step is never cut in the middle.
pub(crate) fn pressed() -> bool {
    SIGNALS.last.load(Ordering::Relaxed) != 0
}

/// The exit code of an interrupted run: 128 and the signal, as shells count; 130 of Ctrl-C.
pub(crate) fn exit_code() -> u8 {
    match SIGNALS.last.load(Ordering::Relaxed) {
        0 => 128 + SIGINT as u8,
        signal => u8::try_from(128 + signal).unwrap_or(1),
    }
}

/// Whether it was another signal than Ctrl-C, which stops one thing: these end the program.
#[cfg(feature = "full-cli")]
pub(crate) fn told_to_end() -> bool {
    pressed() && exit_code() != 128 + SIGINT as u8
}

/// Forgets a Ctrl-C: what it stopped has stopped, and the next one is the first again.
#[cfg(feature = "full-cli")]
pub(crate) fn forget() {
    if told_to_end() {
        return;
    }
    SIGNALS.last.store(0, Ordering::Relaxed);
    SIGNALS.ctrl_c_ends.store(false, Ordering::Relaxed);
    SIGNALS.others_end.store(false, Ordering::Relaxed);
}

/// Until [`forget`], any signal ends the process at once: there is nothing to stop first.
#[cfg(feature = "full-cli")]
pub(crate) fn end_at_once() {
    SIGNALS.ctrl_c_ends.store(true, Ordering::Relaxed);
    end_when_told();
}

/// The same of all but Ctrl-C, which a line editor reads as a key.
#[cfg(feature = "full-cli")]
pub(crate) fn end_when_told() {
    SIGNALS.others_end.store(true, Ordering::Relaxed);
}
