//! One row of a benchmark: what is measured, and its samples.

use std::fmt;
use std::time::Duration;

use bitnet_core::model::{Sifted, Skipped};
use serde_json::{Value, json};

use super::ceiling::Ceilings;
use super::stats::Stats;

/// What one row measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    /// Prefill of this many tokens.
    Prefill(usize),
    /// Decode of this many tokens, one by one.
    Decode(usize),
}

/// A row: a test under its circumstances.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) test: Test,
    /// Positions in the context before the clock starts.
    pub(super) depth: usize,
    pub(super) n_threads: usize,
    /// One duration per repetition.
    pub(super) samples: Vec<Duration>,
    /// What the screened head did in them.
    pub(super) sifted: Sifted,
    /// What of the layers' weights was left unread in them, since it could not matter.
    pub(super) skipped: Skipped,
    /// Bytes of weights that one decode step read.
    pub(super) bytes_per_token: u64,
    /// Multiply-adds of a sample in the layers' matrices.
    pub(super) macs: u64,
}

/// What all rows of a run share.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) model: String,
    pub(super) model_bytes: u64,
    pub(super) isa: String,
    /// Which of the instruction set's tables.
    pub(super) kernels: &'static str,
    /// Where the ternary weights are, in the words of `--weights`: of `auto`, what it chose.
    pub(super) weights: &'static str,
    pub(super) n_batch: usize,
    pub(super) cpu: String,
    /// `screened` or `full`.
    pub(super) head: &'static str,
    pub(super) ceilings: Ceilings,
    pub(super) load: Load,
}

/// What it took to be ready.
#[derive(Debug)]
pub(super) struct Load {
    /// From opening the file to a model that can be used.
    pub(super) model: Duration,
    /// From opening the file to the logits after a first token, everything that is prepared for decoding included.
    pub(super) first_token: Duration,
    /// Memory that was resident then, mapped pages of the file included; unknown outside Linux.
    pub(super) resident_bytes: Option<u64>,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.first_token.as_secs_f64();
        write!(f, "load: {:.2} s, with a first token {seconds:.2} s", self.model.as_secs_f64())?;
        self.resident_bytes.map_or(Ok(()), |n| write!(f, ", {} MiB resident", n >> 20))
    }
}

impl Row {
    /// Rows for every combination, prefill first, in the order the lists were given.
    pub(super) fn plan(n_prompt: &[usize], n_gen: &[usize], depths: &[usize], threads: &[usize]) -> Vec<Row> {
        let mut rows = Vec::new();
        for &n_threads in threads {
            for &depth in depths {
                let prefill = n_prompt.iter().map(|&n| Test::Prefill(n));
                let decode = n_gen.iter().map(|&n| Test::Decode(n));
                let tests = prefill.chain(decode).filter(|test| test.n_tokens() > 0);
                rows.extend(tests.map(|test| Row {
                    test,
                    depth,
                    n_threads,
                    samples: Vec::new(),
                    sifted: Sifted::default(),
                    skipped: Skipped::default(),
                    bytes_per_token: 0,
                    macs: 0,
                }));
            }
        }
        rows
    }

    /// `pp128`, `tg32`, `tg32 @ d512`.
    pub(super) fn name(&self) -> String {
        let name = match self.test {
            Test::Prefill(n) => format!("pp{n}"),
            Test::Decode(n) => format!("tg{n}"),
        };
        if self.depth == 0 { name } else { format!("{name} @ d{}", self.depth) }
    }

    /// Positions the context must hold.
    pub(super) fn n_ctx(&self) -> usize {
        self.depth + self.test.n_tokens()
    }

    /// Tokens per second, one number per repetition.
    pub(super) fn tok_per_s(&self) -> Vec<f64> {
        // A clock that did not move would make a speed without end; a nanosecond is below every clock's step.
        let seconds = self.samples.iter().map(|sample| sample.as_secs_f64().max(1e-9));
        seconds.map(|seconds| self.test.n_tokens() as f64 / seconds).collect()
    }

    /// Statistics of [`tok_per_s`](Self::tok_per_s).
    pub(super) fn stats(&self) -> Stats {
        Stats::of(&self.tok_per_s())
    }

    /// Weight bytes read per second by the median sample, in GB/s. Prefill reads them once per batch, not per
    /// token: no number is better than a wrong one.
    pub(super) fn gb_per_s(&self) -> Option<f64> {
        let Test::Decode(_) = self.test else { return None };
        Some(self.stats().median * self.bytes_per_token as f64 / 1e9)
    }

    /// Rows of the head per token that four bits did not decide, and that six did not; of decode with the screened one.
    fn sifted_per_token(&self) -> Option<(f64, f64)> {
        let Test::Decode(_) = self.test else { return None };
        let Sifted { n_steps, n_refined, n_evaluated, .. } = self.sifted;
        (n_steps > 0).then(|| (n_refined as f64 / n_steps as f64, n_evaluated as f64 / n_steps as f64))
    }

    /// Multiply-adds of the layers' matrices per second by the median sample, in GMAC/s; of prefill only.
    pub(super) fn gmac_per_s(&self) -> Option<f64> {
        let Test::Prefill(n) = self.test else { return None };
        Some(self.stats().median * (self.macs as f64 / n as f64) / 1e9)
    }

