//! Files that break the rules of the container, one rule at a time: each gets a sentence that names the file, the
//! item, what was expected and what was found; none gets a panic, a hang or memory.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use bitnet_core::gguf::{Access, Gguf};
use bitnet_core::{Error, Result};

/// A container written byte by byte, because the real writer refuses to write what these tests need.
#[derive(Clone, Default)]
struct Raw {
    version: Option<u32>,
    n_tensors: Option<u64>,
    n_entries: Option<u64>,
    entries: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

const U32: u32 = 4;
const BOOL: u32 = 7;
const STR: u32 = 8;
const ARR: u32 = 9;
const F32: u32 = 0;

fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = (text.as_ref().len() as u64).to_le_bytes().to_vec();
    out.extend(text.as_ref());
    out
}

impl Raw {
    fn entry(mut self, key: impl AsRef<[u8]>, ty: u32, value: &[u8]) -> Raw {
        self.entries.push([&string(key)[..], &ty.to_le_bytes(), value].concat());
        self
    }

    fn array(self, elem: u32, count: u64, bytes: &[u8]) -> Raw {
        let value = [&elem.to_le_bytes()[..], &count.to_le_bytes(), bytes].concat();
        self.entry("a", ARR, &value)
    }

    /// `dims` innermost first, as in the file.
    fn tensor(mut self, name: impl AsRef<[u8]>, dims: &[u64], ty: u32, offset: u64) -> Raw {
        let mut info = string(name);
        info.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| info.extend(dim.to_le_bytes()));
        info.extend(ty.to_le_bytes());
        info.extend(offset.to_le_bytes());
        self.tensors.push(info);
        self
    }

    fn data(mut self, n: usize) -> Raw {
        self.data = vec![0x11; n];
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.unwrap_or(3).to_le_bytes());
        out.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_entries.unwrap_or(self.entries.len() as u64).to_le_bytes());
        self.entries.iter().chain(&self.tensors).for_each(|part| out.extend(part));
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }

    /// What is said about this file, after its name.
    #[track_caller]
    fn refusal(&self) -> String {
        refusal(&self.bytes())
    }
}

#[track_caller]
fn refusal(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    let mapped = refused(Gguf::open(&path, Access::Map), &path);
    assert_eq!(refused(Gguf::open(&path, Access::Read), &path), mapped, "mapped and read files differ");
    mapped
}

#[track_caller]
fn refused<T>(result: Result<T>, path: &Path) -> String {
    let Err(error) = result else { panic!("{} was accepted", path.display()) };
    assert!(error.is_bad_file(), "{error}: not told apart from other errors");
    let text = error.to_string();
    let prefix = format!("{}: ", path.display());
    text.strip_prefix(&prefix).unwrap_or_else(|| panic!("{text:?} does not start with {prefix:?}")).to_owned()
}

/// A sound file with a bit of everything.
fn sound() -> Raw {
    Raw::default()
        .entry("general.architecture", STR, &string("llama"))
        .entry("count", U32, &7u32.to_le_bytes())
        .entry("flag", BOOL, &[1])
        .array(STR, 2, &[string("ab"), string("c")].concat())
        .tensor("w", &[2, 3], F32, 0)
        .tensor("v", &[256], 35, 32)
        .data(32 + 66)
}

#[test]
fn accepts_the_file_that_the_other_tests_break() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, sound().bytes()).unwrap();
    let gguf = Gguf::open(&path, Access::Map).unwrap();
    assert_eq!(gguf.tensor("v").unwrap().bytes, [0x11; 66]);
}

#[test]
fn refuses_files_that_are_not_gguf_or_of_another_version() {
    assert_eq!(refusal(b""), "file size: expected at least 24 bytes, the smallest GGUF file, found 0");
    assert_eq!(
        refusal(&[b'x'; 23]),
        "file size: expected at least 24 bytes, the smallest GGUF file, found 23"
    );
    assert_eq!(
        refusal(b"PK\x03\x04 this is a zip archive"),
        r#"magic: expected "GGUF", the first four bytes of a GGUF file, found "PK\x03\x04""#
    );
    let of_version = |v| Raw { version: Some(v), ..sound() }.refusal();
    assert!(of_version(1).starts_with("version: expected 2 or 3, found 1, "));
    assert_eq!(of_version(0), "version: expected 2 or 3, found 0");
    assert_eq!(of_version(4), "version: expected 2 or 3, found 4");
    assert!(of_version(0x0300_0000).starts_with("version: this is a big-endian file, "));
}

