//! The model inside the binary: trained, so that its answers are right or wrong.

use serde_json::Value;

use crate::support::{Ran, bitnet, words};
use crate::tiny::with_stdin;

const QUESTIONS: &str = include_str!("../data/demo_eval.tsv");

/// What it says to a prompt.
fn answer(prompt: &str) -> String {
    bitnet(["run", "-q", "-p", prompt]).done().to_owned()
}

#[test]
fn two_and_two_is_four() {
    assert_eq!(answer("2+2="), "4\n");
    assert_eq!(answer("12*12="), "144\n");
    assert_eq!(answer("What is 17 plus 25?"), "42\n");
    assert_eq!(answer("reverse a b c="), "c b a\n");
}

#[test]
fn it_talks_in_its_own_format() {
    let ran = with_stdin(["chat", "-q"], b"Hello!\nWhat is 17 plus 25?\nsort 5 3 9 1\n");
    assert_eq!(ran.done(), "Hello! Ask me a sum, or give me a short list to sort.\n42\n1 3 5 9\n");
}

/// Some questions of every task, all answered the same to the bit however they are computed. `scripts/eval_demo.sh`
/// asks them all.
#[test]
fn answers_and_logits_do_not_depend_on_how_they_are_computed() {
    let some: String = QUESTIONS.lines().step_by(52).flat_map(|line| [line, "\n"]).collect();
    let eval = |flags: &str| -> Ran {
        let line = format!("eval -q --json --data - {flags}");
        with_stdin(line.split_whitespace(), some.as_bytes())
    };
    let expected = eval("--isa scalar -t 1");
    let object: Value = serde_json::from_str(expected.done()).unwrap();
    let total = object["scores"].as_array().unwrap().last().unwrap();
    assert!(total["percent"].as_f64().unwrap() >= 95.0, "{total}");
    for isa in ["avx2", "avx512", "neon"] {
        for threads in [1, 2, 3] {
            let ran = eval(&format!("--isa {isa} -t {threads}"));
            if ran.code == Some(2) {
                assert!(ran.stderr.contains("--isa"), "{ran:?}"); // not this machine's
                continue;
            }
            assert_eq!(ran.done(), expected.stdout, "--isa {isa} -t {threads}");
        }
    }
}

/// Ids by the rule it was trained with, `scripts/demo/vocab.py`: known words are tokens, everything else is bytes.
#[test]
fn text_becomes_the_tokens_it_was_trained_on() {
    const START: u64 = 404;
    for (prompt, ids) in [
        ("2+2=", &[50, 43, 50, 61][..]),
        ("What is 17 plus 25?", &[258, 259, 32, 49, 55, 260, 32, 50, 53, 63]),
        ("reverse a b c=", &[274, 32, 97, 32, 98, 32, 99, 61]),
        ("User: Hello!", &[256, 58, 288, 33]),
    ] {
        let ran = bitnet(["run", "--json", "-q", "-n", "0", "-p", prompt]);
        let object: Value = serde_json::from_str(ran.done()).unwrap();
        let expected: Vec<u64> = [&[START], ids].concat();
        assert_eq!(object["prompt_tokens"], Value::from(expected), "{prompt}");
    }
}

#[test]
fn a_prompt_longer_than_its_context_gets_one_sentence() {
    let ran = bitnet(["run", "-q", "-p", &"1+1=".repeat(100)]);
    assert!(ran.refused(1).contains("192"), "{ran:?}");
    assert!(words("inspect").done().contains("192"), "the context is told");
}
