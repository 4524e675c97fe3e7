//! Files that break the container's rules, one at a time, through the binary: one sentence, exit code 3, under 100 ms
//! and 50 MB.

use std::fs;
use std::path::Path;

use crate::cheap::{refused_cheaply, within_50_mb};
use crate::support::command;
use crate::tiny::{on_tiny_args, tiny};
use bitnet_core::gguf::{Access, ArrayBuf, Gguf, GgufWriter, TensorType, Value};

/// What each verb that opens a model says about a bad file, after the file's name; the same for all.
#[track_caller]
fn refusal(path: &Path) -> String {
    let name = path.to_str().expect("temporary folders are UTF-8");
    let inspect = refused_cheaply(path, &["inspect", name]);
    for line in [
        &["run", "-p", "hi", "-n", "1", "-m", name][..],
        &["run", "-p", "hi", "-n", "1", "--no-mmap", "-m", name],
        &["bench", "-p", "1", "-n", "0", "-r", "1", "-m", name],
    ] {
        assert_eq!(refused_cheaply(path, line), inspect, "two verbs disagree about one file");
    }
    inspect
}

/// A sound file with something of everything that has rules.
fn sound() -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", Value::Str(b"llama")).unwrap();
    writer.set("general.alignment", Value::U32(32)).unwrap();
    writer.set("aa.flag", Value::Bool(true)).unwrap();
    writer.set("bb.flag", Value::Bool(true)).unwrap();
    writer.set("list", ArrayBuf::i32s([1, 2, 3]).value()).unwrap();
    writer.declare("t1.weight", TensorType::F32, &[2, 8]).unwrap();
    writer.declare("t2.weight", TensorType::TQ2_0, &[1, 256]).unwrap();
    let mut out = writer.write("sound.gguf".as_ref(), Vec::new()).unwrap();
    out.tensor("t1.weight", &[0; 64]).unwrap();
    out.tensor("t2.weight", &[0; 66]).unwrap();
    out.finish().unwrap()
}

/// Writes `value` over the bytes `after` bytes behind the end of `name`, which stands in the header once.
fn put(file: &mut [u8], name: &str, after: isize, value: &[u8]) {
    let at = file.windows(name.len()).position(|window| window == name.as_bytes()).expect("it is there");
    let start = (at + name.len()).checked_add_signed(after).expect("within the file");
    file[start..start + value.len()].copy_from_slice(value);
}

/// The length of `name`, which stands before it.
fn put_len(file: &mut [u8], name: &str, len: u64) {
    put(file, name, -(name.len() as isize) - 8, &len.to_le_bytes());
}

/// A rule, how it is broken, and the beginning of what must be said.
type Case = (&'static str, fn(&mut Vec<u8>), &'static str);

/// After a tensor's name: number of dimensions (4 bytes), two dimensions (8 each), type (4), offset (8).
const DIMS: isize = 4;
const TYPE: isize = 20;
const OFFSET: isize = 24;

