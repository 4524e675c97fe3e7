//! Sound files: what is in them is what comes out, and what the writer writes is what others wrote.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;

use bitnet_core::Error;
use bitnet_core::gguf::{Access, ArrayBuf, Gguf, GgufWriter, TensorType, Value, ValueType, replace_file};

/// 192 bytes laid out by hand from the format's description: two keys, one tensor of two numbers.
#[rustfmt::skip]
const WORKED_EXAMPLE: [u8; 192] = [
    0x47,0x47,0x55,0x46, 0x03,0x00,0x00,0x00, 0x01,0x00,0x00,0x00,0x00,0x00,0x00,0x00, // magic, version, 1 tensor
    0x02,0x00,0x00,0x00,0x00,0x00,0x00,0x00, 0x14,0x00,0x00,0x00,0x00,0x00,0x00,0x00, // 2 keys; a key of 20 bytes
    0x67,0x65,0x6e,0x65,0x72,0x61,0x6c,0x2e,0x61,0x72,0x63,0x68,0x69,0x74,0x65,0x63, // general.architec
    0x74,0x75,0x72,0x65, 0x08,0x00,0x00,0x00, 0x05,0x00,0x00,0x00,0x00,0x00,0x00,0x00, // ture; string of 5 bytes
    0x6c,0x6c,0x61,0x6d,0x61, 0x11,0x00,0x00,0x00,0x00,0x00,0x00,0x00, 0x67,0x65,0x6e, // llama; 17 bytes, gen
    0x65,0x72,0x61,0x6c,0x2e,0x61,0x6c,0x69,0x67,0x6e,0x6d,0x65,0x6e,0x74, 0x04,0x00, // eral.alignment; u32
    0x00,0x00, 0x20,0x00,0x00,0x00, 0x01,0x00,0x00,0x00,0x00,0x00,0x00,0x00, 0x77, 0x02, // 32; 1 byte, w; 2 dims
    0x00,0x00,0x00, 0x02,0x00,0x00,0x00,0x00,0x00,0x00,0x00, 0x01,0x00,0x00,0x00,0x00, // 2, 1
    0x00,0x00,0x00, 0x00,0x00,0x00,0x00, 0x00,0x00,0x00,0x00,0x00,0x00,0x00,0x00, 0x00, // F32, offset 0; zeros
    0x00,0x00,0x00,0x00,0x00,0x00,0x00,0x00,0x00,0x00,0x00,0x00,0x00,0x00,0x00,0x00,
    0x00,0x00,0x80,0x3f, 0x00,0x00,0x00,0xc0, 0x00,0x00,0x00,0x00,0x00,0x00,0x00,0x00, // 1.0, -2.0; zeros
    0x00,0x00,0x00,0x00,0x00,0x00,0x00,0x00,0x00,0x00,0x00,0x00,0x00,0x00,0x00,0x00,
];

fn open(path: &Path) -> Gguf {
    Gguf::open(path, Access::Map).unwrap()
}

#[test]
fn reads_the_worked_example() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.gguf");
    fs::write(&path, WORKED_EXAMPLE).unwrap();
    for access in [Access::Map, Access::Read] {
        let gguf = Gguf::open(&path, access).unwrap();
        assert_eq!((gguf.path(), gguf.version(), gguf.file_len()), (path.as_path(), 3, 192));
        assert_eq!((gguf.data_offset(), gguf.alignment(), gguf.shards().len()), (160, 32, 1));
        assert_eq!(gguf.metadata().str("general.architecture").unwrap(), Some("llama"));
        assert_eq!(gguf.metadata().u64("general.alignment").unwrap(), Some(32));
        assert_eq!(gguf.metadata().len(), 2);
        let w = gguf.tensor("w").unwrap();
        assert_eq!((w.info.ty, &w.info.shape[..], w.info.offset), (TensorType::F32, &[1, 2][..], 160));
        assert_eq!(w.bytes, [1.0f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat());
        assert_eq!(w.bytes.as_ptr().align_offset(32), 0);
        assert!(gguf.tensor("v").is_none());

        gguf.release(w.info);
        assert_eq!(w.bytes[..4], 1.0f32.to_le_bytes(), "released bytes can be read again");
    }
}

