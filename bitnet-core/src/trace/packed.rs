//! A span in 64-bit words:
//!
//! ```text
//! word 0    site number: 16 bits | start, the low 48 bits of the clock
//! word 1    length in ticks, 0 while open: 40 bits | number of fields: 4 bits | their kinds: 10 x 2 bits
//! then, per field: a number in one word; or a text's length in bytes, and its bytes in words
//! ```
//!
//! Small, because fresh memory costs more than the words written to it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::span::Value;

/// Bytes kept of a text field: a tensor's name.
const MAX_TEXT: usize = 64;

/// Words before the fields.
const HEAD: usize = 2;

/// Bits of the two head words. At 3 GHz a trace may last a day and a span six minutes.
const SITE_BITS: u32 = 16;
/// The largest site number that can be kept.
pub(super) const MAX_SITE: u32 = (1 << SITE_BITS) - 1;
/// The start's bits: differences of starts are exact, though a counter that has run for long has more.
const MAX_START: u64 = u64::MAX >> SITE_BITS;
const LENGTH_BITS: u32 = 40;
const MAX_LENGTH: u64 = (1 << LENGTH_BITS) - 1;
const KINDS_AT: u32 = LENGTH_BITS + 4;

/// Fields that are kept; the macro allows no more.
pub(super) const MAX_FIELDS: usize = 10;

/// The kinds of fields.
const UNSIGNED: u64 = 0;
const SIGNED: u64 = 1;
const FLOAT: u64 = 2;
const TEXT: u64 = 3;

/// Words a span with so many fields takes if all are long texts. Cheaper to ask for than what it will take.
pub(super) fn most_words(n_fields: usize) -> usize {
    HEAD + n_fields * (1 + MAX_TEXT / 8)
}

/// Writes an open span into the first of `words`, of which there are [`most_words`], and returns how many
/// it took.
#[inline]
pub(super) fn put(words: &[AtomicU64], site: u32, start: u64, values: &[Value<'_>]) -> usize {
    let mut shape = values.len() as u64;
    let mut at = HEAD;
    for (i, value) in values.iter().enumerate() {
        let (kind, word) = match *value {
            Value::Unsigned(n) => (UNSIGNED, n),
            Value::Signed(n) => (SIGNED, n.cast_unsigned()),
            Value::Float(x) => (FLOAT, x.to_bits()),
            Value::Text(text) => (TEXT, put_text(&words[at + 1..], text)),
        };
        words[at].store(word, Relaxed);
        shape |= kind << (4 + 2 * i);
        at += if kind == TEXT { 1 + (word as usize).div_ceil(8) } else { 1 };
    }
    words[0].store(u64::from(site) | start << SITE_BITS, Relaxed);
    words[1].store(shape << LENGTH_BITS, Relaxed);
    at
}

/// Writes a text's first bytes and returns how many.
fn put_text(words: &[AtomicU64], text: &str) -> u64 {
    let bytes = &text.as_bytes()[..text.len().min(MAX_TEXT)];
    for (word, bytes) in words.iter().zip(bytes.chunks(8)) {
        let mut eight = [0; 8];
        eight[..bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_le_bytes(eight), Relaxed);
    }
    bytes.len() as u64
}

/// Closes the open span that begins with `words`.
pub(super) fn put_length(words: &[AtomicU64], ticks: u64) {
    let shape = words[1].load(Relaxed); // only its own thread writes a span
    words[1].store(shape | ticks.clamp(1, MAX_LENGTH), Relaxed);
}

/// A kept span, read back.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept {
    /// Index of the site in [`sites`](super::span::sites).
    pub(super) site: usize,
    /// Ticks since the clock was calibrated.
    pub(super) start: u64,
    /// Nothing if it was still open.
    pub(super) ticks: Option<u64>,
    pub(super) fields: Vec<Read>,
}

/// A field, read back.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Read {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
}

/// The next span of a clock that was calibrated at `zero`; nothing at the end.
pub(super) fn read(words: &mut impl Iterator<Item = u64>, zero: u64) -> Option<Kept> {
    let (head, shape) = (words.next()?, words.next()?);
    let ticks = shape & MAX_LENGTH;
    let n_fields = shape >> LENGTH_BITS & 0xf;
    let kinds = shape >> KINDS_AT;
    let fields = (0..n_fields).map(|i| read_field(kinds >> (2 * i) & 3, words)).collect::<Option<_>>()?;
    let site = (head & ((1 << SITE_BITS) - 1)) as usize - 1;
    let start = (head >> SITE_BITS).wrapping_sub(zero) & MAX_START;
    Some(Kept { site, start, ticks: (ticks != 0).then_some(ticks), fields })
}

fn read_field(kind: u64, words: &mut impl Iterator<Item = u64>) -> Option<Read> {
    let word = words.next()?;
    Some(match kind {
        UNSIGNED => Read::Unsigned(word),
        SIGNED => Read::Signed(word.cast_signed()),
        FLOAT => Read::Float(f64::from_bits(word)),
        _ => {
            let mut bytes = Vec::new();
            for _ in 0..word.div_ceil(8) {
                bytes.extend(words.next()?.to_le_bytes());
            }
            bytes.truncate(word as usize);
            Read::Text(String::from_utf8_lossy(&bytes).into_owned())
        }
    })
}
