//! Annotations at run time, in whichever build this is: each test runs itself again as a process of its own,
//! with switches set, and reads what came out.
//!
//! The scenes below are ordinary tests too: without a switch they must say nothing.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking, as tests do")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use bitnet_core::parity::{self, Log};
use bitnet_core::synth::{SynthOptions, SynthShape, write_synthetic};
use bitnet_core::trace::{self, parity_trace, quant_trace, trace_timing};
use bitnet_core::{
    GenerateOptions, LoadOptions, Model, Sampler, SamplerOptions, Session, SessionOptions, StopReason,
};

const SWITCHES: [&str; 4] =
    ["BITNET_PARITY", "BITNET_TRACE_QUANT", "BITNET_TRACE_TIMING", "BITNET_TRACE_FILE"];

/// A command that runs one scene of this file, alone.
fn scene(name: &str, switches: &[(&str, &str)]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    for switch in SWITCHES {
        command.env_remove(switch);
    }
    command.envs(switches.iter().copied());
    command
}

fn run(name: &str, switches: &[(&str, &str)]) -> Output {
    let output = scene(name, switches).output().unwrap();
    assert_passed(&output);
    output
}

/// A scene of a name that does not exist succeeds, too, without having run.
#[track_caller]
fn assert_passed(output: &Output) {
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success() && stdout.contains(" 1 passed;"), "{stdout}{stderr}");
}

#[track_caller]
fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

// ---------------------------------------------------------------------------------------------- scenes

#[trace_timing(embed)]
fn embed(x: &mut [f32]) {
    x.fill(0.5);
    spin(50);
}

#[trace_timing(forward, n = x.len())]
fn step(x: &mut [f32]) -> Result<(), std::num::TryFromIntError> {
    embed(x); // a phase inside a phase: its time is its own
    for layer in 0..2 {
        attention(x, layer);
    }
    u8::try_from(x.len())?;
    Ok(())
}

#[trace_timing(layer = layer, bytes = x.len() * 4, name = "blk.\"q\"")]
fn attention(x: &mut [f32], layer: usize) {
    assert!(layer < 2);
    for value in product(x) {
        std::hint::black_box(value);
    }
}

#[trace_timing]
fn product(x: &mut [f32]) -> impl Iterator<Item = f32> + '_ {
    spin(100);
    x.iter().map(|v| v * 2.0)
}

#[trace_timing(logits)]
fn logits(x: &[f32], step: usize) -> Vec<f32> {
    (0..40).map(|i| ((i * 7 + step) % 11) as f32 * 0.1 + x[0]).collect()
}

#[trace_timing(sample)]
fn sample(logits: &[f32]) -> u32 {
    (0..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(id, _)| id)
}

fn spin(us: u128) {
    let start = std::time::Instant::now();
    while start.elapsed().as_micros() < us {
        std::hint::spin_loop();
    }
}

fn generate(steps: usize) {
    let mut x = vec![0.0; 8];
    for n in 0..steps {
        step(&mut x).unwrap();
        let logits = logits(&x, n);
        let token = sample(&logits);
        assert!(token < 40);
        parity_trace!(step = n, token = token, logits = &logits);
    }
}

#[test]
fn scene_generates_three_tokens() {
    trace::init().unwrap();
    let name = String::from("blk.0.attn_q.weight");
    quant_trace!(tensor = name, format = "I2_S", kernel = "scalar", shape = [2560, 640]);
    generate(3);
    assert_eq!(name.len(), 19);
    trace::init().unwrap(); // a second time changes nothing and says nothing
    trace::finish().unwrap();
}

#[test]
fn scene_traces_from_four_threads() {
    trace::init().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for tensor in 0..200 {
                    let name = format!("thread.{thread}.tensor.{tensor}.with.a.rather.long.name.weight");
                    quant_trace!(tensor = name, format = "TQ2_0", kernel = "avx2", shape = [thread, tensor]);
                    assert!(name.len() > 10);
                }
                generate(20);
            });
        }
    });
    trace::finish().unwrap();
}

#[test]
fn scene_profiles_itself() {
    assert_eq!(trace::profile().is_ok(), trace::AVAILABLE);
    if !trace::AVAILABLE {
        return;
    }
    // Other scenes may run beside this one, so only lower bounds hold unless it runs alone.
    generate(5);
    let x = &mut [0.0; 300];
    assert!(step(x).is_err(), "`?` must leave the body");
    assert!(std::panic::catch_unwind(|| sample_of_nothing(&[])).is_err());
    let rows = trace::report();
    let row = |name: &str| {
        // The engine, which other scenes use, has an `attention` of its own.
        let ours = |row: &&trace::Row| row.name == name && row.module == "instrument";
        rows.iter().find(ours).unwrap_or_else(|| panic!("no {name}: {rows:?}"))
    };
    assert!(row("forward").calls >= 6);
    assert!(row("attention").calls >= 12);
    assert!(row("sample_of_nothing").calls == 1, "a panic closes the span");
    assert!(row("attention").bytes >= 10 * 32 + 2 * 1200);
    assert!(row("attention").total >= row("product").total);
    assert!(row("attention").own < row("attention").total, "the product's time is not the layer's own");
    assert!(rows.is_sorted_by_key(|row| std::cmp::Reverse(row.own)));
}

