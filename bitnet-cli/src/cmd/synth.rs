//! `bitnet synth`: a model of a real one's shape, without a download.

use std::path::Path;

use bitnet_core::synth::{SynthOptions, write_synthetic};

use crate::args::SynthArgs;
use crate::exit::Failure;
use crate::progress::Progress;

/// Writes the model.
pub(crate) fn synth(args: &SynthArgs) -> Result<(), Failure> {
    if args.out.exists() && !args.force {
        return Err(Failure::misuse(
            &args.out.display().to_string(),
            "the file exists (--force overwrites it)",
        ));
    }
    write(&args.out, &args.model, args.quiet)
}

/// Writes a synthetic model to `path`, with progress on a terminal.
pub(super) fn write(path: &Path, model: &SynthOptions, quiet: bool) -> Result<(), Failure> {
    let mut progress = if quiet { None } else { Progress::new(format!("writing {}", path.display())) };
    write_synthetic(path, model, &mut |done, total| {
        if let Some(progress) = &mut progress {
            progress.show(done, total);
        }
    })?;
    Ok(())
}
