#!/usr/bin/env python3
"""Makes tests/data/golden/vmamba.safetensors: VMamba in plain PyTorch operations,
written from the description of its layers. Gradients belong to the last size.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 safetensors numpy
    venv/bin/python tools/golden/make_vmamba.py
"""
import math

import torch
import torch.nn.functional as F

from store import Store

SEED = 20261126
store = Store(SEED)
draw = store.draw


class Model:
    def __init__(self, dim, depths, state, ratio, gate, conv_bias, mlp, patch, down, mode, channels=2, classes=3):
        self.p, self.depths, self.state, self.gate, self.mlp = {}, depths, state, gate, mlp
        self.patch, self.down, self.mode = patch, down, mode
        if patch == 1:
            self.conv("patch_embed.0", channels, dim, 4), self.ln("patch_embed.2", dim)
        else:
            self.conv("patch_embed.0", channels, dim // 2, 3), self.ln("patch_embed.2", dim // 2)
            self.conv("patch_embed.5", dim // 2, dim, 3), self.ln("patch_embed.7", dim)
        for i, depth in enumerate(depths):
            w = dim << i
            d, r = ratio * w, math.ceil(w / 16)
            for j in range(depth):
                k = f"layers.{i}.blocks.{j}."
                self.ln(k + "norm", w)
                self.lin(k + "op.in_proj", w, d * (2 if gate else 1), False)
                self.p[k + "op.conv2d.weight"] = draw(d, 1, 3, 3, scale=0.3)
                if conv_bias:
                    self.p[k + "op.conv2d.bias"] = draw(d, scale=0.1)
                self.p[k + "op.x_proj_weight"] = draw(4, r + 2 * state, d, scale=d**-0.5)
                self.p[k + "op.dt_projs_weight"] = draw(4, d, r, scale=r**-0.5)
                self.p[k + "op.dt_projs_bias"] = draw(4, d, scale=0.5, shift=-1.0)
                self.p[k + "op.A_logs"] = draw(4 * d, state, scale=0.5, shift=0.3)
                self.p[k + "op.Ds"] = draw(4 * d, scale=0.3, shift=1.0)
                self.ln(k + "op.out_norm", d)
                self.lin(k + "op.out_proj", d, w, False)
                if mlp:
                    self.ln(k + "norm2", w)
                    self.lin(k + "mlp.fc1", w, mlp * w), self.lin(k + "mlp.fc2", mlp * w, w)
            if i == 3:
                continue
            if down == 1:
                self.ln(f"layers.{i}.downsample.norm", 4 * w)
                self.lin(f"layers.{i}.downsample.reduction", 4 * w, 2 * w, False)
            else:
                self.conv(f"layers.{i}.downsample.1", w, 2 * w, 3), self.ln(f"layers.{i}.downsample.3", 2 * w)
        self.ln("classifier.norm", dim << 3), self.lin("classifier.head", dim << 3, classes)

    def lin(self, name, a, b, bias=True):
        self.p[name + ".weight"] = draw(b, a, scale=a**-0.5)
        if bias:
            self.p[name + ".bias"] = draw(b, scale=0.1)

    def conv(self, name, a, b, k):
        self.p[name + ".weight"], self.p[name + ".bias"] = draw(b, a, k, k, scale=(k * k * a) ** -0.5), draw(b, scale=0.1)

    def ln(self, name, c):
        self.p[name + ".weight"], self.p[name + ".bias"] = draw(c, scale=0.2, shift=1.0), draw(c, scale=0.2)

    def apply(self, x, name):
        """Linear or norm over the last axis."""
        w, b = self.p[name + ".weight"], self.p.get(name + ".bias")
        return F.linear(x, w, b) if w.ndim == 2 else F.layer_norm(x, w.shape, w, b, 1e-5)

    def convolve(self, x, name, stride, padding, groups=1):
        y = F.conv2d(x.permute(0, 3, 1, 2), self.p[name + ".weight"], self.p.get(name + ".bias"), stride, padding,
                     groups=groups)
        return y.permute(0, 2, 3, 1)

    def scan(self, x, k, i):
        """x (b, L, d) in visiting order, with the weights of pass i."""
        p, n, d = self.p, self.state, x.shape[2]
        r = p[k + "dt_projs_weight"].shape[2]
        dt, B, C = F.linear(x, p[k + "x_proj_weight"][i]).split([r, n, n], -1)
        delta = F.softplus(F.linear(dt, p[k + "dt_projs_weight"][i], p[k + "dt_projs_bias"][i]))
        A, D = -torch.exp(p[k + "A_logs"][i * d:(i + 1) * d]), p[k + "Ds"][i * d:(i + 1) * d]
        s, ys = torch.zeros(x.shape[0], d, n), []
        for t in range(x.shape[1]):
            s = torch.exp(delta[:, t, :, None] * A) * s + (delta[:, t] * x[:, t])[:, :, None] * B[:, t, None, :]
            ys.append((s * C[:, t, None, :]).sum(-1) + D * x[:, t])
        return torch.stack(ys, 1)

    def passes(self, x, k):
        """x (b, H, W, d) -> the merged passes."""
        b, H, W, d = x.shape
        back = lambda i, v: self.scan(v.flip(1), k, i).flip(1)
        rows = x.reshape(b, H * W, d)
        if self.mode == "unidirectional":
            return sum(self.scan(rows, k, i) for i in range(4)).reshape(b, H, W, d)
        if self.mode == "bidirectional":
            y = self.scan(rows, k, 0) + self.scan(rows, k, 1) + back(2, rows) + back(3, rows)
            return y.reshape(b, H, W, d)
        if self.mode == "cascade":
            v = x.reshape(b * H, W, d)
            y = (self.scan(v, k, 0) + back(1, v)).reshape(b, H, W, d)
            v = F.layer_norm(y, (d,)).transpose(1, 2).reshape(b * W, H, d)
            return (self.scan(v, k, 2) + back(3, v)).reshape(b, W, H, d).transpose(1, 2)
        columns = x.transpose(1, 2).reshape(b, H * W, d)
        y = self.scan(rows, k, 0) + back(2, rows)
        z = self.scan(columns, k, 1) + back(3, columns)
        return y.reshape(b, H, W, d) + z.reshape(b, W, H, d).transpose(1, 2)

    def op(self, h, k):
        x, z = self.apply(h, k + "in_proj"), None
        if self.gate:
            x, z = x.chunk(2, -1)
        x = F.silu(self.convolve(x, k + "conv2d", 1, 1, x.shape[-1]))
        y = self.apply(self.passes(x, k), k + "out_norm")
        return self.apply(y * F.silu(z) if self.gate else y, k + "out_proj")

    def forward(self, images):
        maps, x = [], images.permute(0, 2, 3, 1)
        if self.patch == 1:
            x = self.apply(self.convolve(x, "patch_embed.0", 4, 0), "patch_embed.2")
        else:
            x = F.gelu(self.apply(self.convolve(x, "patch_embed.0", 2, 1), "patch_embed.2"))
            x = self.apply(self.convolve(x, "patch_embed.5", 2, 1), "patch_embed.7")
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                k = f"layers.{i}.blocks.{j}."
                x = x + self.op(self.apply(x, k + "norm"), k + "op.")
                if self.mlp:
                    x = x + self.apply(F.gelu(self.apply(self.apply(x, k + "norm2"), k + "mlp.fc1")), k + "mlp.fc2")
            maps.append(x.permute(0, 3, 1, 2))
            if i == 3:
                continue
            k = f"layers.{i}.downsample."
            if self.down == 1:
                x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
                x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
                x = self.apply(self.apply(x, k + "norm"), k + "reduction")
            else:
                x = self.apply(self.convolve(x, k + "1", 2, 1), k + "3")
        x = self.apply(x, "classifier.norm")
        return maps, x.permute(0, 3, 1, 2), self.apply(x.mean((1, 2)), "classifier.head")


def case(name, sizes, gradients=True, dim=4, depths=(1, 1, 2, 1), **options):
    m = Model(dim, depths, **options)
    images, out = {}, {}
    for i, (batch, height, width) in enumerate(sizes):
        images[f"images{i}"] = x = draw(batch, 2, height, width).detach()
        maps, features, logits = m.forward(x)
        out |= {f"features{i}": features, f"logits{i}": logits} | {f"map{i}.{j}": v for j, v in enumerate(maps)}
    store.record(name, m.p, images, out, f"logits{len(sizes) - 1}" if gradients else None)


if __name__ == "__main__":
    vanilla = dict(state=3, ratio=2, gate=True, conv_bias=True, mlp=0, patch=1, down=1)
    case("vanilla", [(1, 32, 32), (2, 22, 37)], mode="cross", **vanilla)
    fast = dict(state=1, ratio=1, gate=False, conv_bias=False, mlp=2, patch=2, down=3)
    case("fast", [(1, 32, 32), (2, 19, 30)], mode="cross", **fast)
    for mode in ("unidirectional", "bidirectional", "cascade"):
        case(mode, [(1, 13, 22)], mode == "cascade", 4, (1, 1, 1, 1), mode=mode, **fast)
    store.save("make_vmamba", SEED)
