//! The one clock of spans: the CPU's own counter, where it runs at a constant rate, else the monotonic clock.
//!
//! A span reads it twice; `std::time::Instant` alone would take more than the 40 ns a span may cost.

use std::sync::OnceLock;
use std::time::Duration;

use quanta::Clock;

/// The clock and its reading when it was made.
static CLOCK: OnceLock<(Clock, u64)> = OnceLock::new();

fn clock() -> &'static (Clock, u64) {
    CLOCK.get_or_init(|| {
        let clock = Clock::new();
        let zero = clock.raw();
        (clock, zero)
    })
}

/// Measures the counter against the monotonic clock, which takes some milliseconds, so that no span has to.
pub(super) fn calibrate() {
    clock();
}

/// The counter now. Never smaller than an earlier reading on the same thread.
#[inline]
pub(super) fn ticks() -> u64 {
    clock().0.raw()
}

/// The counter when it was calibrated, which is before the first span.
#[inline]
pub(super) fn zero() -> u64 {
    clock().1
}

/// What lies between two readings.
pub(super) fn between(start: u64, end: u64) -> Duration {
    Duration::from_nanos(clock().0.delta_as_nanos(start, end))
}

/// A sum of differences of readings.
pub(super) fn length(ticks: u64) -> Duration {
    between(0, ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_the_monotonic_clock() {
        calibrate();
        let std = std::time::Instant::now();
        let start = ticks();
        std::thread::sleep(Duration::from_millis(30));
        let (ours, theirs) = (between(start, ticks()), std.elapsed());
        // Another thread may run between the two readings, so ours may be shorter, by a preemption at most.
        assert!(
            ours <= theirs.mul_f64(1.01) && ours >= Duration::from_millis(29),
            "{ours:?} against {theirs:?}"
        );
    }

    #[test]
    fn time_never_runs_backwards() {
        let readings: Vec<u64> = (0..10_000).map(|_| ticks()).collect();
        assert!(readings.is_sorted());
        assert_eq!(between(5, 5), Duration::ZERO);
        assert_eq!(between(6, 5), Duration::ZERO);
    }
}
