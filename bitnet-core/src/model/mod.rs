//! A file's claims, checked, become typed weights.
//!
//! - [`config`]: hyperparameters, validated together
//! - [`weights`]: tensor names to fields, every shape checked once
//! - [`matrix`]: one weight matrix and its product
//! - [`operand`]: activations in the forms that matrices read
//! - [`head`]: the largest logits, found without reading the whole output head

pub mod config;
pub mod head;
pub mod matrix;
pub mod operand;
pub mod weights;

use std::path::Path;
use std::sync::{Arc, OnceLock};

pub use config::{Activation, Arch, Config, MAX_POSITIONS};
pub use head::{Screen, Sifted};
pub use matrix::{Matrix, Skipped};
use weights::Layer;
pub use weights::Weights;

use crate::error::Result;
use crate::gguf::{Access, Gguf};
use crate::kernels::{Isa, Kernels};
use crate::quant::ternary::Reading;
use crate::team::Team;

/// How a model is loaded.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Instruction set; by default the best this CPU has.
    pub isa: Option<Isa>,
    /// Whether the file is mapped or read.
    pub access: Access,
    /// Where ternary weights lie in memory.
    pub placement: Placement,
    /// Threads that sessions will use; [`Placement::Auto`] measures with as many, since more threads saturate memory
    /// sooner. By default one for each processor this process may use.
    pub n_threads: Option<usize>,
    /// What the file does not say about its ternary tensors.
    pub reading: Reading,
}

/// Where ternary weights lie in memory. Results do not depend on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Placement {
    /// On Linux, for a mapped file with more weights than caches hold: [`Placement::Copy`] or [`Placement::Tri5`],
    /// whichever is measured to be multiplied faster. Otherwise [`Placement::Map`].
    #[default]
    Auto,
    /// Where the file has them: nothing is copied, and processes with the same model share its memory.
    Map,
    /// In large pages of our own, still two bits each; the file's pages are given back. Costs a moment at load, and
    /// the memory is private. With squared ReLU the down projection is copied by columns, too, a quarter more.
    Copy,
    /// As [`Placement::Copy`], but five weights to a byte: a fifth less to read for each token, and more to compute.
    Tri5,
}

/// A model: shared, immutable, usable by any number of sessions.
#[derive(Debug)]
pub struct Model {
    gguf: Arc<Gguf>,
    kernels: &'static Kernels,
    config: Config,
    weights: Weights,
    placement: Placement,
    screen: OnceLock<Option<Screen>>,
}

impl Model {
    /// Opens a GGUF file (or the first of its shards) and checks everything a step relies on.
    ///
    /// # Errors
    /// If the file cannot be read, is malformed or unsupported, or the instruction set is absent.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Model> {
        Model::from_gguf(Gguf::open(path, options.access)?, options)
    }

    /// As [`Model::load`], from a file that is already open.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_gguf(gguf: Gguf, options: &LoadOptions) -> Result<Model> {
        let kernels = options.isa.map_or_else(|| Ok(Kernels::detect()), Kernels::for_isa)?;
        let gguf = Arc::new(gguf);
        let mut config = Config::from_gguf(&gguf)?;
        let mut weights = Weights::from_gguf(&gguf, kernels, &options.reading, &mut config)?;
        let mapped = options.access == Access::Map;
        let placement = weights.place(options.placement, mapped, options.n_threads, kernels)?;
        Ok(Model { gguf, kernels, config, weights, placement, screen: OnceLock::new() })
    }

    /// The open file.
    #[must_use]
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// The kernels every product uses.
    #[must_use]
    pub fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// Hyperparameters.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    #[cfg(test)]
    fn weights_mut(&mut self) -> &mut Weights {
        &mut self.weights
    }

    /// The weights.
    #[must_use]
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Where the ternary weights are; never [`Placement::Auto`], but what it chose.
    #[must_use]
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// The screen of the output head, made by the first session that wants one; `None` if this head has none.
    pub fn screen(&self, team: &Team) -> Option<&Screen> {
        let new = || {
            let screen = Screen::new(self.weights.head(), team, self.kernels);
            if screen.is_some() {
                self.weights.head().release(); // all of it was read; from now on only a few rows are
            }
            screen
        };
        self.screen.get_or_init(new).as_ref()
    }

    /// Bytes of weights a decode step reads, averaged over the steps counted in `skipped` and, with the screened head,
    /// in `sifted`.
    #[must_use]
    pub fn decode_bytes(&self, head: WantedLogits, sifted: Sifted, skipped: Skipped) -> u64 {
        let layers: u64 = self.weights.layers.iter().flat_map(|l| l.matrices()).map(Matrix::n_bytes).sum();
        let layers = layers.saturating_sub(skipped.bytes_per_step());
        let screen =
            if head == WantedLogits::All { None } else { self.screen.get().and_then(Option::as_ref) };
        let head = screen.and_then(|screen| screen.bytes_read(sifted).checked_div(sifted.n_steps));
        layers + head.unwrap_or_else(|| self.weights.head().n_bytes())
    }

    /// Multiply-adds that a prompt of `n` tokens takes in the layers' matrices: nearly all of prefill, attention apart.
    /// The last block's matrices after attention count for the last token only.
    #[must_use]
    pub fn prompt_macs(&self, n: usize) -> u64 {
        let macs = |m: &Matrix| m.rows() as u64 * m.cols() as u64;
        let layers = &self.weights.layers;
        let of_token: u64 = layers.iter().flat_map(Layer::matrices).map(macs).sum();
        let after_attention = layers.last().into_iter().flat_map(Layer::matrices_after_attention);
        n as u64 * of_token - n.saturating_sub(1) as u64 * after_attention.map(macs).sum::<u64>()
    }
}

/// Which logits a step computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedLogits {
    /// Every one.
    All,
    /// This many of the largest, and every tie with the last of them; any other may be minus infinity.
    Top(usize),
}
