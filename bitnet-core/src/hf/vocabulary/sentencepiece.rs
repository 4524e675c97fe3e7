//! `tokenizer.model`, SentencePiece's own file: a protocol buffer, of which a dozen fields matter.
//!
//! ```text
//! ModelProto       1: SentencePiece, once for each id    2: TrainerSpec    3: NormalizerSpec
//! SentencePiece    1: text    2: score, f32    3: type, as in a GGUF file (default 1, normal)
//! TrainerSpec      3: model type (default 1, unigram; 2 is BPE)
//! NormalizerSpec   2: character map    3: add_dummy_prefix    4: remove_extra_whitespaces    both true by default
//! ```
//!
//! A field is a varint `number * 8 + wire type` and a value: 0 is a varint, 1 eight bytes, 2 a length and that many
//! bytes, 5 four bytes.

use std::path::Path;

use super::MAX_TOKEN_BYTES;
use super::token_type::{BYTE, CONTROL, NORMAL, UNUSED, USER_DEFINED};
use crate::error::{Error, Result};
use crate::hf::object::{malformed, read_file};
use crate::tokenizer::{VocabModel, Vocabulary};

/// Vocabularies of a quarter of a million tokens have some 5 MB.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Of the trainer's model types, the one that merges by score.
const BPE: u64 = 2;

/// Reads the vocabulary in `file`, completed by `added` tokens (id, text, whether they are control tokens) to as many
/// as the embedding has rows, `n`.
pub(super) fn read(file: &Path, n: usize, added: &[(usize, String, bool)]) -> Result<Vocabulary> {
    let bytes = read_file(file, MAX_FILE_BYTES)?;
    let model = Model::parse(&bytes)
        .ok_or_else(|| malformed(file, "file", "a SentencePiece model", "other or damaged bytes"))?;
    model.check(file)?;
    let too_many = |id: usize, text: &[u8]| {
        let found = format!("{id}, \"{}\"", text.escape_ascii());
        malformed(file, "vocabulary", &format!("ids below vocab_size, {n}"), &found)
    };
    let mut tokens: Vec<Vec<u8>> = (0..n).map(|id| format!("[PAD{id}]").into_bytes()).collect();
    let mut types = vec![UNUSED; n];
    let mut scores = vec![-1000.0; n]; // of padding; what llama.cpp's converter writes
    for (id, piece) in model.pieces.iter().enumerate() {
        if id >= n {
            return Err(too_many(id, piece.text));
        }
        if piece.text.len() > MAX_TOKEN_BYTES {
            let expected = format!("at most {MAX_TOKEN_BYTES} bytes");
            return Err(malformed(file, &format!("token {id}"), &expected, &piece.text.len().to_string()));
        }
        (tokens[id], types[id], scores[id]) = (piece.text.to_vec(), piece.ty, piece.score);
    }
    for (id, text, special) in added {
        if *id >= n {
            return Err(too_many(*id, text.as_bytes()));
        }
        // The file itself knows better what its own tokens are.
        if *id >= model.pieces.len() {
            tokens[*id] = text.as_bytes().to_vec();
            types[*id] = if *special { CONTROL } else { USER_DEFINED };
        }
    }
    Ok(Vocabulary {
        source: file.to_owned(),
        model: VocabModel::Spm,
        tokens,
        types,
        scores,
        add_space_prefix: Some(model.add_dummy_prefix),
        ..Vocabulary::default()
    })
}

/// What matters of a model.
#[derive(Debug, PartialEq)]
struct Model<'a> {
    pieces: Vec<SentencePiece<'a>>,
    model_type: u64,
    has_character_map: bool,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
}

#[derive(Debug, PartialEq)]
struct SentencePiece<'a> {
    text: &'a [u8],
    score: f32,
    ty: i32,
}

