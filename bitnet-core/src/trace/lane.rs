//! Where spans are kept: a lane per thread, which only that thread writes and anyone may read.
//!
//! A lane is a list of chunks of 64-bit words, all atomics, so that reading a lane while its thread still
//! works is safe and needs no lock on the thread's side; on x86 the stores are plain moves. [`packed`]
//! draws a span's words. The length is filled in when the span closes, so a span that began is always
//! complete, however full the memory; what no longer fits is counted. Memory: at most [`MAX_CHUNKS`] chunks
//! over all threads. A page touched for the first time costs as much as forty spans, so the first chunks are
//! [prepared](prepare) before the first span.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard};

use super::clock;
use super::packed::{self, Kept};
use super::span::{Site, Value};

/// 64 KiB.
const CHUNK_WORDS: usize = 8192;

/// 128 MiB: about four million spans of two fields, or ten thousand tokens of a 30-layer model.
pub(super) const MAX_CHUNKS: usize = 2048;

/// 16 MiB, half a million spans of two fields: about 7 ms of page faults.
const PREPARED_CHUNKS: usize = 256;

/// Sites with sums in a profile; the engine has some dozens.
const MAX_SITES: usize = 256;

/// One thread's spans.
#[derive(Debug)]
pub(super) struct Lane {
    /// From 0, in order of first recording.
    pub(super) number: usize,
    /// Its first thread's name.
    pub(super) thread: String,
    chunks: Mutex<Vec<Arc<Chunk>>>,
    sums: Box<[Sums]>,
}

#[derive(Debug)]
struct Chunk {
    words: [AtomicU64; CHUNK_WORDS],
    used: AtomicUsize,
}

impl Chunk {
    /// Every page of it touched.
    fn new() -> Arc<Chunk> {
        Arc::new(Chunk { words: [const { AtomicU64::new(0) }; CHUNK_WORDS], used: AtomicUsize::new(0) })
    }
}

/// What a profile knows of one site on one thread.
#[derive(Debug, Default)]
struct Sums {
    calls: AtomicU64,
    ticks: AtomicU64,
    own_ticks: AtomicU64,
    /// Of the fields at [`Site::counted_at`].
    counted: [AtomicU64; 2],
}

/// Only the lane's thread writes, so load and store need not be one operation.
fn add(sum: &AtomicU64, more: u64) {
    sum.store(sum.load(Relaxed).wrapping_add(more), Relaxed);
}

static LANES: Mutex<Vec<Arc<Lane>>> = Mutex::new(Vec::new());
/// Lanes whose thread has ended; the next thread continues one, so many short threads need few lanes.
static FREE: Mutex<Vec<Arc<Lane>>> = Mutex::new(Vec::new());
/// Chunks no lane has taken yet.
static PREPARED: Mutex<Vec<Arc<Chunk>>> = Mutex::new(Vec::new());
static CHUNKS: AtomicUsize = AtomicUsize::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Every lane there is.
pub(super) fn lanes() -> Vec<Arc<Lane>> {
    locked(&LANES).clone()
}

/// Touches the memory of the first chunks, so that no span has to.
pub(super) fn prepare() {
    let mut prepared = locked(&PREPARED);
    while prepared.len() < PREPARED_CHUNKS {
        prepared.push(Chunk::new());
    }
}

/// Spans that did not fit.
pub(super) fn dropped() -> u64 {
    DROPPED.load(Relaxed)
}

/// A thread's hold on its lane.
struct Writer {
    lane: Arc<Lane>,
    /// The chunk being filled.
    chunk: Option<Arc<Chunk>>,
    /// Its place in the lane.
    place: u32,
    /// Ticks of the spans already closed inside the open one.
    inner: u64,
}

thread_local! {
    static WRITER: RefCell<Option<Writer>> = const { RefCell::new(None) };
}

impl Drop for Writer {
    fn drop(&mut self) {
        locked(&FREE).push(Arc::clone(&self.lane));
    }
}

/// What is wanted of a span.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// The span itself, for a file.
    pub(super) kept: bool,
    /// Its sums, for a profile.
    pub(super) summed: bool,
}

/// An open span's place, to be closed on the thread that opened it.
#[derive(Debug)]
pub(super) struct Slot {
    /// Index in the sums, if they are wanted.
    sums: Option<u32>,
    /// Chunk of the lane and word in it, if the span itself is kept.
    at: Option<(u32, u32)>,
    /// [`Writer::inner`] of the span around this one.
    inner: u64,
}

