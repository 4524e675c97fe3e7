#!/usr/bin/env python3
"""Trains the demo model: a small ternary language model that calculates, sorts, compares and greets.

  train_demo_model.py --out DIR                     train; DIR gets checkpoint.pt, log.jsonl and status.txt
  train_demo_model.py --out DIR --resume            go on where an interrupted run stopped
  train_demo_model.py --out DIR --emit-eval FILE    held-out questions for `bitnet eval --data`
  train_demo_model.py --out DIR --evaluate FILE     answer them here, for comparison with the engine
  train_demo_model.py --out DIR --export FILE.gguf  latent weights as F32, for the engine's own quantizer
  train_demo_model.py --out DIR --receipt FILE      loss curve and accuracies as JSON

Needs scripts/requirements-train.txt. The same seed and machine give the same model; --threads 1 keeps one core busy.

Sampling: a task's share is its base share times (0.03 + its error rate); the error rates are running averages over
training questions, renewed every 100 steps. An answer counts as right if every token of it is the most probable one
given those before it, which is the same as greedy decoding being right.
"""

import argparse
import json
import math
import platform
import random
import subprocess
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from demo import tasks, vocab
from demo.network import Model
from demo.optimizer import Optimizer

SIZE = {"n_vocab": vocab.N_VOCAB, "n_embd": 256, "n_layer": 5, "n_head": 4, "n_head_kv": 2, "n_ff": 512}
ROW = 192  # tokens per row; several questions share one


