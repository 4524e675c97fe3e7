//! What this machine can do at most with these kernels: bytes read and int8 products, per second.
//!
//! Decoding is bound by the first, prefill by the second; a speed means little without them. Either takes a second or
//! so, runs on threads of its own, and reports the best of a few rounds: a ceiling is what was reached once, by
//! whichever way was the fastest. That of products is what the engine's own kernel reaches on operands in the caches,
//! not the rate of an instruction.

use std::hint::black_box;
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::kernels::{Kernels, Tiling, Tokens};
use crate::ops::screen::ShadowVector;
use crate::pages::{Lines, Pages};
use crate::quant::act::ActScale;
use crate::quant::i2s::{self, Ternary};
use crate::team::{check_threads, refused};

/// Bytes that all threads read together: several times the last-level cache of any CPU this is likely to run on.
const READ_BYTES: usize = 512 << 20;
const ROUNDS: usize = 5;

/// Bytes that one row of the reading kernel has.
const ROW: usize = 4096;

/// Bytes per second that `n_threads` threads read from memory together, each its own part, front to back.
///
/// Rounds take turns between a plain loop and the fastest kernel that streams, which asks for what comes next; both
/// read large pages where the system gives them.
///
/// # Errors
/// If `n_threads` is not 1 to [`MAX_THREADS`](crate::team::MAX_THREADS), or the system refuses the threads or the
/// memory to read.
pub fn read_bandwidth(n_threads: usize) -> Result<f64> {
    check_threads(n_threads)?;
    let n = READ_BYTES / n_threads / ROW * ROW;
    let mut parts = Vec::new();
    for _ in 0..n_threads {
        parts.push(Pages::<u8>::zeroed(n).ok_or_else(|| Error::Refused {
            what: format!("memory for a probe of {} MiB", READ_BYTES >> 20),
            reason: None,
        })?);
    }
    let kernels = Kernels::detect();
    let mut x = ShadowVector::default();
    x.load(&[1.0; 2 * ROW]);
    let barrier = Barrier::new(n_threads);
    let threads = on_threads(parts, |mut part| {
        part.fill(1); // on the thread that reads it, which is where the system then puts it
        let mut dots = vec![0.0; n / ROW];
        std::array::from_fn::<Span, { 2 * ROUNDS }, _>(|round| {
            barrier.wait();
            let start = Instant::now();
            if round % 2 == 0 {
                let words = bytemuck::cast_slice::<u8, u64>(&part);
                black_box(words.iter().fold(0u64, |sum, &v| sum.wrapping_add(v)));
            } else {
                kernels.dot_u4(black_box(&mut dots), &part, &x);
            }
            Span { start, end: Instant::now() }
        })
    })?;
    let rounds = (0..2 * ROUNDS).map(|round| seconds(threads.iter().map(|spans| spans[round])));
    Ok((n * n_threads) as f64 / rounds.fold(f64::INFINITY, f64::min))
}

