//! What the kernels reach of what the machine can do, on one thread.
//!
//! `cargo bench -p bitnet-core --bench kernels` prints, for each table of kernels this CPU runs, the median and spread
//! of eleven runs in GB/s and GMAC/s, and the median as a share of the ceiling that `bitnet doctor` measures too:
//! memory bandwidth for a matrix times a vector, the multiply rate for a ternary matrix times many. Attention is in
//! f32, and its ceiling is not measured. Every answer is checked first: it must be the scalar kernel's, bit for bit.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints, and panics if it cannot be set up"
)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::hint::black_box;
use std::time::Instant;

use bitnet_core::Isa;
use bitnet_core::kernels::values::{ROW, Values};
use bitnet_core::kernels::{Kernels, Tokens};
use bitnet_core::ops::screen::ShadowVector;
use bitnet_core::pages::{Lines, Pages};
use bitnet_core::probe;
use bitnet_core::quant::act::ActScale;
use bitnet_core::quant::columns::{Columns, LINE_ROWS, column_bytes};
use bitnet_core::quant::i2s::{self, Ternary};
use bitnet_core::quant::tri5::{self, Tri5};
use bytemuck::Pod;
use half::f16;

const RUNS: usize = 11;
/// Values of a row: the width of the 2B-4T model.
const COLS: usize = 2560;

/// What bounds a kernel.
enum Bound {
    Memory,
    Multiply,
    Neither,
}

/// The machine's ceilings for one thread, per second.
struct Machine {
    bytes: f64,
    macs: f64,
}

/// A kernel's work: the bytes it reads and the products it sums.
struct Work {
    name: String,
    bytes: usize,
    macs: usize,
    bound: Bound,
}

impl Machine {
    /// Runs `kernel` with every table of kernels, all taking turns, and prints a line for each.
    fn show<T: Pod>(&self, work: &Work, n_out: usize, kernel: impl Fn(&Kernels, &mut [T])) {
        let tables = Kernels::all();
        let mut expected = vec![T::zeroed(); n_out];
        kernel(Kernels::for_isa(Isa::Scalar).unwrap(), &mut expected);
        let mut found = vec![T::zeroed(); n_out];
        for table in &tables {
            found.fill(T::zeroed());
            kernel(table, &mut found);
            let same = bytemuck::cast_slice::<T, u8>(&found) == bytemuck::cast_slice::<T, u8>(&expected);
            assert!(same, "{} on {}: not the scalar kernel's answer", work.name, table.name());
        }
        let mut seconds = vec![[0.0; RUNS]; tables.len()];
        for run in 0..RUNS {
            for (table, seconds) in tables.iter().zip(&mut seconds) {
                let start = Instant::now();
                kernel(table, black_box(&mut found));
                seconds[run] = start.elapsed().as_secs_f64().max(1e-9);
            }
        }
        for (table, mut seconds) in tables.iter().zip(seconds) {
            seconds.sort_by(f64::total_cmp);
            let [gb, gmac] = [work.bytes, work.macs].map(|n| n as f64 / 1e9 / seconds[RUNS / 2]);
            let share = match work.bound {
                Bound::Memory => gb * 1e11 / self.bytes,
                Bound::Multiply => gmac * 1e11 / self.macs,
                Bound::Neither => f64::NAN,
            };
            let share = if share.is_nan() { "-".into() } else { format!("{share:.1} %") };
            let [fast, slow] = [seconds[0], seconds[RUNS - 1]].map(|s| seconds[RUNS / 2] / s);
            println!(
                "{:<20} {:<16} {gb:7.2} GB/s {gmac:7.1} GMAC/s {share:>7}  ({slow:.2} to {fast:.2} of it)",
                work.name,
                table.name()
            );
        }
    }
}

/// Numbers that look random, the same every time.
fn numbers(n: usize) -> impl Iterator<Item = u32> {
    let mut state = 1u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    })
    .take(n)
}

/// Values in -1..1 that an f16 can hold.
fn floats(n: usize) -> Vec<f32> {
    numbers(n).map(|v| (v % 2048) as f32 / 1024.0 - 1.0).collect()
}

fn codes(n: usize) -> Vec<i8> {
    numbers(n).map(|v| (v % 3) as i8 - 1).collect()
}