class Sampler:
    """Draws training examples, more of what goes wrong."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.base = tasks.PLAIN | {f"chat:{name}": share for name, share in tasks.CHAT.items()}
        self.error = dict.fromkeys(self.base, 1.0)
        self.seen = dict.fromkeys(self.base, (0, 0))
        self.waiting = []
        self.adapt()

    def adapt(self):
        for name, (n, wrong) in self.seen.items():
            if n:
                keep = 0.6
                self.error[name] = keep * self.error[name] + (1 - keep) * wrong / n
        self.seen = dict.fromkeys(self.base, (0, 0))
        self.weights = [share * (0.03 + self.error[name]) for name, share in self.base.items()]
        names = list(self.base)
        self.all = (names, self.weights)
        self.chat = tuple(zip(*[(n, w) for n, w in zip(names, self.weights) if n.startswith("chat:")]))

    def example(self):
        """(ids, wanted, names of the tasks in order)"""
        name = self.rng.choices(*self.all)[0]
        if not name.startswith("chat:"):
            return *vocab.plain(*tasks.question(name, self.rng, False)), [name]
        names = [name]
        while self.rng.random() < 0.6 and len(names) < 10:
            names += self.rng.choices(*self.chat)
        rejoined = len(names) > 1 and self.rng.random() < 0.3
        while True:
            turns = [tasks.turn(n.removeprefix("chat:"), self.rng, False) for n in names]
            ids, wanted = vocab.chat(turns, rejoined)
            if len(ids) <= ROW:
                return ids, wanted, names[-1:] if rejoined else names
            names = names[:-1] or names
            rejoined = rejoined and len(names) > 1

    def batch(self, n_rows):
        """Rows filled with examples one after the other; those that do not fit wait for the next row."""
        packed = Packer()
        for _ in range(n_rows):
            room, row = ROW, []
            while True:
                while len(self.waiting) < 24:
                    self.waiting.append(self.example())
                at = next((i for i, found in enumerate(self.waiting) if len(found[0]) <= room), None)
                if at is None:
                    break
                row.append(self.waiting.pop(at))
                room -= len(row[-1][0])
            packed.row(row)
        return packed

    def count(self, names, right):
        for name, ok in zip(names, right):
            n, wrong = self.seen[name]
            self.seen[name] = n + 1, wrong + (not ok)


class Packer:
    """Rows of several examples, as tensors."""

    def __init__(self):
        self.ids, self.segments, self.wanted = [], [], []
        self.answers = 0
        self.owner = []  # of every predicted token: which answer it belongs to
        self.names = []

    def row(self, examples):
        ids, segments, wanted = [], [], []
        for i, (tokens, want, names) in enumerate(examples):
            ids += tokens
            segments += [i + 1] * len(tokens)
            wanted += want
            before = False
            for w in want:
                if w and not before:
                    self.answers += 1
                if w:
                    self.owner.append(self.answers - 1)
                before = w
            self.names += names
        pad = ROW - len(ids)
        self.ids.append(ids + [0] * pad)
        self.segments.append(segments + [0] * pad)
        self.wanted.append(wanted + [False] * pad)

    def tensors(self):
        ids, wanted = torch.tensor(self.ids), torch.tensor(self.wanted)
        ahead = torch.zeros_like(wanted)
        ahead[:, :-1] = wanted[:, 1:]
        keep = ahead.flatten().nonzero()[:, 0]
        return ids, torch.tensor(self.segments), keep, ids[wanted], torch.tensor(self.owner)


def right_answers(logits, targets, owner, n):
    wrong = torch.zeros(n).index_add_(0, owner, (logits.argmax(-1) != targets).float())
    return (wrong == 0).tolist()


@torch.no_grad()
def evaluate(model, questions):
    """{task: (right, asked)} by the quantized network in f32."""
    scores, misses = {}, []
    for start in range(0, len(questions), 256):
        part = questions[start:start + 256]
        packed, row, room = Packer(), [], ROW
        for task, found in part:
            if isinstance(found[0], tuple):
                ids, wanted = vocab.chat(found, rejoined=True)  # only the last reply is asked for
            else:
                ids, wanted = vocab.plain(*found)
            if len(ids) > room:
                packed.row(row)
                row, room = [], ROW
            row.append((ids, wanted, [task]))
            room -= len(ids)
        packed.row(row)
        ids, segments, keep, targets, owner = packed.tensors()
        right = right_answers(model(ids, segments, keep), targets, owner, len(part))
        for (task, found), ok in zip(part, right):
            n, asked = scores.get(task, (0, 0))
            scores[task] = n + ok, asked + 1
            if not ok:
                misses.append((task, found))
    return scores, misses


def rate(step, args):
    """The share of the full learning rate: a warm-up, then a half cosine to nearly nothing."""
    if step < args.warmup:
        return (step + 1) / args.warmup
    done = (step - args.warmup) / max(1, args.steps - args.warmup)
    return 0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def train(args):
    torch.manual_seed(args.seed)
    model = Model(SIZE)
    optimizer = Optimizer(model, args)
    sampler, first, curve, spent = Sampler(args.seed), 0, [], 0.0
    checkpoint = args.out / "checkpoint.pt"
    if args.resume:
        kept = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        sampler, first, spent = kept["sampler"], kept["step"], kept["seconds"]
        curve = [json.loads(line) for line in (args.out / "log.jsonl").read_text().splitlines()]
        curve = [entry for entry in curve if entry["step"] <= first]
        (args.out / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in curve))
    questions = tasks.evaluation(args.seed + 1)
    forward = torch.compile(model) if args.compile else model
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    started, loss_sum, n_sum = time.time() - spent, 0.0, 0

    def save(step):
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "sampler": sampler, "step": step,
                 "seconds": time.time() - started, "args": vars(args), "size": SIZE}
        torch.save(state, checkpoint.with_suffix(".tmp"))
        checkpoint.with_suffix(".tmp").rename(checkpoint)

    for step in range(first, args.steps):
        optimizer.set_rate(rate(step, args))
        packed = sampler.batch(args.rows)
        ids, segments, keep, targets, owner = packed.tensors()
        if args.compile:
            torch._dynamo.mark_dynamic(keep, 0)
        logits = forward(ids, segments, keep, dtype)
        loss = F.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sampler.count(packed.names, right_answers(logits.detach(), targets, owner, packed.answers))
        loss_sum, n_sum = loss_sum + loss.item(), n_sum + 1
        if (step + 1) % 100 == 0 or step + 1 == args.steps:
            sampler.adapt()
            entry = {"step": step + 1, "loss": round(loss_sum / n_sum, 5), "seconds": round(time.time() - started),
                     "rate": round(rate(step, args), 5),
                     "train_error": {name: round(e, 4) for name, e in sampler.error.items()}}
            loss_sum, n_sum = 0.0, 0
            if (step + 1) % args.every == 0 or step + 1 == args.steps:
                scores, _ = evaluate(model, questions)
                entry["held_out"] = {task: round(100 * n / m, 2) for task, (n, m) in scores.items()}
            with open(args.out / "log.jsonl", "a") as log:
                log.write(json.dumps(entry) + "\n")
            report(args, entry, curve)
            curve.append(entry)
            if (step + 1) % args.every == 0 or step + 1 == args.steps:
                save(step + 1)


def report(args, entry, curve):
    """Where the run is, for a person who looks."""
    per_step = entry["seconds"] / entry["step"]
    left = (args.steps - entry["step"]) * per_step / 60
    lines = [f"step {entry['step']} of {args.steps}, loss {entry['loss']}, {entry['seconds'] / 60:.1f} min so far, "
             f"{left:.1f} min left at {per_step:.2f} s a step"]
    lines.append("wrong in training, %: "
                 + " ".join(f"{name} {100 * e:.1f}" for name, e in entry["train_error"].items()))
    shown = next((e for e in [entry, *reversed(curve)] if "held_out" in e), None)
    if shown:
        lines.append(f"held out at step {shown['step']}, % right: "
                     + " ".join(f"{name} {n}" for name, n in shown["held_out"].items()))
    (args.out / "status.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(lines), flush=True)


def load(args):
    """The network of DIR's checkpoint, and what else the checkpoint says."""
    kept = torch.load(args.out / "checkpoint.pt", weights_only=False)
    model = Model(kept["size"])
    model.load_state_dict(kept["model"])
    return model, kept


