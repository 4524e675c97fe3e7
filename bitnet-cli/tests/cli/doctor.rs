//! `bitnet doctor` on whatever machine the tests run on.

use bitnet_core::Isa;
use bitnet_core::kernels::Kernels;
use serde_json::Value;

use crate::support::words;

#[test]
fn every_instruction_set_here_is_executed_and_right() {
    let ran = words("doctor --json -t 1");
    let found: Value = serde_json::from_str(ran.done()).unwrap();
    let kernels = found["kernels"].as_array().unwrap();
    assert_eq!(kernels.len(), Isa::ALL.len());
    for kernel in kernels {
        let isa = Isa::from_name(kernel["isa"].as_str().unwrap()).unwrap();
        let here = Isa::available().contains(&isa);
        assert_eq!(
            (&kernel["present"], &kernel["right"]),
            (&here.into(), &here.then_some(true).into()),
            "{isa}"
        );
    }
    assert_eq!(found["used"], Isa::available().last().unwrap().name());
    let tables: Vec<&str> = Kernels::all().into_iter().map(Kernels::name).collect();
    assert!(tables.contains(&found["table"].as_str().unwrap()), "{} of {tables:?}", found["table"]);
    assert!(found["cores"]["usable"].as_u64().unwrap() >= 1);
    let speed = |key: &str| found[key].as_f64().unwrap();
    let estimate = |key: &str| found["estimate"][key].as_f64().unwrap();
    for (tok_per_s, bytes_per_token) in
        [("decode_tok_per_s", "bytes_per_token"), ("decode_tok_per_s_least", "bytes_per_token_most")]
    {
        let bytes = estimate(tok_per_s) * estimate(bytes_per_token);
        assert!((bytes / speed("read_bytes_per_s") - 1.0).abs() < 1e-9);
    }
    assert!(estimate("decode_tok_per_s_least") < estimate("decode_tok_per_s"));
    // 521 MB of ternary weights, 164 MB of the head's four-bit plane, 2 MB beside it; 82 MB of its two-bit plane.
    assert_eq!(estimate("bytes_per_token"), 687_230_976.0);
    assert_eq!(estimate("bytes_per_token_most"), estimate("bytes_per_token") + 82_083_840.0);
    let samples: Vec<f64> =
        found["read_samples"].as_array().unwrap().iter().map(|speed| speed.as_f64().unwrap()).collect();
    assert!(
        samples.len() == 3 && samples.is_sorted() && samples[1] == speed("read_bytes_per_s"),
        "{samples:?}"
    );
    assert!(speed("multiplies_per_s") > 0.0 && estimate("prefill_tok_per_s") > 0.0);
    #[cfg(target_os = "linux")]
    assert!(found["memory"]["total_bytes"].as_u64().unwrap() > 1 << 20);
}

#[test]
fn the_text_says_the_same_to_people() {
    let ran = words("doctor -t 1");
    let labels: Vec<&str> = ran.done().lines().filter_map(|line| line.split(' ').next()).collect();
    let kernels = vec![""; Isa::ALL.len() - 1];
    let expected =
        [&["cpu", "cores", "memory", "kernels"][..], &kernels, &["read", "multiply", "estimate", "", ""]]
            .concat();
    assert_eq!(labels, expected, "{ran:?}");
    assert!(ran.stdout.contains("scalar   executed, right"), "{ran:?}");
    assert!(ran.stdout.contains(" in 3 readings), 1 thread\n"), "{ran:?}");
    assert!(ran.stdout.contains("screened head (0.69 GB read for each; "), "{ran:?}");
    assert_eq!(ran.stderr, "", "progress is for a terminal");
}

#[test]
fn misuse_is_refused() {
    assert!(words("doctor -t 0").refused(2).starts_with("-t 0: expected a number from 1 to "));
    assert!(words("doctor now").refused(2).starts_with("now: unexpected word"));
}
