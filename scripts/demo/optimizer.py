"""Muon for the ternary matrices, AdamW for the embedding and the norms.

Muon (K. Jordan, 2024): the step of a matrix is its gradient's momentum with all singular values made equal, by five
Newton-Schulz iterations. Equal shapes are iterated as one batch.
"""

import torch


def orthogonal(g):
    """[n, rows, cols] with singular values near one; the quintic's coefficients are those of the paper."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        s = x @ x.mT
        x = a * x + (b * s + c * (s @ s)) @ x
    return (x if wide else x.mT).float()


class Muon:
    """Nesterov momentum 0.95; `rate` is the step's size for a square matrix, as its largest singular value."""

    def __init__(self, matrices, rate):
        self.rate, self.scale = rate, 1.0
        self.shapes = {}
        for p in matrices:
            self.shapes.setdefault(tuple(p.shape), []).append(p)
        self.momentum = {shape: torch.zeros(len(group), *shape) for shape, group in self.shapes.items()}

    @torch.no_grad()
    def step(self):
        for shape, group in self.shapes.items():
            g = torch.stack([p.grad for p in group])
            m = self.momentum[shape]
            m.lerp_(g, 0.05)
            step = orthogonal(g.lerp(m, 0.95)) * (self.rate * self.scale * max(1, shape[0] / shape[1]) ** 0.5)
            for p, s in zip(group, step):
                p.sub_(s)


class Optimizer:
    def __init__(self, model, args):
        ternary = [p for name, p in model.named_parameters() if p.dim() == 2 and name.startswith("layers.")]
        if not args.muon:
            ternary = []
        chosen = {id(p) for p in ternary}
        self.args, self.parameters = args, list(model.parameters())
        self.muon = Muon(ternary, args.muon)
        self.adam = torch.optim.AdamW([p for p in self.parameters if id(p) not in chosen], betas=(0.9, 0.98),
                                      weight_decay=0.0, fused=True)

    def set_rate(self, share):
        self.muon.scale = share
        for group in self.adam.param_groups:
            group["lr"] = self.args.lr * share

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None

    def step(self):
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.adam.step()
        self.muon.step()

    def state_dict(self):
        return {"adam": self.adam.state_dict(), "momentum": self.muon.momentum}

    def load_state_dict(self, state):
        self.adam.load_state_dict(state["adam"])
        self.muon.momentum = state["momentum"]