/// Multiply-adds of int8 per second by the ternary matrix kernel of the best instruction set, on `n_threads`
/// threads whose operands stay in their caches.
///
/// What it measures is the kernel, unpacking and rescaling included: the ceiling of prefill with this kernel, whatever a
/// better one could reach. It is a little below that of the multiply instruction, or well above it where one
/// multiplication makes two products, or none is made and sums are looked up. Then each call also finds where the sums
/// of every row lie, which a model does once for all tokens of a batch.
///
/// Rounds take turns between few tokens, for which everything stays in the second-level cache, and as many as a prompt
/// may have in a batch, which share the unpacking of rows.
///
/// # Errors
/// If `n_threads` is not 1 to [`MAX_THREADS`](crate::team::MAX_THREADS), or the system refuses the threads.
pub fn multiply_rate(n_threads: usize) -> Result<f64> {
    /// With as many columns and the fewer tokens, 160 KiB of weights, 240 KiB of activations, 96 KiB of results: within
    /// a second-level cache.
    const ROWS: usize = 256;
    /// Rows for a kernel that makes tables of sums first: about as many as share one in a model.
    const TALL: usize = 10 * ROWS;
    const COLS: usize = 2560;
    const N_TOKENS: [usize; 2] = [96, 480];
    /// Long enough for clocks to settle, short enough to wait for.
    const ROUND: Duration = Duration::from_millis(60);

    check_threads(n_threads)?;
    let kernels = Kernels::detect();
    let rows = match kernels.tiling() {
        Tiling::Even(_) => ROWS,
        Tiling::Full { .. } => TALL,
    };
    let barrier = Barrier::new(n_threads);
    let threads = on_threads(vec![(); n_threads], |()| {
        let weights: Vec<i8> = (0..rows * COLS).map(|i| (i % 3) as i8 - 1).collect();
        let packed = i2s::pack(&weights);
        let w = Ternary::new(&packed, rows, COLS);
        let tokens = N_TOKENS.map(|n| {
            let scales = vec![ActScale { s: 1.0, sum: 3 * COLS as i32 }; n];
            Tokens::pack(kernels, &vec![3i8; n * COLS], &scales)
        });
        let mut y = vec![0.0; N_TOKENS[1] * rows];
        let mut panel = Lines::default();
        std::array::from_fn::<(Span, usize), { 2 * ROUNDS }, _>(|round| {
            let (tokens, n) = (&tokens[round % 2], N_TOKENS[round % 2]);
            barrier.wait();
            let (start, mut n_calls) = (Instant::now(), 0);
            while n_calls == 0 || start.elapsed() < ROUND {
                let mut outs: Vec<&mut [f32]> = y.chunks_exact_mut(rows).take(n).collect();
                kernels.gemm_i2s(&mut outs, w, &tokens.tiles(), 1.0, &mut panel);
                black_box(outs);
                n_calls += 1;
            }
            (Span { start, end: Instant::now() }, n_calls)
        })
    })?;
    let rounds = (0..2 * ROUNDS).map(|round| {
        let n_calls: usize = threads.iter().map(|rounds| rounds[round].1).sum();
        let n_macs = n_calls * rows * COLS * N_TOKENS[round % 2];
        n_macs as f64 / seconds(threads.iter().map(|rounds| rounds[round].0))
    });
    Ok(rounds.fold(0.0, f64::max))
}

/// When one thread worked on a round.
#[derive(Clone, Copy)]
struct Span {
    start: Instant,
    end: Instant,
}

/// Seconds from the first start to the last end, so that threads that take turns on a processor do not look faster.
fn seconds(spans: impl Iterator<Item = Span>) -> f64 {
    let both = |a: Span, b: Span| Span { start: a.start.min(b.start), end: a.end.max(b.end) };
    let all = spans.reduce(both).expect("a thread at least");
    all.end.duration_since(all.start).as_secs_f64().max(1e-9)
}

/// Runs `work` on each of `items` at the same time. If the system refuses a thread, it runs on none, since threads wait
/// for each other.
fn on_threads<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Result<Vec<R>> {
    let n = items.len();
    thread::scope(|scope| {
        let work = &work;
        let mut threads = Vec::new();
        for item in items {
            let (go, gate) = mpsc::channel::<()>(); // closed, if a later thread is refused
            let thread = thread::Builder::new()
                .spawn_scoped(scope, move || gate.recv().ok().map(|()| work(item)))
                .map_err(|error| refused(n, error))?;
            threads.push((go, thread));
        }
        for (go, _) in &threads {
            go.send(()).expect("a thread waits at its gate");
        }
        let results = threads.into_iter().map(|(_, thread)| thread.join().expect("a probe does not panic"));
        Ok(results.map(|result| result.expect("it was let through")).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No machine is slower than this, and none is a thousand times faster: a unit mixed up would show.
    #[test]
    fn both_rates_are_of_this_world() {
        let (read, multiply) = (read_bandwidth(2).unwrap(), multiply_rate(2).unwrap());
        assert!((1e7..1e13).contains(&read), "{read} bytes per second");
        assert!((1e7..1e14).contains(&multiply), "{multiply} multiply-adds per second");
    }

    #[test]
    fn threads_that_take_turns_are_not_faster() {
        let at = |ms| Instant::now() + Duration::from_millis(ms);
        let (a, b, c) = (at(0), at(60), at(120));
        let turns = [Span { start: b, end: c }, Span { start: a, end: b }];
        assert_eq!(seconds(turns.into_iter()), c.duration_since(a).as_secs_f64());
    }

    #[test]
    fn no_threads_and_too_many_are_refused() {
        for n in [0, 100_000] {
            assert!(read_bandwidth(n).is_err() && multiply_rate(n).is_err());
        }
    }
}
