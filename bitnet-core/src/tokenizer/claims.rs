//! What a `tokenizer.json` asks for, held against limits before the crate acts on it.
//!
//! Only what the crate is to do is looked at here, and of the vocabulary no more than added tokens. The crate is handed
//! what was checked, not what was read: a key that stands twice has one value in both.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use tokenizers::{AddedToken, NormalizedString, Normalizer};

use super::patterns::Patterns;
use crate::TokenId;
use crate::error::{Error, Result};

/// Of a text to put in, to look for, or to call an added token by. Published ones have at most some 100 bytes.
pub(super) const MAX_PART_BYTES: usize = 1024;
/// Of all added tokens, as long as the normalizer may make them (Gemma 3: 6415 tokens, 100 kB). The crate makes an
/// automaton of them, which takes half a second for so many.
const MAX_ADDED_BYTES: usize = 1 << 20;
/// Steps of a normalizer or of a pre-tokenizer. Published ones have at most ten.
const MAX_STEPS: usize = 64;
/// How many times longer a text may become. Published files stay below 40.
const MAX_GROWTH: usize = 1024;
/// Of a SentencePiece character map, in base64. Published ones have 320 kB.
const MAX_CHARSMAP_BYTES: usize = 4 << 20;
/// Of a normalizer or of a pre-tokenizer, as [`most_values`] counts. Published ones have at most some hundred.
const MAX_STEPS_VALUES: usize = 1 << 16;
/// Of all added tokens, as [`most_values`] counts: eight for each of 131 072. Published files have at most a quarter of
/// that.
const MAX_ADDED_VALUES: usize = 1 << 20;

/// A `tokenizer.json` that asks for nothing unreasonable.
#[derive(Debug)]
pub(super) struct Claims {
    /// What of it the crate is to read.
    pub(super) json: Vec<u8>,
    /// How many times longer its normalizer and its pre-tokenizer may make a text.
    pub(super) growth: usize,
}

impl Claims {
    pub(super) fn check(path: &Path, bytes: &[u8]) -> Result<Claims> {
        let invalid = |error: serde_json::Error| malformed(path, error.to_string());
        let mut members: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(bytes).map_err(invalid)?;
        // Files made for training cut and pad their input, a prompt is taken whole; printing is not left to the crate.
        for unused in ["decoder", "padding", "truncation"] {
            members.remove(unused);
        }
        let mut part = |key: &str, most: usize| -> Result<Value> {
            let Some(raw) = members.get_mut(key) else { return Ok(Value::Null) };
            let values = most_values(raw.get());
            if values > most {
                let fault = Fault::new(key, format!("at most {most} values"), format!("up to {values}"));
                return Err(fault.at(path));
            }
            let value = serde_json::from_str(raw.get()).map_err(invalid)?;
            *raw = to_raw_value(&value).map_err(invalid)?;
            Ok(value)
        };
        let added = part("added_tokens", MAX_ADDED_VALUES)?;
        let normalizer = part("normalizer", MAX_STEPS_VALUES)?;
        let pre_tokenizer = part("pre_tokenizer", MAX_STEPS_VALUES)?;
        let added = Added::check(&added).map_err(|fault| fault.at(path))?;
        let mut patterns = Patterns::default();
        let of_step = |step: &Value| normalizer_step(step, &added);
        let normalized = growth("normalizer", &normalizer, &of_step, &mut patterns);
        let normalized = normalized.map_err(|fault| fault.at(path))?;
        if added.n_bytes.saturating_mul(normalized) > MAX_ADDED_BYTES {
            let found = format!(
                "{} bytes, which the normalizer makes up to {normalized} times longer",
                added.n_bytes
            );
            let fault = Fault::new("added_tokens", format!("at most {MAX_ADDED_BYTES} bytes of text"), found);
            return Err(fault.at(path));
        }
        let cut = growth("pre_tokenizer", &pre_tokenizer, &pre_tokenizer_step, &mut patterns);
        let cut = cut.map_err(|fault| fault.at(path))?;
        let json = serde_json::to_vec(&members).map_err(invalid)?;
        Ok(Claims { json, growth: normalized.saturating_mul(cut) })
    }
}

/// The error of a file that is no `tokenizer.json` the crate can use.
pub(super) fn malformed(path: &Path, found: String) -> Error {
    Fault::new("tokenizer", "a tokenizer.json".into(), found).at(path)
}

/// An error that does not know its file yet.
struct Fault {
    item: String,
    expected: String,
    found: String,
}

