//! `bitnet perplexity` on a tiny synthetic model.

use bitnet_core::{LoadOptions, Model, Session, SessionOptions, Tokenizer};
use serde_json::Value;

use crate::convert::write_tokenizer;
use crate::support::bitnet;
use crate::tiny::{on_tiny, on_tiny_args, tiny, with_stdin};

/// Some 700 characters of which no two lines are alike.
fn text() -> String {
    (0..40u32)
        .map(|i| format!("line {i}: {} ternary {}\n", i * i, "weights".repeat(i as usize % 3)))
        .collect()
}

fn json(flags: &str) -> Value {
    let ran =
        with_stdin(on_tiny_args("perplexity", &format!("-f - -c 16 --json {flags}")), text().as_bytes());
    serde_json::from_str(ran.done()).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

/// The definition, one token at a time: chunks of 16, the start token first, positions 8 to 14 counted.
fn by_hand(n_chunks: usize) -> Vec<f64> {
    let model = Model::load(tiny(), &LoadOptions::default()).unwrap();
    let tokenizer = Tokenizer::for_model(model.gguf(), None, None).unwrap().unwrap();
    let tokens = tokenizer.encode(text().trim_end(), true).unwrap();
    let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
    let (mut sum, mut n, mut running) = (0.0, 0.0, Vec::new());
    for chunk in tokens.chunks_exact(16).take(n_chunks) {
        session.clear();
        for i in 0..15 {
            let token = if i == 0 { tokenizer.bos().unwrap() } else { chunk[i] };
            let logits = session.decode(token).unwrap();
            if i >= 8 {
                let all: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
                sum -= f64::from(logits[chunk[i + 1] as usize]) - all.ln();
                n += 1.0;
            }
        }
        running.push((sum / n).exp());
    }
    running
}

#[test]
fn the_estimate_is_the_definitions() {
    let object = json("--chunks 5");
    let running: Vec<f64> =
        object["running"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    let expected = by_hand(5);
    assert_eq!(running.len(), expected.len());
    for (got, expected) in running.iter().zip(&expected) {
        assert!((got / expected - 1.0).abs() < 1e-5, "{running:?} {expected:?}");
    }
    assert_eq!((&object["n_scored"], &object["perplexity"]), (&Value::from(5 * 7), &object["running"][4]));
    assert!(object["error"].as_f64().unwrap() > 0.0);
}

#[test]
fn it_does_not_depend_on_how_it_is_computed() {
    let expected = json("");
    assert!(expected["n_chunks"].as_u64().unwrap() > 20);
    for flags in ["--isa scalar", "-t 1", "-t 2", "-b 1", "-b 5", "--no-mmap"] {
        assert_eq!(json(flags), expected, "{flags}");
    }
}

#[test]
fn the_text_is_llama_cpps() {
    let ran = with_stdin(on_tiny_args("perplexity", "-f - -c 16 --chunks 2 -q"), text().as_bytes());
    let object = json("--chunks 2");
    let number = |value: &Value| value.as_f64().unwrap();
    let expected = format!(
        "[1]{:.4},[2]{:.4},\nFinal estimate: PPL = {:.4} +/- {:.5}\n",
        number(&object["running"][0]),
        number(&object["running"][1]),
        number(&object["perplexity"]),
        number(&object["error"])
    );
    assert_eq!((ran.done(), &*ran.stderr), (&*expected, ""));
}

/// The last token of a chunk is predicted only, so that no session sees it.
#[test]
fn a_token_that_the_model_does_not_have_is_refused_wherever_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (model, file, text) = (at("model.gguf"), at("tokenizer.json"), at("text"));
    bitnet(["synth", "--vocab", "260", &model]).done();
    write_tokenizer(folder.path());
    let mut object: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    (object["post_processor"], object["added_tokens"]) = (Value::Null, Value::Array(Vec::new()));
    std::fs::write(&file, object.to_string()).unwrap();
    std::fs::write(&text, "aaaaaa12aaaaaaaa").unwrap();

    let loaded = Model::load(model.as_ref(), &LoadOptions::default()).unwrap();
    let tokenizer = Tokenizer::for_model(loaded.gguf(), Some(file.as_ref()), None).unwrap().unwrap();
    let ids = tokenizer.encode("aaaaaa12aaaaaaaa", tokenizer.adds_bos()).unwrap();
    assert_eq!((ids.len(), ids[7], ids.iter().filter(|&&id| id >= 260).count()), (16, 260, 1), "{ids:?}");
    let ran = bitnet(["perplexity", "-m", &model, "--tokenizer", &file, "-f", &text, "-c", "8"]);
    let says = "token 260: expected an id below 260, the size of the vocabulary";
    assert_eq!(ran.refused(2), says);
}

#[test]
fn a_text_too_short_or_absent_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("short.txt");
    std::fs::write(&file, "too short\n").unwrap();
    let file = file.to_str().unwrap();
    let ran = bitnet([&on_tiny_args("perplexity", "-f")[..], &[file.to_owned()]].concat());
    assert!(
        ran.refused(2).starts_with("--file: expected 1024 tokens at least, two chunks of 512; found "),
        "{ran:?}"
    );
    assert_eq!(
        on_tiny("perplexity", "").refused(2),
        "--file: expected a text to predict; - reads it from stdin"
    );
    assert!(on_tiny("perplexity", "-f no/such.txt").refused(1).starts_with("cannot open no/such.txt: "));
    assert!(on_tiny("perplexity", "-f x -c 4").refused(2).starts_with("-c 4: expected a number from 8 to "));
}
