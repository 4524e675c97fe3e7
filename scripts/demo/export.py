"""A checkpoint as a GGUF file with its latent weights in F32; the engine's own quantizer packs them.

The vocabulary and the model's provenance are in the metadata.
"""

import gguf
import numpy as np

from . import vocab

ARCH = "bitnet-b1.58"
CONTEXT = 192  # what training has seen
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)
NORMAL, CONTROL = 1, 3


def export(path, state, size, provenance):
    """`state`: names to tensors; `provenance`: general.* keys without the prefix, and their texts."""
    writer = gguf.GGUFWriter(path, ARCH)
    for key, text in provenance.items():
        writer.add_string(f"general.{key}", text)
    for key, value in [("vocab_size", size["n_vocab"]), ("context_length", CONTEXT),
                       ("embedding_length", size["n_embd"]), ("block_count", size["n_layer"]),
                       ("feed_forward_length", size["n_ff"]),
                       ("rope.dimension_count", size["n_embd"] // size["n_head"]),
                       ("attention.head_count", size["n_head"]), ("attention.head_count_kv", size["n_head_kv"])]:
        writer.add_uint32(f"{ARCH}.{key}", value)
    writer.add_float32(f"{ARCH}.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32(f"{ARCH}.rope.freq_base", 10000.0)
    writer.add_string("tokenizer.ggml.model", "gpt2")
    writer.add_string("tokenizer.ggml.pre", "llama-bpe")
    writer.add_array("tokenizer.ggml.tokens", [vocab.spelt(t) for t in vocab.TOKENS] + vocab.CONTROL)
    writer.add_array("tokenizer.ggml.token_type", [NORMAL] * len(vocab.TOKENS) + [CONTROL] * len(vocab.CONTROL))
    for name, token in [("bos", vocab.BOS), ("eos", vocab.EOS), ("eot", vocab.EOT), ("padding", vocab.EOS)]:
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_string("tokenizer.chat_template", TEMPLATE)
    for name, tensor in state.items():
        parts = name.split(".")
        name = f"blk.{parts[1]}.{parts[2]}" if parts[0] == "layers" else name
        writer.add_tensor(f"{name}.weight", tensor.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
