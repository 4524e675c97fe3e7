//! The threads of a session, and how work is cut for them.
//!
//! Work is cut by output rows, heads or tokens, never within a sum, so that no bit depends on how many threads
//! there are. A [`Team`] of one runs everything on the caller's thread.

use crate::error::{Error, Result};
#[cfg(feature = "cpu")]
use crate::trace::trace_timing;

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
    /// If the system refuses the threads, or `n` is zero or absurd.
    pub fn new(n: Option<usize>) -> Result<Team> {
        const MOST: usize = 1024;
        let invalid = |reason: String| Error::Invalid { what: "--threads".into(), reason };
        let n = n.unwrap_or_else(default_threads);
        if n == 0 || n > MOST {
            return Err(invalid(format!("expected 1 to {MOST}, found {n}")));
        }
        #[cfg(feature = "cpu")]
        {
            let pool = match n {
                1 => None,
                n => Some(
                    rayon::ThreadPoolBuilder::new()
                        .num_threads(n)
                        .thread_name(|i| format!("bitnet-{i}"))
                        .build()
                        .map_err(|error| invalid(format!("the system refuses {n} threads: {error}")))?,
                ),
            };
            Ok(Team { pool, n })
        }
        #[cfg(not(feature = "cpu"))]
        Ok(Team { n: 1 })
    }

    /// Number of threads.
    #[must_use]
    pub fn len(&self) -> usize {
        self.n
    }

    /// Never: a team has at least the caller.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Runs `work` on a thread of the team, so that the cuts inside it need not wake anyone up first.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        #[cfg(feature = "cpu")]
        if let Some(pool) = &self.pool {
            return wait(pool, work);
        }
        work()
    }

    /// Cuts each share into one piece for each thread and calls `work` with each thread's pieces.
    ///
    /// Allocates nothing. A piece may be empty when there are fewer units than threads.
    pub fn split<T: Send, const M: usize>(
        &self,
        shares: [Share<'_, T>; M],
        work: impl Fn([Piece<'_, T>; M]) + Sync,
    ) {
        let pieces = shares.map(|s| (Piece { first: 0, values: s.values }, s.unit));
        cut(self.n, pieces, &work);
    }

    /// Calls `work` once for each item, on whichever thread is free.
    pub fn each<T: Send>(&self, items: Vec<T>, work: impl Fn(T) + Sync + Send) {
        #[cfg(feature = "cpu")]
        if self.pool.is_some() {
            use rayon::prelude::*;
            items.into_par_iter().with_max_len(1).for_each(work);
            return;
        }
        items.into_iter().for_each(work);
    }
}

/// The caller's time here is not its own: others work, and their spans say on what.
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

fn join(a: impl FnOnce() + Send, b: impl FnOnce() + Send) {
    #[cfg(feature = "cpu")]
    rayon::join(a, b);
    #[cfg(not(feature = "cpu"))]
    {
        a();
        b();
    }
}

/// The processors this process may use: affinity and, on Linux, the cgroup's quota are counted by the system.
#[must_use]
pub fn default_threads() -> usize {
    if cfg!(feature = "cpu") { std::thread::available_parallelism().map_or(1, usize::from) } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

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
                assert_eq!(calls.into_inner().unwrap(), team.len());
                assert!(a.iter().enumerate().all(|(i, &v)| v == i as f32));
                assert!(b.iter().all(|&v| v == 1.0));
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
    fn no_threads_and_too_many_are_refused() {
        for n in [0, 100_000] {
            assert!(Team::new(Some(n)).unwrap_err().to_string().starts_with("--threads: expected 1 to 1024"));
        }
    }
}
