#!/usr/bin/env python3
"""Makes tests/data/golden/vision_mamba_nd.safetensors.

VisionMamba over volumes and over volumes in time, the merges of its directions,
inputs of other sizes than the model was made for, and the ViT twin of volumes.
The blocks are those of make_vision_mamba.py; patch embedding, orders, merges
and the resizing of the positions are written out here in plain PyTorch.

    venv/bin/python tools/golden/make_vision_mamba_nd.py      (torch, safetensors)

Keys: <case>/param/<dotted name>, <case>/in/<name>, <case>/out/<name>,
<case>/grad/<parameter> of sum(out/logits * in/cotangent).
"""
import itertools
import math
import pathlib

import make_vision_mamba as base
import torch
import torch.nn.functional as F
from make_vision_mamba import draw, layer_norm, mamba, mamba_params, norm_params, record
from safetensors.torch import save_file

SEED = 20261125
AXES = {
    ("axis_fastest", 2): [(0, 1), (1, 0)],
    ("axis_fastest", 3): [(1, 2, 0), (0, 2, 1), (0, 1, 2)],
    ("axis_fastest", 4): [(1, 2, 3, 0), (0, 2, 3, 1), (0, 1, 3, 2), (0, 1, 2, 3)],
    ("compat", 3): [(0, 1, 2), (1, 0, 2), (2, 0, 1)],
    ("compat", 4): [(0, 1, 2, 3), (1, 0, 2, 3), (2, 0, 1, 3), (3, 0, 1, 2)],
}


def orders_of(grid, order):
    """Visiting orders by counting through the axes, the last of a permutation fastest."""
    for axes in AXES[order, len(grid)]:
        visits = []
        for place in itertools.product(*(range(grid[a]) for a in axes)):
            at = dict(zip(axes, place))
            flat = 0
            for a in range(len(grid)):
                flat = flat * grid[a] + at[a]
            visits.append(flat)
        yield torch.tensor(visits)
        yield torch.tensor(visits[::-1])


def embed(p, images, patch, tp=1):
    """A convolution whose kernel is its stride; frames of a token are channels, frame by frame."""
    weight, bias = p["patch_embed.proj.weight"], p["patch_embed.proj.bias"]
    spatial = weight.ndim - 2
    weight = weight.movedim(-1, 1)
    conv = F.conv2d if spatial == 2 else F.conv3d
    if images.ndim == spatial + 2:
        return conv(images.movedim(-1, 1), weight, bias, stride=patch).flatten(2).transpose(1, 2)
    tokens = []
    for t in range(0, images.shape[1], tp):
        frames = torch.cat([images[:, t + j] for j in range(tp)], -1)
        tokens.append(conv(frames.movedim(-1, 1), weight, bias, stride=patch).flatten(2).transpose(1, 2))
    return torch.cat(tokens, 1)


def resized(table, grid, wanted):
    """Antialiased bicubic interpolation along one axis after another, as a picture of height 1."""
    x = table[0].reshape(*grid, -1)
    for axis, (old, new) in enumerate(zip(grid, wanted)):
        if old == new:
            continue
        rows = x.movedim(axis, -1)
        shape = rows.shape
        rows = F.interpolate(rows.reshape(1, -1, 1, old), size=(1, new), mode="bicubic", antialias=True)
        x = rows.reshape(*shape[:-1], new).movedim(-1, axis)
    return x.reshape(1, math.prod(wanted), -1)