#[test]
fn a_model_inside_the_program_is_read_and_checked_like_a_file() {
    static SHIFTED: [u8; 193] = {
        let mut bytes = [0; 193];
        let mut i = 0;
        while i < 192 {
            bytes[i + 1] = WORKED_EXAMPLE[i];
            i += 1;
        }
        bytes
    };
    static WHOLE: [u8; 192] = WORKED_EXAMPLE;
    for bytes in [&WHOLE[..], &SHIFTED[1..]] {
        let gguf = Gguf::from_static("built in", bytes).unwrap();
        assert_eq!((gguf.path(), gguf.file_len()), (Path::new("built in"), 192));
        let w = gguf.tensor("w").unwrap();
        assert_eq!(w.bytes, [1.0f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat());
        gguf.release(w.info);
        assert_eq!(w.bytes[..4], 1.0f32.to_le_bytes(), "there is no file to read them from again");
    }
    for len in [0, 3, 23, 100, 167] {
        let error = Gguf::from_static("built in", &WHOLE[..len]).unwrap_err();
        assert!(error.is_bad_file() && error.to_string().starts_with("built in: "), "{len}: {error}");
    }
}

#[test]
fn writes_the_worked_example() {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", Value::Str(b"replaced below")).unwrap();
    writer.set("general.alignment", Value::U32(32)).unwrap();
    writer.set("general.architecture", Value::Str(b"llama")).unwrap();
    writer.declare("w", TensorType::F32, &[1, 2]).unwrap();
    let mut out = writer.write("memory".as_ref(), Vec::new()).unwrap();
    out.tensor("w", &[1.0f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat()).unwrap();
    assert_eq!(out.finish().unwrap(), WORKED_EXAMPLE);
}

#[test]
fn values_of_every_type_survive_a_round_trip() {
    let elements = [
        (ValueType::U8, vec![Value::U8(0), Value::U8(255)]),
        (ValueType::I8, vec![Value::I8(-128), Value::I8(127)]),
        (ValueType::U16, vec![Value::U16(65_535)]),
        (ValueType::I16, vec![Value::I16(-32_768)]),
        (ValueType::U32, vec![Value::U32(u32::MAX)]),
        (ValueType::I32, vec![Value::I32(i32::MIN), Value::I32(-1)]),
        (ValueType::F32, vec![Value::F32(1e-5), Value::F32(f32::INFINITY)]),
        (ValueType::Bool, vec![Value::Bool(false), Value::Bool(true)]),
        (ValueType::Str, vec![Value::Str(b""), Value::Str("\u{120}a".as_bytes()), Value::Str(b"\xff\0")]),
        (ValueType::U64, vec![Value::U64(u64::MAX)]),
        (ValueType::I64, vec![Value::I64(i64::MIN)]),
        (ValueType::F64, vec![Value::F64(0.1), Value::F64(f64::MIN_POSITIVE)]),
    ];
    let mut writer = GgufWriter::new();
    let mut expected = Vec::new();
    for (ty, values) in &elements {
        for (i, value) in values.iter().enumerate() {
            writer.set(&format!("{}.{i}", ty.name()), *value).unwrap();
            expected.push(*value);
        }
        let array = ArrayBuf::values(*ty, values.iter().copied()).unwrap();
        writer.set(&format!("{}.array", ty.name()), array.value()).unwrap();
        let empty = ArrayBuf::values(*ty, []).unwrap();
        writer.set(&format!("{}.empty", ty.name()), empty.value()).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("values.gguf");
    writer.write_file(&path, |_| Ok(())).unwrap();

    let gguf = open(&path);
    let scalars: Vec<Value<'_>> =
        gguf.metadata().iter().map(|(_, value)| value).filter(|v| v.ty() != ValueType::Array).collect();
    assert_eq!(scalars, expected);
    for (ty, values) in &elements {
        let Some(Value::Array(array)) = gguf.metadata().get(&format!("{}.array", ty.name())) else {
            panic!("{ty:?}")
        };
        assert_eq!((array.elem_type(), array.len()), (*ty, values.len()));
        assert_eq!(&array.iter().collect::<Vec<_>>(), values);
        let Some(Value::Array(empty)) = gguf.metadata().get(&format!("{}.empty", ty.name())) else {
            panic!("{ty:?}")
        };
        assert!(empty.is_empty() && empty.iter().next().is_none());
    }
    let ids: Vec<u32> = elements.iter().map(|(ty, _)| ty.id()).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12], "with array, 9, all thirteen");
}

/// A file with nothing but metadata, opened.
fn metadata_only(dir: &Path, fill: impl FnOnce(&mut GgufWriter)) -> Gguf {
    let mut writer = GgufWriter::new();
    fill(&mut writer);
    writer.write_file(&dir.join("meta.gguf"), |_| Ok(())).unwrap();
    open(&dir.join("meta.gguf"))
}

#[test]
fn getters_widen_integers_and_never_reinterpret() {
    let dir = tempfile::tempdir().unwrap();
    let gguf = metadata_only(dir.path(), |w| {
        w.set("small", Value::U8(7)).unwrap();
        w.set("negative", Value::I32(-1)).unwrap();
        w.set("eps", Value::F32(1e-5)).unwrap();
        w.set("double", Value::F64(1e-5)).unwrap();
        w.set("text", Value::Str(b"llama")).unwrap();
        w.set("not text", Value::Str(b"\xff")).unwrap();
        w.set("heads", ArrayBuf::i32s([4, 8]).value()).unwrap();
        w.set("types", ArrayBuf::i32s([1, -3]).value()).unwrap();
        w.set("scores", ArrayBuf::f32s([0.5]).value()).unwrap();
        w.set("tokens", ArrayBuf::strings(["a", "bc"]).value()).unwrap();
    });
    let meta = gguf.metadata();
    assert_eq!((meta.u64("small").unwrap(), meta.usize("small").unwrap()), (Some(7), Some(7)));
    assert_eq!((meta.f32("eps").unwrap(), meta.str("text").unwrap()), (Some(1e-5), Some("llama")));
    assert_eq!((meta.u64("absent").unwrap(), meta.bool("absent").unwrap()), (None, None));
    assert_eq!(meta.i32s("types").unwrap(), Some(vec![1, -3]));
    assert_eq!(meta.u64s("heads").unwrap(), Some(vec![4, 8]));
    assert_eq!(meta.f32s("scores").unwrap(), Some(vec![0.5]));
    let tokens = meta.strings("tokens").unwrap().unwrap();
    assert_eq!((tokens.len(), tokens.collect::<Vec<_>>()), (2, vec![&b"a"[..], b"bc"]));

    assert_eq!(meta.usize_per_layer("small", 3).unwrap(), Some(vec![7, 7, 7]));
    assert_eq!(meta.usize_per_layer("heads", 2).unwrap(), Some(vec![4, 8]));
    assert_eq!(meta.usize_per_layer("absent", 2).unwrap(), None);

    let says = |error: Error, text: &str| {
        assert_eq!(error.to_string(), format!("{}: metadata key {text}", gguf.path().display()));
    };
    says(meta.u64("negative").unwrap_err(), "negative: expected an integer of at least 0, found i32 -1");
    says(meta.u64("eps").unwrap_err(), "eps: expected an integer of at least 0, found f32 0.00001");
    says(meta.f32("double").unwrap_err(), "double: expected an f32, found f64 0.00001");
    says(meta.f32("small").unwrap_err(), "small: expected an f32, found u8 7");
    says(meta.bool("small").unwrap_err(), "small: expected a bool, found u8 7");
    says(
        meta.str("tokens").unwrap_err(),
        "tokens: expected a string of valid UTF-8, found an array of 2 string",
    );
    says(
        meta.str("not text").unwrap_err(),
        "not text: expected a string of valid UTF-8, found string \"\u{fffd}\"",
    );
    says(
        meta.strings("scores").unwrap_err(),
        "scores: expected an array of strings, found an array of 1 f32",
    );
    says(meta.f32s("eps").unwrap_err(), "eps: expected an array of f32, found f32 0.00001");
    says(
        meta.u64s("types").unwrap_err(),
        "types: expected an array of integers of at least 0, found an array of 2 i32",
    );
    says(
        meta.usize_per_layer("heads", 3).unwrap_err(),
        "heads: expected an integer of at least 0, or an array of 3, found an array of 2 i32",
    );
    says(
        meta.missing("absent", "the number of layers"),
        "absent: expected the number of layers, found no such key",
    );
}

#[test]
fn tensors_are_padded_to_the_alignment_and_keep_their_order() {
    for alignment in [1u32, 8, 32, 1024, 65_536] {
        let mut writer = GgufWriter::new();
        writer.set("general.alignment", Value::U32(alignment)).unwrap();
        let tensors = [
            ("b", TensorType::F16, vec![3], vec![1u8; 6]),
            ("a", TensorType::I2_S, vec![2, 128], vec![2; 2 * 32 + 32]),
            ("c", TensorType::TQ1_0, vec![1, 2, 256], vec![3; 108]),
        ];
        for (name, ty, shape, _) in &tensors {
            writer.declare(name, *ty, shape).unwrap();
        }
        assert_eq!(writer.tensor_bytes(), 6 + 96 + 108);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aligned.gguf");
        writer
            .write_file(&path, |out| {
                // In pieces that do not care where a tensor ends a piece, but never cross one.
                for (_, _, _, bytes) in &tensors {
                    bytes.chunks(7).try_for_each(|chunk| out.chunk(chunk))?;
                }
                Ok(())
            })
            .unwrap();
        let gguf = open(&path);
        assert_eq!(gguf.alignment(), u64::from(alignment));
        assert_eq!(gguf.file_len() % u64::from(alignment), 0);
        for (info, (name, ty, shape, bytes)) in gguf.tensors().iter().zip(&tensors) {
            assert_eq!((info.name.as_str(), info.ty, &info.shape), (*name, *ty, shape));
            assert_eq!(info.offset % u64::from(alignment), 0);
            assert_eq!(gguf.tensor(name).unwrap().bytes, bytes);
        }
    }
}

#[test]
fn a_model_in_shards_is_one_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = |i: u16| dir.path().join(format!("m-{i:05}-of-00003.gguf"));
    for no in 0..3u16 {
        let mut writer = GgufWriter::new();
        writer.set("split.no", Value::U16(no)).unwrap();
        writer.set("split.count", Value::U16(3)).unwrap();
        writer.set("split.tensors.count", Value::I32(4)).unwrap();
        if no == 0 {
            writer.set("general.architecture", Value::Str(b"bitnet-b1.58")).unwrap();
        }
        // Each shard has its own alignment; the last two tensors share a file.
        writer.set("general.alignment", Value::U32(32 << no)).unwrap();
        let names: &[&str] = [&["a"][..], &["b"], &["d", "c"]][usize::from(no)];
        for name in names {
            writer.declare(name, TensorType::I8, &[40]).unwrap();
        }
        writer
            .write_file(&path(no + 1), |out| {
                names.iter().try_for_each(|n| out.tensor(n, &[n.as_bytes()[0]; 40]))
            })
            .unwrap();
    }
    for access in [Access::Map, Access::Read] {
        let gguf = Gguf::open(&path(1), access).unwrap();
        let order: Vec<(&str, usize)> = gguf.tensors().iter().map(|t| (t.name.as_str(), t.shard)).collect();
        assert_eq!(order, [("a", 0), ("b", 1), ("d", 2), ("c", 2)]);
        for name in ["a", "b", "c", "d"] {
            assert_eq!(gguf.tensor(name).unwrap().bytes, [name.as_bytes()[0]; 40]);
        }
        assert_eq!(gguf.metadata().str("general.architecture").unwrap(), Some("bitnet-b1.58"));
        assert_eq!(gguf.path(), path(1));
        let lens: u64 = (1..=3).map(|i| fs::metadata(path(i)).unwrap().len()).sum();
        assert_eq!((gguf.file_len(), gguf.shards().len(), gguf.shards()[2].alignment), (lens, 3, 128));
    }
    // One shard of one is an ordinary file, whatever it is called.
    let single = metadata_only(dir.path(), |w| w.set("split.count", Value::U16(1)).unwrap());
    assert_eq!(single.shards().len(), 1);
}

