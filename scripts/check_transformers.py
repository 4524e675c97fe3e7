"""The Python half of check_transformers.sh.

check_transformers.py make DIR     tiny random checkpoints, each in DIR/CASE, saved by transformers
check_transformers.py compare DIR  DIR/CASE.log, recorded by `bitnet parity --record`, against transformers' logits

`make` also writes the prompt of each case, DIR/CASE.tokens, and copies in which one thing is not as transformers has
it, DIR/CASE--MISTAKE: compared with CASE they must differ, or the comparison would not notice such a mistake of ours.
`compare` prints the body of the receipt on stdout, and fails if a case differs or a mistake does not.
"""

import json
import os
import platform
import shutil
import sys

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # transformers compiles three lines of arithmetic; nothing changes without

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitNetConfig, BitNetForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.integrations.bitnet import pack_weights

SHAPE = dict(
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=512,
    max_position_embeddings=256,
    bos_token_id=1,
    eos_token_id=2,
)
N_PROMPT = 16
# Standard deviations of random weights, by a part of their names. Wide queries and keys make attention choose, so that
# positions matter; the other projections are wide enough to weigh beside the embeddings.
SPREADS = {"embed": 0.5, "lm_head": 0.5, "q_proj": 0.15, "k_proj": 0.15, "": 0.05}
# Both sides round activations to int8 from sums of their own order, and we keep keys and values in half precision, as
# bitnet.cpp does. A rounding that falls differently moves every later logit. How far is measured, not assumed:
# transformers with its keys and values rounded to half precision, against itself. We may be this many times as far from
# it, as root mean square, in standard deviations of a position's logits; the mistakes must be farther.
TOLERANCE = 2


def master(model):
    """Random weights, and norms that are not all one."""
    torch.manual_seed(158)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.uniform_(0.5, 1.5)
            else:
                weight.normal_(std=next(std for part, std in SPREADS.items() if part in name))
    return model


def is_projection(name):
    return name.endswith("_proj.weight")


def packed(state, scale):
    """The checkpoint of a trained model as published: two-bit codes, and `scale(mean)` beside them."""
    out = {}
    for name, weight in state.items():
        if not is_projection(name):
            out[name] = weight.contiguous()
            continue
        mean = weight.abs().mean().clamp(min=1e-5)
        out[name] = pack_weights((weight / mean).round().clamp(-1, 1))
        out[name + "_scale"] = scale(mean).reshape(1)
    return out


def save(directory, model, quantization, state=None):
    """Saves as transformers does, then replaces the weights by `state`."""
    model.save_pretrained(directory)
    config = json.load(open(f"{directory}/config.json"))
    config["quantization_config"] = {"quant_method": "bitnet", **quantization}
    json.dump(config, open(f"{directory}/config.json", "w"))
    if state is not None:
        save_file(state, f"{directory}/model.safetensors", metadata={"format": "pt"})


def load(directory):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float()


def round_keys_and_values(model):
    """From now on in half precision."""
    for name, module in model.named_modules():
        if name.endswith(("k_proj", "v_proj")):
            module.register_forward_hook(lambda module, given, out: out.half().to(out.dtype))


def bitnet_model(tied=True):
    return master(BitNetForCausalLM(BitNetConfig(**SHAPE, tie_word_embeddings=tied)))


def llama_model(tied):
    return master(LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=tied, rms_norm_eps=1e-6)))


def without_head(state):
    return {name: weight for name, weight in state.items() if name != "lm_head.weight"}


def cases(directory):
    """Writes each case, and yields its name."""
    online = dict(linear_class="autobitlinear", quantization_mode="online")
    save(f"{directory}/master-f32", bitnet_model(), online)
    yield "master-f32"
    save(f"{directory}/master-bf16", bitnet_model().to(torch.bfloat16), online)
    yield "master-bf16"

    offline = dict(linear_class="autobitlinear", quantization_mode="offline")
    model = bitnet_model()
    save(f"{directory}/packed-multiply", model, offline, without_head(packed(model.state_dict(), lambda mean: mean)))
    yield "packed-multiply"

    for name, tied in [("llama-divide", False), ("llama-divide-tied", True)]:
        model = llama_model(tied)
        state = packed(model.state_dict(), lambda mean: 1 / mean)
        quantization = dict(modules_to_not_convert=["lm_head"]) if tied else {}
        save(f"{directory}/{name}", model, quantization, without_head(state) if tied else state)
        yield name


