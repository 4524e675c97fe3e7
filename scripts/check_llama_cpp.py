"""The Python half of check_llama_cpp.sh.

check_llama_cpp.py make DIR     random models in F32, DIR/CASE.f32.gguf, and prompts, DIR/CASE.PROMPT.tokens
check_llama_cpp.py compare DIR  DIR/CASE.PROMPT.log, recorded by `bitnet parity --record` from the TQ2_0 file
                                DIR/CASE.gguf, against llama.cpp on the same file

`make` also writes models in which one thing is not as in CASE, CASE--MISTAKE: our logs of them are compared with
llama.cpp on CASE and must not pass, or the comparison would not notice such a mistake of ours.
`compare` prints the body of the receipt on stdout, and fails if a case differs or a mistake does not.
"""

import json
import platform
import sys
from importlib.metadata import version

import gguf
import numpy as np

N_LAYER, HEAD, HEADS_TO_A_KV = 3, 64, 2
THETA = 10000.0
# 256 bytes, pairs of letters, and three control tokens. Only pairs are in prompts and have rows in the head that are
# not zero: each is whole text, and llama.cpp gives no probabilities of tokens that leave a character unfinished.
N_VOCAB, N_BYTES, N_CONTROL = 512, 256, 3
N_PROMPTS, N_PROMPT, N_GENERATED = 3, 16, 24
# Standard deviations of random weights, by a part of their names. Wide queries and keys make attention choose, so that
# positions matter; embeddings are small, so that the layers decide and not the token that came last.
SPREADS = {"token_embd": 0.15, "output.": 0.15, "attn_q": 0.15, "attn_k": 0.15, "": 0.05}
# llama.cpp rounds activations to int8 with a scale for every 256 of them, we with one for all, as the models were
# trained. Where a row is one such block that is the same; where it is several, every rounding differs. So each
# architecture comes in both widths, n_embd and n_ff, with a tolerance of its own: root mean square of the logits'
# differences, in standard deviations of a position's logits. The mistakes must be farther.
WIDTHS = {"one-block": (256, 256, 0.1), "blocks": (512, 1024, 0.3)}
CASES = {f"{arch}-{width}": (arch, *WIDTHS[width]) for arch in ["bitnet", "llama"] for width in WIDTHS}
MISTAKES = ["other_theta", "other_sign"]


def state(arch, n_embd, n_ff):
    """Random weights, and norms that are not all one."""
    random = np.random.default_rng(158)
    kv = n_embd // HEADS_TO_A_KV
    shapes = {"token_embd": (N_VOCAB, n_embd), "output_norm": (n_embd,)}
    if arch == "llama":
        shapes["output"] = (N_VOCAB, n_embd)
    layer = {"attn_norm": (n_embd,), "attn_q": (n_embd, n_embd), "attn_k": (kv, n_embd), "attn_v": (kv, n_embd),
             "attn_output": (n_embd, n_embd), "ffn_norm": (n_embd,), "ffn_gate": (n_ff, n_embd),
             "ffn_up": (n_ff, n_embd), "ffn_down": (n_embd, n_ff)}
    if arch == "bitnet":
        layer |= {"attn_sub_norm": (n_embd,), "ffn_sub_norm": (n_ff,)}
    shapes |= {f"blk.{i}.{name}": shape for i in range(N_LAYER) for name, shape in layer.items()}
    out = {}
    for name, shape in shapes.items():
        name += ".weight"
        if len(shape) == 1:
            out[name] = random.uniform(0.5, 1.5, shape).astype(np.float32)
            continue
        spread = next(spread for part, spread in SPREADS.items() if part in name)
        out[name] = random.normal(0, spread, shape).astype(np.float32)
        if name in ("token_embd.weight", "output.weight"):
            out[name][:N_BYTES] = 0
            out[name][-N_CONTROL:] = 0
    return out


def bytes_as_text():
    """How byte-level BPE spells the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def save(path, arch, n_embd, n_ff, tensors, theta=THETA):
    writer = gguf.GGUFWriter(path, arch)
    writer.add_vocab_size(N_VOCAB)
    writer.add_context_length(256)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(N_LAYER)
    writer.add_feed_forward_length(n_ff)
    writer.add_rope_dimension_count(HEAD)
    writer.add_head_count(n_embd // HEAD)
    writer.add_head_count_kv(n_embd // HEAD // HEADS_TO_A_KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(theta)
    letters = "abcdefghijklmnop"
    pairs = [(a, b) for a in letters for b in letters][: N_VOCAB - N_BYTES - N_CONTROL]
    control = ["<|bos|>", "<|eos|>", "<|pad|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(bytes_as_text() + [a + b for a, b in pairs] + control)
    writer.add_token_types([gguf.TokenType.NORMAL] * (N_VOCAB - N_CONTROL) + [gguf.TokenType.CONTROL] * N_CONTROL)
    writer.add_token_merges([f"{a} {b}" for a, b in pairs])
    writer.add_bos_token_id(N_VOCAB - 3)
    writer.add_eos_token_id(N_VOCAB - 2)
    writer.add_pad_token_id(N_VOCAB - 1)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def names(case):
    return [case] + [f"{case}--{mistake}" for mistake in MISTAKES]


def make(directory):
    random = np.random.default_rng(7)
    for case, (arch, n_embd, n_ff, _) in CASES.items():
        tensors = state(arch, n_embd, n_ff)
        save(f"{directory}/{case}.f32.gguf", arch, n_embd, n_ff, tensors)
        save(f"{directory}/{case}--other_theta.f32.gguf", arch, n_embd, n_ff, tensors, theta=2 * THETA)
        name = "blk.1.attn_output.weight"
        save(f"{directory}/{case}--other_sign.f32.gguf", arch, n_embd, n_ff, tensors | {name: -tensors[name]})
        for i in range(N_PROMPTS):
            prompt = ",".join(map(str, random.integers(N_BYTES, N_VOCAB - N_CONTROL, N_PROMPT).tolist()))
            for name in names(case):
                with open(f"{directory}/{name}.{i}.tokens", "w") as file:
                    file.write(prompt)


def load(path):
    """llama.cpp on a file, on one thread of the CPU."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_gpu_layers = 0
    params.n_ctx = 256
    params.n_parallel = 1
    params.cpuparams.n_threads = 1
    params.warmup = False
    params.fit_params = False
    params.port = 0  # its server wants a port, though it is asked within this process: any
    return xllamacpp.Server(params)


