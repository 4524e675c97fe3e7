//! `bitnet synth`: a model of a real one's shape, without a download.

use bitnet_core::Error;
use bitnet_core::synth::write_synthetic;

use crate::args::SynthArgs;
use crate::exit::Failure;
use crate::interrupt;
use crate::place;
use crate::progress::Progress;

/// Writes the model.
pub(crate) fn synth(args: &SynthArgs) -> Result<(), Failure> {
    let out = args.out.display().to_string();
    place::check(&out, &args.out, args.force)?;
    interrupt::watch();
    writing(&out, args.quiet, |progress| {
        write_synthetic(place::target(&args.out, args.force), &args.model, progress)
    })
}

/// Lets `write` write the file called `name`, with progress on a terminal, until Ctrl-C comes.
pub(super) fn writing(
    name: &str,
    quiet: bool,
    write: impl FnOnce(&mut dyn FnMut(u64, u64) -> bool) -> Result<(), Error>,
) -> Result<(), Failure> {
    let mut progress = if quiet { None } else { Progress::new(format!("writing {name}")) };
    let ended = write(&mut |done, total| {
        if let Some(progress) = &mut progress {
            progress.show(done, total);
        }
        !interrupt::pressed()
    });
    match ended {
        Err(Error::Io { .. }) if interrupt::pressed() => Err(Failure::Interrupted),
        ended => Ok(ended?),
    }
}