impl Fault {
    fn new(item: &str, expected: String, found: String) -> Fault {
        Fault { item: item.into(), expected, found }
    }

    fn at(self, path: &Path) -> Error {
        let Fault { item, expected, found } = self;
        Error::Malformed { path: path.into(), item, expected, found }
    }
}

/// How many values a JSON text has at most: one behind every comma and every bracket. Each takes 32 bytes or more once
/// it is read, though it may have two in the file.
fn most_values(json: &str) -> usize {
    1 + json.bytes().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count()
}

/// Refuses a text that is too long to be what it claims to be.
fn short(item: &str, text: &str) -> Result<usize, Fault> {
    match text.len() {
        n if n <= MAX_PART_BYTES => Ok(n),
        n => Err(Fault::new(item, format!("at most {MAX_PART_BYTES} bytes of text"), format!("{n} bytes"))),
    }
}

/// What the added tokens amount to.
struct Added {
    n_bytes: usize,
    /// Of those that cut text, which control tokens do not.
    shortest_cut: Option<usize>,
}

impl Added {
    fn check(tokens: &Value) -> Result<Added, Fault> {
        let mut added = Added { n_bytes: 0, shortest_cut: None };
        for token in tokens.as_array().into_iter().flatten() {
            let content = token.get("content").and_then(Value::as_str).unwrap_or_default();
            let n = short("added_tokens.content", content)?;
            added.n_bytes += n;
            if n > 0 && token.get("special") != Some(&Value::Bool(true)) {
                added.shortest_cut = Some(added.shortest_cut.map_or(n, |shortest| shortest.min(n)));
            }
        }
        Ok(added)
    }
}

/// Refuses added tokens for which the crate, where it looks for them itself, needs time or memory by the square of a
/// text. What a normalizer makes of them only the crate can tell, and may panic over.
pub(super) fn check_added(
    inner: &tokenizers::Tokenizer,
    is_control: impl Fn(TokenId) -> bool,
    path: &Path,
) -> Result<()> {
    let is_blank = |text: &str| text.chars().all(char::is_whitespace);
    let mut tokens: Vec<(TokenId, AddedToken)> = inner.get_added_tokens_decoder().into_iter().collect();
    tokens.sort_unstable_by_key(|&(id, _)| id);
    for (id, token) in tokens {
        // Whatever it says of that: a token that stands twice may say both.
        let mut normalized = NormalizedString::from(token.content.as_str());
        if let Some(normalizer) = inner.get_normalizer() {
            normalizer.normalize(&mut normalized).map_err(|error| malformed(path, error.to_string()))?;
        }
        let normalized = normalized.get();
        // The crate may read as many bytes again for every byte of a text.
        if normalized.len() > MAX_PART_BYTES {
            let found = format!("{} bytes once normalized", normalized.len());
            let expected = format!("at most {MAX_PART_BYTES} bytes of text");
            return Err(Fault::new("added_tokens.content", expected, found).at(path));
        }
        // It reads a run of white space for every such token in the run, and to the right it copies it. Control
        // tokens it passes over before that.
        let takes_space = (token.lstrip || token.rstrip) && !is_control(id);
        if takes_space && (is_blank(&token.content) || is_blank(normalized)) {
            let expected = "no lstrip or rstrip of a token that is white space alone".into();
            return Err(Fault::new("added_tokens", expected, format!("those of token {id}")).at(path));
        }
    }
    Ok(())
}

/// How many times longer all steps in `part` may make a text, by what `of_step` says of one. Their expressions are added
/// to `patterns`.
fn growth(
    item: &str,
    part: &Value,
    of_step: &dyn Fn(&Value) -> Result<usize, Fault>,
    patterns: &mut Patterns,
) -> Result<usize, Fault> {
    let (mut n_steps, mut growth) = (0, 1_usize);
    let mut rest = vec![part];
    while let Some(value) = rest.pop() {
        match value {
            Value::Array(values) => rest.extend(values),
            Value::Object(members) => {
                n_steps += 1;
                growth = growth.saturating_mul(of_step(value)?);
                if let Some(pattern) = members.get("pattern") {
                    patterns.add(pattern).map_err(|(expected, found)| {
                        Fault::new(&format!("{item}.pattern"), expected, found)
                    })?;
                }
                rest.extend(members.iter().filter(|(key, _)| *key != "pattern").map(|(_, value)| value));
            }
            _ => {}
        }
        if n_steps > MAX_STEPS {
            return Err(Fault::new(item, format!("at most {MAX_STEPS} steps"), "more".into()));
        }
        if growth > MAX_GROWTH {
            let expected = format!("steps that make a text at most {MAX_GROWTH} times longer");
            return Err(Fault::new(item, expected, format!("{growth} times or more")));
        }
    }
    Ok(growth)
}

