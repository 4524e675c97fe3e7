//! Decoding allocates nothing: whatever a step needs was made before the first.
#![expect(clippy::unwrap_used, reason = "a test that cannot make its model should stop there")]
#![expect(
    unsafe_code,
    reason = "an allocator that counts is an unsafe trait; every call goes on to the system's"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use bitnet_core::synth::{EmbdType, SynthOptions, SynthShape, write_synthetic};
use bitnet_core::{
    GenerateOptions, LoadOptions, Model, Placement, Sampler, SamplerOptions, Session, SessionOptions,
};

/// The system's allocator, and how often it was asked.
struct Counting;

/// By all threads.
static COUNT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// By this one.
    static MINE: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    COUNT.fetch_add(1, Ordering::Relaxed);
    MINE.set(MINE.get() + 1);
}

// SAFETY: every method hands its arguments to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those this call asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Tokens before counting: the first step makes the screen of the head, and threads their scratch.
const WARM_UP: usize = 4;
const COUNTED: usize = 93;

fn model(folder: &tempfile::TempDir, embd: EmbdType, n_vocab: usize, placement: Placement) -> Model {
    let path: PathBuf = folder.path().join("model.gguf");
    let mut options = SynthOptions::new(SynthShape::Tiny);
    (options.embd, options.n_vocab, options.n_ctx) = (embd, Some(n_vocab), Some(256));
    write_synthetic(&path, &options, &mut |_, _| true).unwrap();
    Model::load(&path, &LoadOptions { placement, ..LoadOptions::default() }).unwrap()
}

/// Allocations while the tokens after the first few are generated.
fn allocations(model: &Model, n_threads: usize, sampling: &SamplerOptions) -> usize {
    let options =
        SessionOptions { n_ctx: Some(256), n_threads: Some(n_threads), ..SessionOptions::default() };
    let mut session = Session::new(model, &options).unwrap();
    let mut sampler = Sampler::new(sampling.clone()).unwrap();
    let mut tokens = session.generate(&[1, 2, 3], &mut sampler, GenerateOptions::default());
    tokens.by_ref().take(WARM_UP).for_each(|token| assert!(token.is_ok()));
    // Threads of the sessions before this one may still be ending, and one thread has only itself to count.
    let counted = || if n_threads == 1 { MINE.get() } else { COUNT.load(Ordering::Relaxed) };
    let before = counted();
    assert_eq!(tokens.by_ref().take(COUNTED).map(Result::unwrap).count(), COUNTED);
    counted() - before
}

/// One test, because one count is the whole process's.
#[test]
fn the_decode_loop_allocates_nothing() {
    let greedy = SamplerOptions { temperature: 0.0, ..SamplerOptions::default() };
    let cases = [
        (EmbdType::F16, 5000, Placement::Map),  // the screened head
        (EmbdType::F16, 5000, Placement::Copy), // and weights of our own
        (EmbdType::F16, 5000, Placement::Tri5), // five to a byte
        (EmbdType::F16, 300, Placement::Auto),  // too small to be screened
        (EmbdType::F32, 300, Placement::Auto),  // expanded row by row
    ];
    for (embd, n_vocab, placement) in cases {
        let folder = tempfile::tempdir().unwrap();
        let model = model(&folder, embd, n_vocab, placement);
        for sampling in [greedy.clone(), SamplerOptions::default()] {
            let what = format!("{embd:?} head of {n_vocab} rows, {placement:?}, {sampling:?}");
            assert_eq!(allocations(&model, 1, &sampling), 0, "{what}, one thread");
            // The queue through which a caller enters the pool takes memory for every 63 entries, and a thread
            // that comes to its first piece late makes its scratch late. What a step itself allocates would come
            // once for every token at least.
            let n = allocations(&model, 2, &sampling);
            assert!(n < COUNTED / 4, "{what}, two threads: {n} allocations for {COUNTED} tokens");
        }
    }
}
