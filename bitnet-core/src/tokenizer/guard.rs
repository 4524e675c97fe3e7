//! Calls into code that trusts a file: their panics become `None`, and print nothing.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether a panic on this thread is one that [`guarded`] answers for.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// What `call` returns, or `None` if it panics. What it was changing is then to be thrown away.
pub(super) fn guarded<T>(call: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                before(panic);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let returned = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(outer);
    returned.ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_guarded_panic_is_none_and_reaches_no_hook() {
        static HEARD: AtomicUsize = AtomicUsize::new(0);
        let heard = |panic: &std::panic::PanicHookInfo<'_>| panic.payload().is::<Heard>();
        struct Heard;
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if heard(panic) {
                HEARD.fetch_add(1, Ordering::Relaxed);
            } else {
                before(panic);
            }
        }));
        let panics = || std::panic::panic_any(Heard);
        assert_eq!(guarded(|| 1), Some(1));
        assert_eq!(guarded(|| guarded(panics).or(Some(()))), Some(Some(())));
        assert!(guarded(panics).is_none());
        assert!(catch_unwind(panics).is_err());
        assert_eq!(HEARD.load(Ordering::Relaxed), 1);
    }
}
