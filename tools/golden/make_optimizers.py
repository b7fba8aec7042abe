#!/usr/bin/env python3
"""Makes tests/data/golden/optimizers.safetensors.

Five steps of torch.optim.AdamW, SGD (plain and nesterov) and Muon, and of timm's
Lion and LAMB, on three parameters with drawn gradients. float64; Muon's
iteration is in bfloat16 in PyTorch and is run in float64 here.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 timm==1.0.31 safetensors numpy
    venv/bin/python tools/golden/make_optimizers.py

Keys: start/<i>, gradient/<step>/<i>, <optimizer>/<step>/<i>; the learning rate of
step t (from 1) is 0.1 / t. Weight decay 0.1 on parameters 0 and 1, none on 2.
"""
import torch
from safetensors.torch import save_file
from timm.optim import Lamb, Lion

from store import FOLDER

torch.set_default_dtype(torch.float64)
generator = torch.Generator().manual_seed(20261125)
draw = lambda shape: torch.randn(*shape, generator=generator).float().double()
SHAPES = [(6, 5), (4, 9), (7,)]
STEPS = 5

start = [draw(s) for s in SHAPES]
gradients = [[draw(s) for s in SHAPES] for _ in range(STEPS)]
store = {f"start/{i}": p.float() for i, p in enumerate(start)}
for t in range(STEPS):
    for i, g in enumerate(gradients[t]):
        store[f"gradient/{t + 1}/{i}"] = g.float()


def record(name, make, count=3):
    """`make` gets groups of parameters with and without weight decay."""
    params = [torch.nn.Parameter(p.clone()) for p in start[:count]]
    groups = [{"params": params[:2], "weight_decay": 0.1}]
    if count > 2:
        groups.append({"params": params[2:], "weight_decay": 0.0})
    optimizer = make(groups)
    for t in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (t + 1)
        for p, g in zip(params, gradients[t]):
            p.grad = g.clone()
        optimizer.step()
        for i, p in enumerate(params):
            store[f"{name}/{t + 1}/{i}"] = p.detach().clone()


record("adamw", lambda g: torch.optim.AdamW(g, lr=0.1, betas=(0.9, 0.99), eps=1e-8))
record("sgd", lambda g: torch.optim.SGD(g, lr=0.1, momentum=0.9))
record("sgd_nesterov", lambda g: torch.optim.SGD(g, lr=0.1, momentum=0.9, nesterov=True))
record("lion", lambda g: Lion(g, lr=0.1, betas=(0.9, 0.99)))
record("lamb", lambda g: Lamb(g, lr=0.1, betas=(0.9, 0.99), eps=1e-6, max_grad_norm=None))

narrow = torch.Tensor.to
torch.Tensor.to = lambda self, *a, **k: self.clone() if k.get("dtype") is torch.bfloat16 else narrow(self, *a, **k)
for name, factor in {"muon": "match_rms_adamw", "muon_original": "original"}.items():
    record(name, lambda g: torch.optim.Muon(g, lr=0.1, momentum=0.95, adjust_lr_fn=factor), count=2)
torch.Tensor.to = narrow

save_file(store, FOLDER / "optimizers.safetensors")