    /// The row in llama-bench's keys, then ours.
    pub(super) fn json(&self, subject: &Subject) -> Value {
        let ceiling = subject.ceilings.of(self.n_threads);
        let speed = self.stats();
        let ns: Vec<u64> =
            self.samples.iter().map(|s| u64::try_from(s.as_nanos()).unwrap_or(u64::MAX)).collect();
        let time = Stats::of(&ns.iter().map(|&ns| ns as f64).collect::<Vec<_>>());
        let (n_prompt, n_gen) = self.test.lengths();
        json!({
            "test": self.name(),
            "model_filename": subject.model,
            "model_size": subject.model_bytes,
            "cpu_info": subject.cpu,
            "n_batch": subject.n_batch,
            "n_threads": self.n_threads,
            "n_prompt": n_prompt,
            "n_gen": n_gen,
            "n_depth": self.depth,
            "avg_ns": time.mean.round() as u64,
            "stddev_ns": time.stddev.round() as u64,
            "avg_ts": speed.mean,
            "stddev_ts": speed.stddev,
            "samples_ns": ns,
            "samples_ts": self.tok_per_s(),
            "median_ts": speed.median,
            "min_ts": speed.min,
            "max_ts": speed.max,
            "isa": subject.isa,
            "kernels": subject.kernels,
            "weights": subject.weights,
            "head": subject.head,
            "head_rows_refined_per_token": self.sifted_per_token().map(|(refined, _)| refined),
            "head_rows_evaluated_per_token": self.sifted_per_token().map(|(_, evaluated)| evaluated),
            "bytes_skipped_per_token": self.gb_per_s().map(|_| self.skipped.bytes_per_step()),
            "bytes_per_token": self.gb_per_s().map(|_| self.bytes_per_token),
            "gb_per_s": self.gb_per_s(),
            "macs_per_token": self.macs / self.test.n_tokens() as u64,
            "gmac_per_s": self.gmac_per_s(),
            "ceiling_gb_per_s": ceiling.map(|ceiling| ceiling.bytes / 1e9),
            "ceiling_gmac_per_s": ceiling.map(|ceiling| ceiling.macs / 1e9),
            "percent_of_ceiling": subject.ceilings.percent(self),
            "load_ms": subject.load.model.as_secs_f64() * 1e3,
            "first_token_ms": subject.load.first_token.as_secs_f64() * 1e3,
            "resident_bytes": subject.load.resident_bytes,
        })
    }
}

impl Test {
    pub(super) fn n_tokens(self) -> usize {
        match self {
            Test::Prefill(n) | Test::Decode(n) => n,
        }
    }

    /// `(n_prompt, n_gen)` as llama-bench counts.
    pub(super) fn lengths(self) -> (usize, usize) {
        match self {
            Test::Prefill(n) => (n, 0),
            Test::Decode(n) => (0, n),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A decode row at 100, 200 and 400 tok/s and a prefill row, on a model of 1 MB and 2 million products per token.
    pub(in crate::cmd::bench) fn example() -> (Vec<Row>, Subject) {
        let mut rows = Row::plan(&[8], &[2], &[0], &[1]);
        rows[0].samples = vec![Duration::from_millis(80)];
        rows[0].macs = 16_000_000;
        rows[1].samples = [20, 10, 5].map(Duration::from_millis).to_vec();
        rows[1].bytes_per_token = 1_000_000;
        let subject = Subject {
            model: "a,\"b\".gguf".into(),
            model_bytes: 1 << 20,
            isa: "scalar".into(),
            kernels: "scalar",
            weights: "map",
            n_batch: 512,
            cpu: "a cpu".into(),
            head: "screened",
            ceilings: Ceilings::default(),
            load: Load { model: Duration::ZERO, first_token: Duration::ZERO, resident_bytes: None },
        };
        (rows, subject)
    }

    #[test]
    fn a_plan_is_every_combination_but_not_nothing() {
        let rows = Row::plan(&[0, 128], &[32], &[0, 512], &[1, 2]);
        let names: Vec<String> =
            rows.iter().map(|row| format!("{} t{}", row.name(), row.n_threads)).collect();
        let per_thread = ["pp128", "tg32", "pp128 @ d512", "tg32 @ d512"];
        let expected: Vec<String> =
            [1, 2].iter().flat_map(|t| per_thread.map(|name| format!("{name} t{t}"))).collect();
        assert_eq!(names, expected);
        assert_eq!(rows[2].n_ctx(), 640);
    }

    #[test]
    fn speed_is_tokens_over_time_and_bandwidth_is_for_decode_only() {
        let (rows, _) = example();
        assert_eq!(rows[1].tok_per_s(), [100.0, 200.0, 400.0]);
        assert_eq!(rows[0].gb_per_s(), None);
        assert_eq!(rows[1].gb_per_s(), Some(0.2));
    }

    #[test]
    fn json_has_the_keys_of_llama_bench() {
        let (rows, subject) = example();
        let json = rows[1].json(&subject);
        assert_eq!((&json["test"], &json["n_prompt"], &json["n_gen"]), (&json!("tg2"), &json!(0), &json!(2)));
        assert_eq!(json["samples_ns"], json!([20_000_000, 10_000_000, 5_000_000]));
        assert_eq!(json["median_ts"], json!(200.0));
        for key in ["n_threads", "avg_ts", "stddev_ts", "samples_ts", "avg_ns", "stddev_ns"] {
            assert!(!json[key].is_null(), "{key}");
        }
    }
}