#[trace_timing]
fn sample_of_nothing(logits: &[f32]) -> f32 {
    logits[0]
}

/// A model whose head is large enough to be screened, and not the embedding: it does not repeat itself.
fn screened_model() -> (tempfile::TempDir, Model) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("screened.gguf");
    let mut options = SynthOptions::new(SynthShape::Tiny);
    (options.n_vocab, options.arch) = (Some(4200), "llama".to_owned());
    write_synthetic(&path, &options, &mut |_, _| true).unwrap();
    let model = Model::load(&path, &LoadOptions::default()).unwrap();
    (folder, model)
}

const PROMPT: [u32; 3] = [1, 2, 3];
const N_SCREENED: usize = 6;

/// The best of twelve: more logits than a parity line holds.
fn best_of_twelve() -> SamplerOptions {
    SamplerOptions { top_k: 12, temperature: 5.0, ..SamplerOptions::default() }
}

#[test]
fn scene_chooses_by_a_screened_head() {
    trace::init().unwrap();
    let (_folder, model) = screened_model();
    for options in [SamplerOptions::greedy(), best_of_twelve()] {
        let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
        let mut sampler = Sampler::new(options).unwrap();
        let options = GenerateOptions { max_tokens: Some(N_SCREENED), ..GenerateOptions::default() };
        assert_eq!(session.generate(&PROMPT, &mut sampler, options).count(), N_SCREENED);
        assert_eq!(session.sifted().n_steps, N_SCREENED as u64, "every step was screened");
    }
}

#[test]
fn scene_is_interrupted_and_goes_on() {
    trace::init().unwrap();
    let (_folder, model) = screened_model();
    let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
    let mut sampler = Sampler::new(SamplerOptions::greedy()).unwrap();
    let slow_no = || {
        std::thread::sleep(std::time::Duration::from_secs(2));
        false
    };
    let options = GenerateOptions { go_on: Some(&slow_no), ..GenerateOptions::default() };
    let mut interrupted = session.generate(&PROMPT, &mut sampler, options);
    assert!(interrupted.next().is_none());
    assert_eq!(interrupted.stopped(), Some(StopReason::Interrupted));
    let options = GenerateOptions { max_tokens: Some(1), ..GenerateOptions::default() };
    assert_eq!(session.generate(&PROMPT, &mut sampler, options).count(), 1);
}

#[test]
fn scene_refuses_a_switch() {
    // The message on stderr, as the command line would print it.
    if let Err(error) = trace::init() {
        eprintln!("refused: {error}");
    }
}

// ------------------------------------------------------------------------------------------- promises

#[test]
fn unset_is_silent_in_every_build() {
    for switches in
        [&[][..], &[("BITNET_PARITY", "0"), ("BITNET_TRACE_QUANT", ""), ("BITNET_TRACE_FILE", "")]]
    {
        for name in ["scene_generates_three_tokens", "scene_traces_from_four_threads"] {
            assert_eq!(stderr(&run(name, switches)), "");
        }
    }
}

#[test]
fn a_plain_build_says_once_that_it_cannot_obey() {
    if trace::AVAILABLE {
        return;
    }
    for switch in SWITCHES {
        let said = stderr(&run("scene_generates_three_tokens", &[(switch, "1")]));
        assert_eq!(
            said,
            format!(
                "bitnet: {switch} is set, but this binary was built without `instrument` and traces nothing; \
                 `cargo build --release --features instrument` builds one that does\n"
            )
        );
    }
}

