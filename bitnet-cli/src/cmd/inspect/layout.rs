//! `--layout-test`: in which order the codes of I2_S tensors stand.
//!
//! Nothing in a file says so, and the other order is no error but another model: one that knows nothing. So short
//! texts are predicted with the codes read both ways. A model that learned something finds one of them much easier in
//! one order than in the other, and than a blind guess; if that is not so, nothing is claimed.

use bitnet_core::gguf::{Gguf, TensorType};
use bitnet_core::quant::ternary::{I2sLayout, Reading};
use bitnet_core::{Error, LoadOptions, Model, Placement, Session, SessionOptions, TokenId, Tokenizer};
use serde_json::{Value as Json, json};

use super::super::perplexity::surprise;
use super::text::columns;
use crate::args::InspectArgs;
use crate::exit::Failure;
use crate::progress::Progress;

/// Tokens of the prose that are predicted, at most.
const MOST: usize = 64;
/// What has to lie between an order that is believed and both the other order and a blind guess, in nats per token:
/// three times the error of so few tokens.
const MARGIN: f64 = 1.0;

const PROSE: &str = "The sun rises in the east and sets in the west. Water freezes at zero degrees and boils at one \
hundred. A week has seven days, and a year has twelve months. Paris is the capital of France, and Rome is the capital \
of Italy. When it rains, people open their umbrellas and walk a little faster than they did before.";

/// Prompts and their answers, of which only the answers are predicted: for models that know nothing else.
const SUMS: [(&str, &str); 8] = [
    ("2+2=", "4"),
    ("12+34=", "46"),
    ("57+8=", "65"),
    ("50-8=", "42"),
    ("7*6=", "42"),
    ("9*12=", "108"),
    ("345+678=", "1023"),
    ("What is 17 plus 25?", "42"),
];

/// Mean losses of each kind of text, in nats per token.
pub(super) struct LayoutTest {
    n_vocab: usize,
    texts: [Text; 2],
    /// Losses of the texts in each order; why it cannot be, if the tensors have no such order.
    orders: [(I2sLayout, Result<[f64; 2], Error>); 2],
}

/// What is predicted.
struct Text {
    name: &'static str,
    /// Ids, and the first of them that counts.
    parts: Vec<(Vec<TokenId>, usize)>,
}

impl LayoutTest {
    /// Runs the model in both orders, one after the other.
    pub(super) fn of(
        args: &InspectArgs,
        gguf: &Gguf,
        reading: &Reading,
        open: impl Fn() -> Result<Gguf, Failure>,
    ) -> Result<Self, Failure> {
        if !gguf.tensors().iter().any(|info| info.ty == TensorType::I2_S) {
            return Err(Failure::misuse(
                "--layout-test",
                "the model has no I2_S tensors, whose order it could tell",
            ));
        }
        let Some(tokenizer) = Tokenizer::for_model(gguf, args.tokenizer.as_deref(), args.pre.as_deref())?
        else {
            return Err(Failure::misuse(
                "--layout-test",
                "the model has no vocabulary; give --tokenizer FILE",
            ));
        };
        let texts = [Text::prose(&tokenizer)?, Text::sums(&tokenizer)?];
        let mut n_vocab = 0;
        let mut losses = |i2s| -> Result<Result<[f64; 2], Error>, Failure> {
            let word = || Progress::word(format!("predicting a text, codes in order {}", name(i2s)));
            let _word = if args.quiet { None } else { word() };
            let reading = Reading { i2s, ..reading.clone() };
            let options = LoadOptions { reading, placement: Placement::Map, ..LoadOptions::default() };
            let model = match Model::from_gguf(open()?, &options) {
                Ok(model) => model,
                Err(error) => return Ok(Err(error)),
            };
            n_vocab = model.config().n_vocab;
            let n_ctx = MOST.min(model.config().n_ctx_train);
            let options = SessionOptions { n_ctx: Some(n_ctx), ..SessionOptions::default() };
            let mut session = Session::new(&model, &options)?;
            let [prose, sums] = &texts;
            Ok(Ok([prose.loss(&mut session)?, sums.loss(&mut session)?]))
        };
        let orders = [(I2sLayout::A, losses(I2sLayout::A)?), (I2sLayout::B, losses(I2sLayout::B)?)];
        match orders {
            // What is wrong has nothing to do with the order.
            [(_, Err(error)), (_, Err(_))] => Err(error.into()),
            orders => Ok(LayoutTest { n_vocab, texts, orders }),
        }
    }

    /// The order that the model makes sense in, and the text that shows it.
    pub(super) fn plausible(&self) -> Option<(I2sLayout, &'static str)> {
        let loss = |order: usize, text: usize| self.orders[order].1.as_ref().ok().map(|losses| losses[text]);
        let guess = self.guess();
        (0..self.texts.len()).find_map(|text| {
            let at = believed([loss(0, text), loss(1, text)], guess)?;
            Some((self.orders[at].0, self.texts[text].name))
        })
    }

