"""The network: BitNet b1.58 of the 2B-4T family, with straight-through estimators for what is quantized.

Linear layers multiply ternary weights (per tensor: W / mean|W|, rounded, clamped to -1..1) by int8 activations (per
token: 127 / max|x|). Both are exact in bf16, so the products may run in it. Gradients pass the rounding unchanged.
"""

import torch
import torch.nn.functional as F
from torch import nn

EPS = 1e-5
ROPE_BASE = 10000.0


def rms_norm(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight


def ternary(weight):
    """Codes and scale of one tensor."""
    scale = weight.abs().mean().clamp(min=1e-8)
    return (weight / scale).round().clamp(-1, 1), scale


class TernaryLinear(torch.autograd.Function):
    """x [n, k] by a stack of matrices [m_i, k], each with its own scale; `dtype` is that of the products."""

    @staticmethod
    def forward(ctx, x, dtype, *weights):
        codes, scales = zip(*(ternary(w) for w in weights))
        codes = torch.cat(codes).to(dtype)
        rows = torch.cat([s.expand(w.shape[0]) for s, w in zip(scales, weights)])
        s = 127 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
        q = (x * s).round().clamp(-128, 127).to(dtype)
        ctx.save_for_backward(q, s, codes, rows)
        ctx.splits = [w.shape[0] for w in weights]
        return (q @ codes.t()).float() / s * rows

    @staticmethod
    def backward(ctx, gy):
        q, s, codes, rows = ctx.saved_tensors
        gx = ((gy * rows).to(codes.dtype) @ codes).float()
        gw = ((gy / s).to(q.dtype).t() @ q).float()
        return gx, None, *gw.split(ctx.splits)


class Layer(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.size = size
        n, kv = size["n_embd"], size["n_head_kv"] * size["n_embd"] // size["n_head"]
        for name, rows, cols, std in [("attn_q", n, n, .04), ("attn_k", kv, n, .04), ("attn_v", kv, n, .04),
                                      ("attn_output", n, n, .02), ("ffn_gate", size["n_ff"], n, .04),
                                      ("ffn_up", size["n_ff"], n, .04), ("ffn_down", n, size["n_ff"], .02)]:
            self.register_parameter(name, nn.Parameter(torch.randn(rows, cols) * std))
        for name, width in [("attn_norm", n), ("attn_sub_norm", n), ("ffn_norm", n), ("ffn_sub_norm", size["n_ff"])]:
            self.register_parameter(name, nn.Parameter(torch.ones(width)))

    def forward(self, x, mask, cos, sin, dtype, keep=None):
        """x [b, t, n] to the same; with `keep`, to [len(keep), n], the rows of b * t that are needed."""
        b, t, n = x.shape
        heads, heads_kv = self.size["n_head"], self.size["n_head_kv"]
        hd = n // heads
        h = rms_norm(x, self.attn_norm)
        qkv = TernaryLinear.apply(h.view(b * t, n), dtype, self.attn_q, self.attn_k, self.attn_v)
        q, k, v = qkv.view(b, t, heads + 2 * heads_kv, hd).transpose(1, 2).split([heads, heads_kv, heads_kv], 1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        groups = heads // heads_kv
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(b * t, n)
        x = x.reshape(b * t, n)
        if keep is not None:
            a, x = a[keep], x[keep]
        x = x + TernaryLinear.apply(rms_norm(a, self.attn_sub_norm), dtype, self.attn_output)
        h = rms_norm(x, self.ffn_norm)
        gate, up = TernaryLinear.apply(h, dtype, self.ffn_gate, self.ffn_up).split(self.size["n_ff"], 1)
        h = rms_norm(F.relu(gate).square() * up, self.ffn_sub_norm)
        x = x + TernaryLinear.apply(h, dtype, self.ffn_down)
        return x if keep is not None else x.view(b, t, n)


def rotate(x, cos, sin):
    """Pairs k and k + hd/2 ("NEOX"), the layout of this architecture."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Model(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.size = size
        self.token_embd = nn.Parameter(torch.randn(size["n_vocab"], size["n_embd"]) * 0.2)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size["n_layer"]))
        self.output_norm = nn.Parameter(torch.ones(size["n_embd"]))

    def forward(self, ids, segments, keep, dtype=torch.float32):
        """Logits [n, n_vocab] at the positions `keep` [n] of b * t. Tokens see earlier ones of their own segment."""
        t = ids.shape[1]
        see = (segments[:, None, :] == segments[:, :, None]) & torch.ones(t, t, dtype=torch.bool).tril()
        mask = torch.zeros(see.shape).masked_fill(~see, float("-inf"))[:, None]
        half = self.size["n_embd"] // self.size["n_head"] // 2
        theta = torch.arange(t)[:, None] * ROPE_BASE ** (-torch.arange(half) / half)
        cos, sin = theta.cos(), theta.sin()
        x = self.token_embd[ids]
        for layer in self.layers[:-1]:
            x = layer(x, mask, cos, sin, dtype)
        x = self.layers[-1](x, mask, cos, sin, dtype, keep)
        return rms_norm(x, self.output_norm) @ self.token_embd.t()
