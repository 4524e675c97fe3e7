//! `bitnet convert`: a checkpoint becomes a file.

use bitnet_core::gguf::Gguf;
use bitnet_core::hf::Checkpoint;
use bitnet_core::{Access, Error};

use crate::args::ConvertArgs;
use crate::exit::Failure;
use crate::interrupt;
use crate::output::{note, shown};
use crate::place;
use crate::progress::Progress;

/// Writes the file, and says what was done with the weights.
pub(crate) fn convert(args: &ConvertArgs) -> Result<(), Failure> {
    let out = args.out.display();
    place::check(&out.to_string(), &args.out, args.force)?;
    if !Checkpoint::is_at(&args.dir) {
        let reason = "expected a directory with a config.json and model.safetensors";
        return Err(Failure::misuse(&args.dir.display().to_string(), reason));
    }
    let checkpoint = Checkpoint::open(&args.dir, &args.options)?;
    if place::is_one_of(&args.out, Checkpoint::files(&args.dir)) {
        let reason = "it is a file of the checkpoint itself, which is left alone";
        return Err(Failure::misuse(&out.to_string(), reason));
    }
    interrupt::watch();
    let mut progress = if args.quiet { None } else { Progress::new(format!("writing {out}")) };
    let ended = checkpoint.write(place::target(&args.out, args.force), &mut |done, total| {
        if let Some(progress) = &mut progress {
            progress.show(done, total);
        }
        !interrupt::pressed()
    });
    drop(progress);
    match ended {
        Err(Error::Io { .. }) if interrupt::pressed() => return Err(Failure::Interrupted),
        ended => ended?,
    }
    if !args.quiet {
        report(&checkpoint, &Gguf::open(&args.out, Access::Map)?)?;
    }
    Ok(())
}

fn report(checkpoint: &Checkpoint, file: &Gguf) -> Result<(), Failure> {
    note(format_args!(
        "{}: {}, {} tensors, {} bytes",
        shown(file.path()),
        checkpoint.arch().name(),
        file.tensors().len(),
        file.file_len()
    ));
    for (what, n) in checkpoint.matrices() {
        note(format_args!("{n} matrices {what}"));
    }
    match (checkpoint.n_tokens(), file.metadata().str("tokenizer.ggml.pre")?) {
        (Some(n), Some(pre)) => note(format_args!("{n} tokens, words cut by {pre}")),
        (Some(n), None) => note(format_args!("{n} tokens, SentencePiece")),
        (None, _) => {
            note(format_args!(
                "no vocabulary: the checkpoint has neither tokenizer.json nor tokenizer.model"
            ));
        }
    }
    Ok(())
}
