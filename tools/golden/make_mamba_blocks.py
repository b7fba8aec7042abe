#!/usr/bin/env python3
"""Makes tests/data/golden/mamba_blocks.safetensors: the Mamba-2 and Mamba-3 blocks
in plain PyTorch operations, token by token, written from their formulas.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 safetensors numpy
    venv/bin/python tools/golden/make_mamba_blocks.py
"""
import math

import torch
import torch.nn.functional as F

from store import Store

SEED = 20241125
store = Store(SEED)
draw = store.draw


def mamba2(case, width, state, conv, headdim, groups, expand=2):
    inner = expand * width
    heads, channels = inner // headdim, inner + 2 * groups * state
    p = {
        "in_proj.weight": draw(2 * inner + 2 * groups * state + heads, width, scale=width**-0.5),
        "conv1d.weight": draw(channels, conv, scale=conv**-0.5),
        "conv1d.bias": draw(channels, scale=0.1),
        "dt_bias": draw(heads, scale=0.5, shift=-1.0),
        "A_log": draw(heads, scale=0.5, shift=0.5),
        "D": draw(heads, shift=1.0),
        "norm.weight": draw(inner, scale=0.2, shift=1.0),
        "out_proj.weight": draw(width, inner, scale=inner**-0.5),
    }
    h = draw(2, 7, width).detach()
    B, L, _ = h.shape
    z, xBC, dt = (h @ p["in_proj.weight"].T).split([inner, channels, heads], -1)
    padded = F.pad(xBC.transpose(1, 2), (conv - 1, 0))
    xBC = F.silu(F.conv1d(padded, p["conv1d.weight"].unsqueeze(1), p["conv1d.bias"], groups=channels)).transpose(1, 2)
    x, Bm, Cm = xBC.split([inner, groups * state, groups * state], -1)
    x = x.reshape(B, L, heads, headdim)
    spread = lambda m: m.reshape(B, L, groups, state).repeat_interleave(heads // groups, 2)
    Bm, Cm = spread(Bm), spread(Cm)
    dt = F.softplus(dt + p["dt_bias"])
    a = torch.exp(-dt * torch.exp(p["A_log"]))
    s, ys = torch.zeros(B, heads, headdim, state), []
    for t in range(L):
        s = a[:, t, :, None, None] * s + dt[:, t, :, None, None] * x[:, t, :, :, None] * Bm[:, t, :, None, :]
        ys.append((s * Cm[:, t, :, None, :]).sum(-1) + p["D"][:, None] * x[:, t])
    y = torch.stack(ys, 1).reshape(B, L, inner) * F.silu(z)
    y = y.reshape(B, L, groups, inner // groups)
    y = (y / torch.sqrt((y * y).mean(-1, keepdim=True) + 1e-5)).reshape(B, L, inner) * p["norm.weight"]
    out = y @ p["out_proj.weight"].T
    store.record(case, p, {"h": h}, {"y": out, "ssm": s.flatten(1)}, "y")


def turned(v, phi, half):
    """Rotates pairs of the last axis; phi {.., n}."""
    n = phi.shape[-1]
    i = torch.arange(n)
    first, second = (i, i + v.shape[-1] // 2) if half else (2 * i, 2 * i + 1)
    a, b, c, s = v[..., first], v[..., second], torch.cos(phi), torch.sin(phi)
    out = v.clone()
    out[..., first], out[..., second] = a * c - b * s, a * s + b * c
    return out


def mamba3(case, width, state, headdim, groups, rank, fraction, out_norm, expand=2):
    inner = expand * width
    heads, angles, R = inner // headdim, int(state * fraction) // 2, rank
    BC = state * groups * R
    p = {
        "in_proj.weight": draw(2 * inner + 2 * BC + 3 * heads + angles, width, scale=width**-0.5),
        "dt_bias": draw(heads, scale=0.5, shift=-1.0),
        "B_bias": draw(heads, R, state, scale=0.3, shift=1.0),
        "C_bias": draw(heads, R, state, scale=0.3, shift=1.0),
        "B_norm.weight": draw(state, scale=0.2, shift=1.0),
        "C_norm.weight": draw(state, scale=0.2, shift=1.0),
        "D": draw(heads, shift=1.0),
        "out_proj.weight": draw(width, inner, scale=inner**-0.5),
    }
    if R > 1:
        for name in ("mimo_x", "mimo_z", "mimo_o"):
            p[name] = draw(heads, R, headdim, scale=0.3, shift=0.5)
    if out_norm:
        p["norm.weight"] = draw(inner, scale=0.2, shift=1.0)
    h = draw(2, 6, width).detach()
    B, L, _ = h.shape
    z, x, Bm, Cm, dd_dt, dd_A, trap, angle = (h @ p["in_proj.weight"].T).split(
        [inner, inner, BC, BC, heads, heads, heads, angles], -1)
    z, x = z.reshape(B, L, heads, headdim), x.reshape(B, L, heads, headdim)
    dt = F.softplus(dd_dt + p["dt_bias"])
    A = -torch.where(dd_A >= 0, 1 + dd_A, 1 / (1 - dd_A.clamp(max=0)))
    A = A.clamp(max=-1e-4)
    lam = torch.sigmoid(trap)
    rms = lambda v: v / torch.sqrt((v * v).mean(-1, keepdim=True) + 1e-5)
    key = lambda m, norm, bias: (rms(m.reshape(B, L, R, groups, state)) * norm).repeat_interleave(
        heads // groups, 3).permute(0, 1, 3, 2, 4) + bias  # {B, L, H, R, N}
    k, q = key(Bm, p["B_norm.weight"], p["B_bias"]), key(Cm, p["C_norm.weight"], p["C_bias"])
    phi = torch.cumsum(math.pi * torch.tanh(angle)[:, :, None, :] * dt[..., None], 1)  # {B, L, H, A}
    k, q = (turned(v, phi[:, :, :, None, :], R > 1) for v in (k, q))
    v = x[:, :, :, None, :] * p["mimo_x"] if R > 1 else x[:, :, :, None, :]  # {B, L, H, R, P}
    U = torch.einsum("blhrp,blhrn->blhpn", v, k)
    s, ys = torch.zeros(B, heads, headdim, state), []
    before = torch.zeros_like(U[:, 0])
    for t in range(L):
        e = lambda w: w[:, t, :, None, None]
        s = torch.exp(e(A * dt)) * (s + e(dt * (1 - lam)) * before) + e(dt * lam) * U[:, t]
        before = U[:, t]
        ys.append(torch.einsum("bhpn,bhrn->bhrp", s, q[:, t]) + p["D"][:, None, None] * v[:, t])
    y = torch.stack(ys, 1)
    if out_norm:
        y = rms(y) * p["norm.weight"].reshape(heads, 1, headdim)
    gate = z[:, :, :, None, :] * p["mimo_z"] if R > 1 else z[:, :, :, None, :]
    y = y * F.silu(gate)
    y = (y * p["mimo_o"]).sum(3) if R > 1 else y.squeeze(3)
    out = y.reshape(B, L, inner) @ p["out_proj.weight"].T
    store.record(case, p, {"h": h}, {"y": out, "ssm": s.flatten(1)}, "y")


mamba2("mamba2", 8, 5, 4, 4, 2)
mamba3("siso", 8, 8, 4, 2, 1, 0.5, False)
mamba3("mimo", 8, 8, 4, 1, 3, 1.0, True)
store.save("make_mamba_blocks", SEED)
