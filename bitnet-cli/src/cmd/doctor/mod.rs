//! `bitnet doctor`: what this machine has, whether its kernels are right, and what it can do.

mod machine;

use bitnet_core::kernels::{Kernels, self_test};
use bitnet_core::{Isa, probe};
use serde_json::{Value, json};

use self::machine::Machine;
use crate::args::DoctorArgs;
use crate::exit::{Failure, complain};
use crate::output::Output;
use crate::progress::Progress;
use crate::receipt::cpu_model;

/// BitNet b1.58 2B-4T, the model the estimate is for: 30 layers, `n_embd` 2560, `n_ff` 6912, 20 query and 5 key-value
/// heads of 128, 128256 tokens.
const N_TERNARY: f64 = 30.0 * (2.0 * 2560.0 * 2560.0 + 2.0 * 640.0 * 2560.0 + 3.0 * 2560.0 * 6912.0);
/// Two bits for each ternary weight, and the F16 head: what one decoded token reads.
const DECODE_BYTES: f64 = N_TERNARY / 4.0 + 128_256.0 * 2560.0 * 2.0;

/// What was found out.
struct Diagnosis {
    cpu: String,
    machine: Machine,
    /// Every instruction set there are kernels for, best first: `None` if it is not on this CPU.
    kernels: Vec<(Isa, Option<Result<(), String>>)>,
    n_threads: usize,
    read_bytes_per_s: f64,
    multiplies_per_s: f64,
}

/// Looks, tests, measures, tells.
pub(crate) fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    let machine = Machine::look();
    let n_threads = args.n_threads.unwrap_or(machine.n_usable);
    let mut progress = Progress::new("examining".into());
    let mut show = |step| {
        if let Some(progress) = &mut progress {
            progress.show(step, 3);
        }
    };
    show(0);
    let kernels = Isa::ALL.into_iter().rev().map(|isa| (isa, examine(isa))).collect();
    show(1);
    let read_bytes_per_s = probe::read_bandwidth(n_threads)?;
    show(2);
    let multiplies_per_s = probe::multiply_rate(n_threads)?;
    drop(progress);
    let found =
        Diagnosis { cpu: cpu_model(), machine, kernels, n_threads, read_bytes_per_s, multiplies_per_s };
    Output::stdout().all(&if args.json { format!("{:#}\n", found.json()) } else { found.text() })?;
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
    fn decode_tok_per_s(&self) -> f64 {
        self.read_bytes_per_s / DECODE_BYTES
    }

    fn prefill_tok_per_s(&self) -> f64 {
        self.multiplies_per_s / N_TERNARY
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
        text += &format!("read      {:.1} GB/s from memory, {threads}\n", self.read_bytes_per_s / 1e9);
        text += &format!(
            "multiply  {:.0} G int8 multiply-adds/s by the {} matrix kernel on cached data, {threads}\n",
            self.multiplies_per_s / 1e9,
            Kernels::detect().ternary_name()
        );
        text + &format!(
            "estimate  BitNet b1.58 2B-4T on this machine, if nothing else limits it: decode {:.1} tokens/s\n\
             \x20         ({:.2} GB read for each), prefill {:.0} tokens/s ({:.2} G multiply-adds for each)\n",
            self.decode_tok_per_s(),
            DECODE_BYTES / 1e9,
            self.prefill_tok_per_s(),
            N_TERNARY / 1e9
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
            "threads": self.n_threads,
            "read_bytes_per_s": self.read_bytes_per_s,
            "multiplies_per_s": self.multiplies_per_s,
            "estimate": {
                "model": "BitNet b1.58 2B-4T, F16 head",
                "bytes_per_token": DECODE_BYTES,
                "decode_tok_per_s": self.decode_tok_per_s(),
                "prefill_tok_per_s": self.prefill_tok_per_s(),
            },
        })
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}
