//! What a session's products need beside what they read and write.

use crate::pages::Lines;

/// The working memory of one session's products, and what of them was skipped.
#[derive(Debug, Default)]
pub struct Workspace {
    /// `[n_threads, rows]`, with rows filled up to whole lines: what each thread has of each sum of columns.
    pub(super) sums: Lines<i32>,
    /// `[rows]`: what they come to.
    pub(super) products: Lines<f32>,
    /// What kernels make of the rows of matrices that many tokens are multiplied with at a time.
    pub(super) prepared: Lines<u8>,
    skipped: Skipped,
    /// Whether the step now is of one token.
    counts: bool,
}

/// What of the layers' weights steps of one token left unread, since it could not matter, added up over steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Steps of one token.
    pub n_steps: u64,
    /// Bytes of rows behind closed gates, and of columns behind zeros.
    pub n_bytes: u64,
}

impl Skipped {
    /// Bytes that a step left unread.
    #[must_use]
    pub fn bytes_per_step(self) -> u64 {
        self.n_bytes.checked_div(self.n_steps).unwrap_or(0)
    }
}

impl std::ops::AddAssign for Skipped {
    fn add_assign(&mut self, more: Skipped) {
        self.n_steps += more.n_steps;
        self.n_bytes += more.n_bytes;
    }
}

impl std::ops::Sub for Skipped {
    type Output = Skipped;

    /// What came since `before`.
    fn sub(self, before: Skipped) -> Skipped {
        Skipped { n_steps: self.n_steps - before.n_steps, n_bytes: self.n_bytes - before.n_bytes }
    }
}

impl Workspace {
    /// With room for so many bytes of prepared rows; `None` if there is none.
    #[must_use]
    pub fn with_room(n_bytes: usize) -> Option<Workspace> {
        Some(Workspace { prepared: Lines::zeroed(n_bytes)?, ..Workspace::default() })
    }

    /// What was skipped so far.
    #[must_use]
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }

    /// A step of `n` tokens begins.
    pub fn step(&mut self, n: usize) {
        self.counts = n == 1;
        self.skipped.n_steps += u64::from(self.counts);
    }

    /// So many bytes were left unread: counted in steps of one token, not where the last block of a prompt has one left.
    pub(super) fn skip(&mut self, n_bytes: u64) {
        if self.counts {
            self.skipped.n_bytes += n_bytes;
        }
    }
}