#[test]
fn each_switch_gives_its_own_lines_and_no_others() {
    if !trace::AVAILABLE {
        return;
    }
    let said = stderr(&run("scene_generates_three_tokens", &[("BITNET_TRACE_QUANT", "1")]));
    assert_eq!(
        said,
        "quant_dispatch: tensor=blk.0.attn_q.weight format=I2_S kernel=scalar shape=[2560, 640]\n"
    );

    let said = stderr(&run("scene_generates_three_tokens", &[("BITNET_PARITY", "1")]));
    let log = Log::parse(Path::new("stderr"), said.as_bytes()).unwrap();
    assert_eq!((log.steps.len(), log.skipped_lines), (3, 0));
    for (n, step) in log.steps.iter().enumerate() {
        assert_eq!(step.step, n as u64);
        assert_eq!(step.top_k.len(), 10);
        let all = logits(&[0.5], n);
        let exact = |&(id, logit): &(u32, f32)| all[id as usize].to_bits() == logit.to_bits();
        assert!(step.top_k.iter().all(exact), "{said}");
        assert!(step.top_k.is_sorted_by(|a, b| a.1 > b.1 || a.1 == b.1 && a.0 < b.0), "{said}");
    }

    let said = stderr(&run("scene_generates_three_tokens", &[("BITNET_TRACE_TIMING", "1")]));
    let phases = phases_of(&said);
    assert_eq!(phases.len(), 12, "{said}");
    for token in phases.chunks(4) {
        assert_eq!(token.iter().map(|p| p.0).collect::<Vec<_>>(), ["embed", "forward", "logits", "sample"]);
        // Two layers of 100 us; the 50 us of embedding are counted once, where they belong.
        assert!(token[0].1 >= 50 && token[1].1 >= 200, "{said}");
    }
}

#[test]
fn parity_lines_of_a_screened_head_are_those_of_the_full_one() {
    if !trace::AVAILABLE {
        return;
    }
    let (_folder, model) = screened_model();
    let mut expected = String::new();
    for options in [SamplerOptions::greedy(), best_of_twelve()] {
        let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
        let mut sampler = Sampler::new(options).unwrap();
        let mut pending = PROMPT.to_vec();
        for _ in 0..N_SCREENED {
            let logits = session.prefill(&pending).unwrap(); // all of them
            let token = sampler.sample(logits);
            let step = expected.lines().count() as u64; // the second text's lines follow the first's
            expected += &parity::line(step, token, &parity::top_k(logits, parity::TOP_K));
            expected += "\n";
            pending = vec![token];
        }
    }
    assert!(expected.lines().all(|line| line.matches('[').count() == 11), "ten logits: {expected}");
    assert_eq!(stderr(&run("scene_chooses_by_a_screened_head", &[("BITNET_PARITY", "1")])), expected);
}

#[test]
fn an_interrupted_token_leaves_no_time_to_the_next_one() {
    if !trace::AVAILABLE {
        return;
    }
    let said = stderr(&run("scene_is_interrupted_and_goes_on", &[("BITNET_TRACE_TIMING", "1")]));
    let phases = phases_of(&said);
    assert_eq!(phases.len(), 4, "{said}");
    assert!(phases[1].1 < 1_500_000, "the two seconds before the interruption are not this token's: {said}");
}

fn phases_of(text: &str) -> Vec<(&str, u64)> {
    text.lines()
        .map(|line| {
            let (name, us) =
                line.strip_prefix("timing: ").and_then(|rest| rest.split_once("_us=")).expect(line);
            (name, us.parse().expect(line))
        })
        .collect()
}

#[test]
fn threads_never_interleave_a_line() {
    if !trace::AVAILABLE {
        return;
    }
    let all = [("BITNET_PARITY", "1"), ("BITNET_TRACE_QUANT", "1"), ("BITNET_TRACE_TIMING", "1")];
    let said = stderr(&run("scene_traces_from_four_threads", &all));
    let (mut parity, mut quant) = (0, 0);
    let mut lines = said.lines();
    let mut timing = 0;
    while let Some(line) = lines.next() {
        if line.starts_with('{') {
            serde_json::from_str::<serde_json::Value>(line).expect(line);
            parity += 1;
        } else if let Some(rest) = line.strip_prefix("quant_dispatch: tensor=thread.") {
            assert_eq!(rest.split(' ').count(), 5, "{line}");
            assert!(
                rest.contains(".weight format=TQ2_0 kernel=avx2 shape=[") && rest.ends_with(']'),
                "{line}"
            );
            quant += 1;
        } else {
            // The four lines of a token stay together.
            let four = [line, lines.next().unwrap(), lines.next().unwrap(), lines.next().unwrap()].join("\n");
            let names: Vec<_> = phases_of(&four).into_iter().map(|p| p.0).collect();
            assert_eq!(names, ["embed", "forward", "logits", "sample"], "{four}");
            timing += 1;
        }
    }
    assert_eq!((parity, quant, timing), (80, 800, 80));
}

#[test]
fn a_stderr_nobody_reads_does_not_stop_the_run() {
    let all = SWITCHES[..3].iter().map(|name| (*name, "1")).collect::<Vec<_>>();
    let mut child = scene("scene_traces_from_four_threads", &all)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take()); // every write from here on is a broken pipe
    assert_passed(&child.wait_with_output().unwrap());
}

