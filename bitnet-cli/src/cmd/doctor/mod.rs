//! `bitnet doctor`: what this machine has, whether its kernels are right, and what it can do.

mod machine;

use bitnet_core::kernels::{Kernels, self_test};
use bitnet_core::ops::screen::ShadowRow;
use bitnet_core::{Isa, probe};
use serde_json::{Value, json};

use self::machine::Machine;
use crate::args::DoctorArgs;
use crate::exit::{Failure, complain};
use crate::output::Output;
use crate::progress::Progress;
use crate::receipt::cpu_model;

/// How often the bandwidth is measured: enough to see whether it is steady.
const READINGS: usize = 3;

/// The model the estimate is for.
struct Shape {
    n_layer: usize,
    n_embd: usize,
    n_ff: usize,
    n_head: usize,
    n_head_kv: usize,
    n_vocab: usize,
}

/// BitNet b1.58 2B-4T.
const MODEL: Shape =
    Shape { n_layer: 30, n_embd: 2560, n_ff: 6912, n_head: 20, n_head_kv: 5, n_vocab: 128_256 };

impl Shape {
    /// Ternary weights, each of which meets one int8 activation of a token.
    fn n_ternary(&self) -> usize {
        let n_kv = self.n_embd / self.n_head * self.n_head_kv;
        self.n_layer * self.n_embd * (2 * self.n_embd + 2 * n_kv + 3 * self.n_ff)
    }

    /// Bytes that a decoded token reads at least, and usually: two bits for each ternary weight, and of the head's
    /// shadow the four-bit plane and what is kept of each row.
    fn usual_bytes(&self) -> usize {
        self.n_ternary() / 4 + self.n_vocab * (self.n_embd / 2 + size_of::<ShadowRow>())
    }

    /// The same where four bits decide no row: the two-bit plane, too. Of the F16 head itself, a few rows are read.
    fn most_bytes(&self) -> usize {
        self.usual_bytes() + self.n_vocab * self.n_embd / 4
    }
}

/// What was found out.
struct Diagnosis {
    cpu: String,
    machine: Machine,
    /// Every instruction set there are kernels for, best first: `None` if it is not on this CPU.
    kernels: Vec<(Isa, Option<Result<(), String>>)>,
    n_threads: usize,
    /// Bytes per second, in ascending order.
    read: [f64; READINGS],
    multiplies_per_s: f64,
}

/// Looks, tests, measures, tells.
pub(crate) fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    let machine = Machine::look();
    let n_threads = args.n_threads.unwrap_or(machine.n_usable);
    let mut progress = if args.quiet { None } else { Progress::new("examining".into()) };
    let mut show = |step| {
        if let Some(progress) = &mut progress {
            progress.show(step, 2 + READINGS as u64);
        }
    };
    show(0);
    let kernels = Isa::ALL.into_iter().rev().map(|isa| (isa, examine(isa))).collect();
    let mut read = [0.0; READINGS];
    for (step, reading) in (1..).zip(&mut read) {
        show(step);
        *reading = probe::read_bandwidth(n_threads)?;
    }
    read.sort_by(f64::total_cmp);
    show(1 + READINGS as u64);
    let multiplies_per_s = probe::multiply_rate(n_threads)?;
    drop(progress);
    let found = Diagnosis { cpu: cpu_model(), machine, kernels, n_threads, read, multiplies_per_s };
    Output::stdout().before_verdict(&if args.json {
        format!("{:#}\n", found.json())
    } else {
        found.text()
    })?;
    let mut ill = false;
    for (_, result) in &found.kernels {
        if let Some(Err(why)) = result {
            complain(why);
            ill = true;
        }
    }
    if ill { Err(Failure::Said(5)) } else { Ok(()) }
}

/// Executes the kernels of `isa`, if they are for this CPU.
fn examine(isa: Isa) -> Option<Result<(), String>> {
    Kernels::for_isa(isa).ok()?;
    Some(self_test(isa).map_err(|e| e.to_string()))
}

impl Diagnosis {
    /// The median reading.
    fn read_bytes_per_s(&self) -> f64 {
        self.read[READINGS / 2]
    }

    /// Decode at this many bytes a token.
    fn decode_tok_per_s(&self, n_bytes: usize) -> f64 {
        self.read_bytes_per_s() / n_bytes as f64
    }

    fn prefill_tok_per_s(&self) -> f64 {
        self.multiplies_per_s / MODEL.n_ternary() as f64
    }

