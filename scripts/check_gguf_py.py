"""The other half of check_gguf_py.sh: llama.cpp's `gguf` package writes a file, and reads one.

check_gguf_py.py write FILE
check_gguf_py.py compare NAME FILE DIR METADATA

`compare` holds the values in DIR/TENSOR.f32 and the lines of METADATA, which our example gguf_exchange took from
FILE, against what the package reads there. In files of ours it also holds the bytes of each tensor that the package
can write against the bytes it writes.
"""

import struct
import sys

import gguf
import numpy as np

ROWS, COLS = 5, 768
Type = gguf.GGMLQuantizationType
# Block formats that the package only reads, with the places of their half-precision scales in a block.
READ_ONLY = {
    Type.Q2_K: [80, 82],
    Type.Q3_K: [108],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
    Type.IQ4_NL: [0],
}
WRITTEN = [Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.TQ1_0, Type.TQ2_0]


def write(path):
    random = np.random.default_rng(158)
    writer = gguf.GGUFWriter(path, "bitnet")
    writer.add_uint8("b.u8", 200)
    writer.add_int8("b.i8", -100)
    writer.add_uint16("b.u16", 60000)
    writer.add_int16("b.i16", -30000)
    writer.add_uint32("b.u32", 3_000_000_000)
    writer.add_int32("b.i32", -2_000_000_000)
    writer.add_uint64("b.u64", 2**64 - 1)
    writer.add_key_value("b.i64", -(2**63), gguf.GGUFValueType.INT64)
    writer.add_float32("b.f32", 0.3)
    writer.add_float64("b.f64", 0.3)
    writer.add_bool("b.bool", False)
    writer.add_string("b.text", "naïve \u2581 text")
    writer.add_array("b.texts", ["a", "", "\u0120b"])
    writer.add_array("b.numbers", [1, -2, 3])
    values = random.normal(size=(ROWS, COLS)).astype(np.float32)
    values *= np.exp2(random.uniform(-8, 4, size=(ROWS, COLS))).astype(np.float32)
    values[1] = 0
    writer.add_tensor("values", values)
    writer.add_tensor("F16", values.astype(np.float16))
    for kind in WRITTEN:
        source = values
        if kind in (Type.TQ1_0, Type.TQ2_0):
            # A scale of its own for each block.
            scales = np.repeat(random.uniform(0.01, 2, size=(ROWS, COLS // 256)), 256, axis=1).astype(np.float32)
            source = random.integers(-1, 2, size=(ROWS, COLS)).astype(np.float32) * scales
        writer.add_tensor(kind.name, gguf.quants.quantize(source, kind), raw_dtype=kind)
    for kind, halves in READ_ONLY.items():
        block, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, size=(ROWS * COLS // block, size), dtype=np.uint8)
        for at in halves:
            scales = random.normal(size=len(blocks)).astype(np.float16)
            blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
        writer.add_tensor(kind.name, blocks.reshape(ROWS, -1), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def shown(kind, part):
    """A value as gguf_exchange prints it."""
    if kind == gguf.GGUFValueType.STRING:
        return "str:" + bytes(part).hex()
    if kind == gguf.GGUFValueType.BOOL:
        return f"bool:{int(part[0])}"
    if kind == gguf.GGUFValueType.FLOAT32:
        return f"f32:{struct.unpack('<I', np.float32(part[0]).tobytes())[0]}"
    if kind == gguf.GGUFValueType.FLOAT64:
        return f"f64:{struct.unpack('<Q', np.float64(part[0]).tobytes())[0]}"
    return f"int:{int(part[0])}"


def metadata(reader):
    lines = []
    for field in reader.fields.values():
        if field.name.startswith("GGUF."):
            continue  # the header, which the package shows as if it were metadata
        parts = [shown(field.types[-1], field.parts[i]) for i in field.data]
        is_array = field.types[0] == gguf.GGUFValueType.ARRAY
        lines.append(field.name + "\t" + (f"[{','.join(parts)}]" if is_array else parts[0]))
    return lines


def compare(name, path, directory, metadata_path):
    reader = gguf.GGUFReader(path)
    with open(metadata_path, encoding="utf-8") as file:
        ours = file.read().splitlines()
    theirs = metadata(reader)
    for a, b in zip(ours, theirs, strict=True):
        if a != b:
            sys.exit(f"{name}: metadata: we read {a}, gguf reads {b}")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for tensor in tensors.values():
        if list(tensor.shape) != [COLS, ROWS]:
            sys.exit(f"{name}: {tensor.name}: shape {list(tensor.shape)}")
        theirs = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(-1)
        ours = np.fromfile(f"{directory}/{tensor.name}.f32", dtype="<f4")
        same = ours.view(np.uint32) == theirs.view(np.uint32)
        same |= (ours == 0) & (theirs == 0)  # the sign of a zero has no meaning in these formats
        if ours.size != theirs.size or not same.all():
            at = int(np.argmin(same))
            sys.exit(f"{name}: {tensor.name}: value {at}: we read {ours[at]!r}, gguf reads {theirs[at]!r}")
    rewritten = 0
    if name == "ours":
        sources = {"TQ1_0": "ternary", "TQ2_0": "ternary", "Q8_0": "values", "BF16": "values"}
        for kind, source in sources.items():
            expected = gguf.quants.quantize(np.array(tensors[source].data), Type[kind])
            if not np.array_equal(expected.reshape(-1), tensors[kind].data.reshape(-1).view(np.uint8)):
                sys.exit(f"{name}: {kind}: gguf writes other bytes for these values")
            rewritten += 1
    kinds = ", ".join(sorted(tensor.tensor_type.name for tensor in tensors.values()))
    print(f"{name}: {len(tensors)} tensors ({kinds}) and {len(reader.fields) - 3} keys agree to the bit"
          + (f"; {rewritten} formats written alike" if rewritten else ""))


if sys.argv[1:2] == ["write"]:
    write(sys.argv[2])
elif sys.argv[1:2] == ["compare"]:
    compare(*sys.argv[2:])
else:
    sys.exit(__doc__)