fn main() {
    let measured = std::env::args().any(|arg| arg == "--bench");
    // From memory: several times the caches of this size of machine. As a test: a few rows.
    let n_bytes = if measured { 256 << 20 } else { 64 * COLS };
    let machine = match measured {
        true => Machine { bytes: probe::read_bandwidth(1).unwrap(), macs: probe::multiply_rate(1).unwrap() },
        false => Machine { bytes: f64::NAN, macs: f64::NAN },
    };
    if measured {
        println!("ceilings: {:.2} GB/s, {:.1} GMAC/s of int8", machine.bytes / 1e9, machine.macs / 1e9);
    }
    vectors(&machine, n_bytes);
    matrices(&machine, if measured { 96 } else { 13 });
    attention(&machine, if measured { 1024 } else { 40 });
}

/// Weights as the engine holds them.
fn in_large_pages<T: Pod>(n: usize, values: impl Iterator<Item = T>) -> Pages<T> {
    let mut pages = Pages::zeroed(n).unwrap();
    pages.iter_mut().zip(values).for_each(|(to, value)| *to = value);
    pages
}

/// A matrix from memory times one vector: what decode is made of.
fn vectors(machine: &Machine, n_bytes: usize) {
    let x = floats(COLS);
    let mut q = Lines::<i8>::default();
    q.resize(COLS);
    let a = Kernels::detect().quantize(&mut q, &x);
    let rows = n_bytes / (COLS / 4);
    // One random stretch repeated: what the codes are does not matter to speed, and packing takes long.
    let stretch = i2s::pack(&codes(64 * COLS));
    let packed = in_large_pages(rows * COLS / 4, stretch.iter().copied().cycle());
    let work = Work { name: "gemv_i2s".into(), bytes: packed.len(), macs: rows * COLS, bound: Bound::Memory };
    machine.show(&work, rows, |k, y: &mut [f32]| {
        k.gemv_i2s(y, Ternary::new(&packed, rows, COLS), &q, a, 0.37);
    });

    let row_bytes = tri5::row_bytes(COLS);
    let rows = n_bytes / row_bytes;
    let mut fives = vec![0; 64 * row_bytes];
    for (row, i2s) in fives.chunks_exact_mut(row_bytes).zip(stretch.chunks_exact(COLS / 4)) {
        tri5::pack_row(row, i2s);
    }
    let fives = in_large_pages(rows * row_bytes, fives.iter().copied().cycle());
    let work = Work { name: "gemv_tri5".into(), bytes: fives.len(), macs: rows * COLS, bound: Bound::Memory };
    machine.show(&work, rows, |k, y: &mut [f32]| {
        k.gemv_tri5(y, Tri5::new(&fives, rows, COLS), &q, a, 0.37);
    });
    picked(machine, &packed, &fives, (&q, a));
    columns(machine, &packed);

    let rows = n_bytes / (2 * COLS);
    let w = floats(rows * COLS).into_iter().map(|v| f16::from_f32(v).to_bits());
    let w = in_large_pages(rows * COLS, w);
    let w: &[f16] = bytemuck::cast_slice(&w);
    let work = Work { name: "gemv_f16".into(), bytes: 2 * w.len(), macs: w.len(), bound: Bound::Memory };
    machine.show(&work, rows, |k, y: &mut [f32]| k.gemv_f16(y, w, &x));

    let w = in_large_pages(n_bytes, numbers(n_bytes).map(|v| v as u8));
    let mut shadow = ShadowVector::default();
    shadow.load(&x);
    let rows = n_bytes / (COLS / 2);
    let of_four = &w[..rows * COLS / 2];
    let work =
        Work { name: "dot_u4".into(), bytes: of_four.len(), macs: 2 * of_four.len(), bound: Bound::Memory };
    machine.show(&work, rows, |k, y: &mut [f64]| k.dot_u4(y, of_four, &shadow));

    let rows = n_bytes / (COLS / 4);
    let (of_two, all) = (&w[..rows * COLS / 4], (0..rows as u32).collect::<Vec<u32>>());
    let work =
        Work { name: "dot_u2".into(), bytes: of_two.len(), macs: 4 * of_two.len(), bound: Bound::Memory };
    machine.show(&work, rows, |k, y: &mut [f64]| k.dot_u2(y, of_two, &all, &shadow.high));
}

