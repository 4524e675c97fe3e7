//! The name of the rule that cuts text into words, found by trial: under the right rule the new vocabulary encodes a
//! nasty text, and many made of its own tokens, as `tokenizer.json` does.

use super::{HfVocabulary, of_file};
use crate::TokenId;
use crate::error::{Error, Result};
use crate::tokenizer::{Tokenizer, VocabModel};

impl HfVocabulary {
    /// The name of the rule under which this vocabulary does what `tokenizer.json` does; SentencePiece has none.
    pub(in crate::hf) fn rule(&self) -> Result<Option<&'static str>> {
        let Some(pre_tokenizer) = &self.pre_tokenizer else { return Ok(None) };
        let json = Tokenizer::from_file(&self.file, None)?;
        let probes = probes(&json);
        let by_file = |error| of_file(error, &self.file);
        let expected: Vec<Vec<TokenId>> =
            probes.iter().map(|text| json.encode(text, false)).collect::<Result<_>>().map_err(by_file)?;
        let agrees = |rule: Option<&str>| -> Result<bool> {
            let ours = Tokenizer::from_vocabulary(self.vocabulary.clone(), rule)?;
            for (text, expected) in probes.iter().zip(&expected) {
                if ours.encode(text, false).map_err(by_file)? != *expected {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let unsupported = |reason: String| Error::Unsupported {
            path: self.file.clone(),
            item: "tokenizer".into(),
            reason: format!("{reason} --tokenizer takes this file as it is"),
        };
        if self.vocabulary.model == VocabModel::Spm {
            return match agrees(None)? {
                true => Ok(None),
                false => Err(unsupported(
                    "it cuts text in other pieces than SentencePiece would; a GGUF file cannot hold it, and"
                        .into(),
                )),
            };
        }
        let rules = rules_for(pre_tokenizer);
        for rule in rules {
            if agrees(Some(rule))? {
                return Ok(Some(rule));
            }
        }
        Err(unsupported(format!(
            "it cuts text by none of the rules {}; a GGUF file cannot hold it, `--pre NAME` writes another rule, and",
            rules.join(", ")
        )))
    }
}

/// The rules to try, the likeliest first: a small vocabulary may not tell them apart.
fn rules_for(pre_tokenizer: &str) -> [&'static str; 5] {
    if pre_tokenizer.contains("{1,3}") {
        ["llama-bpe", "gpt-2", "falcon3", "falcon", "default"]
    } else if pre_tokenizer.contains("Digits") {
        ["falcon3", "falcon", "default", "gpt-2", "llama-bpe"]
    } else if pre_tokenizer.contains("[0-9][0-9][0-9]") {
        ["falcon", "default", "falcon3", "gpt-2", "llama-bpe"]
    } else {
        ["gpt-2", "llama-bpe", "default", "falcon", "falcon3"]
    }
}

/// Texts on which the rules differ, then texts made of the vocabulary's own tokens.
fn probes(json: &Tokenizer) -> Vec<String> {
    const NASTY: &str = "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n\u{1f680} (normal) \u{1f636}\u{200d}\u{1f32b}\u{fe0f} \
        (multiple emojis concatenated) \u{2705} \u{1f999}\u{1f999} 3 33 333 3333 33333 333333 3333333 33333333 3.3 \
        3..3 3...3 \u{1780}\u{17b6}\u{1793}\u{178f}\u{17c2} \u{6211}\u{60f3}\u{5728}apple\u{5de5}\u{4f5c}1314\u{5929}\u{ff5e} \
        ------======= \u{43d}\u{435}\u{449}\u{43e} \u{43d}\u{430} \u{411}\u{44a}\u{43b}\u{433}\u{430}\u{440}\u{441}\u{43a}\u{438} \
        ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, \
        'D you like some tea? We'Ve a'lL cafe\u{301} a+b=c <tag> $5 x^2 `code` ~home |pipe| snake_case e\u{301}\u{a0}x\u{3000}y\r\nz  ";
    let mut probes: Vec<String> =
        vec![NASTY.into(), "Hello, world! It's 1984.".into(), "  two  spaces ".into()];
    let mut state = 1u64;
    let mut any = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % json.n_vocab()
    };
    for _ in 0..200 {
        let ids = (0..12).map(|_| any() as TokenId).filter(|&id| !json.is_special(id));
        let bytes: Vec<u8> = ids.flat_map(|id| json.token_bytes(id).to_vec()).collect();
        probes.push(String::from_utf8_lossy(&bytes).into_owned());
    }
    probes
}
