//! Every logit of every position equals bitnet.cpp's, to the bit: on every instruction set, for any number of
//! threads and any batch split.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its data should stop there")]
use std::path::PathBuf;

use bitnet_core::{Isa, LoadOptions, Model, Placement, Session, SessionOptions};

/// A model of `tests/data/golden` and what bitnet.cpp made of it.
struct Golden {
    path: PathBuf,
    /// Prompt, then greedily generated.
    tokens: Vec<u32>,
    n_prompt: usize,
    n_vocab: usize,
    /// `[tokens, n_vocab]`
    logits: Vec<f32>,
}

impl Golden {
    fn load(name: &str) -> Golden {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden");
        let json = std::fs::read_to_string(dir.join(format!("{name}.json"))).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let ids = |key: &str| -> Vec<u32> {
            json[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        let (mut tokens, generated) = (ids("prompt_tokens"), ids("generated"));
        let n_prompt = tokens.len();
        tokens.extend(generated);
        let bytes = std::fs::read(dir.join(format!("{name}.logits.f32"))).unwrap();
        let logits: Vec<f32> =
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let n_vocab = json["n_vocab"].as_u64().unwrap() as usize;
        assert_eq!(logits.len(), tokens.len() * n_vocab, "{name}: rows");
        Golden { path: dir.join(format!("{name}.gguf")), tokens, n_prompt, n_vocab, logits }
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.logits[i * self.n_vocab..][..self.n_vocab]
    }

    #[track_caller]
    fn assert_row(&self, i: usize, logits: &[f32], how: &str) {
        for (id, (got, expected)) in logits.iter().zip(self.row(i)).enumerate() {
            assert!(
                got.to_bits() == expected.to_bits(),
                "{how}: position {i}, token {id}: {got} is not bitnet.cpp's {expected}"
            );
        }
        assert_eq!(logits.len(), self.n_vocab, "{how}");
    }

    /// All logits under every setting.
    fn check(&self) {
        for isa in Isa::available() {
            for (placement, n_threads, n_batch) in self.settings() {
                let options = LoadOptions { isa: Some(isa), placement, ..LoadOptions::default() };
                let model = Model::load(&self.path, &options).unwrap();
                let how = format!("{isa}, {placement:?}, {n_threads} threads, batches of {n_batch}");
                let options = SessionOptions {
                    n_threads: Some(n_threads),
                    n_batch: Some(n_batch),
                    ..SessionOptions::default()
                };
                let mut session = Session::new(&model, &options).unwrap();
                let mut rows = 0;
                session
                    .score(&self.tokens, |i, logits| {
                        self.assert_row(i, logits, &how);
                        rows += 1;
                    })
                    .unwrap();
                assert_eq!(rows, self.tokens.len());

                // Where only the last result is wanted, less is computed, and what later tokens read is the same.
                let (&last, before) = self.tokens.split_last().unwrap();
                session.clear();
                self.assert_row(before.len() - 1, session.prefill(before).unwrap(), &how);
                self.assert_row(before.len(), session.decode(last).unwrap(), &how);
            }
        }
    }

    /// Where the weights are, how many threads, how many tokens at once: all of them where the file is, and one token
    /// and many with weights packed anew.
    fn settings(&self) -> Vec<(Placement, usize, usize)> {
        let all = self.tokens.len();
        let mut settings = Vec::new();
        for n_threads in [1, 2, 3] {
            settings.extend([1, 7, 32, all].map(|n_batch| (Placement::Map, n_threads, n_batch)));
        }
        for placement in [Placement::Copy, Placement::Tri5] {
            settings.extend([(placement, 1, all), (placement, 2, 1)]);
        }
        settings
    }

    /// The way a program uses it: the prompt at once, then one token at a time, each the largest logit.
    fn generate(&self) {
        for isa in Isa::available() {
            let how = format!("{isa}, generating");
            let model =
                Model::load(&self.path, &LoadOptions { isa: Some(isa), ..LoadOptions::default() }).unwrap();
            let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
            let (prompt, generated) = self.tokens.split_at(self.n_prompt);
            // What is forgotten must leave no trace: a first text, then all of this one but its first token.
            session.prefill(generated).unwrap();
            session.clear();
            session.prefill(&self.tokens).unwrap();
            session.truncate(1);

            let mut next = self.argmax(session.prefill(&prompt[1..]).unwrap(), self.n_prompt - 1, &how);
            for (k, &token) in generated.iter().enumerate() {
                assert_eq!(next, token, "{how}: generated token {k}");
                next = self.argmax(session.decode(token).unwrap(), self.n_prompt + k, &how);
            }
        }
    }

    #[track_caller]
    fn argmax(&self, logits: &[f32], i: usize, how: &str) -> u32 {
        self.assert_row(i, logits, how);
        (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
    }
}

macro_rules! golden {
    ($($test:ident $name:literal;)*) => {$(
        mod $test {
            #[test]
            fn every_logit_is_bitnet_cpps_under_every_setting() {
                super::Golden::load($name).check();
            }

            #[test]
            fn generation_after_a_forgotten_text_is_bitnet_cpps() {
                super::Golden::load($name).generate();
            }
        }
    )*};
}

golden! {
    b158_tiny "b158-tiny";
    b158_small "b158-small";
    b158_hd96 "b158-hd96";
    bitnet_tiny "bitnet-tiny";
    llama_tiny "llama-tiny";
}