const CASES: &[Case] = &[
    ("size", |f| f.truncate(23), "file size: expected at least 24 bytes"),
    ("magic", |f| f[0] = b'X', "magic: expected \"GGUF\""),
    ("version 1", |f| f[4] = 1, "version: expected 2 or 3, found 1"),
    ("version 4", |f| f[4] = 4, "version: expected 2 or 3, found 4"),
    ("byte order", |f| f[4..8].reverse(), "version: this is a big-endian file"),
    ("too many tensors", |f| f[8..16].fill(0xff), "number of tensors: expected at most 65536"),
    ("more tensors than bytes", |f| f[9] = 0x10, "number of tensors: expected as many as fit"),
    ("too many keys", |f| f[16..24].fill(0xff), "number of metadata keys: expected at most 65536"),
    ("more keys than bytes", |f| f[17] = 0x10, "number of metadata keys: expected as many as fit"),
    ("empty key", |f| put_len(f, "aa.flag", 0), "metadata key number 2: expected 1 to 65535 bytes"),
    (
        "endless key",
        |f| put_len(f, "aa.flag", u64::MAX),
        "metadata key number 2: expected a string of at most",
    ),
    (
        "zero byte in a key",
        |f| put(f, "aa.flag", -1, b"\0"),
        "metadata key number 2: expected 1 to 65535 bytes",
    ),
    (
        "key used twice",
        |f| put(f, "bb.flag", -7, b"aa"),
        "metadata key aa.flag: expected a key that is used once",
    ),
    (
        "type of a value",
        |f| put(f, "aa.flag", 0, &[13]),
        "metadata key aa.flag: expected a value of type 0 to 12",
    ),
    ("bool", |f| put(f, "aa.flag", 4, &[2]), "metadata key aa.flag: expected a bool of 0 or 1, found 2"),
    (
        "endless string",
        |f| put(f, "general.architecture", 4, &u64::MAX.to_le_bytes()),
        "metadata key general.architecture: expected a string of at most",
    ),
    (
        "string past the end",
        |f| put(f, "general.architecture", 4, &60_000_u64.to_le_bytes()),
        "metadata key general.architecture: expected 60000 more bytes",
    ),
    (
        "array of arrays",
        |f| put(f, "list", 4, &[9]),
        "metadata key list: expected an array of a type 0 to 12",
    ),
    (
        "array past the end",
        |f| put(f, "list", 8, &(u64::MAX / 4 + 2).to_le_bytes()),
        "metadata key list: expected an array that fits",
    ),
    (
        "alignment 24",
        |f| put(f, "general.alignment", 4, &[24]),
        "metadata key general.alignment: expected a u32",
    ),
    (
        "alignment 0",
        |f| put(f, "general.alignment", 4, &[0]),
        "metadata key general.alignment: expected a u32",
    ),
    (
        "alignment of another type",
        |f| put(f, "general.alignment", 0, &[5]),
        "metadata key general.alignment: expected a u32",
    ),
    ("empty name", |f| put_len(f, "t1.weight", 0), "tensor number 0: expected 1 to 63 bytes"),
    ("long name", |f| put_len(f, "t1.weight", 64), "tensor number 0: expected a string of at most 63 bytes"),
    (
        "name used twice",
        |f| put(f, "t2.weight", -9, b"t1"),
        "tensor t1.weight: expected a name that is used once",
    ),
    (
        "no dimensions",
        |f| put(f, "t1.weight", 0, &[0]),
        "tensor t1.weight: expected 1 to 4 dimensions, found 0",
    ),
    (
        "five dimensions",
        |f| put(f, "t1.weight", 0, &[5]),
        "tensor t1.weight: expected 1 to 4 dimensions, found 5",
    ),
    ("dimension 0", |f| put(f, "t1.weight", DIMS, &[0]), "tensor t1.weight: expected dimensions of 1 to"),
    (
        "endless dimension",
        |f| put(f, "t1.weight", DIMS, &[0xff; 8]),
        "tensor t1.weight: expected dimensions of 1 to",
    ),
    (
        "endless product",
        |f| put(f, "t1.weight", DIMS, &[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]),
        "tensor t1.weight: expected at most 281474976710656 weights",
    ),
    ("type", |f| put(f, "t1.weight", TYPE, &[77]), "tensor t1.weight: type 77 is unknown"),
    (
        "rows of blocks",
        |f| put(f, "t1.weight", TYPE, &[35]),
        "tensor t1.weight: expected rows of a multiple of 256",
    ),
    (
        "offset",
        |f| put(f, "t1.weight", OFFSET, &[8]),
        "tensor t1.weight: expected an offset that is a multiple of 32",
    ),
    (
        "offset past the end",
        |f| put(f, "t2.weight", OFFSET, &[0, 1]),
        "tensor t2.weight: expected 66 bytes at offset",
    ),
    (
        "endless offset",
        |f| put(f, "t2.weight", OFFSET, &[0xe0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        "tensor t2",
    ),
    ("shared bytes", |f| put(f, "t2.weight", OFFSET, &[32]), "tensor t2.weight: expected bytes of its own"),
    ("data cut off", |f| f.truncate(f.len() - 31), "tensor t2.weight: expected 66 bytes at offset"),
];

#[test]
fn each_rule_broken_once_costs_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.gguf");
    fs::write(&path, sound()).unwrap();
    assert!(Gguf::open(&path, Access::Map).is_ok(), "the file the others are made from");
    for (rule, break_it, says) in CASES {
        let mut file = sound();
        break_it(&mut file);
        fs::write(&path, file).unwrap();
        let sentence = refusal(&path);
        assert!(sentence.starts_with(says), "{rule}: {sentence}\nexpected {says}");
    }
}

#[test]
fn a_model_cut_off_anywhere_in_its_header_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.gguf");
    let whole = fs::read(tiny()).unwrap();
    let header = Gguf::open(tiny(), Access::Map).unwrap().data_offset() as usize;
    for len in 0..=header {
        let _ = fs::remove_file(&path); // some file systems take long to empty a file
        fs::write(&path, &whole[..len]).unwrap();
        let access = if len % 2 == 0 { Access::Map } else { Access::Read };
        let Err(error) = Gguf::open(&path, access) else {
            panic!("{len} of {} bytes were accepted", whole.len())
        };
        assert!(error.is_bad_file() && error.to_string().contains("cut.gguf: "), "{len} bytes: {error}");
    }
    for len in (0..header).step_by(header / 16) {
        fs::write(&path, &whole[..len]).unwrap();
        refusal(&path);
    }
}

/// The limit the other tests rely on does bite: the key-value cache of this context does not fit.
#[test]
fn a_run_that_needs_more_than_50_mb_fails_within_the_limit() {
    let enough = on_tiny_args("run", "--tokens 1,2 -n 1 -t 1 -b 1 -c 64 -q");
    assert_eq!(within_50_mb(&enough).code, Some(0));
    let too_much = on_tiny_args("run", "--tokens 1,2 -n 1 -t 1 -b 1 -c 1000000 -q");
    let ran = within_50_mb(&too_much);
    let says = "the system refuses memory for a cache of 1000000 positions (see --ctx-size)";
    assert_eq!(ran.refused(1), says);
}

/// What `inspect` says about 1.2 GB, most of which were never written and would take long to read.
#[test]
fn a_large_model_is_inspected_from_its_header_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.gguf");
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", Value::Str(b"llama")).unwrap();
    writer.declare("token_embd.weight", TensorType::F16, &[300_000, 2000]).unwrap();
    let file = fs::File::create(&path).unwrap();
    drop(writer.write(&path, &file).unwrap());
    file.set_len(file.metadata().unwrap().len() + 1_200_000_000).unwrap();
    let fastest = (0..5).map(|_| {
        let start = std::time::Instant::now();
        let ran = command(["inspect", path.to_str().unwrap()]).output().unwrap();
        assert!(ran.status.success() && ran.stdout.windows(17).any(|w| w == b"token_embd.weight"));
        start.elapsed()
    });
    let fastest = fastest.min().expect("five runs");
    assert!(fastest < std::time::Duration::from_millis(50), "{fastest:?} to inspect a header");
}