def other_direction(config):
    quantization = config["quantization_config"]
    multiplies = quantization.get("linear_class") == "autobitlinear"
    quantization["linear_class"] = "bitlinear" if multiplies else "autobitlinear"


def other_activation(config):
    config["hidden_act"] = "silu"


def other_theta(config):
    config["rope_parameters"]["rope_theta"] *= 2


def other_rows(state):
    """Queries as if values next to each other were rotated together, not those in two halves of a head."""
    n = SHAPE["hidden_size"] // SHAPE["num_attention_heads"]
    for name in list(state):
        if name.endswith("q_proj.weight"):
            codes = torch.cat([state[name] >> 2 * i & 3 for i in range(4)])
            codes = codes.view(-1, 2, n // 2, codes.shape[1]).transpose(1, 2).reshape(codes.shape)
            state[name] = pack_weights(codes.float() - 1)


MISTAKES = {
    "packed-multiply": [other_direction, other_activation, other_theta, other_rows],
    "llama-divide": [other_direction, other_theta, other_rows],
}


def make_mistakes(directory):
    for case, mistakes in MISTAKES.items():
        for mistake in mistakes:
            copy = f"{directory}/{case}--{mistake.__name__}"
            shutil.copytree(f"{directory}/{case}", copy)
            shutil.copy(f"{directory}/{case}.tokens", f"{copy}.tokens")
            if mistake is other_rows:
                state = load_file(f"{copy}/model.safetensors")
                mistake(state)
                save_file(state, f"{copy}/model.safetensors", metadata={"format": "pt"})
                continue
            config = json.load(open(f"{copy}/config.json"))
            mistake(config)
            json.dump(config, open(f"{copy}/config.json", "w"))


def make(directory):
    random = torch.Generator().manual_seed(7)
    for name in cases(directory):
        tokens = torch.randint(3, SHAPE["vocab_size"], (N_PROMPT,), generator=random).tolist()
        with open(f"{directory}/{name}.tokens", "w") as file:
            file.write(",".join(map(str, tokens)))
    make_mistakes(directory)


def compare(directory):
    rows, n_mistakes = [], 0
    for name in sorted(file[: -len(".log")] for file in os.listdir(directory) if file.endswith(".log")):
        prompt = [int(token) for token in open(f"{directory}/{name}.tokens").read().split(",")]
        lines = [json.loads(line) for line in open(f"{directory}/{name}.log") if line.startswith('{"step"')]
        generated = [line["token"] for line in lines]
        case, _, mistake = name.partition("--")
        tokens, model = prompt + generated[:-1], load(f"{directory}/{case}")
        theirs = logits(model, tokens)
        round_keys_and_values(model)
        rounded = logits(model, tokens)
        worst, squares, own_squares, n, same = 0.0, 0.0, 0.0, 0, 0
        for i, line in enumerate(lines):
            at = len(prompt) - 1 + i
            spread = theirs[at].std().item()
            same += int(theirs[at].argmax().item() == line["token"])
            for token, logit in line["top_k"]:
                difference = abs(logit - theirs[at][token].item()) / spread
                worst, squares, n = max(worst, difference), squares + difference**2, n + 1
                own_squares += ((rounded[at][token] - theirs[at][token]).item() / spread) ** 2
        rms, own_rms = (squares / max(n, 1)) ** 0.5, (own_squares / max(n, 1)) ** 0.5
        row = {
            "case": case,
            **({"mistake": mistake} if mistake else {}),
            "steps": len(lines),
            "argmax_equal": same,
            "logits_compared": n,
            "max_difference_in_spreads": round(worst, 6),
            "rms_difference_in_spreads": round(rms, 6),
            "rms_of_transformers_rounding_keys_and_values": round(own_rms, 6),
        }
        alike = same == len(lines) and rms <= TOLERANCE * own_rms
        row["pass"] = n > 0 and alike != bool(mistake)
        n_mistakes += bool(mistake)
        rows.append(row)
    if n_mistakes == len(rows):
        sys.exit("no case to compare")
    failed = not all(row["pass"] for row in rows)
    body = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "dtype": "float32",
        "shape": json.dumps(SHAPE),
        "rms_tolerance_over_rounding": TOLERANCE,
        "cases": rows,
        "pass": not failed,
    }
    print(json.dumps(body, indent=2))
    sys.exit(1 if failed else 0)


if sys.argv[1:2] == ["make"] and len(sys.argv) == 3:
    make(sys.argv[2])
elif sys.argv[1:2] == ["compare"] and len(sys.argv) == 3:
    compare(sys.argv[2])
else:
    sys.exit(__doc__)