impl<'a> Model<'a> {
    /// `None` if these bytes are no such message.
    fn parse(bytes: &'a [u8]) -> Option<Model<'a>> {
        let mut model = Model {
            pieces: Vec::new(),
            model_type: 1,
            has_character_map: false,
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
        };
        for field in Fields(bytes) {
            match field? {
                (1, Field::Bytes(piece)) => model.pieces.push(SentencePiece::parse(piece)?),
                (2, Field::Bytes(trainer)) => {
                    for field in Fields(trainer) {
                        if let (3, Field::Number(n)) = field? {
                            model.model_type = n;
                        }
                    }
                }
                (3, Field::Bytes(normalizer)) => {
                    for field in Fields(normalizer) {
                        match field? {
                            (2, Field::Bytes(map)) => model.has_character_map = !map.is_empty(),
                            (3, Field::Number(n)) => model.add_dummy_prefix = n != 0,
                            (4, Field::Number(n)) => model.remove_extra_whitespaces = n != 0,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        (!model.pieces.is_empty()).then_some(model)
    }

    /// Refuses what a GGUF vocabulary cannot say, or this engine does not do.
    fn check(&self, file: &Path) -> Result<()> {
        let reason = if self.model_type != BPE {
            "its algorithm is not BPE"
        } else if self.has_character_map {
            "it replaces characters before it cuts text"
        } else if self.remove_extra_whitespaces {
            "it removes white space before it cuts text"
        } else {
            return Ok(());
        };
        let item = "SentencePiece model".into();
        Err(Error::Unsupported {
            path: file.to_owned(),
            item,
            reason: format!("{reason}, which is not known here"),
        })
    }
}

impl<'a> SentencePiece<'a> {
    fn parse(bytes: &'a [u8]) -> Option<SentencePiece<'a>> {
        let mut piece = SentencePiece { text: &[], score: 0.0, ty: NORMAL };
        for field in Fields(bytes) {
            match field? {
                (1, Field::Bytes(text)) => piece.text = text,
                (2, Field::Four(score)) => piece.score = f32::from_le_bytes(score),
                (3, Field::Number(n)) => {
                    piece.ty = i32::try_from(n).ok().filter(|ty| (NORMAL..=BYTE).contains(ty))?
                }
                _ => {}
            }
        }
        (!piece.score.is_nan()).then_some(piece)
    }
}

/// A field's value.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Four([u8; 4]),
    Eight,
}

/// The fields of a message; `None` among them is the end of what can be read.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Field<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let key = self.varint()?;
        let value = match key % 8 {
            0 => Field::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Eight
            }
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(usize::try_from(length).ok()?)?)
            }
            5 => Field::Four(self.take(4)?.try_into().ok()?),
            _ => return None,
        };
        Some((key / 8, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `<unk>`, `<0x41>` and a word of score -1.5; model type BPE; no dummy prefix, white space kept.
    const WRITTEN: &[u8] = b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02\
        \x0a\x0f\x0a\x06<0x41>\x15\x00\x00\x00\x00\x18\x06\
        \x0a\x0b\x0a\x04\xe2\x96\x81a\x15\x00\x00\xc0\xbf\
        \x12\x02\x18\x02\
        \x1a\x04\x18\x00\x20\x00";

    #[test]
    fn the_fields_that_matter_are_read() {
        let model = Model::parse(WRITTEN).unwrap();
        let pieces: Vec<_> = model.pieces.iter().map(|p| (p.text, p.score, p.ty)).collect();
        let word = "\u{2581}a".as_bytes();
        assert_eq!(pieces, [(&b"<unk>"[..], 0.0, 2), (b"<0x41>", 0.0, 6), (word, -1.5, 1)]);
        assert_eq!((model.model_type, model.has_character_map), (BPE, false));
        assert!(!model.add_dummy_prefix && !model.remove_extra_whitespaces);
        assert!(model.check(Path::new("x")).is_ok());
    }

    #[test]
    fn damaged_bytes_are_refused_and_never_trusted() {
        for end in 1..WRITTEN.len() {
            let _ = Model::parse(&WRITTEN[..end]);
            let mut damaged = WRITTEN.to_vec();
            for byte in [0, 0x0a, 0x7f, 0xff] {
                damaged[end] = byte;
                let _ = Model::parse(&damaged);
            }
        }
        assert_eq!(Model::parse(b""), None);
        assert_eq!(Model::parse(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), None); // a length of 2^64 - 1
        assert_eq!(Model::parse(&[0xff; 40]), None);
        assert_eq!(Model::parse(b"\x0a\x05\x15\x00\x00\xc0\x7f"), None); // a score that is no number
    }

    #[test]
    fn a_piece_that_no_model_file_holds_is_refused_by_its_id() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // 70 000 bytes of text, in as many and four.
        let piece = [&b"\x0a\xf4\xa2\x04\x0a\xf0\xa2\x04"[..], &[b'x'; 70_000]].concat();
        std::fs::write(file.path(), [&piece, WRITTEN].concat()).unwrap();
        let error = read(file.path(), 4, &[]).unwrap_err();
        assert!(error.is_bad_file());
        assert!(
            error.to_string().ends_with(": token 0: expected at most 65536 bytes, found 70000"),
            "{error}"
        );
    }

    #[test]
    fn what_a_vocabulary_cannot_say_is_refused() {
        let unigram = Model::parse(&WRITTEN[..46]).unwrap();
        let found = unigram.check(Path::new("tokenizer.model")).unwrap_err().to_string();
        assert_eq!(
            found,
            "tokenizer.model: SentencePiece model: its algorithm is not BPE, which is not known here"
        );
    }
}