/// Opens a span on this thread. Nothing if the thread is ending.
#[inline]
pub(super) fn open(
    site: &Site,
    number: u32,
    values: &[Value<'_>],
    start: u64,
    wanted: Wanted,
) -> Option<Slot> {
    let with = |writer: &RefCell<Option<Writer>>| {
        let mut writer = writer.try_borrow_mut().ok()?;
        let writer = writer.get_or_insert_with(Writer::new);
        let sums = wanted.summed.then_some(number - 1);
        if let Some(index) = sums
            && let Some(sums) = writer.lane.sums.get(index as usize)
        {
            for (sum, at) in sums.counted.iter().zip(site.counted_at) {
                if let Some(Value::Unsigned(more)) = at.and_then(|at| values.get(at)) {
                    add(sum, *more);
                }
            }
        }
        let at = if wanted.kept { writer.keep(number, values, start) } else { None };
        Some(Slot { sums, at, inner: std::mem::take(&mut writer.inner) })
    };
    WRITER.try_with(with).ok().flatten()
}

/// Closes it.
#[inline]
pub(super) fn close(slot: &Slot, start: u64, end: u64) {
    let with = |writer: &RefCell<Option<Writer>>| {
        let Ok(mut writer) = writer.try_borrow_mut() else { return };
        let Some(writer) = writer.as_mut() else { return };
        let ticks = end.saturating_sub(start);
        if let Some(sums) = slot.sums.and_then(|index| writer.lane.sums.get(index as usize)) {
            add(&sums.calls, 1);
            add(&sums.ticks, ticks);
            add(&sums.own_ticks, ticks.saturating_sub(writer.inner));
        }
        writer.inner = slot.inner + ticks;
        if let Some((chunk, word)) = slot.at {
            writer.fill_in_length(chunk, word as usize, ticks);
        }
    };
    let _ = WRITER.try_with(with); // a thread that is ending has given its lane away
}

impl Writer {
    #[cold]
    fn new() -> Writer {
        let lane = locked(&FREE).pop().unwrap_or_else(|| {
            let thread = std::thread::current().name().unwrap_or("thread").to_owned();
            let mut lanes = locked(&LANES);
            let lane = Arc::new(Lane {
                number: lanes.len(),
                thread,
                chunks: Mutex::new(Vec::new()),
                sums: (0..MAX_SITES).map(|_| Sums::default()).collect(),
            });
            lanes.push(Arc::clone(&lane));
            lane
        });
        Writer { lane, chunk: None, place: 0, inner: 0 }
    }

    /// Writes a span without its length; nothing if memory is full.
    #[inline]
    fn keep(&mut self, number: u32, values: &[Value<'_>], start: u64) -> Option<(u32, u32)> {
        let values = &values[..values.len().min(packed::MAX_FIELDS)];
        let most = packed::most_words(values.len());
        let rest = |chunk: &Chunk| CHUNK_WORDS - chunk.used.load(Relaxed);
        let fits = self.chunk.as_ref().is_some_and(|chunk| rest(chunk) >= most);
        let has_room = number <= packed::MAX_SITE && (fits || self.next_chunk());
        if !has_room {
            DROPPED.fetch_add(1, Relaxed);
            return None;
        }
        let chunk = self.chunk.as_ref()?;
        let at = chunk.used.load(Relaxed);
        let length = packed::put(&chunk.words[at..at + most], number, start, values);
        chunk.used.store(at + length, Release);
        Some((self.place, at as u32))
    }

    #[cold]
    fn next_chunk(&mut self) -> bool {
        if CHUNKS.fetch_add(1, Relaxed) >= MAX_CHUNKS {
            CHUNKS.fetch_sub(1, Relaxed);
            return false;
        }
        let prepared = locked(&PREPARED).pop();
        let chunk = prepared.unwrap_or_else(Chunk::new);
        let mut chunks = locked(&self.lane.chunks);
        chunks.push(Arc::clone(&chunk));
        self.place = (chunks.len() - 1) as u32;
        self.chunk = Some(chunk);
        true
    }

    #[inline]
    fn fill_in_length(&self, place: u32, word: usize, ticks: u64) {
        match &self.chunk {
            Some(chunk) if self.place == place => packed::put_length(&chunk.words[word..], ticks),
            _ => self.fill_in_earlier(place, word, ticks),
        }
    }

    /// The length of a span whose chunk has been filled since.
    #[cold]
    fn fill_in_earlier(&self, place: u32, word: usize, ticks: u64) {
        if let Some(chunk) = locked(&self.lane.chunks).get(place as usize) {
            packed::put_length(&chunk.words[word..], ticks);
        }
    }
}

impl Lane {
    /// Calls `each` with every kept span, oldest first.
    pub(super) fn each_span<E>(&self, mut each: impl FnMut(Kept) -> Result<(), E>) -> Result<(), E> {
        let chunks = locked(&self.chunks).clone();
        for chunk in chunks {
            let mut words = chunk.words[..chunk.used.load(Acquire)].iter().map(|word| word.load(Relaxed));
            while let Some(span) = packed::read(&mut words, clock::zero()) {
                each(span)?;
            }
        }
        Ok(())
    }

    /// Calls, ticks, own ticks, bytes and multiply-adds of a site on this thread.
    pub(super) fn sums(&self, site: usize) -> [u64; 5] {
        match self.sums.get(site) {
            Some(Sums { calls, ticks, own_ticks, counted: [bytes, macs] }) => {
                [calls, ticks, own_ticks, bytes, macs].map(|sum| sum.load(Relaxed))
            }
            None => [0; 5],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::packed::Read;
    use super::*;

    /// One test, since the lanes and their limit are shared by the process.
    #[test]
    fn spans_come_back_whole_and_what_does_not_fit_is_counted() {
        static SITE: Site = Site::detail("test", "here", &["a", "bytes", "c", "d", "macs"]);
        const BOTH: Wanted = Wanted { kept: true, summed: true };
        let text = "\u{e9}".repeat(40); // 80 bytes, cut at 64
        let reads = [
            Read::Signed(-3),
            Read::Unsigned(7),
            Read::Float(f64::NEG_INFINITY),
            Read::Text("\u{e9}".repeat(32)),
            Read::Unsigned(11),
        ];
        let zero = clock::zero();
        let span = |start, ticks| Kept { site: 0, start, ticks: Some(ticks), fields: reads.to_vec() };

        // A thread leaves room for one chunk more than it takes to hold an open span across a chunk's end.
        let work = move || {
            let text = text; // moved in, and borrowed by the values
            let values = [
                Value::Signed(-3),
                Value::Unsigned(7),
                Value::Float(f64::NEG_INFINITY),
                Value::Text(&text),
                Value::Unsigned(11),
            ];
            CHUNKS.fetch_add(MAX_CHUNKS - 2, Relaxed);
            let outer = open(&SITE, 1, &values, zero + 10, BOTH).unwrap();
            let mut kept = 1;
            for start in zero + 20.. {
                let inner = open(&SITE, 1, &values, start, BOTH).unwrap();
                close(&inner, start, start + 1);
                if inner.at.is_none() {
                    break;
                }
                kept += 1;
            }
            let unwanted = open(&SITE, 1, &[], zero + 30, Wanted { kept: false, summed: true }).unwrap();
            close(&unwanted, zero + 30, zero + 31);
            close(&outer, zero + 10, zero + 90_000);
            CHUNKS.fetch_sub(MAX_CHUNKS - 2, Relaxed);
            kept
        };
        let kept: u64 =
            std::thread::Builder::new().name("worker".to_owned()).spawn(work).unwrap().join().unwrap();
        assert_eq!(dropped(), 1);

        let lanes = lanes();
        assert_eq!((lanes.len(), lanes[0].number, lanes[0].thread.as_str()), (1, 0, "worker"));
        let mut found = Vec::new();
        let keep_it = |span| {
            found.push(span);
            Result::<(), ()>::Ok(())
        };
        lanes[0].each_span(keep_it).unwrap();
        assert_eq!(found.len() as u64, kept);
        assert_eq!(found[0], span(10, 89_990));
        assert_eq!(found[1], span(20, 1));
        assert_eq!(found[found.len() - 1], span(18 + kept, 1));

        // Sums hold every span, kept or not: the outer one, those inside, the one dropped, the one unwanted.
        let [calls, ticks, own, bytes, macs] = lanes[0].sums(0);
        assert_eq!((calls, bytes, macs), (kept + 2, 7 * (kept + 1), 11 * (kept + 1)));
        assert_eq!((ticks, own), (89_990 + kept + 1, 89_990));

        // The thread is gone; the next one continues its lane.
        let next = move || open(&SITE, 1, &[], zero + 95_000, BOTH).is_some();
        assert!(std::thread::spawn(next).join().unwrap());
        assert_eq!(super::lanes().len(), 1);
    }
}
