//! What an annotation leaves in an instrumented function: a [`Site`] it always has, and a [`Span`] it opens.
//!
//! Cost: unset, one relaxed load and a branch on either side of the body; recording, two clock readings and a dozen
//! stores into the thread's own [`lane`]. `benches/trace.rs` measures both and holds them to 1 and 40 ns;
//! `receipts/overhead.json` has its numbers under `spans`.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::clock;
use super::lane::{self, Slot, Wanted};
use super::lines::{Phase, phase_done};
use super::switches::{FILE_BIT, PROFILE_BIT, TIMING_BIT, on};

/// One annotated function. Lives in a `static`.
#[derive(Debug)]
pub struct Site {
    pub(super) name: &'static str,
    pub(super) module: &'static str,
    pub(super) fields: &'static [&'static str],
    /// Which fields a profile adds up: those called `bytes` and `macs`.
    pub(super) counted_at: [Option<usize>; 2],
    phase: Option<Phase>,
    /// Its number from 1, in order of first recording; 0 until then.
    id: AtomicU32,
}

/// Every site that was ever recorded; the one numbered `n` is at `n - 1`.
static SITES: Mutex<Vec<&'static Site>> = Mutex::new(Vec::new());

/// Sites by number.
pub(super) fn sites() -> Vec<&'static Site> {
    SITES.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
}

impl Site {
    const fn new(
        name: &'static str,
        module: &'static str,
        fields: &'static [&'static str],
        phase: Option<Phase>,
    ) -> Site {
        let counted_at = [position(fields, "bytes"), position(fields, "macs")];
        Site { name, module, fields, counted_at, phase, id: AtomicU32::new(0) }
    }

    /// A layer, a product, a kernel.
    #[must_use]
    pub const fn detail(name: &'static str, module: &'static str, fields: &'static [&'static str]) -> Site {
        Site::new(name, module, fields, None)
    }

    /// The phase that looks up embeddings.
    #[must_use]
    pub const fn embed_phase(
        name: &'static str,
        module: &'static str,
        fields: &'static [&'static str],
    ) -> Site {
        Site::new(name, module, fields, Some(Phase::Embed))
    }

    /// The phase that runs the layers.
    #[must_use]
    pub const fn forward_phase(
        name: &'static str,
        module: &'static str,
        fields: &'static [&'static str],
    ) -> Site {
        Site::new(name, module, fields, Some(Phase::Forward))
    }

    /// The phase that multiplies by the head.
    #[must_use]
    pub const fn logits_phase(
        name: &'static str,
        module: &'static str,
        fields: &'static [&'static str],
    ) -> Site {
        Site::new(name, module, fields, Some(Phase::Logits))
    }

    /// The phase that chooses a token, and thereby completes one.
    #[must_use]
    pub const fn sample_phase(
        name: &'static str,
        module: &'static str,
        fields: &'static [&'static str],
    ) -> Site {
        Site::new(name, module, fields, Some(Phase::Sample))
    }

    /// Opens a span. `values` are those of the site's fields, in their order.
    #[inline(never)]
    pub fn enter(&'static self, values: &[Value<'_>]) -> Span {
        let on = on();
        let wanted = Wanted { kept: on & FILE_BIT != 0, summed: on & PROFILE_BIT != 0 };
        let phase = self.phase.filter(|_| on & TIMING_BIT != 0);
        let inner = if phase.is_some() { PHASE_INNER.replace(0) } else { 0 };
        let start = clock::ticks();
        let slot = match wanted.kept || wanted.summed {
            true => lane::open(self, self.number(), values, start, wanted),
            false => None,
        };
        Span(Some(Open { phase, inner, start, slot }))
    }

    fn number(&'static self) -> u32 {
        match self.id.load(Ordering::Relaxed) {
            0 => self.register(),
            number => number,
        }
    }

    #[cold]
    fn register(&'static self) -> u32 {
        let mut sites = SITES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if self.id.load(Ordering::Relaxed) == 0 {
            sites.push(self);
            self.id.store(u32::try_from(sites.len()).expect("fewer functions than 2^32"), Ordering::Relaxed);
        }
        self.id.load(Ordering::Relaxed)
    }
}

/// Looked up when compiling, not at every span.
const fn position(fields: &[&str], name: &str) -> Option<usize> {
    let mut i = 0;
    while i < fields.len() {
        if same(fields[i].as_bytes(), name.as_bytes()) {
            return Some(i);
        }
        i += 1;
    }
    None
}

/// `a == b`, which a constant cannot say yet.
const fn same(a: &[u8], b: &[u8]) -> bool {
    match (a, b) {
        ([], []) => true,
        ([a, rest_of_a @ ..], [b, rest_of_b @ ..]) => *a == *b && same(rest_of_a, rest_of_b),
        _ => false,
    }
}

thread_local! {
    /// Ticks of the phases already closed inside the open one: a phase's time is what no inner phase claims.
    static PHASE_INNER: Cell<u64> = const { Cell::new(0) };
}

/// An open span; dropping it closes it.
#[derive(Debug)]
#[must_use = "a span ends where its guard is dropped"]
pub struct Span(Option<Open>);

#[derive(Debug)]
struct Open {
    phase: Option<Phase>,
    /// What [`PHASE_INNER`] held for the phase around this one.
    inner: u64,
    start: u64,
    slot: Option<Slot>,
}

impl Span {
    /// A span that is not recorded.
    #[inline]
    pub const fn off() -> Span {
        Span(None)
    }
}

impl Drop for Span {
    #[inline]
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            open.close();
        }
    }
}

impl Open {
    #[inline(never)]
    fn close(self) {
        let end = clock::ticks();
        if let Some(slot) = self.slot {
            lane::close(&slot, self.start, end);
        }
        if let Some(phase) = self.phase {
            let whole = end.saturating_sub(self.start);
            let inner = PHASE_INNER.replace(self.inner + whole);
            phase_done(phase, whole.saturating_sub(inner));
        }
    }
}

/// A field's value: what can be kept in a few words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Unsigned, and `bool` as 0 or 1.
    Unsigned(u64),
    /// Signed.
    Signed(i64),
    /// A number with a fraction.
    Float(f64),
    /// Text; only its first 64 bytes are kept.
    Text(&'a str),
}

/// What may be recorded with a span: numbers, `bool` and text.
pub trait Field {
    /// The value, borrowed.
    fn field(&self) -> Value<'_>;
}

macro_rules! number_fields {
    ($($variant:ident($wide:ty): $($t:ty)*;)*) => {
        $($(impl Field for $t {
            #[inline]
            fn field(&self) -> Value<'_> {
                Value::$variant(*self as $wide) // always widening
            }
        })*)*
    };
}

number_fields! {
    Unsigned(u64): u8 u16 u32 u64 usize bool;
    Signed(i64): i8 i16 i32 i64 isize;
    Float(f64): f32 f64;
}

impl Field for str {
    fn field(&self) -> Value<'_> {
        Value::Text(self)
    }
}

impl Field for String {
    fn field(&self) -> Value<'_> {
        Value::Text(self)
    }
}

impl<T: Field + ?Sized> Field for &T {
    fn field(&self) -> Value<'_> {
        (**self).field()
    }
}
