//! The golden models: what bitnet.cpp chose, and by which logits.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking, as tests do")]

use std::path::PathBuf;
use std::process::Command;

use crate::support::{Ran, command};
use serde_json::Value;

/// Every environment variable the annotations read.
pub(crate) const SWITCHES: [&str; 4] =
    ["BITNET_PARITY", "BITNET_TRACE_QUANT", "BITNET_TRACE_TIMING", "BITNET_TRACE_FILE"];

/// The switches that are on or off; the fourth names a file.
pub(crate) const LINES: [&str; 3] = ["BITNET_PARITY", "BITNET_TRACE_QUANT", "BITNET_TRACE_TIMING"];

/// A model, and the run that bitnet.cpp made.
pub(crate) struct Golden {
    pub(crate) name: &'static str,
    /// Ids, comma-separated.
    pub(crate) prompt: String,
    pub(crate) generated: Vec<u32>,
    json: Value,
}

impl Golden {
    pub(crate) fn of(name: &'static str) -> Golden {
        let json: Value = serde_json::from_slice(&std::fs::read(file(name, "json")).unwrap()).unwrap();
        let ids = |key: &str| -> Vec<u32> {
            json[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        let prompt: Vec<String> = ids("prompt_tokens").iter().map(u32::to_string).collect();
        Golden { name, prompt: prompt.join(","), generated: ids("generated"), json }
    }

    pub(crate) fn all() -> impl Iterator<Item = Golden> {
        ["b158-tiny", "b158-small", "b158-hd96", "bitnet-tiny", "llama-tiny"].into_iter().map(Golden::of)
    }

    pub(crate) fn model(&self) -> String {
        file(self.name, "gguf")
    }

    pub(crate) fn log(&self) -> String {
        file(self.name, "json")
    }

    /// Ids and bits of the logits that token `step` was chosen by, largest first.
    pub(crate) fn top_k(&self, step: usize) -> Vec<(u32, u32)> {
        let row = self.prompt.split(',').count() - 1 + step;
        let pairs = self.json["top_k_per_position"][row].as_array().unwrap();
        let pair = |pair: &Value| {
            // By way of f64, which reads a shortest decimal of an f32 back without a second rounding.
            (pair[0].as_u64().unwrap() as u32, (pair[1].as_f64().unwrap() as f32).to_bits())
        };
        pairs.iter().map(pair).collect()
    }

    /// `bitnet run` of this model, prompt and length, greedy, without a word on stderr.
    pub(crate) fn run(&self, flags: &str, switches: &[(&str, &str)]) -> Ran {
        self.verb("run --greedy --ignore-eos --quiet", flags, switches).output().unwrap().into()
    }

    /// A verb with its flags on this model, prompt and length.
    pub(crate) fn verb(&self, verb: &str, flags: &str, switches: &[(&str, &str)]) -> Command {
        let n = self.generated.len().to_string();
        let model = self.model();
        let these = ["-m", &model, "--tokens", &self.prompt, "-n", &n];
        with_switches(verb.split_whitespace().chain(these).chain(flags.split_whitespace()), switches)
    }
}

/// `bitnet` with these switches set, and no others.
pub(crate) fn with_switches<'a>(args: impl Iterator<Item = &'a str>, switches: &[(&str, &str)]) -> Command {
    let mut command = command(args);
    for switch in SWITCHES {
        command.env_remove(switch);
    }
    command.envs(switches.iter().copied());
    command
}

fn file(name: &str, extension: &str) -> String {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../bitnet-core/tests/data/golden");
    data.join(format!("{name}.{extension}")).to_str().unwrap().to_owned()
}
