#!/usr/bin/env python3
"""Makes tests/data/golden/hybrids.safetensors: the teaching hybrid in both versions and
Edifice's MambaVision, in plain PyTorch operations written from the description of their
layers. Gradients belong to the last size; axon/axon holds parameters in Axon's layout.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 safetensors numpy
    venv/bin/python tools/golden/make_hybrids.py
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

from store import Store

SEED = 20261127
store = Store(SEED)
draw = store.draw


class Block1(nn.Module):
    def __init__(self, d, n):
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(d, 2 * d), nn.Linear(d, d)
        self.conv1d = nn.Conv1d(d, d, 4, groups=d)
        self.x_proj, self.dt_proj = nn.Linear(d, n), nn.Linear(d, d)

    def forward(self, h):
        x, res = self.in_proj(h).chunk(2, -1)
        x = self.conv1d(F.pad(F.silu(x).transpose(1, 2), (1, 2))).transpose(1, 2)
        return self.out_proj(x * F.softplus(self.dt_proj(x)) * F.silu(res)) + h


class Block2(nn.Module):
    def __init__(self, d, n):
        super().__init__()
        self.in_proj, self.dt_proj = nn.Linear(d, 2 * d), nn.Linear(d, d)
        self.conv1d_left, self.conv1d_right = nn.Conv1d(d, d, 4, groups=d), nn.Conv1d(d, d, 4, groups=d)
        self.linear_left, self.linear_right = nn.Linear(d, d), nn.Linear(d, d)
        for k in "ABC":
            setattr(self, "ssm_" + k, nn.Parameter(torch.randn(d, n)))
        self.layer_norm = nn.LayerNorm(d)

    def forward(self, h):
        left, right = self.in_proj(self.layer_norm(h)).chunk(2, -1)
        s = torch.einsum("bld,dn->bln", left, self.ssm_B)
        left = torch.einsum("bln,dn->bld", s, self.ssm_C) * torch.sigmoid(self.dt_proj(left))
        conv = lambda c, v: c(F.pad(F.silu(v).transpose(1, 2), (1, 2))).transpose(1, 2)
        return self.linear_left(conv(self.conv1d_left, left)) * self.linear_right(conv(self.conv1d_right, right)) + h


class Attention(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn = nn.MultiheadAttention(d, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Dropout(0), nn.Linear(4 * d, d), nn.Dropout(0))

    def forward(self, h):
        n = self.norm1(h)
        h = h + self.attn(n, n, n)[0]
        return h + self.mlp(self.norm2(h))


class Edu(nn.Module):
    def __init__(self, version, d, depth, heads, n):
        super().__init__()
        block = Block1 if version == 1 else Block2
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(2, d, 8, 8)})
        self.pos_embed = nn.Parameter(torch.randn(1, 16, d))
        self.blocks = nn.ModuleList(block(d, n) if i < depth // 2 else Attention(d, heads) for i in range(depth))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, 3)

    def forward(self, images):
        x, maps = F.pad(images, (0, -images.shape[3] % 8, 0, -images.shape[2] % 8)), []
        x = self.patch_embed["proj"](x)
        h, w = x.shape[2:]
        table = self.pos_embed.reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
        if (h, w) != (4, 4):
            table = F.interpolate(table, (h, w), mode="bicubic", antialias=True)
        x = (x + table).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
            maps.append(x.transpose(1, 2).reshape(x.shape[0], -1, h, w))
        x = self.norm(x)
        return maps, x, self.head(x.mean(1))


def run(model, sizes, channels):
    images, out = {}, {}
    for i, (batch, height, width) in enumerate(sizes):
        images[f"images{i}"] = x = draw(batch, channels, height, width).detach()
        maps, features, logits = model(x)
        out |= {f"features{i}": features, f"logits{i}": logits} | {f"map{i}.{j}": m for j, m in enumerate(maps)}
    return images, out, f"logits{len(sizes) - 1}"


for version in (1, 2):
    model = Edu(version, 12, 3 + version, 3, 5)
    params = store.randomise(model)
    store.record(f"edu_v{version}", params, *run(model, [(2, 32, 32), (1, 20, 43)], 2))


class Edifice:
    """compat: A = -ln n, no D, one head, final norm over the width of the map."""

    def __init__(self, size, dim, depths, heads, state, compat):
        self.p, self.b, self.dim, self.depths, self.heads, self.state, self.compat = {}, {}, dim, depths, heads, state, compat
        stem = min(dim, 64)
        self.conv("stem_conv1", 2, stem), self.bn("stem_bn1", stem)
        self.conv("stem_conv2", stem, dim), self.bn("stem_bn2", dim)
        for i, depth in enumerate(depths):
            w = dim << i
            for j in range(depth):
                if i < 2:
                    k = f"stage_{i}_block_{j}_"
                    for n in "12":
                        self.conv(k + "conv" + n, w, w), self.bn(k + "bn" + n, w)
                    continue
                mamba = j < (depth + 1) // 2
                k = f"stage_{i}_{'mamba' if mamba else 'attn'}_{j}_"
                self.ln(k + "norm1", w), self.ln(k + "norm2", w)
                if mamba:
                    h = w // 2
                    r = max(h // 16, 1)
                    self.dense(k + "mixer_in_proj", w, w), self.dense(k + "mixer_out_proj", w, w)
                    for n in ("ssm", "sym"):
                        self.p[k + f"mixer_{n}_conv.weight"], self.p[k + f"mixer_{n}_conv.bias"] = draw(h, 3), draw(h)
                    self.dense(k + "mixer_ssm_x_proj", h, r + 2 * state), self.dense(k + "mixer_ssm_dt_proj", r, h)
                    if not compat:
                        self.p[k + "mixer_ssm_A_log"], self.p[k + "mixer_ssm_D"] = draw(h, state, scale=0.5), draw(h, shift=1.0)
                else:
                    self.dense(k + "attn_qkv", w, 3 * w), self.dense(k + "attn_proj", w, w)
                self.dense(k + "mlp_up", w, 2 * w), self.dense(k + "mlp_down", 2 * w, w)
            if i < 3:
                self.conv(f"downsample_{i}", w, 2 * w)
        self.ln("final_norm", -(-size // 32) if compat else dim << 3)
        self.dense("classifier", dim << 3, 3)

    def dense(self, name, a, b):
        self.p[name + ".weight"], self.p[name + ".bias"] = draw(b, a, scale=a**-0.5), draw(b, scale=0.1)

    def conv(self, name, a, b):
        self.p[name + ".weight"], self.p[name + ".bias"] = draw(b, a, 3, 3, scale=(9 * a) ** -0.5), draw(b, scale=0.1)

    def ln(self, name, c):
        self.p[name + ".weight"], self.p[name + ".bias"] = draw(c, scale=0.2, shift=1.0), draw(c, scale=0.2)

    def bn(self, name, c):
        self.ln(name, c)
        self.b[name + ".running_mean"] = draw(c, scale=0.3).detach()
        self.b[name + ".running_var"] = store.positive(c).detach()

    def get(self, name):
        return self.p[name + ".weight"], self.p[name + ".bias"]

    def lin(self, x, name):
        return F.linear(x, *self.get(name))

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], *self.get(name), 1e-5)

    def block(self, x, conv, bn, stride=1):
        y = F.conv2d(x, *self.get(conv), stride, 1)
        return F.batch_norm(y, self.b[bn + ".running_mean"], self.b[bn + ".running_var"], *self.get(bn), False, 0.1, 1e-5)

    def mixer(self, x, k):
        h, n = x.shape[2] // 2, self.state
        left, right = self.lin(x, k + "in_proj").split(h, -1)
        conv = lambda v, c: F.silu(F.conv1d(v.transpose(1, 2), self.p[k + c + ".weight"][:, None], self.p[k + c + ".bias"],
                                            padding=1, groups=h)).transpose(1, 2)
        u = conv(left, "ssm_conv")
        dt, B, C = self.lin(u, k + "ssm_x_proj").split([max(h // 16, 1), n, n], -1)
        delta = F.softplus(self.lin(dt, k + "ssm_dt_proj"))
        A = -torch.log(torch.arange(1.0, n + 1)).expand(h, n) if self.compat else -torch.exp(self.p[k + "ssm_A_log"])
        s, ys = torch.zeros(x.shape[0], h, n), []
        for t in range(x.shape[1]):
            s = torch.exp(delta[:, t, :, None] * A) * s + (delta[:, t] * u[:, t])[:, :, None] * B[:, t, None, :]
            ys.append((s * C[:, t, None, :]).sum(-1) + (0 if self.compat else self.p[k + "ssm_D"] * u[:, t]))
        return self.lin(torch.cat([torch.stack(ys, 1), conv(right, "sym_conv")], -1), k + "out_proj")

    def attention(self, x, k, heads):
        b, L, d = x.shape
        count = 1 if self.compat else heads
        q, key, v = self.lin(x, k + "attn_qkv").reshape(b, L, 3, count, d // count).permute(2, 0, 3, 1, 4)
        y = torch.softmax(q @ key.transpose(2, 3) / math.sqrt(d // heads), -1) @ v
        return self.lin(y.transpose(1, 2).reshape(b, L, d), k + "attn_proj")

    def __call__(self, images):
        maps, x = [], F.relu(self.block(images, "stem_conv1", "stem_bn1", 2))
        x = F.relu(self.block(x, "stem_conv2", "stem_bn2", 2))
        for i, depth in enumerate(self.depths):
            b, c, h, w = x.shape
            t = x.flatten(2).transpose(1, 2)
            for j in range(depth):
                if i < 2:
                    k = f"stage_{i}_block_{j}_"
                    x = x + self.block(F.gelu(self.block(x, k + "conv1", k + "bn1")), k + "conv2", k + "bn2")
                    continue
                mamba = j < (depth + 1) // 2
                k = f"stage_{i}_{'mamba' if mamba else 'attn'}_{j}_"
                y = self.norm(t, k + "norm1")
                t = t + (self.mixer(y, k + "mixer_") if mamba else self.attention(y, k, self.heads[i]))
                t = t + self.lin(F.gelu(self.lin(self.norm(t, k + "norm2"), k + "mlp_up")), k + "mlp_down")
            if i >= 2:
                x = t.transpose(1, 2).reshape(b, c, h, w)
            maps.append(x)
            if i < 3:
                x = F.conv2d(x, *self.get(f"downsample_{i}"), 2, 1)
        x = self.norm(x, "final_norm") if self.compat else self.norm(x.permute(0, 2, 3, 1), "final_norm").permute(0, 3, 1, 2)
        return maps, x, self.lin(x.mean((2, 3)), "classifier")


config = dict(dim=4, depths=[1, 1, 2, 2], heads=[1, 1, 2, 4], state=3)
# Five columns in the last map: over two, the norm would divide by their difference.
model = Edifice(160, **config, compat=True)
images, out, last = run(model, [(1, 64, 160), (1, 37, 150)], 2)
store.record("edifice_compat", model.p, images, out, None, model.b)
# The same parameters as Axon keeps them: dense (in, out), 2-D convolutions (out, in, k, k), 1-D ones (k, 1, out).
for name, value in {**model.p, **model.b}.items():
    layer, word = name.rsplit(".", 1)
    kernel = layer.endswith("conv") or "norm" not in layer and "bn" not in layer
    if word == "weight" and kernel:
        word = "kernel"
        if value.ndim == 2:
            value = value.T[:, None, :] if layer.endswith("_conv") else value.T
    else:
        word = {"weight": "gamma", "bias": "bias" if kernel else "beta", "running_mean": "mean", "running_var": "var"}[word]
    store.put("axon", "axon", f"{layer}.{word}", value)

model = Edifice(64, **config, compat=False)
images, out, last = run(model, [(1, 64, 64), (2, 37, 50)], 2)
store.record("edifice", model.p, images, out, last, model.b)
store.save("make_hybrids", SEED)
