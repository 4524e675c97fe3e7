//! The switches, as a user sets them: what an instrumented binary says, and that a plain one does not pretend.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking, as tests do")]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Stdio;

use crate::golden::{Golden, LINES, with_switches};
use crate::support::{Ran, command};
use crate::tiny::tiny;
use bitnet_core::kernels::Kernels;
use bitnet_core::parity::Log;
use bitnet_core::{Isa, LoadOptions, Model};
use serde_json::Value;

const INSTRUMENTED: bool = cfg!(feature = "instrument");

/// All three switches that print lines.
const ALL: [(&str, &str); 3] =
    [("BITNET_PARITY", "1"), ("BITNET_TRACE_QUANT", "1"), ("BITNET_TRACE_TIMING", "1")];

/// Requires the one notice of a plain build, about this switch.
#[track_caller]
fn cannot_obey(ran: &Ran, switch: &str) {
    assert_eq!(
        ran.stderr,
        format!(
            "bitnet: {switch} is set, but this binary was built without `instrument` and traces nothing; \
             `cargo build --release --features instrument` builds one that does\n"
        )
    );
}

#[test]
fn unset_and_off_switches_are_silent() {
    let golden = Golden::of("b158-tiny");
    for switches in
        [&[][..], &[("BITNET_PARITY", "0"), ("BITNET_TRACE_QUANT", ""), ("BITNET_TRACE_FILE", "")]]
    {
        let ran = golden.run("", switches);
        assert_eq!((ran.code, &*ran.stderr), (Some(0), ""));
    }
}

#[test]
fn stdout_does_not_depend_on_switches() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.json");
    let golden = Golden::of("llama-tiny");
    let expected = golden.run("", &[]);
    assert!(!expected.done().is_empty());
    for switch in ALL.into_iter().chain([("BITNET_TRACE_FILE", file.to_str().unwrap())]) {
        let ran = golden.run("", &[switch]);
        assert_eq!(ran.done(), expected.stdout, "{switch:?}");
        if !INSTRUMENTED {
            cannot_obey(&ran, switch.0);
        }
    }
    assert_eq!(golden.run("", &ALL).done(), expected.stdout);
}

#[test]
fn a_garbage_value_is_refused_where_it_could_be_obeyed() {
    let golden = Golden::of("b158-tiny");
    let expected = golden.run("", &[]).stdout;
    for switch in LINES {
        let ran = golden.run("", &[(switch, "yes")]);
        if INSTRUMENTED {
            assert_eq!(ran.refused(2), format!("{switch}=yes: expected 1 (on), 0 or nothing (off)"));
        } else {
            assert_eq!(ran.done(), expected);
            cannot_obey(&ran, switch);
        }
    }
}

#[test]
fn a_trace_file_that_cannot_be_made_is_refused_at_start() {
    let file = "/no/such/folder/t.json";
    let ran = Golden::of("b158-tiny").run("", &[("BITNET_TRACE_FILE", file)]);
    if INSTRUMENTED {
        assert!(ran.refused(1).starts_with(&format!("cannot create {file}: ")), "{ran:?}");
    } else {
        ran.done();
        cannot_obey(&ran, "BITNET_TRACE_FILE");
    }
}

