#!/usr/bin/env python3
"""Makes tests/data/golden/operators.safetensors.

The operators of Mamba-1, 2 and 3, of the depthwise convolution and of the gated
norms, in plain PyTorch operations and float64, with PyTorch's autograd. Each is
written in another form than the kernels: Mamba-2 as one masked matrix, Mamba-3
as two of them with complex rotations, the scan in closed form over spans.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 safetensors numpy
    venv/bin/python tools/golden/make_operators.py

Seed 20261125 for every case, so that one case may change without the others.
Keys: <case>/in/<name>, <case>/out/<name>, <case>/cot/<output>, <case>/grad/<input>;
all float64, inputs hold values that float32 represents exactly. The gradients
are those of sum over outputs of <output, cotangent>.
"""
import math
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

SEED = 20261125
torch.set_default_dtype(torch.float64)
generator = torch.Generator()
store = {}


def draw(*shape, scale=1.0, shift=0.0):
    values = torch.randn(*shape, generator=generator) * scale + shift
    return values.float().double().requires_grad_(True)


def uniform(*shape, lo=0.0, hi=1.0):
    values = torch.rand(*shape, generator=generator) * (hi - lo) + lo
    return values.float().double().requires_grad_(True)


def case(name, inputs, outputs):
    """Records a case; `outputs` is a dict of tensors that depend on `inputs`."""
    loss = 0
    for key, value in inputs.items():
        store[f"{name}/in/{key}"] = value.detach().clone().contiguous()
    for key, value in outputs.items():
        cotangent = torch.randn(*value.shape, generator=generator).float().double()
        store[f"{name}/out/{key}"] = value.detach().clone().contiguous()
        store[f"{name}/cot/{key}"] = cotangent
        loss = loss + (value * cotangent).sum()
    asked = {k: v for k, v in inputs.items() if v.requires_grad}
    for key, g in zip(asked, torch.autograd.grad(loss, list(asked.values()))):
        store[f"{name}/grad/{key}"] = g.contiguous()


