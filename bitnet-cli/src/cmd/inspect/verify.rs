//! `--verify`: every ternary weight, looked at.

use bitnet_core::Error;
use bitnet_core::gguf::{Gguf, TensorInfo};
use bitnet_core::quant::ternary::Reading;
use bitnet_core::verify::{Census, census};
use serde_json::{Value as Json, json};

use super::json::shortest;
use super::show::escaped;
use super::text::{columns, count};
use crate::progress::Progress;

/// What was found in each ternary tensor, in the order of the file.
pub(super) struct Verified<'a>(Vec<(&'a TensorInfo, Result<Census, Error>)>);

impl<'a> Verified<'a> {
    /// Looks at all of them, whatever is wrong with some.
    pub(super) fn of(gguf: &'a Gguf, reading: &Reading, quiet: bool) -> Self {
        let mut progress = if quiet { None } else { Progress::new("counting weights".into()) };
        let total: u64 = gguf.tensors().iter().map(|info| info.n_bytes).sum();
        let (mut done, mut found) = (0, Vec::new());
        for info in gguf.tensors() {
            found.extend(census(gguf, info, reading).transpose().map(|counted| (info, counted)));
            done += info.n_bytes;
            if let Some(progress) = &mut progress {
                progress.show(done, total);
            }
        }
        Verified(found)
    }

    /// The first thing that is wrong.
    pub(super) fn into_fault(self) -> Option<Error> {
        self.0.into_iter().find_map(|(_, counted)| counted.err())
    }

    pub(super) fn is_sound(&self) -> bool {
        self.0.iter().all(|(_, counted)| counted.is_ok())
    }

    /// A table for people.
    pub(super) fn text(&self, out: &mut String) {
        out.push_str("\nternary weights: type, how many are -1, 0 and +1, zeros among them, scale\n");
        let rows: Vec<[String; 7]> = self.0.iter().map(|(info, counted)| row(info, counted)).collect();
        columns(out, rows, "<<>>>><");
        let (n, bad) = (self.0.len() as u64, self.0.iter().filter(|(_, counted)| counted.is_err()).count());
        out.push_str(&match (n, bad) {
            (0, _) => "no tensor is ternary\n".to_owned(),
            (n, 0) => {
                format!(
                    "{} verified: every code has a meaning, every scale is a number\n",
                    count(n, "tensor")
                )
            }
            (n, bad) => format!("damaged or unreadable: {bad} of {}\n", count(n, "tensor")),
        });
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Json {
        let tensors = self.0.iter().map(|(info, counted)| {
            let (name, ty) = (escaped(info.name.as_bytes()), info.ty.name());
            match counted {
                Ok(Census { minus, zero, plus, scales: (low, high) }) => json!({
                    "name": name, "type": ty, "minus": minus, "zero": zero, "plus": plus,
                    "min_scale": shortest(*low), "max_scale": shortest(*high), "fault": null,
                }),
                Err(error) => json!({ "name": name, "type": ty, "fault": escaped(why(error).as_bytes()) }),
            }
        });
        json!({ "sound": self.is_sound(), "tensors": Json::from_iter(tensors) })
    }
}

fn row(info: &TensorInfo, counted: &Result<Census, Error>) -> [String; 7] {
    let (name, ty) = (escaped(info.name.as_bytes()), info.ty.to_string());
    match counted {
        Ok(census) => {
            let Census { minus, zero, plus, scales: (low, high) } = census;
            let zeros = 100.0 * *zero as f64 / census.weights().max(1) as f64;
            let scale = if low == high { format!("{low:?}") } else { format!("{low:?} to {high:?}") };
            let [minus, zero, plus] = [minus, zero, plus].map(u64::to_string);
            [name, ty, minus, zero, plus, format!("{zeros:.1} %"), scale]
        }
        Err(error) => {
            let [a, b, c, d] = [const { String::new() }; 4];
            [name, ty, a, b, c, d, escaped(why(error).as_bytes())]
        }
    }
}

/// An error without the names of file and tensor, which stand beside it.
fn why(error: &Error) -> String {
    match error {
        Error::Malformed { expected, found, .. } => format!("expected {expected}, found {found}"),
        Error::Unsupported { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}