    /// The loss of a blind guess.
    fn guess(&self) -> f64 {
        (self.n_vocab as f64).ln()
    }

    /// A table for people, and what follows from it.
    pub(super) fn text(&self, out: &mut String) {
        out.push_str(&format!(
            "\norder of I2_S codes: loss in nats per token; a blind guess among {} tokens costs {:.2}\n",
            self.n_vocab,
            self.guess()
        ));
        let mut rows = vec![["", "a", "b"].map(str::to_owned)];
        for (i, text) in self.texts.iter().enumerate() {
            let cell =
                |order: usize| self.orders[order].1.as_ref().map_or("-".into(), |l| format!("{:.3}", l[i]));
            rows.push([text.name.to_owned(), cell(0), cell(1)]);
        }
        columns(out, rows, "<>>");
        out.push_str(&match self.plausible() {
            Some((I2sLayout::A, text)) => format!("order a is plausible, by the {text}: the usual one\n"),
            Some((I2sLayout::B, text)) => {
                format!("order b is plausible, by the {text}: run it with --i2s-layout b\n")
            }
            None => "neither order is plausible\n".to_owned(),
        });
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Json {
        let texts = self.texts.iter().enumerate().map(|(i, text)| {
            let loss = |order: usize| self.orders[order].1.as_ref().ok().map(|losses| losses[i]);
            json!({ "text": text.name, "n_scored": text.n_scored(), "loss_a": loss(0), "loss_b": loss(1) })
        });
        json!({
            "plausible": self.plausible().map(|(order, _)| name(order)),
            "by": self.plausible().map(|(_, text)| text),
            "loss_of_a_guess": self.guess(),
            "texts": Json::from_iter(texts),
        })
    }
}

impl Text {
    fn prose(tokenizer: &Tokenizer) -> Result<Text, Error> {
        let mut ids = tokenizer.encode(PROSE, tokenizer.adds_bos())?;
        ids.truncate(MOST);
        Ok(Text { name: "prose", parts: vec![(ids, 1)] })
    }

    fn sums(tokenizer: &Tokenizer) -> Result<Text, Error> {
        let part = |(prompt, answer): (&str, &str)| {
            let [prompt, all] = [prompt.to_owned(), format!("{prompt}{answer}")]
                .map(|text| tokenizer.encode(&text, tokenizer.adds_bos()));
            let (prompt, all) = (prompt?, all?);
            // The seam may have become a token of its own.
            let same = prompt.iter().zip(&all).take_while(|(a, b)| a == b).count();
            Ok((all, same.max(1)))
        };
        Ok(Text { name: "sums", parts: SUMS.into_iter().map(part).collect::<Result<_, Error>>()? })
    }

    fn n_scored(&self) -> usize {
        self.parts.iter().map(|(ids, first)| ids.len().saturating_sub(*first)).sum()
    }

    /// The mean over all that counts; NaN if the model computes such, or nothing fits its context.
    fn loss(&self, session: &mut Session<'_>) -> Result<f64, Error> {
        let (mut sum, mut n) = (0.0, 0);
        for (ids, first) in &self.parts {
            session.clear();
            let ids = &ids[..ids.len().min(session.n_ctx())];
            session.score(ids, |i, logits| {
                if let Some(next) = ids.get(i + 1).filter(|_| i + 1 >= *first) {
                    // All ids are the model's, or scoring would have refused them.
                    sum += surprise(logits, *next);
                    n += 1;
                }
            })?;
        }
        Ok(sum / f64::from(n))
    }
}

/// Which of two losses is believed: one well below the other, if there is another, and below a blind guess.
fn believed(losses: [Option<f64>; 2], guess: f64) -> Option<usize> {
    (0..2).find(|&at| {
        let other = losses[1 - at].filter(|loss| !loss.is_nan());
        losses[at].is_some_and(|loss| loss + MARGIN <= guess.min(other.unwrap_or(f64::INFINITY)))
    })
}

fn name(order: I2sLayout) -> &'static str {
    match order {
        I2sLayout::A => "a",
        I2sLayout::B => "b",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_believed_only_by_a_clear_margin() {
        let guess = 128_256f64.ln();
        assert_eq!(believed([Some(3.0), Some(11.5)], guess), Some(0));
        assert_eq!(believed([Some(11.5), Some(3.0)], guess), Some(1));
        assert_eq!(believed([Some(3.0), Some(3.5)], guess), None, "too near to each other");
        assert_eq!(believed([Some(14.0), Some(11.5)], guess), None, "no better than a guess");
        assert_eq!(believed([None, Some(3.0)], guess), Some(1), "there is no other");
        assert_eq!(believed([None, Some(12.0)], guess), None);
        assert_eq!(believed([Some(f64::NAN), Some(3.0)], guess), Some(1));
        assert_eq!(believed([Some(f64::NAN), Some(f64::NAN)], guess), None);
    }
}