#[test]
fn refuses_counts_that_cannot_fit_or_are_absurd() {
    let entries = |n| Raw { n_entries: Some(n), ..sound() }.refusal();
    assert_eq!(
        entries(u64::MAX),
        format!("number of metadata keys: expected at most 65536, found {}", u64::MAX)
    );
    let text = entries(60_000);
    assert!(text.starts_with("number of metadata keys: expected as many as fit the "), "{text}");
    assert!(text.ends_with(" bytes left, 13 bytes or more each, found 60000"), "{text}");

    let tensors = |n| Raw { n_tensors: Some(n), ..sound() }.refusal();
    assert_eq!(tensors(1 << 63), format!("number of tensors: expected at most 65536, found {}", 1u64 << 63));
    assert!(tensors(9999).ends_with(" bytes left, 32 bytes or more each, found 9999"));
}

#[test]
fn refuses_strings_longer_than_the_file() {
    let mut raw = sound();
    raw.entries[0][..8].copy_from_slice(&60_000u64.to_le_bytes());
    assert!(
        raw.refusal().starts_with("metadata key number 0: expected 60000 more bytes at offset 32, found ")
    );

    for (len, expected) in [
        (5_000u64, "metadata key s: expected 5000 more bytes at offset 45, found "),
        (u64::MAX, "metadata key s: expected a string of at most 67108864 bytes, found a length of 18446"),
    ] {
        let text = Raw::default().entry("s", STR, &len.to_le_bytes()).data(64).refusal();
        assert!(text.starts_with(expected), "{text}");
    }
    let long_token = [&(1u64 << 20).to_le_bytes()[..], &[b'x'; 1 << 20]].concat();
    assert_eq!(
        Raw::default().array(STR, 1, &long_token).refusal(),
        "metadata key a: expected a string of at most 65536 bytes, found a length of 1048576 in element 0"
    );
}