#[test]
fn parity_lines_are_bitnet_cpps_tokens_and_logits_bit_for_bit() {
    for golden in Golden::all() {
        let ran = golden.run("", &[("BITNET_PARITY", "1")]);
        ran.done();
        if !INSTRUMENTED {
            cannot_obey(&ran, "BITNET_PARITY");
            continue;
        }
        let log = Log::parse("stderr".as_ref(), ran.stderr.as_bytes()).unwrap();
        assert_eq!(log.skipped_lines, 0, "{}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), log.steps.len());
        let tokens: Vec<u32> = log.steps.iter().map(|step| step.token).collect();
        assert_eq!(tokens, golden.generated, "{}", golden.name);
        for (n, step) in log.steps.iter().enumerate() {
            assert_eq!(step.step, n as u64);
            let bits: Vec<(u32, u32)> = step.top_k.iter().map(|(id, logit)| (*id, logit.to_bits())).collect();
            assert_eq!(bits.len(), 10);
            assert_eq!(bits, golden.top_k(n), "{}, step {n}", golden.name);
        }
        // And by the verb that compares.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.log");
        std::fs::write(&path, &ran.stderr).unwrap();
        let compared: Ran =
            command(["parity", path.to_str().unwrap(), &golden.log()]).output().unwrap().into();
        assert!(compared.done().ends_with("\nverdict: identical\n"), "{compared:?}");
    }
}

/// Tensor, format, kernel and shape of every dispatch line; nothing else may be there.
pub(crate) fn dispatches(stderr: &str) -> Vec<[String; 4]> {
    let one = |line: &str| {
        let rest = line.strip_prefix("quant_dispatch: tensor=").unwrap_or_else(|| panic!("{line}"));
        let (tensor, rest) = rest.split_once(" format=").unwrap();
        let (format, rest) = rest.split_once(" kernel=").unwrap();
        let (kernel, shape) = rest.split_once(" shape=").unwrap();
        [tensor, format, kernel, shape].map(str::to_owned)
    };
    stderr.lines().map(one).collect()
}

#[test]
fn every_matrix_is_named_once_with_its_format_kernel_and_shape() {
    for golden in Golden::all() {
        for isa in Isa::available() {
            let ran = golden.run(&format!("--isa {isa}"), &[("BITNET_TRACE_QUANT", "1")]);
            ran.done();
            if !INSTRUMENTED {
                cannot_obey(&ran, "BITNET_TRACE_QUANT");
                continue;
            }
            let found = dispatches(&ran.stderr);
            let expected = matrices(&golden, isa);
            assert!(expected.len() >= 15, "{}: two layers of seven matrices and one more", golden.name);
            let set: BTreeSet<&[String; 4]> = found.iter().collect();
            assert_eq!(set, expected.iter().collect(), "{}, {isa}", golden.name);
            assert_eq!(found.len(), set.len(), "{}, {isa}: a tensor is named twice", golden.name);
        }
    }
}

/// What `inspect` says of the model's matrices, with the kernels of `isa`.
fn matrices(golden: &Golden, isa: Isa) -> Vec<[String; 4]> {
    let ran: Ran =
        with_switches(["inspect", &golden.model(), "--json"].into_iter(), &[]).output().unwrap().into();
    let answer: Value = serde_json::from_str(ran.done()).unwrap();
    let matrix = |tensor: &Value| {
        let format = tensor["format"].as_str()?;
        let shape: Vec<u64> = tensor["shape"].as_array()?.iter().filter_map(Value::as_u64).collect();
        let kernel = if tensor["type"] == "I2_S" { ternary_kernel(isa) } else { isa.name() };
        if Some(&isa) == Isa::available().last() {
            assert_eq!(tensor["kernel"], kernel, "inspect names the kernel of the best instruction set");
        }
        let name = tensor["name"].as_str()?;
        Some([name, format, kernel, &format!("{shape:?}")].map(str::to_owned))
    };
    answer["tensors"].as_array().unwrap().iter().filter_map(matrix).collect()
}

/// The name of the ternary kernel of `isa`.
pub(crate) fn ternary_kernel(isa: Isa) -> &'static str {
    match isa {
        Isa::Scalar => "scalar",
        Isa::Neon | Isa::Avx2 => Kernels::for_isa(isa).unwrap().ternary_name(), // one of two, as the CPU has it
        Isa::Avx512 => "avx512vnni",
    }
}

/// Microseconds of the four lines of every token; nothing else may be there.
fn phases(stderr: &str) -> Vec<[u64; 4]> {
    let lines: Vec<&str> = stderr.lines().collect();
    let token = |lines: &[&str]| {
        assert_eq!(lines.len(), 4, "{stderr}");
        std::array::from_fn(|i| {
            let prefix = ["embed", "forward", "logits", "sample"].map(|phase| format!("timing: {phase}_us="));
            let us = lines[i].strip_prefix(&prefix[i]).unwrap_or_else(|| panic!("{}", lines[i]));
            us.parse().unwrap_or_else(|e| panic!("{}: {e}", lines[i]))
        })
    };
    lines.chunks(4).map(token).collect()
}

