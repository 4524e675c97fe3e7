//! Memory that a session's products use beside their inputs and outputs, and counters of what they skip.

use crate::pages::Lines;

/// The working memory of one session's products, and counters of the weights that they skipped.
#[derive(Debug, Default)]
pub struct Workspace {
    /// `[n_threads, rows]`, with rows padded to whole lines: each thread's partial sums over columns.
    pub(super) sums: Lines<i32>,
    /// `[rows]`: the products, once those sums are added up.
    pub(super) products: Lines<f32>,
    /// Prepared rows of the matrices that are multiplied with many tokens at the moment.
    pub(super) prepared: Lines<u8>,
    skipped: Skipped,
    /// Whether the current step is a decode step, that is of one token.
    decodes: bool,
}

/// Weights of the layers that decode steps did not have to read, since they could not matter: added up over steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Decode steps, that is steps of one token.
    pub n_steps: u64,
    /// Bytes of rows behind closed gates, and of columns behind zeros.
    pub n_bytes: u64,
}

impl Skipped {
    /// Bytes that a step left unread, on average.
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
    /// With room for `n_bytes` of prepared rows; `None` if there is no memory for them.
    #[must_use]
    pub fn with_room(n_bytes: usize) -> Option<Workspace> {
        Some(Workspace { prepared: Lines::zeroed(n_bytes)?, ..Workspace::default() })
    }

    /// Weights that decode steps did not have to read, so far.
    #[must_use]
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }

    /// A step of `n` tokens begins.
    pub fn step(&mut self, n: usize) {
        self.decodes = n == 1;
        self.skipped.n_steps += u64::from(self.decodes);
    }

    /// Counts `n_bytes` left unread, in decode steps only: not where the last block of a prompt computes a single
    /// token.
    pub(super) fn skip(&mut self, n_bytes: u64) {
        if self.decodes {
            self.skipped.n_bytes += n_bytes;
        }
    }
}
