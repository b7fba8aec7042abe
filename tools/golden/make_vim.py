#!/usr/bin/env python3
"""Makes tests/data/golden/vim.safetensors: Vim in plain PyTorch operations.

Written from the description of the model (class token in the middle, RMSNorm
blocks, bidirectional mixer with shared in_proj and out_proj).

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 safetensors numpy
    venv/bin/python tools/golden/make_vim.py
"""
import math

import torch
import torch.nn.functional as F

from store import Store

SEED = 20241101
store = Store(SEED)
draw = store.draw


def mixer_params(prefix, width, state, conv, expand):
    inner, rank = expand * width, math.ceil(width / 16)
    p = {prefix + "in_proj.weight": draw(2 * inner, width, scale=width**-0.5)}
    for b in ("", "_b"):
        p.update({
            f"{prefix}conv1d{b}.weight": draw(inner, conv, scale=conv**-0.5),
            f"{prefix}conv1d{b}.bias": draw(inner, scale=0.1),
            f"{prefix}x_proj{b}.weight": draw(rank + 2 * state, inner, scale=inner**-0.5),
            f"{prefix}dt_proj{b}.weight": draw(inner, rank, scale=rank**-0.5),
            f"{prefix}dt_proj{b}.bias": draw(inner, scale=0.5, shift=-1.0),
            f"{prefix}A{b}_log": draw(inner, state, scale=0.5, shift=0.5),
            f"{prefix}D{b}": draw(inner, shift=1.0),
        })
    p[prefix + "out_proj.weight"] = draw(width, inner, scale=inner**-0.5)
    return p


def branch(p, prefix, b, x, z):
    weight = p[f"{prefix}conv1d{b}.weight"]
    inner, conv = weight.shape
    rank, state = p[f"{prefix}dt_proj{b}.weight"].shape[1], p[f"{prefix}A{b}_log"].shape[1]
    x = F.conv1d(F.pad(x.transpose(1, 2), (conv - 1, 0)), weight.unsqueeze(1), p[f"{prefix}conv1d{b}.bias"],
                 groups=inner)
    x = F.silu(x).transpose(1, 2)
    dt, B, C = (x @ p[f"{prefix}x_proj{b}.weight"].T).split([rank, state, state], -1)
    delta = F.softplus(dt @ p[f"{prefix}dt_proj{b}.weight"].T + p[f"{prefix}dt_proj{b}.bias"])
    A = -torch.exp(p[f"{prefix}A{b}_log"])
    s, ys = torch.zeros(x.shape[0], inner, state), []
    for t in range(x.shape[1]):
        s = torch.exp(delta[:, t, :, None] * A) * s + (delta[:, t] * x[:, t])[:, :, None] * B[:, t, None, :]
        ys.append((s * C[:, t, None, :]).sum(-1) + p[f"{prefix}D{b}"] * x[:, t])
    return torch.stack(ys, 1) * F.silu(z)


def mixer(p, prefix, h, divide):
    x, z = (h @ p[prefix + "in_proj.weight"].T).chunk(2, -1)
    f = branch(p, prefix, "", x, z)
    b = branch(p, prefix, "_b", x.flip(1), z.flip(1)).flip(1)
    return ((f + b) / (2 if divide else 1)) @ p[prefix + "out_proj.weight"].T


def rms(x, weight):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * weight


def vim(case, size, patch, stride, width, depth, state, classes, divide=True, channels=2, batch=2, gradient=True):
    grid = (size - patch) // stride + 1
    p = {
        "patch_embed.proj.weight": draw(width, channels, patch, patch, scale=0.2),
        "patch_embed.proj.bias": draw(width, scale=0.1),
        "cls_token": draw(1, 1, width),
        "pos_embed": draw(1, grid * grid + 1, width, scale=0.3),
        "norm_f.weight": draw(width, scale=0.2, shift=1.0),
        "head.weight": draw(classes, width, scale=0.5),
        "head.bias": draw(classes, scale=0.1),
    }
    for i in range(depth):
        p[f"layers.{i}.norm.weight"] = draw(width, scale=0.2, shift=1.0)
        p.update(mixer_params(f"layers.{i}.mixer.", width, state, 4, 2))
    images = draw(batch, channels, size, size).detach()
    x = F.conv2d(images, p["patch_embed.proj.weight"], p["patch_embed.proj.bias"], stride=stride)
    x = x.flatten(2).transpose(1, 2)
    middle = x.shape[1] // 2
    x = torch.cat([x[:, :middle], p["cls_token"].expand(batch, -1, -1), x[:, middle:]], 1) + p["pos_embed"]
    outputs = {}
    for i in range(depth):
        x = x + mixer(p, f"layers.{i}.mixer.", rms(x, p[f"layers.{i}.norm.weight"]), divide)
        patches = torch.cat([x[:, :middle], x[:, middle + 1:]], 1)
        outputs[f"map{i}"] = patches.transpose(1, 2).reshape(batch, width, grid, grid)
    x = rms(x, p["norm_f.weight"])
    outputs["features"] = x
    outputs["logits"] = x[:, middle] @ p["head.weight"].T + p["head.bias"]
    store.record(case, p, {"images": images}, outputs, "logits" if gradient else None)
    return p, images, outputs["logits"]


if __name__ == "__main__":
    vim("square", 12, 4, 4, 8, 2, 3, 3)
    vim("overlap", 11, 4, 3, 8, 1, 2, 3, divide=False)
    store.save("make_vim", SEED)
