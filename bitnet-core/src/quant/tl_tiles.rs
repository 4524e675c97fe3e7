//! Tile sizes of TL1 and TL2 tensors, which no file states.
//!
//! A lookup-table tensor is cut into tiles whose sizes were compiled into the program that wrote it. Read
//! with other sizes, every byte still decodes to ternary weights, in the wrong places: so a shape without
//! known sizes is refused. Here live the sizes of the models bitnet.cpp has presets for, and the reader for
//! its `kernel_config.ini`, which states them for any other.

use std::fmt;

/// Tile sizes of one matrix shape, by the names `kernel_config.ini` gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileConfig {
    /// Rows of a tile.
    pub bm: usize,
    /// Columns of a tile.
    pub bk: usize,
    /// Rows that one step of the kernel takes: 32 or 64.
    pub bmm: usize,
}

/// Which tile sizes belong to which shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileTable {
    /// Rows, columns, sizes; the first match is the answer.
    entries: Vec<(usize, usize, TileConfig)>,
}

/// What is wrong with tile sizes, or with their file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TileError {
    /// The table has no sizes for this shape.
    Unknown {
        /// Rows of the matrix.
        rows: usize,
        /// Columns.
        cols: usize,
    },
    /// These sizes cannot cut this shape.
    Misfit {
        /// Rows of the matrix.
        rows: usize,
        /// Columns.
        cols: usize,
        /// The sizes.
        tiles: TileConfig,
        /// The rule they break.
        rule: &'static str,
    },
    /// A line of the file makes no sense.
    Line {
        /// Counted from one.
        line: usize,
        /// What was expected, what was found.
        reason: String,
    },
}

impl fmt::Display for TileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TileError::Unknown { rows, cols } => {
                write!(
                    f,
                    "no tile sizes are known for shape [{rows}, {cols}]; --tl-config FILE can state them"
                )
            }
            TileError::Misfit { rows, cols, tiles: TileConfig { bm, bk, bmm }, rule } => {
                write!(f, "tile sizes bm {bm}, bk {bk}, bmm {bmm} do not fit shape [{rows}, {cols}]: {rule}")
            }
            TileError::Line { line, reason } => write!(f, "line {line}: {reason}"),
        }
    }
}

impl std::error::Error for TileError {}

/// Rows, columns, bm, bk, bmm.
type Row = (usize, usize, usize, usize, usize);

/// bitnet.cpp, `setup_env.py`; then, where they differ, the sizes of its `preset_kernels` (Llama3-8B).
const TL1: [Row; 14] = [
    (1536, 4096, 256, 128, 32), // bitnet_b1_58-large
    (1536, 1536, 128, 64, 64),
    (4096, 1536, 256, 128, 32),
    (3200, 8640, 160, 64, 32), // bitnet_b1_58-3B
    (3200, 3200, 320, 128, 64),
    (8640, 3200, 320, 64, 32),
    (14336, 4096, 256, 128, 32), // Llama3-8B
    (4096, 14336, 128, 64, 64),
    (1024, 4096, 256, 128, 32),
    (4096, 4096, 128, 64, 64),
    (14336, 4096, 256, 128, 64), // the same, preset
    (4096, 14336, 256, 128, 32),
    (1024, 4096, 128, 64, 64),
    (4096, 4096, 128, 64, 32),
];

/// bitnet.cpp, `setup_env.py`; its presets agree, but for a bmm of 64 that TL2 does not have.
const TL2: [Row; 10] = [
    (1536, 4096, 256, 96, 32), // bitnet_b1_58-large
    (1536, 1536, 128, 192, 32),
    (4096, 1536, 256, 96, 32),
    (3200, 8640, 160, 96, 32), // bitnet_b1_58-3B
    (3200, 3200, 320, 96, 32),
    (8640, 3200, 320, 96, 32),
    (14336, 4096, 256, 96, 32), // Llama3-8B
    (4096, 14336, 128, 96, 32),
    (1024, 4096, 256, 96, 32),
    (4096, 4096, 128, 96, 32),
];

impl TileTable {
    /// The built-in sizes of TL1.
    #[must_use]
    pub fn tl1() -> TileTable {
        TileTable::built_in(&TL1)
    }

    /// The built-in sizes of TL2.
    #[must_use]
    pub fn tl2() -> TileTable {
        TileTable::built_in(&TL2)
    }

    fn built_in(rows: &[Row]) -> TileTable {
        TileTable {
            entries: rows.iter().map(|&(m, k, bm, bk, bmm)| (m, k, TileConfig { bm, bk, bmm })).collect(),
        }
    }

    /// The sizes for a matrix of this shape.
    ///
    /// # Errors
    /// [`TileError::Unknown`] if the table has none.
    pub fn find(&self, rows: usize, cols: usize) -> Result<TileConfig, TileError> {
        self.candidates(rows, cols).next().ok_or(TileError::Unknown { rows, cols })
    }

    /// All sizes that writers are known to have used for this shape, the likeliest first. Only TL1 of
    /// Llama3-8B has more than one; nothing in a file tells them apart.
    pub fn candidates(&self, rows: usize, cols: usize) -> impl Iterator<Item = TileConfig> {
        self.entries.iter().filter(move |(m, k, _)| (*m, *k) == (rows, cols)).map(|(_, _, tiles)| *tiles)
    }