def vmamba_mixer(p, prefix, n, orders):
    """One block, K scans: the sum of the scans is normed, gated and projected."""
    get = lambda name: p[prefix + name]
    inner = get("in_proj.weight").shape[0] // 2
    x, z = (n @ get("in_proj.weight").T).split(inner, dim=-1)
    total = 0
    for k, order in enumerate(orders):
        s = f"scans.{k}."
        A = -torch.exp(get(s + "A_log"))
        rank, state, conv = get(s + "dt_proj.weight").shape[1], A.shape[1], get(s + "conv1d.weight").shape[1]
        u = F.pad(x[:, order], (0, 0, conv - 1, 0)).transpose(1, 2)
        u = F.silu(F.conv1d(u, get(s + "conv1d.weight").unsqueeze(1), get(s + "conv1d.bias"), groups=inner))
        u = u.transpose(1, 2)
        dt, B, C = (u @ get(s + "x_proj.weight").T).split([rank, state, state], dim=-1)
        delta = F.softplus(dt @ get(s + "dt_proj.weight").T + get(s + "dt_proj.bias"))
        h, ys = torch.zeros(n.shape[0], inner, state), []
        for t in range(u.shape[1]):
            h = torch.exp(delta[:, t, :, None] * A) * h + (delta[:, t] * u[:, t])[:, :, None] * B[:, t, None, :]
            ys.append((h * C[:, t, None, :]).sum(-1) + get(s + "D") * u[:, t])
        total = total + torch.stack(ys, 1)[:, order.argsort()]
    y = F.layer_norm(total, (inner,), get("out_norm.weight"), get("out_norm.bias"), 1e-5) * F.silu(z)
    return y @ get("out_proj.weight").T


def layer(p, prefix, h, orders, merge):
    n = layer_norm(p, prefix + "norm.", h)
    if merge == "vmamba":
        return h + vmamba_mixer(p, prefix + "mixer.", n, orders)
    outs = []
    for k, order in enumerate(orders):
        outs.append(mamba(p, f"{prefix}mamba_blocks.{k}.", n[:, order])[0][:, order.argsort()])
    y = sum(outs)
    return h + (y / len(outs) if merge == "mean" else y)


def params(width, kernel, tokens, classes):
    p = {
        "patch_embed.proj.weight": draw(width, *kernel, scale=0.2),
        "patch_embed.proj.bias": draw(width, scale=0.1),
        "pos_embed": draw(1, tokens, width, scale=0.3),
        "head.weight": draw(classes, width, scale=0.5),
        "head.bias": draw(classes, scale=0.1),
    }
    p.update(norm_params("norm.", width))
    return p


def encode(p, images, patch, tp, grid, wanted, depth, order, merge="sum"):
    x = embed(p, images, patch, tp) + resized(p["pos_embed"], grid, wanted)
    for i in range(depth):
        x = layer(p, f"blocks.{i}.", x, list(orders_of(wanted, order)), merge)
    return layer_norm(p, "norm.", x)


def logits(p, encoded):
    return encoded.mean(1) @ p["head.weight"].T + p["head.bias"]


def mamba_layers(p, depth, directions, width, state, conv, merge):
    for i in range(depth):
        p.update(norm_params(f"blocks.{i}.norm.", width))
        if merge == "vmamba":
            prefix = f"blocks.{i}.mixer."
            p[prefix + "in_proj.weight"] = draw(4 * width, width, scale=width**-0.5)
            for k in range(directions):
                q = mamba_params("", width, state, conv, 2)
                p.update({f"{prefix}scans.{k}.{n}": v for n, v in q.items() if n[:3] not in ("in_", "out")})
            p.update(norm_params(prefix + "out_norm.", 2 * width))
            p[prefix + "out_proj.weight"] = draw(width, 2 * width, scale=(2 * width) ** -0.5)
        else:
            for k in range(directions):
                p.update(mamba_params(f"blocks.{i}.mamba_blocks.{k}.", width, state, conv, 2))