/// One row in so many of the same matrices, here and there: what a decode step reads of `up` where gates are closed. To
/// pay, `GB/s` must be more than that of all rows over so many.
fn picked(machine: &Machine, packed: &[u8], fives: &[u8], (q, a): (&[i8], ActScale)) {
    let (i2s, tri5) = (
        Ternary::new(packed, packed.len() / (COLS / 4), COLS),
        Tri5::new(fives, fives.len() / tri5::row_bytes(COLS), COLS),
    );
    for one_in in [2, 3, 4, 8] {
        let rows_of = |rows: usize| -> Vec<u32> {
            (0..).zip(numbers(rows)).filter(|(_, v)| v % one_in == 0).map(|(r, _)| r).collect()
        };
        let work = |name: &str, n: usize, row_bytes: usize| Work {
            name: format!("{name} 1/{one_in}"),
            bytes: n * row_bytes,
            macs: n * COLS,
            bound: Bound::Memory,
        };
        let rows = rows_of(i2s.rows());
        machine.show(&work("gemv_i2s", rows.len(), i2s.row_bytes()), i2s.rows(), |k, y: &mut [f32]| {
            k.gemv_i2s_picked(y, i2s, &rows, (q, a), 0.37);
        });
        let rows = rows_of(tri5.rows());
        machine.show(&work("gemv_tri5", rows.len(), tri5.row_bytes()), tri5.rows(), |k, y: &mut [f32]| {
            k.gemv_tri5_picked(y, tri5, &rows, (q, a), 0.37);
        });
    }
}

/// All columns of a matrix, and one in so many, here and there: what a decode step reads of `down`, whose columns are as
/// long as rows here.
fn columns(machine: &Machine, packed: &[u8]) {
    let cols = packed.len() / column_bytes(COLS) / i2s::BLOCK * i2s::BLOCK;
    let w = Columns::new(&packed[..cols * column_bytes(COLS)], COLS, cols);
    for one_in in [1, 2, 3, 4, 8] {
        let picked: Vec<u32> =
            (0..).zip(numbers(cols)).filter(|(_, v)| v % one_in == 0).map(|(c, _)| c).collect();
        let mut q = vec![0i8; cols];
        picked.iter().for_each(|&c| q[c as usize] = (c % 255) as i8);
        let work = Work {
            name: if one_in == 1 { "sum_columns".into() } else { format!("sum_columns 1/{one_in}") },
            bytes: picked.len() * column_bytes(COLS),
            macs: picked.len() * COLS,
            bound: Bound::Memory,
        };
        machine.show(&work, COLS.next_multiple_of(LINE_ROWS), |k, y: &mut [i32]| {
            y.fill(0);
            k.sum_columns(y, w, &picked, &q);
        });
    }
}

/// A ternary matrix as tall as a model's times many tokens: what prefill is made of.
fn matrices(machine: &Machine, n_tokens: usize) {
    const ROWS: usize = COLS;
    let packed = i2s::pack(&codes(ROWS * COLS));
    let mut q = vec![0i8; n_tokens * COLS];
    let scales: Vec<_> =
        q.chunks_exact_mut(COLS).map(|q| Kernels::detect().quantize(q, &floats(COLS))).collect();
    let tokens: HashMap<&str, Tokens> =
        Kernels::all().into_iter().map(|k| (k.name(), Tokens::pack(k, &q, &scales))).collect();
    let work = Work {
        name: "gemm_i2s".into(),
        bytes: packed.len(),
        macs: ROWS * COLS * n_tokens,
        bound: Bound::Multiply,
    };
    let panel = RefCell::new(Lines::default());
    machine.show(&work, n_tokens * ROWS, |k, y: &mut [f32]| {
        let mut outs: Vec<&mut [f32]> = y.chunks_exact_mut(ROWS).collect();
        k.gemm_i2s(
            &mut outs,
            Ternary::new(&packed, ROWS, COLS),
            &tokens[k.name()].tiles(),
            0.37,
            &mut panel.borrow_mut(),
        );
    });
}

/// Four queries that share their keys and values.
fn attention(machine: &Machine, n_pos: usize) {
    const HEAD_DIM: usize = 128;
    const N_QUERY: usize = 4;
    let n_pad = n_pos.next_multiple_of(32);
    let cache: Vec<f16> =
        floats(n_pos.next_multiple_of(ROW) * HEAD_DIM).into_iter().map(f16::from_f32).collect();
    let (q, mut p) = (floats(N_QUERY * HEAD_DIM), floats(N_QUERY * n_pad));
    p.chunks_exact_mut(n_pad).for_each(|p| p[n_pos..].fill(0.0));
    let work = |name: &str| Work {
        name: name.into(),
        bytes: 2 * n_pos * HEAD_DIM,
        macs: N_QUERY * n_pos * HEAD_DIM,
        bound: Bound::Neither,
    };
    machine.show(&work("attn_scores"), N_QUERY * n_pad, |k, y: &mut [f32]| {
        k.attn_scores(y, &q, &cache[..n_pos * HEAD_DIM], HEAD_DIM, 0.1);
    });
    machine.show(&work("attn_mix"), N_QUERY * HEAD_DIM, |k, y: &mut [f32]| {
        k.attn_mix(y, Values::new(&cache, n_pos, HEAD_DIM), &p);
    });
}
