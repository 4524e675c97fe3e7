//! Whether this CPU multiplies faster in pairs: no feature flag tells, so a clock is asked.
#![expect(
    unsafe_code,
    reason = "calls functions compiled for an instruction set that the caller found present"
)]

use std::arch::x86_64::*;
use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::avx512;
use super::avx512gemm::{Codes, PAIRS_TILE, products};
use super::paired::{GROUP, GROUPS};

/// Groups of the rows multiplied: with their codes and as many tokens as are in a tile of pairs, 22 KiB, which stay in
/// the first cache.
const LENGTH: usize = 4 * GROUPS;
/// Products of a panel and a tile each time: some microseconds.
const CALLS: usize = 8;
/// Each way has its turn so often; its shortest counts, which nothing disturbed.
const ROUNDS: usize = 8;

/// Whether matrix products in pairs are faster here than plain ones. Measured once for a process: a tenth of a
/// millisecond. Both give the same bits, so a wrong answer costs time only.
///
/// # Panics
/// If the CPU does not have the instruction set.
pub(super) fn pairs_pay() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        assert!(avx512::supported(), "two ways of AVX-512 are weighed without it");
        // SAFETY: the CPU has every feature that `supported` asks for, as was just seen.
        let [plain, pairs] = unsafe { shortest_times() };
        pairs < plain
    })
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn shortest_times() -> [Duration; 2] {
    let (panel, q) = (vec![[1; size_of::<Codes>()]; LENGTH], vec![1; LENGTH * GROUP * PAIRS_TILE]);
    let mut shortest = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        shortest[0] = shortest[0].min(time::<false>(&panel, &q));
        shortest[1] = shortest[1].min(time::<true>(&panel, &q));
    }
    shortest
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn time<const PAIRS: bool>(panel: &[Codes], q: &[i8]) -> Duration {
    let start = Instant::now();
    for _ in 0..CALLS {
        let share = [_mm512_setzero_si512(); 2];
        black_box(products::<PAIRS, PAIRS_TILE>(black_box(panel), black_box(q), share));
    }
    start.elapsed()
}