/// How many times longer a step of the normalizer may make a text. Older files give steps no type: what they have
/// tells what they are.
fn normalizer_step(step: &Value, added: &Added) -> Result<usize, Fault> {
    let text = |key: &str| step.get(key).and_then(Value::as_str);
    if let Some(map) = text("precompiled_charsmap") {
        return charsmap(map);
    }
    if let Some(prepend) = text("prepend") {
        let n = short("normalizer.prepend", prepend)?;
        // Once for the text, and once more behind every added token in it.
        return Ok(1 + added.shortest_cut.map_or(0, |shortest| n.div_ceil(shortest + 1)));
    }
    if let Some(content) = text("content") {
        let n = short("normalizer.content", content)?;
        return match step.get("pattern").and_then(|pattern| pattern.get("String")?.as_str()) {
            Some("") => {
                let found = "none: every place in a text has that".into();
                Err(Fault::new("normalizer.pattern", "a text to replace".into(), found))
            }
            Some(pattern) => Ok(n.div_ceil(short("normalizer.pattern", pattern)?).max(1)),
            None => Ok(1 + n), // an expression may match the nothing between two bytes
        };
    }
    // The factors of Unicode's normal forms in UTF-8 are those of its FAQ.
    Ok(match text("type") {
        Some("Sequence" | "Strip" | "StripAccents" | "Nmt") => 1,
        Some("Lowercase" | "ByteLevel") => 2,
        Some("NFC" | "NFD") => 3,
        Some("NFKC" | "NFKD") => 11,
        _ => 12, // BertNormalizer: spaces around characters, decomposed, in lower case
    })
}

/// How many times longer a step of the pre-tokenizer may make a text.
fn pre_tokenizer_step(step: &Value) -> Result<usize, Fault> {
    let on = |key: &str| step.get(key).and_then(Value::as_bool) != Some(false);
    if step.get("length").and_then(Value::as_u64) == Some(0) {
        return Err(Fault::new("pre_tokenizer.length", "1 or more".into(), "0".into()));
    }
    Ok(match step.get("type").and_then(Value::as_str) {
        Some("ByteLevel") if on("add_prefix_space") => 4,
        Some("ByteLevel") => 2,
        Some("Metaspace") => {
            let space = step.get("replacement").and_then(Value::as_str).map_or(4, str::len);
            let before_words =
                matches!(step.get("prepend_scheme").and_then(Value::as_str), None | Some("always"));
            if before_words && on("add_prefix_space") { 2 * space.clamp(1, 4) } else { space.clamp(1, 4) }
        }
        Some(_) => 1,
        None => 8,
    })
}

/// How many times longer a SentencePiece character map may make a text: the bytes of a trie after their number, then
/// texts that end in zero bytes.
fn charsmap(base64: &str) -> Result<usize, Fault> {
    let wrong =
        |expected: String, found: String| Fault::new("normalizer.precompiled_charsmap", expected, found);
    if base64.len() > MAX_CHARSMAP_BYTES {
        return Err(wrong(
            format!("at most {MAX_CHARSMAP_BYTES} bytes of base64"),
            format!("{} bytes", base64.len()),
        ));
    }
    let map = decode_base64(base64).ok_or_else(|| wrong("base64".into(), "another character".into()))?;
    let Some((size, rest)) = map.split_first_chunk() else {
        return Err(wrong("the size of a trie".into(), format!("{} bytes", map.len())));
    };
    let size = u32::from_le_bytes(*size) as usize;
    let Some(texts) = rest.get(size..).filter(|_| size >= 4) else {
        return Err(wrong(
            format!("a trie within the {} bytes there are", rest.len()),
            format!("one of {size} bytes"),
        ));
    };
    let longest = texts.split(|&byte| byte == 0).map(<[u8]>::len).max().unwrap_or(0);
    Ok(longest.max(1))
}

/// The bytes that `text` stands for; the crate is strict about its end, so that this need not be.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut word, mut n_bits) = (0_u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        word = word << 6 | u32::from(six);
        n_bits += 6;
        if n_bits >= 8 {
            n_bits -= 8;
            bytes.push((word >> n_bits) as u8);
        }
    }
    Some(bytes)
}
