//! The threads of a session, and how work is cut for them.
//!
//! Work is cut by output rows, heads or tokens, never within a sum of floats, so that no bit depends on how many threads
//! there are; sums of integers may be cut anywhere. A [`Team`] of one runs everything on the caller's thread.
//!
//! A decode step is cut some hundred times, tens of microseconds apart, which is as long as it takes to wake a sleeping
//! thread. So while one thread is inside [`Team::enter`], the others look for work without a pause, and a thread that
//! waits for another's half stays awake, too.

#[cfg(feature = "cpu")]
use std::cell::Cell;
use std::sync::Mutex;
#[cfg(feature = "cpu")]
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::error::{Error, Result};
#[cfg(feature = "cpu")]
use crate::trace::trace_timing;

/// Most threads of a team: no machine for these models has more processors.
pub const MAX_THREADS: usize = 1024;

/// A fixed number of threads that work together on one step.
#[derive(Debug)]
pub struct Team {
    #[cfg(feature = "cpu")]
    pool: Option<rayon::ThreadPool>,
    n: usize,
}

/// An output to be cut among threads.
#[derive(Debug)]
pub struct Share<'a, T = f32> {
    /// The values.
    pub values: &'a mut [T],
    /// Cuts fall at multiples of this: the width of a head, a group of rows.
    pub unit: usize,
}

/// One thread's part of a [`Share`].
#[derive(Debug)]
pub struct Piece<'a, T = f32> {
    /// Index of the first value in the whole.
    pub first: usize,
    /// The values.
    pub values: &'a mut [T],
}

impl Team {
    /// A team of `n` threads, by default as many as there are processors for this process.
    ///
    /// # Errors
    /// If the system refuses the threads, or `n` is not 1 to [`MAX_THREADS`].
    pub fn new(n: Option<usize>) -> Result<Team> {
        let n = n.unwrap_or_else(default_threads);
        check_threads(n)?;
        #[cfg(feature = "cpu")]
        {
            let pool = match n {
                1 => None,
                n => Some(
                    rayon::ThreadPoolBuilder::new()
                        .num_threads(n)
                        .thread_name(|i| format!("bitnet-{i}"))
                        .build()
                        .map_err(|error| refused(n, error))?,
                ),
            };
            Ok(Team { pool, n })
        }
        #[cfg(not(feature = "cpu"))]
        Ok(Team { n: 1 })
    }

    /// Number of threads, at least 1.
    #[must_use]
    pub fn n_threads(&self) -> usize {
        self.n
    }