#[test]
fn refuses_keys_and_names_that_cannot_be_printed() {
    let key = |key: &[u8]| Raw::default().entry(key, BOOL, &[0]).refusal();
    let rule = "1 to 65535 bytes of UTF-8 without a zero byte";
    assert_eq!(key(b""), format!("metadata key number 0: expected {rule}, found an empty string"));
    assert_eq!(key(b"a\0b"), format!(r#"metadata key number 0: expected {rule}, found "a\0b""#));
    assert_eq!(key(b"\xff"), format!(r#"metadata key number 0: expected {rule}, found "\xff""#));
    assert_eq!(
        key(&[b'k'; 65_536]),
        "metadata key number 0: expected a string of at most 65535 bytes, found a length of 65536"
    );

    let name = |name: &[u8]| Raw::default().tensor(name, &[8], F32, 0).data(32).refusal();
    let rule = "1 to 63 bytes of UTF-8 without a zero byte";
    assert_eq!(name(b""), format!("tensor number 0: expected {rule}, found an empty string"));
    assert_eq!(name(b"\0"), format!(r#"tensor number 0: expected {rule}, found "\0""#));
    assert_eq!(
        name(&[b'n'; 64]),
        "tensor number 0: expected a string of at most 63 bytes, found a length of 64"
    );
}

#[test]
fn refuses_values_of_unknown_types() {
    assert_eq!(
        Raw::default().entry("k", 13, &[0; 8]).refusal(),
        "metadata key k: expected a value of type 0 to 12, found type 13"
    );
    let elem = |ty| Raw::default().array(ty, 1, &[0; 16]).refusal();
    let rule = "expected an array of a type 0 to 12 other than 9";
    assert_eq!(elem(9), format!("metadata key a: {rule}, found type 9"));
    assert_eq!(elem(13), format!("metadata key a: {rule}, found type 13"));
}

#[test]
fn refuses_arrays_longer_than_the_file() {
    let array = |elem, count| Raw::default().array(elem, count, &[0; 8]).refusal();
    for (elem, name) in [(0, "u8"), (U32, "u32"), (STR, "string"), (12, "f64")] {
        for count in [1_000_000, u64::MAX, u64::MAX / 8 + 2] {
            let text = array(elem, count);
            assert!(text.starts_with("metadata key a: expected an array that fits the "), "{text}");
            assert!(text.ends_with(&format!(" bytes left, found {count} elements of type {name}")), "{text}");
        }
    }
}

#[test]
fn refuses_bools_other_than_0_and_1() {
    assert_eq!(
        Raw::default().entry("k", BOOL, &[2]).refusal(),
        "metadata key k: expected a bool of 0 or 1, found 2"
    );
    assert_eq!(
        Raw::default().array(BOOL, 3, &[0, 1, 255]).refusal(),
        "metadata key a: expected a bool of 0 or 1, found 255 in element 2"
    );
}

#[test]
fn refuses_keys_and_tensors_that_occur_twice() {
    assert_eq!(
        sound().entry("flag", BOOL, &[1]).refusal(),
        "metadata key flag: expected a key that is used once, found the same key again"
    );
    assert_eq!(
        sound().tensor("w", &[1], F32, 128).data(256).refusal(),
        "tensor w: expected a name that is used once, found the same name again"
    );
}

#[test]
fn refuses_alignments_that_align_nothing() {
    let rule = "metadata key general.alignment: expected a u32 that is a power of two and at most 65536";
    for v in [0u32, 24, 131_072, u32::MAX] {
        let text = Raw::default().entry("general.alignment", U32, &v.to_le_bytes()).refusal();
        assert_eq!(text, format!("{rule}, found u32 {v}"));
    }
    let text = Raw::default().entry("general.alignment", 10, &32u64.to_le_bytes()).refusal();
    assert_eq!(text, format!("{rule}, found u64 32"));
}

#[test]
fn refuses_shapes_that_are_none() {
    let shape = |dims: &[u64], ty| Raw::default().tensor("t", dims, ty, 0).data(64).refusal();
    assert_eq!(shape(&[], F32), "tensor t: expected 1 to 4 dimensions, found 0");
    assert_eq!(shape(&[1; 5], F32), "tensor t: expected 1 to 4 dimensions, found 5");
    assert_eq!(shape(&[4, 0], F32), "tensor t: expected dimensions of 1 to 1099511627776, found 0");
    assert_eq!(
        shape(&[u64::MAX], F32),
        format!("tensor t: expected dimensions of 1 to 1099511627776, found {}", u64::MAX)
    );
    assert_eq!(shape(&[1 << 40; 4], F32), "tensor t: expected at most 281474976710656 weights, found more");
    assert_eq!(
        shape(&[200, 3], 35),
        "tensor t: expected rows of a multiple of 256 weights, for type TQ2_0, found shape [3, 200]"
    );
    assert_eq!(
        shape(&[100], 36),
        "tensor t: expected rows of a multiple of 64 weights, for type I2_S, found shape [100]"
    );
    assert_eq!(
        shape(&[64, 6], 335),
        "tensor t: expected rows of a multiple of 64 weights, and a multiple of 4 rows, for type IQ2_BN_R4, \
         found shape [6, 64]"
    );
}

#[test]
fn refuses_tensor_types_whose_size_nobody_can_tell() {
    let of_type = |ty| Raw::default().tensor("t", &[256], ty, 0).data(1024).refusal();
    let again = "make the file again in a type like I2_S, TQ2_0, IQ2_BN, F16 or Q8_0";
    for new in [40, 42, 77, u32::MAX] {
        assert_eq!(of_type(new), format!("tensor t: type {new} is unknown to this program; {again}"));
    }
    let activations = "is for activations and does not belong in a file";
    let withdrawn = "has been withdrawn by the program that wrote it";
    for (id, name, why) in [
        (4, "Q4_2", withdrawn),
        (5, "Q4_3", withdrawn),
        (37, "I8_S", activations),
        (41, "Q1_0_G128", "is not one this program reads"),
        (136, "Q8_K64", activations),
        (142, "IQ2_TN", withdrawn),
        (143, "IQ1_TN", withdrawn),
        (147, "Q8_K16", activations),
    ] {
        assert_eq!(of_type(id), format!("tensor t: type {name} (id {id}) {why}; {again}"));
    }
}

/// TL2 is smaller: a file of bitnet.cpp's that does not say it is one has no room for what it is taken for.
#[test]
fn type_39_without_room_for_mxfp4_says_what_would_make_it_tl2() {
    let spelled = "MXFP4 (id 39, which is TL2 only where general.architecture begins with bitnet or general.file_type is 39)";
    let tl2 = |arch: &str| Raw::default().entry("general.architecture", STR, &string(arch));
    let last = tl2("llama").tensor("t", &[320, 32], 39, 0).data(2528);
    assert_eq!(
        last.refusal(),
        format!(
            "tensor t: expected 5440 bytes at offset 0 of the tensor data, as type {spelled} has, found 2528 bytes of \
             tensor data"
        )
    );
    let two = tl2("llama").tensor("t", &[320, 32], 39, 0).tensor("u", &[320, 32], 39, 2528).data(9000);
    assert_eq!(
        two.refusal(),
        format!(
            "tensor u: expected bytes of its own, after the 5440 bytes of t at 160, as type {spelled} has, found \
             offset 2688"
        )
    );
    let odd = tl2("llama").tensor("t", &[333, 32], 39, 0).data(9000).refusal();
    assert_eq!(
        odd,
        format!(
            "tensor t: expected rows of a multiple of 32 weights, for type {spelled}, found shape [32, 333]"
        )
    );
    accepted(&tl2("bitnet").tensor("t", &[320, 32], 39, 0).data(2528).bytes());
    let marked = tl2("llama").entry("general.file_type", U32, &39u32.to_le_bytes());
    accepted(&marked.tensor("t", &[320, 32], 39, 0).data(2528).bytes());
}

#[track_caller]
fn accepted(bytes: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    Gguf::open(&path, Access::Read).unwrap();
}

#[test]
fn refuses_tensors_outside_the_file() {
    let at = |offset, n: usize| Raw::default().tensor("t", &[16], F32, offset).data(n).refusal();
    assert_eq!(at(8, 128), "tensor t: expected an offset that is a multiple of 32, found 8");
    assert_eq!(
        at(0, 63),
        "tensor t: expected 64 bytes at offset 0 of the tensor data, found 63 bytes of tensor data"
    );
    for offset in [96, 1 << 40, u64::MAX - 31] {
        assert_eq!(
            at(offset, 128),
            format!(
                "tensor t: expected 64 bytes at offset {offset} of the tensor data, found 128 bytes of tensor data"
            )
        );
    }
    let mut header_only = Raw::default().tensor("t", &[1], F32, 0).bytes();
    header_only.truncate(24 + 8 + 1 + 4 + 8 + 4 + 8);
    assert_eq!(
        refusal(&header_only),
        "tensor data: expected tensor data from offset 64, found a file of 57 bytes"
    );
}

#[test]
fn refuses_tensors_that_share_bytes() {
    let text = Raw::default().tensor("late", &[8], F32, 32).tensor("early", &[9], F32, 0).data(64).refusal();
    assert_eq!(
        text,
        "tensor late: expected bytes of its own, after the 36 bytes of early at 128, found offset 160"
    );
}

#[test]
fn refuses_directories_pipes_and_devices_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let text = refused(Gguf::open(dir.path(), Access::Map), dir.path());
    assert_eq!(text, "model: expected a regular file, found a directory");
    #[cfg(unix)]
    {
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [pipe, PathBuf::from("/dev/zero")] {
            for access in [Access::Map, Access::Read] {
                let text = refused(Gguf::open(&path, access), &path);
                assert_eq!(text, "model: expected a regular file, found a pipe, a device or a socket");
            }
        }
    }
    let nowhere = dir.path().join("nowhere.gguf");
    let error = Gguf::open(&nowhere, Access::Map).unwrap_err();
    assert!(matches!(error, Error::Io { action: "open", .. }), "{error}");
}

#[test]
fn refuses_a_file_cut_off_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let whole = sound().bytes();
    for len in 0..whole.len() {
        rewrite(&path, &whole[..len]);
        for access in [Access::Map, Access::Read] {
            assert!(!refused(Gguf::open(&path, access), &path).is_empty(), "cut to {len} bytes");
        }
    }
}

/// A new file each time: some file systems flush a file that is emptied and filled again, a thousand times slower.
fn rewrite(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
}

/// xorshift64*: enough to choose where to damage a file, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }
}

#[test]
fn survives_any_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let whole = sound().bytes();
    let mut dice = Dice(1);
    let mut opened = 0;
    for case in 0..20_000 {
        let mut bytes = whole.clone();
        for _ in 0..=dice.below(4) {
            let at = dice.below(bytes.len());
            match dice.below(4) {
                0 => bytes[at] = dice.below(256) as u8,
                1 => bytes[at] ^= 1 << dice.below(8),
                // Lengths, counts and offsets are eight bytes: make one as large as can be.
                2 => bytes.iter_mut().skip(at).take(8).for_each(|b| *b = 0xff),
                _ => bytes.iter_mut().skip(at).take(8).for_each(|b| *b = 0),
            }
        }
        rewrite(&path, &bytes);
        let access = if case % 2 == 0 { Access::Map } else { Access::Read };
        if let Ok(gguf) = Gguf::open(&path, access) {
            opened += 1;
            look_at_everything(&gguf);
        }
    }
    assert!(opened > 1000, "only {opened} of the damaged files were opened: the damage is not subtle enough");
}

fn look_at_everything(gguf: &Gguf) {
    for (key, value) in gguf.metadata().iter() {
        let shown = value.to_string();
        assert!(shown.len() < 1000, "{shown}");
        let meta = gguf.metadata();
        let _ = (meta.u64(key), meta.f32(key), meta.bool(key), meta.str(key), meta.f32s(key));
        let _ = (meta.i32s(key), meta.u64s(key), meta.usize_per_layer(key, 2));
        if let Ok(Some(strings)) = meta.strings(key) {
            assert_eq!(strings.len(), strings.count());
        }
    }
    for info in gguf.tensors() {
        let tensor = gguf.tensor(&info.name).unwrap();
        assert_eq!(tensor.bytes.len() as u64, info.n_bytes);
        gguf.release(info);
    }
}

/// A shard with these three keys and one tensor.
fn shard(no: u16, count: u16, n_tensors: i32, tensor: &str) -> Raw {
    Raw::default()
        .entry("split.no", 2, &no.to_le_bytes())
        .entry("split.count", 2, &count.to_le_bytes())
        .entry("split.tensors.count", 5, &n_tensors.to_le_bytes())
        .tensor(tensor, &[1], F32, 0)
        .data(32)
}

/// Writes `shards` under the names they should have and says what is wrong with them, after the directory.
#[track_caller]
fn shards_refusal(shards: &[Raw], of: usize) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = |i: usize| dir.path().join(format!("m-{i:05}-of-{of:05}.gguf"));
    for (i, shard) in shards.iter().enumerate() {
        fs::write(path(i + 1), shard.bytes()).unwrap();
    }
    let error = Gguf::open(&path(1), Access::Map).unwrap_err();
    assert!(error.is_bad_file(), "{error}");
    error.to_string().replace(&format!("{}/", dir.path().display()), "")
}

#[test]
fn refuses_shards_that_do_not_belong_together() {
    let text = shards_refusal(&[shard(0, 2, 2, "a")], 2);
    assert!(
        text.starts_with("m-00002-of-00002.gguf: shard 2 of 2: expected a file beside the first shard, "),
        "{text}"
    );

    let text = shards_refusal(&[shard(0, 2, 2, "a"), shard(0, 2, 2, "b")], 2);
    assert_eq!(text, "m-00002-of-00002.gguf: metadata key split.no: expected 1, found u16 0");

    let text = shards_refusal(&[shard(0, 2, 2, "a"), shard(1, 3, 2, "b")], 2);
    assert_eq!(
        text,
        "m-00002-of-00002.gguf: metadata key split.count: expected 2, as in the first shard, found u16 3"
    );

    let text = shards_refusal(&[shard(0, 2, 2, "a"), shard(1, 2, 2, "a")], 2);
    assert_eq!(
        text,
        "m-00002-of-00002.gguf: tensor a: expected a name that no other shard uses, \
         found the same name in m-00001-of-00002.gguf"
    );

    let text = shards_refusal(&[shard(0, 2, 5, "a"), shard(1, 2, 5, "b")], 2);
    assert_eq!(
        text,
        "m-00001-of-00002.gguf: metadata key split.tensors.count: expected 2, the tensors found in 2 shards, \
         found i32 5"
    );

    let text = shards_refusal(&[shard(1, 2, 2, "a")], 2);
    assert_eq!(
        text,
        "m-00001-of-00002.gguf: metadata key split.no: expected 0: open the first shard, *-00001-of-00002.gguf, \
         found u16 1"
    );

    let text = shards_refusal(&[shard(0, 60_000, 2, "a")], 60_000);
    assert_eq!(
        text,
        "m-00001-of-60000.gguf: metadata key split.count: expected at most 999, found u16 60000"
    );

    let text = shard(0, 2, 2, "a").refusal();
    assert!(
        text.starts_with(
            "file name: expected a name that ends in -00001-of-00002.gguf, since split.count is 2"
        )
    );
}
