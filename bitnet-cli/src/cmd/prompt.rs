//! From a prompt, wherever it comes from, to token ids.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bitnet_core::{Error, TokenId, Tokenizer};

use crate::args::Prompt;
use crate::exit::Failure;

/// More text than any context holds.
const MAX_MIB: u64 = 64;

/// The prompt's ids: as given, or as the model's tokenizer sees the text, with the start token the model wants.
pub(crate) fn ids(prompt: &Prompt, tokenizer: Option<&Tokenizer>) -> Result<Vec<TokenId>, Failure> {
    let text = match prompt {
        Prompt::Tokens(ids) => return Ok(ids.clone()),
        Prompt::Text(text) => text.clone(),
        Prompt::Stdin => read("stdin", io::stdin().lock(), Path::new("stdin"), MAX_MIB)?,
        Prompt::File(path) => {
            let file = File::open(path);
            let file = file.map_err(|source| Error::Io { path: path.clone(), action: "open", source })?;
            read(&format!("--file {}", path.display()), file, path, MAX_MIB)?
        }
    };
    let Some(tokenizer) = tokenizer else {
        let reason = "the model has no vocabulary; give --tokenizer FILE, or ids with --tokens";
        return Err(Failure::misuse("--prompt", reason));
    };
    let ids = tokenizer.encode(&text, tokenizer.adds_bos())?;
    if ids.is_empty() {
        return Err(Failure::misuse(
            "--prompt",
            "this model adds no start token, so that an empty prompt is nothing to continue",
        ));
    }
    Ok(ids)
}

/// All of `from` as text, less one trailing newline: that one belongs to the line, not to the prompt.
///
/// An endless pipe is refused instead of filling the memory.
pub(crate) fn read(what: &str, from: impl Read, path: &Path, max_mib: u64) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let got = from.take((max_mib << 20) + 1).read_to_end(&mut bytes);
    got.map_err(|source| Error::Io { path: path.to_owned(), action: "read", source })?;
    if bytes.len() as u64 > max_mib << 20 {
        return Err(Failure::misuse(what, &format!("expected at most {max_mib} MiB of text")));
    }
    let mut text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Failure::misuse(
            what,
            &format!("expected UTF-8 text, found byte {:#04x} at offset {at}", e.as_bytes()[at]),
        )
    })?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_trailing_newline_is_the_lines_not_the_prompts() {
        for (bytes, text) in
            [("2+2=\n", "2+2="), ("a\n\n", "a\n"), ("a\r\n", "a"), ("a", "a"), ("", ""), ("\0", "\0")]
        {
            assert_eq!(read("stdin", bytes.as_bytes(), Path::new("stdin"), 1).unwrap(), text);
        }
    }

    #[test]
    fn what_is_no_text_is_refused_with_its_place() {
        let refused = read("stdin", &b"abc\xff"[..], Path::new("stdin"), 1);
        let Err(Failure::Misuse(sentence)) = refused else { panic!("expected a refusal, got {refused:?}") };
        assert_eq!(sentence, "stdin: expected UTF-8 text, found byte 0xff at offset 3");
    }

    #[test]
    fn an_endless_pipe_is_refused() {
        let refused = read("stdin", io::repeat(b'y'), Path::new("stdin"), 1);
        assert!(matches!(refused, Err(Failure::Misuse(sentence)) if sentence.contains("at most 1 MiB")));
    }
}
