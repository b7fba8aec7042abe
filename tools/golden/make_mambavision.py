#!/usr/bin/env python3
"""Makes tests/data/golden/mambavision.safetensors: MambaVision in plain PyTorch
operations, written from the description of its layers.

Padding of windows takes no part (cases without compat): such a token counts as
zero for the convolutions, keeps the state of the scan and is no key.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 safetensors numpy
    venv/bin/python tools/golden/make_mambavision.py
"""
import math

import torch
import torch.nn.functional as F

from store import Store

SEED = 20241126
store = Store(SEED)
draw = store.draw


class Model:
    def __init__(self, dim, in_dim, depths, heads, windows, classes, scale, compat, training, channels=2, state=3,
                 ratio=2):
        self.p, self.b = {}, {}
        self.dim, self.depths, self.heads, self.windows = dim, depths, heads, windows
        self.compat, self.training, self.scale, self.state = compat, training, scale, state
        self.conv("patch_embed.conv_down.0", channels, in_dim, False)
        self.bn("patch_embed.conv_down.1", in_dim)
        self.conv("patch_embed.conv_down.3", in_dim, dim, False)
        self.bn("patch_embed.conv_down.4", dim)
        for i, depth in enumerate(depths):
            w = dim << i
            for j in range(depth):
                k = f"levels.{i}.blocks.{j}."
                if i < 2:
                    self.conv(k + "conv1", w, w, True), self.bn(k + "norm1", w)
                    self.conv(k + "conv2", w, w, True), self.bn(k + "norm2", w)
                    continue
                for n in ("norm1", "norm2"):
                    self.p[k + n + ".weight"], self.p[k + n + ".bias"] = draw(w, scale=0.2, shift=1.0), draw(w, scale=0.2)
                if j < (depth + 1) // 2:
                    h, r, m = w // 2, math.ceil(w / 16), k + "mixer."
                    self.p[m + "in_proj.weight"] = draw(w, w, scale=w**-0.5)
                    self.p[m + "x_proj.weight"] = draw(r + 2 * state, h, scale=h**-0.5)
                    self.p[m + "dt_proj.weight"] = draw(h, r, scale=r**-0.5)
                    self.p[m + "dt_proj.bias"] = draw(h, scale=0.5, shift=-1.0)
                    self.p[m + "A_log"], self.p[m + "D"] = draw(h, state, scale=0.5, shift=0.5), draw(h, shift=1.0)
                    self.p[m + "out_proj.weight"] = draw(w, w, scale=w**-0.5)
                    for c in "xz":
                        self.p[m + f"conv1d_{c}.weight"] = draw(h, 3, scale=0.5)
                else:
                    for n, o in (("qkv", 3 * w), ("proj", w)):
                        self.p[k + f"mixer.{n}.weight"] = draw(o, w, scale=w**-0.5)
                        self.p[k + f"mixer.{n}.bias"] = draw(o, scale=0.1)
                for n, a, o in (("fc1", w, ratio * w), ("fc2", ratio * w, w)):
                    self.p[k + f"mlp.{n}.weight"] = draw(o, a, scale=a**-0.5)
                    self.p[k + f"mlp.{n}.bias"] = draw(o, scale=0.1)
                if scale:
                    self.p[k + "gamma_1"], self.p[k + "gamma_2"] = draw(w, shift=1.0), draw(w, shift=1.0)
            if i < 3:
                self.conv(f"levels.{i}.downsample.reduction.0", w, 2 * w, False)
        self.bn("norm", dim << 3)
        self.p["head.weight"], self.p["head.bias"] = draw(classes, dim << 3, scale=0.3), draw(classes, scale=0.1)

    def conv(self, name, a, b, bias):
        self.p[name + ".weight"] = draw(b, a, 3, 3, scale=(9 * a) ** -0.5)
        if bias:
            self.p[name + ".bias"] = draw(b, scale=0.1)

    def bn(self, name, c):
        self.p[name + ".weight"], self.p[name + ".bias"] = draw(c, scale=0.2, shift=1.0), draw(c, scale=0.2)
        self.b[name + ".running_mean"] = draw(c, scale=0.3).detach()
        self.b[name + ".running_var"] = store.positive(c).detach()

    def norm(self, x, name, eps=1e-5):
        mean, var = self.b[name + ".running_mean"], self.b[name + ".running_var"]
        return F.batch_norm(x, mean.clone(), var.clone(), self.p[name + ".weight"], self.p[name + ".bias"],
                            self.training, 0.1, eps)

    def lin(self, x, name):
        return F.linear(x, self.p[name + ".weight"], self.p.get(name + ".bias"))

    def mixer(self, h, k, real):
        w = h.shape[2]
        half, r = w // 2, math.ceil(w / 16)
        x, z = self.lin(h, k + "in_proj").split(half, -1)
        keep = 1 if real is None else real[:, :, None]

        def conv(v, name):
            y = F.conv1d((v * keep).transpose(1, 2), self.p[k + name + ".weight"].unsqueeze(1), padding=1, groups=half)
            return F.silu(y).transpose(1, 2)

        x, z = conv(x, "conv1d_x") * keep, conv(z, "conv1d_z")
        dt, B, C = self.lin(x, k + "x_proj").split([r, self.state, self.state], -1)
        bias = self.p[k + "dt_proj.bias"] * (2 if self.compat else 1)
        delta = F.softplus(F.linear(dt, self.p[k + "dt_proj.weight"]) + bias) * keep
        A = -torch.exp(self.p[k + "A_log"])
        s, ys = torch.zeros(h.shape[0], half, self.state), []
        for t in range(h.shape[1]):
            s = torch.exp(delta[:, t, :, None] * A) * s + (delta[:, t] * x[:, t])[:, :, None] * B[:, t, None, :]
            ys.append((s * C[:, t, None, :]).sum(-1) + self.p[k + "D"] * x[:, t])
        return self.lin(torch.cat([torch.stack(ys, 1), z], -1), k + "out_proj")

    def attention(self, h, k, heads, real):
        B, L, w = h.shape
        q, key, v = self.lin(h, k + "qkv").reshape(B, L, 3, heads, w // heads).permute(2, 0, 3, 1, 4)
        scores = q @ key.transpose(2, 3) / math.sqrt(w // heads)
        if real is not None:
            scores = scores.masked_fill(real[:, None, None, :] == 0, -math.inf)
        return self.lin((torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(B, L, w), k + "proj")

    def forward(self, images):
        p, maps = self.p, {}
        x = F.conv2d(images, p["patch_embed.conv_down.0.weight"], stride=2, padding=1)
        x = F.relu(self.norm(x, "patch_embed.conv_down.1", 1e-4))
        x = F.conv2d(x, p["patch_embed.conv_down.3.weight"], stride=2, padding=1)
        x = F.relu(self.norm(x, "patch_embed.conv_down.4", 1e-4))
        for i, depth in enumerate(self.depths):
            if i < 2:
                for j in range(depth):
                    k = f"levels.{i}.blocks.{j}."
                    y = self.norm(F.conv2d(x, p[k + "conv1.weight"], p[k + "conv1.bias"], padding=1), k + "norm1")
                    y = F.conv2d(F.gelu(y, approximate="tanh"), p[k + "conv2.weight"], p[k + "conv2.bias"], padding=1)
                    x = x + self.norm(y, k + "norm2")
            else:
                B, C, H, W = x.shape
                w = self.windows[i]
                pad = lambda a: F.pad(a, (0, -W % w, 0, -H % w))
                Hp, Wp = H + -H % w, W + -W % w
                cut = lambda a: a.reshape(B, -1, Hp // w, w, Wp // w, w).permute(0, 2, 4, 3, 5, 1).reshape(
                    -1, w * w, a.shape[1])
                t = cut(pad(x))
                real = None if self.compat or (Hp, Wp) == (H, W) else cut(pad(torch.ones(B, 1, H, W)))[:, :, 0]
                for j in range(depth):
                    k = f"levels.{i}.blocks.{j}."
                    n = F.layer_norm(t, (C,), p[k + "norm1.weight"], p[k + "norm1.bias"], 1e-5)
                    if j < (depth + 1) // 2:
                        y = self.mixer(n, k + "mixer.", real)
                    else:
                        y = self.attention(n, k + "mixer.", self.heads[i], real)
                    t = t + (p[k + "gamma_1"] if self.scale else 1) * y
                    n = F.layer_norm(t, (C,), p[k + "norm2.weight"], p[k + "norm2.bias"], 1e-5)
                    y = self.lin(F.gelu(self.lin(n, k + "mlp.fc1")), k + "mlp.fc2")
                    t = t + (p[k + "gamma_2"] if self.scale else 1) * y
                x = t.reshape(B, Hp // w, Wp // w, w, w, C).permute(0, 5, 1, 3, 2, 4).reshape(B, C, Hp, Wp)[:, :, :H, :W]
            maps[f"map{i}"] = x
            if i < 3:
                x = F.conv2d(x, p[f"levels.{i}.downsample.reduction.0.weight"], stride=2, padding=1)
        x = self.norm(x, "norm")
        return {**maps, "features": x, "logits": self.lin(x.mean((2, 3)), "head")}


def case(name, size, windows, scale=False, compat=False, training=False, gradients=True, batch=1):
    m = Model(2, 3, [1, 1, 3, 2], [1, 1, 2, 4], windows, 3, scale, compat, training)
    images = draw(batch, 2, *size).detach()
    out = m.forward(images)
    store.record(name, m.p, {"images": images}, out, "logits" if gradients else None, m.b)


if __name__ == "__main__":
    case("whole", (64, 64), [8, 8, 4, 2], gradients=False)
    case("windows", (96, 64), [8, 8, 2, 2], scale=True, gradients=False)
    case("padded", (72, 100), [8, 8, 3, 2])
    case("compat", (72, 100), [8, 8, 3, 2], compat=True, scale=True, gradients=False)
    case("training", (64, 64), [8, 8, 4, 2], training=True, batch=2)
    store.save("make_mambavision", SEED)