def escaped(text):
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def emit(path, seed):
    """Questions as `bitnet eval` reads them: task, prompt and answer, with tabs between them."""
    with open(path, "w") as out:
        for task, found in tasks.evaluation(seed):
            chat = isinstance(found[0], tuple)
            prompt, answer = (vocab.transcript(found), found[-1][1]) if chat else found
            out.write("\t".join(map(escaped, (task, prompt, answer))) + "\n")


def provenance(kept):
    run = kept["args"]
    return {
        "name": "bitnet demo",
        "description": "Adds, subtracts, multiplies and compares small numbers, reverses and sorts short lists, in "
        "symbols, short English questions and chat; knows nothing else.",
        "author": "the bitnet authors",
        "license": "MIT",
        "source": f"scripts/train_demo_model.py, seed {run['seed']}, {kept['step']} steps of {run['rows']} rows of "
        f"{ROW} tokens; questions made up by scripts/demo/tasks.py, none taken from anywhere",
    }


def commit():
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


def cpu():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


def write_receipt(args):
    _, kept = load(args)
    log = [json.loads(line) for line in (args.out / "log.jsonl").read_text().splitlines()]
    body = {
        "schema": 1, "script": "scripts/train_demo_model.py", "commit": commit(), "python": platform.python_version(),
        "torch": torch.__version__, "cpu": cpu(), "size": kept["size"],
        "row_tokens": ROW, "args": {k: v for k, v in kept["args"].items() if not isinstance(v, Path)},
        "seconds": round(kept["seconds"]), "steps": kept["step"], "log": log,
    }
    args.receipt.write_text(json.dumps(body, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--steps", type=int, default=7800)
    parser.add_argument("--rows", type=int, default=18, help=f"rows of {ROW} tokens in a batch (default 18)")
    parser.add_argument("--lr", type=float, default=2e-3, help="AdamW's learning rate (default 2e-3)")
    parser.add_argument("--muon", type=float, default=0.015, help="Muon's, for ternary matrices; 0: AdamW for all")
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, default=500, help="steps between evaluations and checkpoints")
    parser.add_argument("--compile", action="store_true", help="torch.compile, where there is a C++ compiler")
    parser.add_argument("--bf16", action="store_true", help="products of linear layers in bf16")
    parser.add_argument("--emit-eval", type=Path, metavar="FILE", help="write held-out questions drawn with --seed")
    parser.add_argument("--evaluate", action="store_true", help="answer the questions of --seed with the checkpoint")
    parser.add_argument("--export", type=Path, metavar="FILE.gguf", help="write the checkpoint's weights as F32")
    parser.add_argument("--receipt", type=Path, metavar="FILE", help="write loss curve and accuracies as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.emit_eval:
        emit(args.emit_eval, args.seed)
    if args.evaluate:
        scores, misses = evaluate(load(args)[0], tasks.evaluation(args.seed))
        for task, (n, asked) in scores.items():
            print(f"{task:16} {n:5} of {asked:5} {100 * n / asked:7.2f} %")
        for miss in misses:
            print("wrong:", *miss)
    if args.export:
        from demo.export import export  # needs gguf, which training does not
        _, kept = load(args)
        export(args.export, kept["model"], kept["size"], provenance(kept))
    if args.receipt:
        write_receipt(args)
    if not (args.emit_eval or args.evaluate or args.export or args.receipt):
        args.out.mkdir(parents=True, exist_ok=True)
        train(args)


if __name__ == "__main__":
    main()