#[cfg(unix)]
#[test]
fn a_closed_stderr_does_not_stop_the_run() {
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" 2>&-"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "scene_traces_from_four_threads", "--nocapture"]);
    for switch in &SWITCHES[..3] {
        command.env(switch, "1");
    }
    assert_passed(&command.output().unwrap());
}

#[test]
fn a_value_that_is_not_accepted_is_refused_with_those_that_are() {
    for switch in &SWITCHES[..3] {
        let said = stderr(&run("scene_refuses_a_switch", &[(switch, "yes")]));
        if trace::AVAILABLE {
            assert_eq!(said, format!("refused: {switch}=yes: expected 1 (on), 0 or nothing (off)\n"));
        } else {
            assert!(said.starts_with(&format!("bitnet: {switch} is set, ")), "{said}");
        }
    }
}

#[test]
fn a_trace_file_that_cannot_be_created_is_refused_at_start() {
    let said = stderr(&run("scene_refuses_a_switch", &[("BITNET_TRACE_FILE", "/no/such/directory/t.json")]));
    if trace::AVAILABLE {
        assert!(said.starts_with("refused: cannot create /no/such/directory/t.json: "), "{said}");
    } else {
        assert!(said.starts_with("bitnet: BITNET_TRACE_FILE is set, "), "{said}");
    }
}

#[test]
fn a_trace_takes_the_place_of_an_earlier_one_and_of_nothing_else() {
    if !trace::AVAILABLE {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.json");
    let switch = [("BITNET_TRACE_FILE", path.to_str().unwrap())];
    std::fs::write(&path, "").unwrap(); // as mktemp makes one
    for _ in 0..2 {
        run("scene_generates_three_tokens", &switch);
        assert!(std::fs::read(&path).unwrap().ends_with(b"]}\n"));
    }
    for theirs in ["GGUF", "{\"displayTimeUnit\":\"ms\"}"] {
        std::fs::write(&path, theirs).unwrap();
        let said = stderr(&run("scene_refuses_a_switch", &switch));
        let file = path.display();
        let says = format!("refused: trace file {file}: a file that is no trace exists, and is left alone\n");
        assert_eq!((said, std::fs::read_to_string(&path).unwrap()), (says, theirs.to_owned()));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half-written stays");
}

#[test]
fn a_trace_file_holds_every_span_of_every_thread() {
    if !trace::AVAILABLE {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.json");
    let said =
        stderr(&run("scene_traces_from_four_threads", &[("BITNET_TRACE_FILE", path.to_str().unwrap())]));
    // Per token: embed, forward, two layers of attention and product, logits, sample.
    assert_eq!(said, format!("bitnet: {}: 640 spans\n", path.display()));

    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let events = json["traceEvents"].as_array().unwrap();
    let of = |ph: &str| events.iter().filter(|e| e["ph"] == ph).collect::<Vec<_>>();
    let spans = of("X");
    assert_eq!(spans.len(), 640);
    let named = |name: &str| spans.iter().filter(|e| e["name"] == name).copied().collect::<Vec<_>>();
    for (name, n) in
        [("embed", 80), ("forward", 80), ("attention", 160), ("product", 160), ("logits", 80), ("sample", 80)]
    {
        assert_eq!(named(name).len(), n, "{name}");
    }
    let layer = named("attention")[1];
    assert_eq!(layer["args"], serde_json::json!({"layer": 1, "bytes": 32, "name": "blk.\"q\""}));
    assert_eq!(layer["cat"], "instrument");
    assert!(named("product").iter().all(|e| e["dur"].as_f64().unwrap() >= 100.0));
    assert!(spans.iter().all(|e| e["ts"].as_f64().unwrap() >= 0.0));
    // Layers lie inside the forward pass of their thread.
    let within = |inner: &serde_json::Value, outer: &serde_json::Value| {
        let (start, outer_start) = (inner["ts"].as_f64().unwrap(), outer["ts"].as_f64().unwrap());
        let (end, outer_end) =
            (start + inner["dur"].as_f64().unwrap(), outer_start + outer["dur"].as_f64().unwrap());
        inner["tid"] == outer["tid"] && start >= outer_start && end <= outer_end + 0.01
    };
    assert!(named("attention").iter().all(|inner| named("forward").iter().any(|outer| within(inner, outer))));
}

#[test]
fn a_profile_counts_calls_time_and_bytes() {
    let output = run("scene_profiles_itself", &[]);
    let said = stderr(&output);
    assert!(!said.contains("assertion"), "{said}");
}