/// The loop is measured by `run --json`: the time from the request for each token to its choice, which the
/// engine takes with the standard clock around what the four phases divide among themselves. Outside of them
/// are two checks; the lines are written after that. Other programs may interrupt between two phases, so the best
/// of several runs counts; a phase that is missing or counted twice fails them all.
#[test]
fn four_timing_lines_a_token_add_up_to_the_loop() {
    let golden = Golden::of("b158-small");
    let mut tried = Vec::new();
    for _ in 0..10 {
        let ran = golden.run("--json", &[("BITNET_TRACE_TIMING", "1")]);
        let answer: Value = serde_json::from_str(ran.done()).unwrap();
        if !INSTRUMENTED {
            cannot_obey(&ran, "BITNET_TRACE_TIMING");
            return;
        }
        let phases = phases(&ran.stderr);
        assert_eq!(phases.len(), golden.generated.len());
        let traced: u64 = phases.iter().flatten().sum();
        let ms = |phase: &str| answer["timings"][phase]["ms"].as_f64().unwrap();
        let share = traced as f64 / 1e3 / (ms("prompt") + ms("eval"));
        tried.push(share);
        if (0.98..=1.005).contains(&share) {
            return;
        }
    }
    panic!("the four phases are these shares of the loop: {tried:?}");
}

#[test]
fn the_turns_of_a_chat_are_one_log() {
    let switches = [("BITNET_PARITY", "1")];
    let model = tiny().to_str().unwrap();
    let mut chat = with_switches(["chat", "-m", model, "--greedy", "-n", "3", "-q"].into_iter(), &switches);
    let mut child = chat.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"ab\ncd\nef\n").unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.done().lines().count(), 3, "{ran:?}");
    if !INSTRUMENTED {
        cannot_obey(&ran, "BITNET_PARITY");
        return;
    }
    let log = Log::parse("stderr".as_ref(), ran.stderr.as_bytes()).unwrap();
    assert_eq!((log.steps.len(), log.steps[0].step), (9, 0), "{}", ran.stderr);
}

#[test]
fn two_threads_still_give_four_lines_a_token() {
    if INSTRUMENTED {
        let golden = Golden::of("b158-tiny");
        for flags in ["-t 2", "-t 2 -b 5"] {
            let ran = golden.run(flags, &[("BITNET_TRACE_TIMING", "1")]);
            ran.done();
            assert_eq!(phases(&ran.stderr).len(), golden.generated.len(), "{flags}");
        }
    }
}

#[test]
fn a_trace_file_has_spans_of_phases_layers_matrices_and_kernels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.json");
    let golden = Golden::of("b158-tiny");
    for isa in Isa::available() {
        let ran = golden.run(&format!("--isa {isa} -t 2"), &[("BITNET_TRACE_FILE", path.to_str().unwrap())]);
        ran.done();
        if !INSTRUMENTED {
            cannot_obey(&ran, "BITNET_TRACE_FILE");
            assert!(!path.exists());
            return;
        }
        let spans = spans(&std::fs::read(&path).unwrap());
        assert_eq!(ran.stderr, format!("bitnet: {}: {} spans\n", path.display(), spans.len()));
        let of = |name: &str| spans.iter().filter(|span| span["name"] == name).collect::<Vec<_>>();
        let n_tokens = golden.generated.len();
        for phase in ["embed", "forward", "logits", "sample"] {
            assert_eq!(of(phase).len(), n_tokens, "{phase}");
        }
        let layers: BTreeSet<u64> =
            of("attention").iter().map(|span| span["args"]["layer"].as_u64().unwrap()).collect();
        assert_eq!(of("attention").len(), layers.len() * n_tokens);
        assert_eq!(of("feed_forward").len(), layers.len() * n_tokens);
        assert_eq!(of("attend").len(), layers.len() * n_tokens);
        // Every matrix that is multiplied is there by its name, if only some of its rows or columns ever are, as in the
        // last layer: all of them, as the embedding is the head.
        let products = ["matrix", "matrix_open", "matrix_columns"].map(of);
        let multiplied: BTreeSet<&str> =
            products.iter().flatten().map(|span| span["args"]["tensor"].as_str().unwrap()).collect();
        let expected = matrices(&golden, isa);
        assert_eq!(multiplied, expected.iter().map(|[name, ..]| &**name).collect());
        // The products of a prompt: with rows as they are, or as a kernel made them.
        let of_prompt = ["gemm_i2s", "gemm_prepared"].into_iter().find(|kernel| !of(kernel).is_empty());
        for kernel in ["gemv_i2s", of_prompt.expect("products of a prompt"), "gemv_f16"] {
            assert!(!of(kernel).is_empty(), "{kernel}");
            // Of an instruction set that has two, by the name of the one that the CPU takes.
            let own = [isa.name(), ternary_kernel(isa)].map(|table| of(&format!("{table}_{kernel}")).len());
            assert!(isa == Isa::Scalar || own.iter().any(|&n| n > 0), "{isa}: {kernel}");
        }
        assert_eq!(of("prepare").is_empty(), of_prompt != Some("gemm_prepared"), "{isa}");
    }
}