    /// Runs `work` on a thread of the team while the others stay awake, so that they take part in its cuts at once.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        #[cfg(feature = "cpu")]
        if let Some(pool) = &self.pool {
            return wait(pool, || awake(self.n - 1, work));
        }
        work()
    }

    /// Cuts each share into one piece for each thread and calls `work` with each thread's pieces.
    ///
    /// Shares with equally many whole units are cut at the same units. A length need not be a multiple of its unit: the
    /// last piece takes what is left. A piece may be empty when there are fewer units than threads. If no share is
    /// longer than its unit, `work` is called once, here. Allocates nothing.
    ///
    /// # Panics
    /// If a unit is 0 and the shares are cut at all.
    pub fn split<T: Send, const M: usize>(
        &self,
        shares: [Share<'_, T>; M],
        work: impl Fn([Piece<'_, T>; M]) + Sync,
    ) {
        let n = if shares.iter().all(|s| s.values.len() <= s.unit) { 1 } else { self.n };
        let pieces = shares.map(|s| (Piece { first: 0, values: s.values }, s.unit));
        cut(n, pieces, &work);
    }

    /// Calls `work` once for each item, on whichever thread is free.
    pub fn each<T: Send>(&self, items: Vec<T>, work: impl Fn(T) + Sync) {
        if self.n == 1 {
            return items.into_iter().for_each(work);
        }
        let mut items: Vec<Option<T>> = items.into_iter().map(Some).collect();
        hand_out(&mut items, &work);
    }
}

/// Refuses to look for no threads, or for absurdly many.
pub(crate) fn check_threads(n: usize) -> Result<()> {
    if (1..=MAX_THREADS).contains(&n) {
        return Ok(());
    }
    let reason = format!("expected 1 to {MAX_THREADS}, found {n}");
    Err(Error::Invalid { what: "--threads".into(), reason })
}

/// The error for `n` threads that the system does not give.
pub(crate) fn refused(n: usize, error: impl std::fmt::Display) -> Error {
    Error::Refused { what: format!("{n} threads (see --threads)"), reason: Some(error.to_string()) }
}

/// While the caller waits here, threads of the team work, and their spans say on what.
#[cfg(feature = "cpu")]
#[trace_timing]
fn wait<R: Send>(pool: &rayon::ThreadPool, work: impl FnOnce() -> R + Send) -> R {
    pool.install(work)
}

/// Halves the threads, and every piece in proportion, until one thread is left for each set of pieces.
fn cut<T: Send, const M: usize>(
    n_threads: usize,
    pieces: [(Piece<'_, T>, usize); M],
    work: &(impl Fn([Piece<'_, T>; M]) + Sync),
) {
    if n_threads == 1 {
        return work(pieces.map(|(piece, _)| piece));
    }
    let n_left = n_threads / 2;
    let mut left = [const { None }; M];
    let mut right = [const { None }; M];
    for (i, (piece, unit)) in pieces.into_iter().enumerate() {
        let units = piece.values.len() / unit;
        let middle = units * n_left / n_threads * unit;
        let (a, b) = piece.values.split_at_mut(middle);
        left[i] = Some((Piece { first: piece.first, values: a }, unit));
        right[i] = Some((Piece { first: piece.first + middle, values: b }, unit));
    }
    let left = left.map(|piece| piece.expect("every piece was cut"));
    let right = right.map(|piece| piece.expect("every piece was cut"));
    join(|| cut(n_left, left, work), || cut(n_threads - n_left, right, work));
}

/// Halves the items until there is one of them.
fn hand_out<T: Send>(items: &mut [Option<T>], work: &(impl Fn(T) + Sync)) {
    match items {
        [] => {}
        [item] => work(item.take().expect("every item is handed out once")),
        _ => {
            let (left, right) = items.split_at_mut(items.len() / 2);
            join(|| hand_out(left, work), || hand_out(right, work));
        }
    }
}

#[cfg(feature = "cpu")]
fn join(a: impl FnOnce() + Send, b: impl FnOnce() + Send) {
    let done = AtomicBool::new(false);
    let first = || {
        a();
        work_until(&done);
    };
    let second = || {
        let _done = SetAtEnd(&done);
        at_work(b);
    };
    rayon::join(first, second);
}

#[cfg(not(feature = "cpu"))]
fn join(a: impl FnOnce() + Send, b: impl FnOnce() + Send) {
    a();
    b();
}

/// One stay in [`Team::enter`].
#[cfg(feature = "cpu")]
struct Step {
    done: AtomicBool,
    /// Threads that have not begun to follow.
    n_missing: AtomicUsize,
}

/// Runs `work` while `n_others` threads look for the work it cuts.
#[cfg(feature = "cpu")]
fn awake<R: Send>(n_others: usize, work: impl FnOnce() -> R + Send) -> R {
    let step = Step { done: AtomicBool::new(false), n_missing: AtomicUsize::new(n_others) };
    let lead = || {
        let _done = SetAtEnd(&step.done);
        at_work(work)
    };
    rayon::join(lead, || follow(n_others, &step)).0
}

/// Keeps `n` threads looking for work until the step is done. Each has a place, a job that any idle thread may take.
///
/// A thread takes no place while it is at work: it would look for more until the step is done, but the step waits for the
/// work below on its stack.
#[cfg(feature = "cpu")]
fn follow(n: usize, step: &Step) {
    if AT_WORK.get() {
        step.n_missing.fetch_sub(n, Ordering::Relaxed);
    } else if n > 1 {
        rayon::join(|| follow(n / 2, step), || follow(n - n / 2, step));
    } else {
        step.n_missing.fetch_sub(1, Ordering::Relaxed);
        leave_places(step);
        work_until(&step.done);
    }
}

/// Waits a little for other threads to take the places that are left: while it looks for work, this thread would take them.
#[cfg(feature = "cpu")]
fn leave_places(step: &Step) {
    for _ in 0..PATIENCE {
        if step.n_missing.load(Ordering::Relaxed) == 0 || step.done.load(Ordering::Relaxed) {
            break;
        }
        std::hint::spin_loop();
    }
}

#[cfg(feature = "cpu")]
thread_local! {
    /// Whether this thread is in the middle of a step's work.
    static AT_WORK: Cell<bool> = const { Cell::new(false) };
}

#[cfg(feature = "cpu")]
fn at_work<R>(work: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            AT_WORK.set(self.0);
        }
    }
    let _restore = Restore(AT_WORK.replace(true));
    work()
}

/// Looks without finding work before a thread yields its processor: with more threads than processors, the thread that is
/// waited for may need it.
#[cfg(feature = "cpu")]
const PATIENCE: u32 = 1 << 12;

/// Does whatever the team has to do until `done`, without going to sleep.
#[cfg(feature = "cpu")]
fn work_until(done: &AtomicBool) {
    let mut n_idle = 0;
    while !done.load(Ordering::Acquire) {
        if rayon::yield_now() == Some(rayon::Yield::Executed) {
            n_idle = 0;
        } else if n_idle < PATIENCE {
            n_idle += 1;
            std::hint::spin_loop();
        } else {
            thread::yield_now();
        }
    }
}

/// Sets a flag when it is dropped, in a panic, too.
#[cfg(feature = "cpu")]
struct SetAtEnd<'a>(&'a AtomicBool);

#[cfg(feature = "cpu")]
impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Results of `work`, in the order of `items`: on this thread and on as many more as the system gives, up to one for
/// each item.
pub(crate) fn spread<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let n = items.len();
    let items = Mutex::new(items.into_iter().enumerate());
    let some = || -> Vec<(usize, R)> {
        let next = || items.lock().expect("nobody panics while taking an item").next();
        std::iter::from_fn(next).map(|(i, item)| (i, work(item))).collect()
    };
    let mut done = thread::scope(|scope| {
        let helper = |_| thread::Builder::new().spawn_scoped(scope, some).ok();
        let helpers: Vec<_> = (1..n).map_while(helper).collect();
        let mut done = some();
        for helper in helpers {
            done.extend(helper.join().expect("the work does not panic"));
        }
        done
    });
    done.sort_unstable_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

/// The number of processors this process may use, as the system counts it: affinity and, on Linux, the cgroup's quota
/// are taken into account. Without the feature `cpu`, 1.
#[must_use]
pub fn default_threads() -> usize {
    if cfg!(feature = "cpu") { thread::available_parallelism().map_or(1, usize::from) } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_handed_out_once_and_cuts_respect_units() {
        for n in 1..=7 {
            let team = Team::new(Some(n)).unwrap();
            for (units_a, units_b) in [(0, 1), (1, 3), (5, 5), (20, 64)] {
                let (mut a, mut b) = (vec![0.0; units_a * 3], vec![0.0; units_b]);
                let calls = Mutex::new(0);
                team.enter(|| {
                    team.split(
                        [Share { values: &mut a, unit: 3 }, Share { values: &mut b, unit: 1 }],
                        |[a, b]| {
                            assert!(a.first % 3 == 0 && a.values.len() % 3 == 0);
                            a.values.iter_mut().enumerate().for_each(|(i, v)| *v += (a.first + i) as f32);
                            b.values.iter_mut().for_each(|v| *v += 1.0);
                            *calls.lock().unwrap() += 1;
                        },
                    );
                });
                let expected = if units_a.max(units_b) > 1 { team.n_threads() } else { 1 };
                assert_eq!(calls.into_inner().unwrap(), expected);
                assert!(a.iter().enumerate().all(|(i, &v)| v == i as f32));
                assert!(b.iter().all(|&v| v == 1.0));
            }
        }
    }

    #[test]
    #[cfg(feature = "cpu")]
    fn a_panic_in_any_half_is_passed_on_and_leaves_the_team_usable() {
        let team = Team::new(Some(3)).unwrap();
        for bad in 0..3 {
            let mut values = [0.0; 3];
            let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                team.enter(|| {
                    team.split([Share { values: &mut values, unit: 1 }], |[piece]| {
                        assert!(piece.first != bad, "one of three");
                    });
                });
            }));
            assert!(panicked.is_err(), "piece {bad}");
            assert_eq!(team.enter(|| 7), 7);
        }
    }

    /// On top of work that others wait for, a thread would look for more until the step is done, which waits for it.
    #[test]
    #[cfg(feature = "cpu")]
    fn whoever_is_at_work_does_not_follow() {
        let step = Step { done: AtomicBool::new(false), n_missing: AtomicUsize::new(3) };
        at_work(|| follow(3, &step));
        assert_eq!(step.n_missing.into_inner(), 0);

        let team = Team::new(Some(3)).unwrap();
        let mut values = [0; 9];
        team.enter(|| {
            team.split([Share { values: &mut values, unit: 1 }], |_: [Piece<'_, i32>; 1]| {
                assert!(AT_WORK.get())
            });
            team.each(vec![(); 9], |()| assert!(AT_WORK.get()));
        });
        assert!(!AT_WORK.get());
    }

    #[test]
    fn many_short_steps_end() {
        for n in [3, 4, 6] {
            let team = Team::new(Some(n)).unwrap();
            let mut values = vec![0_u32; 64];
            for step in 1..=1000 {
                team.enter(|| {
                    for _ in 0..4 {
                        team.split([Share { values: &mut values, unit: 1 }], |[piece]| {
                            piece.values.iter_mut().for_each(|v| *v += 1);
                        });
                    }
                });
                assert!(values.iter().all(|&v| v == 4 * step), "{n} threads, step {step}");
                if step % 10 == 0 {
                    // Long enough for the others to fall asleep.
                    thread::sleep(std::time::Duration::from_micros(200));
                }
            }
        }
    }

    #[test]
    fn each_item_is_worked_on_once() {
        let team = Team::new(Some(3)).unwrap();
        let seen = Mutex::new(Vec::new());
        team.enter(|| team.each((0..50).collect(), |i| seen.lock().unwrap().push(i)));
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert_eq!(seen, (0..50).collect::<Vec<i32>>());
    }

    #[test]
    fn results_come_in_the_order_of_the_items_whoever_is_done_first() {
        for n in [0, 1, 5] {
            let slowest_first = |i: u64| {
                thread::sleep(std::time::Duration::from_millis(2 * (n - i)));
                i * i
            };
            assert_eq!(spread((0..n).collect(), slowest_first), (0..n).map(|i| i * i).collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_threads_and_too_many_are_refused() {
        for n in [0, 100_000] {
            assert!(Team::new(Some(n)).unwrap_err().to_string().starts_with("--threads: expected 1 to 1024"));
        }
    }
}