    /// Reads a `kernel_config.ini` as bitnet.cpp's code generators write it: sections of five numbers.
    ///
    /// ```
    /// use bitnet_core::quant::tl_tiles::TileTable;
    ///
    /// let table = TileTable::parse("[Kernels_0]\nm = 3200\nk = 8640\nbm = 160\nbk = 64\nbmm = 32\n")?;
    /// assert_eq!(table.find(3200, 8640)?.bm, 160);
    /// # Ok::<(), bitnet_core::quant::tl_tiles::TileError>(())
    /// ```
    ///
    /// Names of sections mean nothing; keys may be written in capitals. Whether sizes fit their shape is
    /// checked where a tensor is read.
    ///
    /// # Errors
    /// [`TileError::Line`] for anything else in the file: an unknown, missing or repeated key, a value that
    /// is no positive number, a shape that occurs twice, no section at all.
    pub fn parse(text: &str) -> Result<TileTable, TileError> {
        let mut table = TileTable { entries: Vec::new() };
        let mut section = None;
        let mut last_line = 1;
        for (at, line) in text.lines().enumerate() {
            let (at, line) = (at + 1, line.trim());
            last_line = at;
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if line.starts_with('[') && line.ends_with(']') {
                table.close(section.replace(Section { line: at, ..Section::default() }))?;
                continue;
            }
            let Some(section) = &mut section else {
                return Err(unexpected(at, "a section, as in [Kernels_0]", line));
            };
            section.set(at, line)?;
        }
        if section.is_none() {
            return Err(unexpected(last_line, "a section, as in [Kernels_0]", "the end of the file"));
        }
        table.close(section)?;
        Ok(table)
    }

    /// Adds a finished section.
    fn close(&mut self, section: Option<Section>) -> Result<(), TileError> {
        let Some(Section { line, values }) = section else { return Ok(()) };
        if let Some(missing) = values.iter().position(Option::is_none) {
            return Err(TileError::Line { line, reason: format!("this section has no {}", KEYS[missing]) });
        }
        let [m, k, bm, bk, bmm] = values.map(|v| v.expect("none is missing"));
        if self.find(m, k).is_ok() {
            let reason = format!("shape [{m}, {k}] has a section already");
            return Err(TileError::Line { line, reason });
        }
        self.entries.push((m, k, TileConfig { bm, bk, bmm }));
        Ok(())
    }
}

const KEYS: [&str; 5] = ["m", "k", "bm", "bk", "bmm"];

/// A section being read: the line it opened on, and what it has said so far, in the order of [`KEYS`].
#[derive(Default)]
struct Section {
    line: usize,
    values: [Option<usize>; 5],
}

impl Section {
    fn set(&mut self, at: usize, line: &str) -> Result<(), TileError> {
        let Some((key, value)) = line.split_once(['=', ':']) else {
            return Err(unexpected(at, "key = value", line));
        };
        let (key, value) = (key.trim(), value.trim());
        let Some(index) = KEYS.iter().position(|k| k.eq_ignore_ascii_case(key)) else {
            return Err(unexpected(at, "one of m, k, bm, bk, bmm", key));
        };
        let number = match value.parse() {
            Ok(0) | Err(_) => return Err(unexpected(at, "a positive number", value)),
            Ok(number) => number,
        };
        if self.values[index].replace(number).is_some() {
            let reason = format!("{} is set twice in this section", KEYS[index]);
            return Err(TileError::Line { line: at, reason });
        }
        Ok(())
    }
}

fn unexpected(line: usize, expected: &str, found: &str) -> TileError {
    // A file that is no configuration at all may have lines of any length.
    let found: String = found.chars().take(40).collect();
    TileError::Line { line, reason: format!("expected {expected}, found {found}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_sizes_come_first() {
        let table = TileTable::tl1();
        assert_eq!(table.find(1536, 1536), Ok(TileConfig { bm: 128, bk: 64, bmm: 64 }));
        let both: Vec<usize> = table.candidates(4096, 14336).map(|t| t.bm).collect();
        assert_eq!(both, [128, 256]);
        assert_eq!(TileTable::tl2().find(2560, 2560), Err(TileError::Unknown { rows: 2560, cols: 2560 }));
    }

    #[test]
    fn a_kernel_config_is_read() {
        let text = "; TL2\n[Kernels_0]\nm = 5120\nk = 27648\nbm = 128\nbk = 96\nbmm = 32\n\n\
                    [Kernels_1]\r\nM: 1024\r\nK: 5120\r\nBM: 256\r\nBK: 96\r\nbmm: 32\r\n# end";
        let table = TileTable::parse(text).unwrap();
        assert_eq!(table.entries.len(), 2);
        assert_eq!(table.find(5120, 27648), Ok(TileConfig { bm: 128, bk: 96, bmm: 32 }));
        assert_eq!(table.find(1024, 5120), Ok(TileConfig { bm: 256, bk: 96, bmm: 32 }));
    }

    #[test]
    fn every_mistake_names_its_line() {
        let section = "[a]\nm=1\nk=2\nbm=3\nbk=4\nbmm=5\n";
        for (text, expected) in [
            ("", "line 1: expected a section, as in [Kernels_0], found the end of the file"),
            ("m = 1", "line 1: expected a section, as in [Kernels_0], found m = 1"),
            ("[a]\nm = 1\n", "line 1: this section has no k"),
            ("[a]\nrows = 1\n", "line 2: expected one of m, k, bm, bk, bmm, found rows"),
            ("[a]\nm = 0\n", "line 2: expected a positive number, found 0"),
            ("[a]\nm = -3\n", "line 2: expected a positive number, found -3"),
            (
                "[a]\nm = 99999999999999999999\n",
                "line 2: expected a positive number, found 99999999999999999999",
            ),
            ("[a]\nm = 1\nM = 1\n", "line 3: m is set twice in this section"),
            ("[a]\nhello\n", "line 2: expected key = value, found hello"),
            (&format!("{section}{section}"), "line 7: shape [1, 2] has a section already"),
        ] {
            assert_eq!(TileTable::parse(text).unwrap_err().to_string(), expected);
        }
    }
}
