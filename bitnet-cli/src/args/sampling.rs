//! The flags that say how to choose a token: the same for every verb that generates text.

use std::hash::{BuildHasher, RandomState};

use bitnet_core::SamplerOptions;

use super::line::Line;
use super::model::MAX_POSITIONS;
use crate::exit::Failure;

/// How to choose a token; `None` is the verb's own default.
#[derive(Debug, Default)]
pub(crate) struct Sampling {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_k: Option<usize>,
    pub(crate) top_p: Option<f32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) repeat_penalty: Option<f32>,
    pub(crate) repeat_last_n: Option<usize>,
    pub(crate) seed: Option<u64>,
    /// The seed is one that nobody chose, and has to be told.
    pub(crate) is_drawn: bool,
}

impl Sampling {
    /// Takes what the verb's flags allow; a flag the verb does not list cannot be on the line.
    pub(super) fn parse(line: &Line) -> Result<Self, Failure> {
        line.at_most_one(&["--greedy", "--temp"])?;
        // -1 is llama.cpp's: the whole context, and another seed each time.
        let repeat_last_n: Option<i64> = line.number("--repeat-last-n", -1..=MAX_POSITIONS as i64)?;
        let seed: Option<i128> = line.number("--seed", -1..=i128::from(u64::MAX))?;
        let temperature = line.number("--temp", 0.0..=100.0)?;
        Ok(Sampling {
            temperature: if line.has("--greedy") { Some(0.0) } else { temperature },
            top_k: line.number("--top-k", 0..=1 << 24)?,
            top_p: line.number("--top-p", 0.0..=1.0)?,
            min_p: line.number("--min-p", 0.0..=1.0)?,
            repeat_penalty: line.number("--repeat-penalty", 0.01..=100.0)?,
            repeat_last_n: repeat_last_n.map(|n| usize::try_from(n).unwrap_or(MAX_POSITIONS)),
            seed: seed.map(|seed| u64::try_from(seed).unwrap_or_else(|_| draw())),
            is_drawn: seed == Some(-1),
        })
    }

    /// The sampler's options: what was given, and `default` for the rest.
    pub(crate) fn or(&self, default: SamplerOptions) -> SamplerOptions {
        SamplerOptions {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(default.repeat_penalty),
            repeat_last_n: self.repeat_last_n.unwrap_or(default.repeat_last_n),
            seed: self.seed.unwrap_or(default.seed),
        }
    }
}

/// A seed that is another each time, short enough to be typed again.
fn draw() -> u64 {
    u64::from(RandomState::new().hash_one("seed") as u32)
}
