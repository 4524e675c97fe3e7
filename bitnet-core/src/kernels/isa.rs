//! The instruction sets by name, and the choice among them.

use std::fmt;

use super::{Kernels, scalar};
use crate::error::{Error, Result};

/// An instruction set the engine has kernels for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust: the definition of every kernel.
    Scalar,
    /// aarch64 with the dot product instructions where the CPU has them.
    Neon,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL, DQ and VNNI.
    Avx512,
}

impl Isa {
    /// All of them, worst first.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Neon, Isa::Avx2, Isa::Avx512];

    /// The name `--isa` accepts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// The instruction set of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name)
    }

    /// Those this CPU and this build can run, worst first.
    #[must_use]
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|&isa| !tables(isa).is_empty()).collect()
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The tables of `isa` that this CPU reports every feature for, the best one last, unless a clock has to tell.
pub(super) fn tables(isa: Isa) -> Vec<&'static Kernels> {
    let tables: &[(bool, &'static Kernels)] = match isa {
        Isa::Scalar => &[(true, &scalar::KERNELS)],
        #[cfg(all(feature = "cpu", target_arch = "x86_64"))]
        Isa::Avx2 => &[
            (super::avx2::supported(), &super::avx2::KERNELS),
            (super::avxvnni::supported(), &super::avxvnni::KERNELS),
        ],
        #[cfg(all(feature = "cpu", target_arch = "x86_64"))]
        Isa::Avx512 => {
            let (here, vbmi) = (super::avx512::supported(), super::avx512vbmi::supported());
            &[
                (here, &super::avx512::KERNELS),
                (here, &super::avx512::PAIRS),
                (vbmi, &super::avx512vbmi::KERNELS),
                (vbmi, &super::avx512vbmi::PAIRS),
            ]
        }
        #[cfg(all(feature = "cpu", target_arch = "aarch64"))]
        Isa::Neon => &[
            (super::neon::plain::supported(), &super::neon::plain::KERNELS),
            (super::neon::dot::supported(), &super::neon::dot::KERNELS),
        ],
        #[allow(
            unreachable_patterns,
            reason = "every variant is handled on some target, none on all of them"
        )]
        _ => &[],
    };
    tables.iter().filter(|(here, _)| *here).map(|(_, table)| *table).collect()
}

/// The table of `isa` to use, if there is one.
fn table(isa: Isa) -> Option<&'static Kernels> {
    let mut tables = tables(isa);
    #[cfg(all(feature = "cpu", target_arch = "x86_64"))]
    if isa == Isa::Avx512 && !tables.is_empty() {
        let pairs = super::avx512weigh::pairs_pay();
        tables.retain(|table| table.pairs == pairs);
    }
    tables.pop()
}

impl Kernels {
    /// The fastest kernels this CPU runs.
    #[must_use]
    pub fn detect() -> &'static Kernels {
        Isa::ALL.into_iter().rev().find_map(table).expect("the scalar table is always there")
    }

    /// Every table this CPU runs, worst instruction set first: of some, there is more than one.
    #[must_use]
    pub fn all() -> Vec<&'static Kernels> {
        Isa::ALL.into_iter().flat_map(tables).collect()
    }

    /// The kernels of `isa`.
    ///
    /// # Errors
    /// If this CPU or this build does not have it; the message lists those it has.
    pub fn for_isa(isa: Isa) -> Result<&'static Kernels> {
        table(isa).ok_or_else(|| {
            let names: Vec<&str> = Isa::available().into_iter().rev().map(Isa::name).collect();
            Error::Invalid {
                what: format!("--isa {isa}"),
                reason: format!("this CPU has {}", names.join(", ")),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for isa in Isa::ALL {
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
        }
        assert_eq!(Isa::from_name("sse9"), None);
    }

    #[test]
    fn an_absent_instruction_set_is_refused_with_those_present() {
        let absent = if cfg!(target_arch = "x86_64") { Isa::Neon } else { Isa::Avx512 };
        let error = Kernels::for_isa(absent).err().unwrap().to_string();
        assert!(
            error.starts_with(&format!("--isa {absent}: this CPU has ")) && error.ends_with("scalar"),
            "{error}"
        );
    }

    #[test]
    fn of_several_tables_the_one_used_is_among_them_and_each_has_a_name_of_its_own() {
        let names: Vec<&str> = Kernels::all().into_iter().map(Kernels::name).collect();
        let different: std::collections::BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(different.len(), names.len(), "{names:?}");
        for isa in Isa::available() {
            let used = Kernels::for_isa(isa).unwrap();
            assert!(used.isa() == isa && different.contains(used.name()), "{used:?} of {names:?}");
        }
    }

    #[test]
    fn the_best_available_is_detected() {
        assert_eq!(Some(&Kernels::detect().isa()), Isa::available().last());
    }
}