def complete(server, tokens, n):
    """What llama.cpp goes on with: for each step the token, and the log-probability of every token."""
    answer = server.handle_completions({"prompt": tokens, "n_predict": n, "temperature": 0, "n_probs": N_VOCAB,
                                        "cache_prompt": False, "stream": False})
    if "choices" not in answer or not answer["choices"][0]["logprobs"]:
        sys.exit(f"llama.cpp answers {json.dumps(answer)[:200]}")
    steps = answer["choices"][0]["logprobs"]["content"]
    return [(step["id"], {top["id"]: top["logprob"] for top in step["top_logprobs"]}) for step in steps]


def common_prefix(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def compare_case(directory, name, server):
    agreement, same, distinct, squares, worst, margin = [], 0, set(), [], 0.0, 0.0
    for i in range(N_PROMPTS):
        prompt = [int(token) for token in open(f"{directory}/{name}.{i}.tokens").read().split(",")]
        lines = [json.loads(line) for line in open(f"{directory}/{name}.{i}.log") if line.startswith('{"step"')]
        ours = [line["token"] for line in lines]
        if len(ours) != N_GENERATED:
            sys.exit(f"{name}: {len(ours)} tokens of ours, not {N_GENERATED}")
        theirs = [token for token, _ in complete(server, prompt, N_GENERATED)]
        agreement.append(common_prefix(ours, theirs))
        distinct.update(theirs)
        # Once a token differs, the texts do. So each step once more, after our tokens.
        for at, line in enumerate(lines):
            token, logprobs = complete(server, prompt + ours[:at], 1)[0]
            spread = np.std(list(logprobs.values()))
            same += token == ours[at]
            margin = max(margin, (logprobs[token] - logprobs[ours[at]]) / spread)
            difference = np.array([logit - logprobs[token] for token, logit in line["top_k"]])
            difference = (difference - difference.mean()) / spread  # a log-probability is a logit less a constant
            squares.extend(difference**2)
            worst = max(worst, np.abs(difference).max())
    rms = float(np.mean(squares) ** 0.5)
    case, _, mistake = name.partition("--")
    arch, n_embd, n_ff, tolerance = CASES[case]
    row = {"case": case} | ({"mistake": mistake} if mistake else {}) | {
        "arch": arch,
        "n_embd": n_embd,
        "n_ff": n_ff,
        "prompts": N_PROMPTS,
        "steps": N_PROMPTS * N_GENERATED,
        "distinct_tokens_of_llama_cpp": len(distinct),
        "greedy_tokens_equal_before_first_difference": agreement,
        "greedy_share": round(sum(agreement) / (N_PROMPTS * N_GENERATED), 4),
        "argmax_equal_after_our_tokens": same,
        "argmax_share": round(same / (N_PROMPTS * N_GENERATED), 4),
        "largest_lead_of_another_argmax_in_spreads": round(float(margin), 6),
        "logits_compared": len(squares),
        "max_difference_in_spreads": round(float(worst), 6),
        "rms_difference_in_spreads": round(rms, 6),
        "rms_tolerance": tolerance,
    }
    return row | {"pass": (rms <= tolerance) != bool(mistake)}


def compare(directory):
    rows = []
    for case in CASES:
        server = load(f"{directory}/{case}.gguf")
        rows.extend(compare_case(directory, name, server) for name in names(case))
        del server
    passed = all(row["pass"] for row in rows)
    body = {
        "python": platform.python_version(),
        "xllamacpp": version("xllamacpp"),
        "type": "TQ2_0",
        "n_layer": N_LAYER,
        "n_vocab": N_VOCAB,
        "cases": rows,
        "pass": passed,
    }
    print(json.dumps(body, indent=2))
    sys.exit(0 if passed else 1)


if sys.argv[1:2] == ["make"] and len(sys.argv) == 3:
    make(sys.argv[2])
elif sys.argv[1:2] == ["compare"] and len(sys.argv) == 3:
    compare(sys.argv[2])
else:
    sys.exit(__doc__)
