//! Printing tokens as they come.

use super::Tokenizer;
use crate::TokenId;

/// Turns a stream of tokens into text, one whole character at a time.
///
/// Tokens are bytes and often end inside a character: what could still become one is held back. What cannot
/// is replaced by U+FFFD, exactly as `String::from_utf8_lossy` would over the whole stream.
#[derive(Debug)]
pub struct Detokenizer<'t> {
    tokenizer: &'t Tokenizer,
    /// Bytes held back: the beginning of a character, at most three.
    held: Vec<u8>,
    shows_special: bool,
    drops_space: bool,
}

impl<'t> Detokenizer<'t> {
    /// For a text from its first token on. SentencePiece begins texts with a space, which is dropped.
    #[must_use]
    pub fn new(tokenizer: &'t Tokenizer) -> Detokenizer<'t> {
        let drops_space = tokenizer.drops_first_space();
        Detokenizer { tokenizer, held: Vec::new(), shows_special: false, drops_space }
    }

    /// For text that continues another, such as a completion after its prompt: its first space is its own.
    #[must_use]
    pub fn continuing(tokenizer: &'t Tokenizer) -> Detokenizer<'t> {
        Detokenizer { drops_space: false, ..Detokenizer::new(tokenizer) }
    }

    /// Prints control tokens by name instead of not at all.
    #[must_use]
    pub fn show_special(mut self, shows_special: bool) -> Detokenizer<'t> {
        self.shows_special = shows_special;
        self
    }

    /// The text that `id` completes; nothing for an id outside the vocabulary.
    pub fn push(&mut self, id: TokenId) -> String {
        let is_special = self.tokenizer.is_special(id);
        if is_special && !self.shows_special {
            return String::new();
        }
        let mut bytes = self.tokenizer.token_bytes(id);
        if self.drops_space && !bytes.is_empty() && !is_special {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            self.drops_space = false;
        }
        self.held.extend_from_slice(bytes);
        self.release()
    }

    /// What is held back at the end of the stream: nothing, or U+FFFD for a character cut short.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }

    fn release(&mut self) -> String {
        let mut text = String::with_capacity(self.held.len());
        let mut rest = self.held.as_slice();
        loop {
            let error = match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => error,
            };
            let (valid, after) = rest.split_at(error.valid_up_to());
            text.push_str(std::str::from_utf8(valid).expect("valid up to here"));
            rest = after;
            let Some(n_bad) = error.error_len() else { break };
            text.push(char::REPLACEMENT_CHARACTER);
            rest = &rest[n_bad..];
        }
        let n_released = self.held.len() - rest.len();
        self.held.drain(..n_released);
        text
    }
}
