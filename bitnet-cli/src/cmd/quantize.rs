//! `bitnet quantize`: a model in another ternary format.

use std::fs;

use bitnet_core::Error;
use bitnet_core::gguf::Gguf;
use bitnet_core::quantize::{QuantizeOptions, Quantized, quantize as write};

use super::load::{file, reading, shards};
use crate::args::QuantizeArgs;
use crate::exit::Failure;
use crate::interrupt;
use crate::output::{note, shown};
use crate::place;
use crate::progress::Progress;

/// Writes the model, and says what became of it.
pub(crate) fn quantize(args: &QuantizeArgs) -> Result<(), Failure> {
    let out = args.out.display().to_string();
    place::check(&out, &args.out, args.force)?;
    let source = file(&args.source)?;
    if place::is_one_of(&args.out, shards(&source)) {
        return Err(Failure::misuse(&out, "it is IN itself, which is left alone"));
    }
    place::spare(&out, &args.out, args.force, || args.reading.tl_config.clone().into_iter().collect())?;
    let options = QuantizeOptions {
        ty: args.ty,
        embd: args.embd,
        absmean: args.absmean,
        reading: reading(&args.reading)?,
    };
    interrupt::watch();
    let mut progress = if args.quiet { None } else { Progress::new(format!("writing and comparing {out}")) };
    let ended = write(&source, place::target(&args.out, args.force), &options, &mut |done, total| {
        if let Some(progress) = &mut progress {
            progress.show(done, total);
        }
        !interrupt::pressed()
    });
    drop(progress);
    let outcome = match ended {
        Err(Error::Io { .. }) if interrupt::pressed() => return Err(Failure::Interrupted),
        ended => ended?,
    };
    if !args.quiet {
        say(args, &source, &outcome);
    }
    Ok(())
}

fn say(args: &QuantizeArgs, source: &Gguf, outcome: &Quantized) {
    let Quantized { ternary, absmean, embd, copied, rounded, worst_rounding } = *outcome;
    let mut parts = vec![format!("{ternary} matrices as {}", args.ty)];
    if absmean > 0 {
        parts.push(format!("{absmean} of them made ternary by absmean"));
    }
    if let Some(ty) = args.embd.filter(|_| embd > 0) {
        parts.push(format!("{embd} as {ty}"));
    }
    parts.push(format!("{copied} tensors as they were"));
    let bytes = fs::metadata(&args.out).map_or(0, |meta| meta.len());
    note(format_args!(
        "{}: {}; {} bytes, {} before; reads back the same",
        shown(&args.out),
        parts.join(", "),
        bytes,
        source.file_len()
    ));
    if rounded > 0 {
        note(format_args!(
            "{rounded} matrices have a scale that {} rounds to half precision, by up to {:.4} %",
            args.ty,
            100.0 * worst_rounding
        ));
    }
}