#[test]
fn the_products_of_a_prompt_are_as_many_as_bench_counts() {
    if !INSTRUMENTED {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.json");
    let mut golden = Golden::of("llama-tiny"); // its activation leaves nothing unread
    golden.generated.truncate(1);
    let model = Model::load(golden.model().as_ref(), &LoadOptions::default()).unwrap();
    let n_prompt = golden.prompt.split(',').count();
    for flags in ["-t 1", "-t 2", "-t 2 -b 5"] {
        golden.run(flags, &[("BITNET_TRACE_FILE", path.to_str().unwrap())]).done();
        let spans = spans(&std::fs::read(&path).unwrap());
        let args = spans.iter().filter(|span| span["name"] == "matrix").map(|span| &span["args"]);
        let of_layers = args.filter(|args| args["tensor"].as_str().unwrap().starts_with("blk."));
        let macs: u64 = of_layers.map(|args| args["macs"].as_u64().unwrap()).sum();
        // Every token goes through the last layer's query matrix, though only one query is asked.
        assert_eq!(macs, model.prompt_macs(n_prompt), "{flags}");
        assert!(macs < n_prompt as u64 * model.prompt_macs(1), "{flags}");
    }
}

/// The spans of a trace file, which must be valid JSON and tell of nothing dropped.
fn spans(file: &[u8]) -> Vec<Value> {
    let json: Value = serde_json::from_slice(file).unwrap();
    assert_eq!(json["otherData"]["dropped_spans"], "0");
    let spans = json["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X");
    let spans: Vec<Value> = spans.cloned().collect();
    for span in &spans {
        assert!(span["ts"].as_f64().unwrap() >= 0.0 && span["dur"].as_f64().unwrap() >= 0.0, "{span}");
    }
    spans
}

#[test]
fn a_stderr_nobody_reads_does_not_stop_a_run() {
    let golden = Golden::of("b158-tiny");
    let expected = golden.run("", &[]).stdout;
    let mut run = golden.verb("run --greedy --ignore-eos", "-v", &ALL);
    let mut child = run.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take()); // from here on, every line is a broken pipe
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.done(), expected);
}

#[cfg(unix)]
#[test]
fn a_closed_or_full_stderr_does_not_stop_a_run() {
    let golden = Golden::of("b158-tiny");
    let expected = golden.run("", &[]).stdout;
    let full = if cfg!(target_os = "linux") { "2>/dev/full" } else { "2>&-" };
    for stderr in ["2>&-", full] {
        for switches in [&[][..], &ALL] {
            let run = golden.verb("run --greedy --ignore-eos", "", switches);
            let mut shell = std::process::Command::new("sh");
            shell
                .args(["-c", &format!("exec \"$0\" \"$@\" {stderr}")])
                .arg(run.get_program())
                .args(run.get_args());
            for (name, value) in run.get_envs() {
                match value {
                    Some(value) => shell.env(name, value),
                    None => shell.env_remove(name),
                };
            }
            let ran: Ran = shell.stdin(Stdio::null()).output().unwrap().into();
            assert_eq!(ran.done(), expected, "{stderr}, {switches:?}");
        }
    }
}
