//! The verbs, one file each.

mod generate;
mod load;
mod prompt;
pub(crate) mod run;
