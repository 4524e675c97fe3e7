//! Threads and memory that the system refuses.

use crate::quantize::quantize;
use crate::support::{Ran, command};
use crate::tiny::{on_tiny_args, tiny};

/// Runs `bitnet` where it gets no thread beside its first: no address space holds a stack of this size, whoever asks.
fn alone(args: &[String]) -> Ran {
    command(args).env("RUST_MIN_STACK", (1_u64 << 60).to_string()).output().unwrap().into()
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn threads_that_were_asked_for_and_are_refused_are_a_failure() {
    let run = |flags: &str| alone(&on_tiny_args("run", &format!("-p ab -n 1 -q {flags}")));
    let mut lines = vec![alone(&words("doctor -t 2")), alone(&words("doctor -t 2 --json -q"))];
    if cfg!(feature = "cpu") {
        lines.push(run("-t 2"));
    }
    for ran in lines {
        assert!(ran.refused(1).starts_with("the system refuses 2 threads (see --threads): "), "{ran:?}");
    }
    run("-t 1").done();
    let usual = run("");
    assert!(matches!(usual.code, Some(0 | 1)), "one processor needs no other thread: {usual:?}");
}

#[test]
fn what_would_be_faster_with_threads_goes_without_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("repacked.gguf");
    quantize(tiny(), &path, "--type tq2_0 -q").done();
    for line in ["inspect --verify -m", "run -t 1 -p ab -n 4 --greedy -q -m"] {
        let args = words(&format!("{line} {}", path.display()));
        let with: Ran = command(&args).output().unwrap().into();
        assert_eq!(alone(&args).done(), with.done());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn memory_that_is_not_there_is_a_failure() {
    let ran = crate::cheap::within_50_mb(&["doctor", "-t", "1"]);
    assert_eq!(ran.refused(1), "the system refuses memory for a probe of 512 MiB");

    let most = (1_u32 << 20).to_string();
    let run = |flags: &[&str]| {
        let args = ["run", "-m", tiny().to_str().unwrap(), "-t", "1", "-p", "ab", "-n", "1", "-q"];
        crate::cheap::within_50_mb(&[&args[..], flags].concat())
    };
    assert_eq!(
        run(&["-c", &most]).refused(1),
        format!("the system refuses memory for a cache of {most} positions (see --ctx-size)")
    );
    assert_eq!(
        run(&["-c", "10000", "-b", "10000"]).refused(1),
        "the system refuses memory for batches of 10000 tokens (see --batch-size)"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_tensor_that_no_memory_holds_is_a_failure() {
    use bitnet_core::gguf::{GgufWriter, TensorType, Value};

    let folder = tempfile::tempdir().unwrap();
    let [path, out] = ["large.gguf", "out.gguf"].map(|name| folder.path().join(name));
    // 32 Mi weights: 9 MB in the file, four times as much as codes.
    let shape = [8192, 4096];
    let name = "blk.0.attn_q.weight";
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", Value::Str(b"bitnet-b1.58")).unwrap();
    writer.declare(name, TensorType::TQ2_0, &shape).unwrap();
    let bytes = vec![0; TensorType::TQ2_0.n_bytes(&shape).unwrap() as usize];
    writer.write_file(&path, |file| file.tensor(name, &bytes)).unwrap();
    let args = ["quantize", path.to_str().unwrap(), out.to_str().unwrap(), "--type", "i2_s", "-q"];
    let said = format!("the system refuses memory for tensor {name} of {}", path.display());
    assert_eq!(crate::cheap::within_50_mb(&args).refused(1), said);
}