    fn text(&self) -> String {
        let Machine { n_usable, n_cores, affinity, cpu_quota, .. } = &self.machine;
        let known = |value: Option<String>| value.unwrap_or_else(|| "unknown".into());
        let mut text = format!("cpu       {}\n", self.cpu);
        text += &format!(
            "cores     {n_usable} usable; {} cores in the machine, affinity {}, cgroup {}\n",
            known(n_cores.map(|n| n.to_string())),
            known(affinity.clone()),
            cpu_quota.map_or_else(|| "without a limit".into(), |quota| format!("grants {quota:.2}"))
        );
        text += &format!(
            "memory    {}, {} available, cgroup {}\n",
            known(self.machine.memory_bytes.map(gib)),
            known(self.machine.available_bytes.map(gib)),
            self.machine
                .memory_limit_bytes
                .map_or_else(|| "without a limit".into(), |bytes| format!("grants {}", gib(bytes)))
        );
        for (i, (isa, result)) in self.kernels.iter().enumerate() {
            let label = if i == 0 { "kernels" } else { "" };
            let verdict = match result {
                None => "not on this CPU or not in this build",
                Some(Err(_)) => "WRONG",
                Some(Ok(())) if *isa == Kernels::detect().isa() => {
                    "executed, right; used unless --isa says otherwise"
                }
                Some(Ok(())) => "executed, right",
            };
            text += &format!("{label:9} {:8} {verdict}\n", isa.name());
        }
        let threads = format!("{} thread{}", self.n_threads, if self.n_threads == 1 { "" } else { "s" });
        let gb_per_s = |reading: f64| format!("{:.1}", reading / 1e9);
        text += &format!(
            "read      {} GB/s from memory ({} to {} in {READINGS} readings), {threads}\n",
            gb_per_s(self.read_bytes_per_s()),
            gb_per_s(self.read[0]),
            gb_per_s(self.read[READINGS - 1])
        );
        text += &format!(
            "multiply  {:.0} G int8 multiply-adds/s by the {} kernels on cached data, {threads}\n",
            self.multiplies_per_s / 1e9,
            Kernels::detect().name()
        );
        text + &format!(
            "estimate  BitNet b1.58 2B-4T on this machine, if nothing else limits it: decode {:.1} tokens/s with the\n\
             \x20         screened head ({:.2} GB read for each; {:.1} where its four bits decide nothing, {:.2} GB),\n\
             \x20         prefill {:.0} tokens/s ({:.2} G multiply-adds for each)\n",
            self.decode_tok_per_s(MODEL.usual_bytes()),
            MODEL.usual_bytes() as f64 / 1e9,
            self.decode_tok_per_s(MODEL.most_bytes()),
            MODEL.most_bytes() as f64 / 1e9,
            self.prefill_tok_per_s(),
            MODEL.n_ternary() as f64 / 1e9
        )
    }

    fn json(&self) -> Value {
        let kernels = self.kernels.iter().map(|(isa, result)| {
            json!({
                "isa": isa.name(),
                "present": result.is_some(),
                "right": result.as_ref().map(Result::is_ok),
                "error": result.as_ref().and_then(|result| result.as_ref().err()),
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cpu": self.cpu,
            "cores": {
                "usable": self.machine.n_usable,
                "physical": self.machine.n_cores,
                "affinity": self.machine.affinity,
                "cgroup": self.machine.cpu_quota,
            },
            "memory": {
                "total_bytes": self.machine.memory_bytes,
                "available_bytes": self.machine.available_bytes,
                "cgroup_bytes": self.machine.memory_limit_bytes,
            },
            "kernels": Value::from_iter(kernels),
            "used": Kernels::detect().isa().name(),
            "table": Kernels::detect().name(),
            "threads": self.n_threads,
            "read_bytes_per_s": self.read_bytes_per_s(),
            "read_samples": self.read,
            "multiplies_per_s": self.multiplies_per_s,
            "estimate": {
                "model": "BitNet b1.58 2B-4T",
                "head": "screened",
                "bytes_per_token": MODEL.usual_bytes(),
                "bytes_per_token_most": MODEL.most_bytes(),
                "decode_tok_per_s": self.decode_tok_per_s(MODEL.usual_bytes()),
                "decode_tok_per_s_least": self.decode_tok_per_s(MODEL.most_bytes()),
                "prefill_tok_per_s": self.prefill_tok_per_s(),
            },
        })
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As published: 2.4 billion parameters, of which 0.33 are the embedding; the file is 1.19 GB.
    #[test]
    fn the_estimate_is_for_the_published_shape() {
        assert_eq!(MODEL.n_ternary(), 2_084_044_800);
        let embedding = MODEL.n_vocab * MODEL.n_embd;
        assert_eq!((MODEL.n_ternary() + embedding) / 100_000_000, 24);
        assert!((MODEL.n_ternary() / 4 + 2 * embedding).abs_diff(1_187_801_280) < 1_187_801_280 / 50);
    }

    #[test]
    fn a_token_reads_two_bits_a_weight_and_the_planes_of_the_screened_head() {
        let four_bits = 128_256 * 2560 / 2;
        assert_eq!(MODEL.usual_bytes(), 2_084_044_800 / 4 + four_bits + 128_256 * 16);
        assert_eq!(MODEL.most_bytes(), MODEL.usual_bytes() + four_bits / 2);
    }
}
