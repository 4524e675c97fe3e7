//! Ctrl-C: the first one asks for a clean end, the second one does not wait for it.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::exit::INTERRUPTED;

/// Set by the first Ctrl-C. Relaxed: it is a flag alone, nothing is published with it.
static PRESSED: AtomicBool = AtomicBool::new(false);

/// From here on, Ctrl-C is [`pressed`] instead of the end of the process.
pub(crate) fn watch() {
    // Without a handler Ctrl-C ends the process at once: less polite, and the same exit code in a shell.
    let _ = ctrlc::set_handler(|| {
        if PRESSED.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
    });
}

/// Whether Ctrl-C came. Ask between steps: a step is never cut in the middle.
pub(crate) fn pressed() -> bool {
    PRESSED.load(Ordering::Relaxed)
}

/// Forgets a Ctrl-C: what it stopped has stopped, and the next one is the first again.
#[cfg(feature = "full-cli")]
pub(crate) fn forget() {
    PRESSED.store(false, Ordering::Relaxed);
}

/// Until [`forget`], Ctrl-C ends the process at once: there is nothing to stop first.
#[cfg(feature = "full-cli")]
pub(crate) fn end_at_once() {
    PRESSED.store(true, Ordering::Relaxed);
}