def main():
    base.generator.manual_seed(SEED)
    base.store.clear()
    width, patch, classes = 6, 2, 3

    # Volumes: a grid of 3 x 3 x 3, and inputs over 2 x 3 x 4.
    p = params(width, (patch, patch, patch, 1), 27, classes)
    mamba_layers(p, 2, 6, width, 3, 3, "sum")
    images, other = draw(2, 6, 6, 6, 1).detach(), draw(1, 4, 6, 8, 1).detach()
    grid = (3, 3, 3)
    encoded = encode(p, images, patch, 1, grid, grid, 2, "axis_fastest")
    record("volume", p, {"images": images, "other": other},
           {"tokens": embed(p, images, patch), "encoded": encoded, "logits": logits(p, encoded),
            "compat": encode(p, images, patch, 1, grid, grid, 2, "compat"),
            "other": encode(p, other, patch, 1, grid, (2, 3, 4), 2, "axis_fastest")}, "logits")

    # Volumes over time: two frames a token, a grid of 2 x 2 x 2 x 2, and inputs over 3 x 1 x 2 x 3.
    p = params(width, (patch, patch, patch, 2 * 2), 16, classes)
    mamba_layers(p, 1, 8, width, 3, 3, "sum")
    images, other = draw(2, 4, 4, 4, 4, 2).detach(), draw(1, 6, 2, 4, 6, 2).detach()
    grid = (2, 2, 2, 2)
    encoded = encode(p, images, patch, 2, grid, grid, 1, "axis_fastest")
    record("sequence", p, {"images": images, "other": other},
           {"tokens": embed(p, images, patch, 2), "encoded": encoded, "logits": logits(p, encoded),
            "compat": encode(p, images, patch, 2, grid, grid, 1, "compat"),
            "other": encode(p, other, patch, 2, grid, (3, 1, 2, 3), 1, "axis_fastest")}, "logits")

    # The other merges, over images of 3 x 3 patches and of 5 x 2.
    for merge in ("mean", "vmamba"):
        p = params(width, (patch, patch, 1), 9, classes)
        mamba_layers(p, 2, 4, width, 3, 3, merge)
        images, other = draw(2, 6, 6, 1).detach(), draw(2, 10, 4, 1).detach()
        encoded = encode(p, images, patch, 1, (3, 3), (3, 3), 2, "axis_fastest", merge)
        x = (embed(p, images, patch) + p["pos_embed"])[:, [7, 2, 4]]
        ways = [torch.tensor([0, 1, 2]), torch.tensor([2, 1, 0])]
        for i in range(2):
            x = layer(p, f"blocks.{i}.", x, ways, merge)
        record(merge, p, {"images": images, "other": other},
               {"encoded": encoded, "logits": logits(p, encoded), "subset": layer_norm(p, "norm.", x),
                "other": encode(p, other, patch, 1, (3, 3), (5, 2), 2, "axis_fastest", merge)}, "logits")

    # The twin over volumes.
    p = params(width, (patch, patch, patch, 1), 27, classes)
    for i in range(2):
        q = {**norm_params("norm1.", width), **norm_params("norm2.", width)}
        for name in ("query_proj", "key_proj", "value_proj", "out_proj"):
            q[f"attn.{name}.weight"] = draw(width, width, scale=width**-0.5)
        q["mlp.fc1.weight"], q["mlp.fc1.bias"] = draw(4 * width, width, scale=width**-0.5), draw(4 * width, scale=0.1)
        q["mlp.fc2.weight"], q["mlp.fc2.bias"] = draw(width, 4 * width, scale=0.2), draw(width, scale=0.1)
        p.update({f"blocks.{i}.{name}": value for name, value in q.items()})
    images, other = draw(2, 6, 6, 6, 1).detach(), draw(1, 4, 6, 8, 1).detach()

    def twin(x, wanted):
        x = embed(p, x, patch) + resized(p["pos_embed"], (3, 3, 3), wanted)
        for i in range(2):
            x = base.attention_block(p, f"blocks.{i}.", x, 2)
        return layer_norm(p, "norm.", x)

    encoded = twin(images, (3, 3, 3))
    record("twin", p, {"images": images, "other": other},
           {"encoded": encoded, "logits": logits(p, encoded), "other": twin(other, (2, 3, 4))}, "logits")

    path = pathlib.Path(__file__).resolve().parents[2] / "tests/data/golden/vision_mamba_nd.safetensors"
    save_file(base.store, path, metadata={"maker": "tools/golden/make_vision_mamba_nd.py", "seed": str(SEED),
                                          "torch": torch.__version__})
    print(path.name, path.stat().st_size, "bytes,", len(base.store), "tensors")


if __name__ == "__main__":
    main()