def per_head(t, heads):
    """{B, L, G, N} -> {B, L, H, N}, group of head h = h // (H / G)."""
    return t.repeat_interleave(heads // t.shape[2], dim=2)


def decay(dt_a, same=None):
    """exp(sum of dt_a over (s, t]) for s <= t, else 0: {B, L, H} -> {B, H, L, L}."""
    cs = dt_a.cumsum(1).permute(0, 2, 1)
    span = cs[..., :, None] - cs[..., None, :]
    allowed = torch.ones(span.shape[-2:], dtype=torch.bool).tril()
    if same is not None:
        allowed = allowed & same[:, None]
    return torch.exp(span.masked_fill(~allowed, -torch.inf))


# --- Mamba-1 -----------------------------------------------------------------
def selective_scan(name, batch, length, channels, state, groups, constant_b=False, constant_c=False, softplus=True,
                   extras=True):
    generator.manual_seed(SEED)
    i = {"u": draw(batch, length, channels), "delta": draw(batch, length, channels, scale=0.5),
         "A": uniform(channels, state, lo=-2.0, hi=-0.1),
         "B": draw(channels, state) if constant_b else draw(batch, length, groups, state),
         "C": draw(channels, state) if constant_c else draw(batch, length, groups, state)}
    if extras:
        i |= {"D": draw(channels), "z": draw(batch, length, channels), "delta_bias": draw(channels, scale=0.3),
              "initial_state": draw(batch, channels, state)}
    wide = lambda t: t[None, None] if t.dim() == 2 else per_head(t, channels)  # {B, L, D, N}
    dt = i["delta"] + i["delta_bias"] if extras else i["delta"]
    if softplus:
        dt = F.softplus(dt)
    B, C = wide(i["B"]), wide(i["C"])
    cs = (dt[..., None] * i["A"]).cumsum(1)  # {B, L, D, N}
    term = (dt * i["u"])[..., None] * B
    states = []
    for t in range(length):  # closed form: sum over s of exp(cs_t - cs_s) term_s
        x = (torch.exp(cs[:, t, None] - cs[:, : t + 1]) * term[:, : t + 1].expand(-1, t + 1, -1, -1)).sum(1)
        if extras:
            x = x + torch.exp(cs[:, t]) * i["initial_state"]
        states.append(x)
    y = (torch.stack(states, 1) * C).sum(-1)
    if extras:
        y = (y + i["D"] * i["u"]) * F.silu(i["z"])
    case(name, i, {"out": y, "last_state": states[-1]})


selective_scan("scan", 2, 9, 6, 3, 2)
selective_scan("scan_constant_b", 1, 7, 4, 5, 1, constant_b=True)
selective_scan("scan_constant_c", 2, 5, 4, 2, 4, constant_c=True)
selective_scan("scan_constant_bc", 1, 6, 3, 4, 1, constant_b=True, constant_c=True)
selective_scan("scan_bare", 2, 8, 5, 1, 1, softplus=False, extras=False)


# --- depthwise convolution ---------------------------------------------------
def conv(name, batch, length, channels, taps, silu, symmetric=False):
    generator.manual_seed(SEED)
    i = {"x": draw(batch, length, channels), "weight": draw(channels, taps), "bias": draw(channels)}
    left = (taps - 1) // 2 if symmetric else taps - 1
    if symmetric:
        padded = F.pad(i["x"], (0, 0, left, taps - 1 - left))
    else:
        i["initial_state"] = draw(batch, taps - 1, channels)
        padded = torch.cat([i["initial_state"], i["x"]], 1)
    y = F.conv1d(padded.transpose(1, 2), i["weight"][:, None], i["bias"], groups=channels).transpose(1, 2)
    out = {"out": F.silu(y) if silu else y}
    if not symmetric:
        out["final_state"] = padded[:, padded.shape[1] - (taps - 1):]
    case(name, i, out)


conv("conv", 2, 7, 5, 4, True)
conv("conv_short", 1, 2, 3, 4, False)
conv("conv_symmetric", 2, 6, 4, 3, True, symmetric=True)


# --- Mamba-2 -----------------------------------------------------------------
def ssd(name, batch, length, heads, headdim, groups, state, per_channel_d=False, softplus=True, limit=None,
        sequences=None, extras=True):
    generator.manual_seed(SEED)
    i = {"x": draw(batch, length, heads, headdim), "dt": draw(batch, length, heads, scale=0.7),
         "A": uniform(heads, lo=-2.0, hi=-0.2), "B": draw(batch, length, groups, state),
         "C": draw(batch, length, groups, state)}
    if not softplus:
        i["dt"] = uniform(batch, length, heads, lo=0.05, hi=0.8)
    if extras:
        i |= {"D": draw(heads, headdim) if per_channel_d else draw(heads), "z": draw(batch, length, heads, headdim),
              "dt_bias": draw(heads, scale=0.3), "initial_state": draw(batch, heads, headdim, state)}
    same, first = None, torch.ones(batch, length, dtype=torch.bool)
    if sequences is not None:
        ids = torch.tensor(sequences, dtype=torch.int32)
        store[f"{name}/in/seq_idx"] = ids
        same = ids[:, :, None] == ids[:, None, :]
        first = ids == 0
    dt = i["dt"] + i["dt_bias"] if extras else i["dt"]
    if softplus:
        dt = F.softplus(dt)
    if limit is not None:
        dt = dt.clamp(*limit)
    dt_a = dt * i["A"]
    B, C = per_head(i["B"], heads), per_head(i["C"], heads)
    matrix = torch.einsum("blhn,bshn->bhls", C, B) * decay(dt_a, same)
    y = torch.einsum("bhls,bshp->blhp", matrix, dt[..., None] * i["x"])
    weight = decay(dt_a, same)[:, :, -1].permute(0, 2, 1) * dt  # of token s in the last state
    final = torch.einsum("bsh,bshp,bshn->bhpn", weight, i["x"], B)
    if extras:
        entry = torch.exp(dt_a.cumsum(1)) * first[..., None]
        y = y + torch.einsum("blh,bhpn,blhn->blhp", entry, i["initial_state"], C)
        final = final + entry[:, -1, :, None, None] * i["initial_state"]
        D = i["D"] if per_channel_d else i["D"][:, None]
        y = (y + D * i["x"]) * F.silu(i["z"])
    case(name, i, {"out": y, "final_state": final})


ssd("ssd", 2, 9, 4, 3, 2, 5)
ssd("ssd_channel_d_limit", 1, 7, 2, 4, 1, 3, per_channel_d=True, limit=(0.4, 1.2))
ssd("ssd_sequences", 2, 8, 2, 3, 1, 4, sequences=[[0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 1, 1, 1, 5, 5]])
ssd("ssd_bare", 2, 6, 3, 2, 3, 2, softplus=False, extras=False)


# --- Mamba-3 -----------------------------------------------------------------
def rotate(v, phi, pairing):
    """Turns each pair of v {.., N} by phi {.., S} as a complex number."""
    n, s = v.shape[-1], phi.shape[-1]
    if pairing == "adjacent":
        pairs = v.reshape(*v.shape[:-1], n // 2, 2)
        a, b = pairs[..., 0], pairs[..., 1]
    else:
        a, b = v[..., : n // 2], v[..., n // 2:]
    turned = torch.complex(a[..., :s], b[..., :s]) * torch.polar(torch.ones_like(phi), phi)
    a, b = torch.cat([turned.real, a[..., s:]], -1), torch.cat([turned.imag, b[..., s:]], -1)
    return torch.stack([a, b], -1).flatten(-2) if pairing == "adjacent" else torch.cat([a, b], -1)


def mamba3(name, batch, length, heads, headdim, groups, state, angles, rank, pairing, activation="heavy_tail",
           a_floor=1e-4, norm=False, mimo=False):
    """From the columns of in_proj to the value before out_proj, by two masked matrices:
    the gamma part, and the beta part over the tokens shifted by one."""
    generator.manual_seed(SEED)
    i = {"x": draw(batch, length, heads, headdim), "z": draw(batch, length, heads, headdim),
         "B": draw(batch, length, rank, groups, state), "C": draw(batch, length, rank, groups, state),
         "dd_dt": draw(batch, length, heads, scale=0.7), "dd_A": draw(batch, length, heads),
         "trap": draw(batch, length, heads), "angle": draw(batch, length, angles), "dt_bias": draw(heads, scale=0.3),
         "B_norm_weight": draw(state, scale=0.2, shift=1.0), "C_norm_weight": draw(state, scale=0.2, shift=1.0),
         "B_bias": draw(heads, rank, state, scale=0.3, shift=1.0), "C_bias": draw(heads, rank, state, scale=0.3, shift=1.0),
         "D": draw(heads), "angle_state": uniform(batch, heads, angles, lo=0.0, hi=6.0),
         "ssm_state": draw(batch, heads, headdim, state), "k_state": draw(batch, rank, heads, state),
         "v_state": draw(batch, heads, headdim)}
    if mimo:
        i |= {"mimo_x": draw(heads, rank, headdim, shift=0.5), "mimo_z": draw(heads, rank, headdim, shift=1.0),
              "mimo_o": draw(heads, rank, headdim, shift=0.5)}
    if norm:
        i["out_norm_weight"] = draw(heads, headdim, scale=0.2, shift=1.0)
    dt = F.softplus(i["dd_dt"] + i["dt_bias"])
    a = i["dd_A"]
    f = torch.where(a >= 0, 1 + a, 1 / (1 - a.clamp(max=0))) if activation == "heavy_tail" else F.softplus(a)
    dt_a = torch.clamp(-f, max=-a_floor) * dt
    lam = torch.sigmoid(i["trap"])
    phi = i["angle_state"][:, None] + (math.pi * torch.tanh(i["angle"])[:, :, None] * dt[..., None]).cumsum(1)
    rms = lambda v, w: v * torch.rsqrt((v * v).mean(-1, keepdim=True) + 1e-5) * w
    heads_of = lambda v: v.repeat_interleave(heads // groups, dim=3).permute(0, 1, 3, 2, 4)  # {B, L, H, R, N}
    k = rotate(heads_of(rms(i["B"], i["B_norm_weight"])) + i["B_bias"], phi[:, :, :, None], pairing)
    q = rotate(heads_of(rms(i["C"], i["C_norm_weight"])) + i["C_bias"], phi[:, :, :, None], pairing)
    mx = i["mimo_x"].permute(0, 1, 2) if mimo else torch.ones(heads, rank, headdim)
    v = i["x"][:, :, :, None] * mx  # {B, L, H, R, P}
    before_k = torch.cat([i["k_state"].transpose(1, 2)[:, None], k[:, :-1]], 1)
    before_v = torch.cat([(i["v_state"][:, :, None] * mx)[:, None], v[:, :-1]], 1)
    M = decay(dt_a)
    scores = torch.einsum("blhrn,bshqn->bhlrsq", q, k) * M[:, :, :, None, :, None]
    shifted = torch.einsum("blhrn,bshqn->bhlrsq", q, before_k) * M[:, :, :, None, :, None]
    y = torch.einsum("bhlrsq,bshqp->blhrp", scores, (dt * lam)[..., None, None] * v)
    beta = torch.exp(dt_a) * dt * (1 - lam)
    y = y + torch.einsum("bhlrsq,bshqp->blhrp", shifted, beta[..., None, None] * before_v)
    entry = torch.exp(dt_a.cumsum(1))
    y = y + torch.einsum("blh,bhpn,blhrn->blhrp", entry, i["ssm_state"], q) + i["D"][:, None, None] * v
    into_last = M[:, :, -1].permute(0, 2, 1)
    final = torch.einsum("bsh,bshrp,bshrn->bhpn", into_last * dt * lam, v, k)
    final = final + torch.einsum("bsh,bshrp,bshrn->bhpn", into_last * beta, before_v, before_k)
    final = final + entry[:, -1, :, None, None] * i["ssm_state"]
    if norm:
        y = y * torch.rsqrt((y * y).mean(-1, keepdim=True) + 1e-5) * i["out_norm_weight"][:, None]
    if mimo:
        out = (i["mimo_o"] * y * F.silu(i["z"][:, :, :, None] * i["mimo_z"])).sum(3)
    else:
        out = (y * F.silu(i["z"])[:, :, :, None]).sum(3)
    turns = phi[:, -1] - 2 * math.pi * torch.floor(phi[:, -1].detach() / (2 * math.pi))
    case(name, i, {"out": out, "angle_state": turns, "ssm_state": final, "k_state": k[:, -1].transpose(1, 2),
                   "v_state": i["x"][:, -1]})


mamba3("mamba3_siso", 2, 7, 4, 3, 2, 6, 2, 1, "adjacent")
mamba3("mamba3_siso_norm", 1, 6, 2, 4, 1, 4, 2, 1, "adjacent", activation="softplus", norm=True)
mamba3("mamba3_mimo", 2, 5, 2, 3, 1, 4, 1, 2, "half", mimo=True)
mamba3("mamba3_mimo_norm", 1, 6, 3, 2, 3, 6, 2, 3, "half", norm=True, mimo=True)


# --- gated norms -------------------------------------------------------------
def gated(name, shape, group, before, center, gate=True):
    generator.manual_seed(SEED)
    width = shape[-1]
    i = {"x": draw(*shape), "weight": draw(width, scale=0.2, shift=1.0)}
    if gate:
        i["z"] = draw(*shape)
    if center:
        i["bias"] = draw(width, scale=0.2)
    v = i["x"] if before or not gate else i["x"] * F.silu(i["z"])
    g = v.reshape(*shape[:-1], width // group, group)
    if center:
        g = g - g.mean(-1, keepdim=True)
    o = (g * torch.rsqrt((g * g).mean(-1, keepdim=True) + 1e-5)).reshape(shape) * i["weight"]
    if center:
        o = o + i["bias"]
    if before and gate:
        o = o * F.silu(i["z"])
    case(name, i, {"out": o})


gated("rmsnorm_gate_first", (3, 12), 12, False, False)
gated("rmsnorm_gate_first_groups", (2, 3, 12), 4, False, False)
gated("rmsnorm_norm_first", (3, 12), 6, True, False)
gated("rmsnorm_no_gate", (3, 10), 10, False, False, gate=False)
gated("layer_norm_gate_first", (3, 12), 12, False, True)
gated("layer_norm_norm_first_groups", (2, 3, 12), 4, True, True)

target = pathlib.Path(__file__).resolve().parents[2] / "tests/data/golden/operators.safetensors"
save_file(store, target, metadata={"torch": torch.__version__, "seed": str(SEED), "made_by": "tools/golden/make_operators.py"})
print(f"{target.name}: {len(store)} tensors, {target.stat().st_size} bytes")