#[test]
fn type_39_is_tl2_in_bitnet_files_and_mxfp4_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("39.gguf");
    let ty = |arch: &str, file_type: u32, ty: TensorType| {
        let mut writer = GgufWriter::new();
        writer.set("general.architecture", Value::Str(arch.as_bytes())).unwrap();
        writer.set("general.file_type", Value::U32(file_type)).unwrap();
        writer.declare("w", ty, &[32, 320]).unwrap();
        let n = writer.tensor_bytes() as usize;
        writer.write_file(&path, |out| out.tensor("w", &vec![0; n])).unwrap();
        open(&path).tensors()[0].ty
    };
    assert_eq!(ty("bitnet", 0, TensorType::TL2), TensorType::TL2);
    assert_eq!(ty("bitnet-b1.58", 0, TensorType::TL2), TensorType::TL2);
    assert_eq!(ty("llama", 39, TensorType::TL2), TensorType::TL2);
    assert_eq!(ty("llama", 38, TensorType::MXFP4), TensorType::MXFP4);
}

#[test]
fn a_writer_refuses_what_a_reader_would() {
    let mut writer = GgufWriter::new();
    let says = |error: Error, text: &str| {
        assert!(error.is_misuse(), "{error}");
        assert_eq!(error.to_string(), text);
    };
    says(
        writer.set("", Value::U8(0)).unwrap_err(),
        "metadata key \"\": expected 1 to 65535 bytes without a zero byte",
    );
    says(
        writer.set("general.alignment", Value::U32(12)).unwrap_err(),
        "metadata key \"general.alignment\": expected a u32 that is a power of two and at most 65536",
    );
    says(
        writer.set("t", ArrayBuf::strings([vec![b'x'; 70_000]]).value()).unwrap_err(),
        "metadata key \"t\": expected a string of at most 65536 bytes, found a length of 70000 in element 0",
    );
    says(
        writer.declare("w", TensorType::TQ2_0, &[3, 100]).unwrap_err(),
        "tensor \"w\": expected rows of a multiple of 256 weights, found shape [3, 100] of type TQ2_0",
    );
    says(
        writer.declare("w", TensorType::F32, &[]).unwrap_err(),
        "tensor \"w\": expected 1 to 4 dimensions, found shape []",
    );
    says(
        writer.declare("w", TensorType::F32, &[0]).unwrap_err(),
        "tensor \"w\": expected rows of any length, found shape [0] of type F32",
    );
    writer.declare("w", TensorType::F32, &[2]).unwrap();
    says(
        writer.declare("w", TensorType::F32, &[2]).unwrap_err(),
        "tensor \"w\": a tensor of this name was declared already",
    );
    assert!(ArrayBuf::values(ValueType::U8, [Value::U8(1), Value::U16(1)]).is_none());
}

#[test]
fn a_failed_write_leaves_the_directory_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, "precious").unwrap();
    let try_writing = |chunks: &[usize]| {
        let mut writer = GgufWriter::new();
        writer.declare("w", TensorType::I8, &[8]).unwrap();
        writer.write_file(&path, |out| chunks.iter().try_for_each(|&n| out.chunk(&vec![1; n])))
    };
    assert_eq!(try_writing(&[5]).unwrap_err().to_string(), "tensor w: 3 of its 8 bytes were not written");
    assert_eq!(
        try_writing(&[9]).unwrap_err().to_string(),
        "tensor w: expected at most 8 more bytes, found 9"
    );
    let after_the_last = try_writing(&[8, 1]).unwrap_err().to_string();
    assert_eq!(after_the_last, "tensor data: expected nothing after the last declared tensor, found 1 bytes");
    let panicked = std::panic::catch_unwind(|| replace_file(&path, |_| panic!("on purpose")));
    assert!(panicked.is_err());

    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file was left behind");

    try_writing(&[3, 0, 5]).unwrap();
    assert_eq!(open(&path).tensor("w").unwrap().bytes, [1; 8]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    let text = replace_file(dir.path(), |_| Ok(())).unwrap_err().to_string();
    assert!(
        text.ends_with("expected a regular file or a new one, found a directory, a pipe or a device"),
        "{text}"
    );
}

#[cfg(unix)]
#[test]
fn writing_through_a_link_keeps_the_link() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    fs::write(&file, "old").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    replace_file(&link, |out| {
        use std::io::Write;
        out.write_all(b"new").map_err(|source| Error::Io { path: link.clone(), action: "write", source })
    })
    .unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "new");
    assert!(link.symlink_metadata().unwrap().is_symlink());
}
