#!/usr/bin/env python3
"""Makes tests/data/golden/vision_mamba.safetensors.

An independent implementation, in plain PyTorch operations, of the Mamba-1 block,
the multi-directional block, the VisionMamba encoder and its ViT twin, written
from their formulas (docs in aspis/nn/mamba_block.h and aspis/models/). Weights
and inputs are float32 values; everything is computed from them in float64 with
PyTorch's autograd and stored rounded to float32.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 safetensors numpy
    venv/bin/python tools/golden/make_vision_mamba.py

Seed 20240608 throughout. Keys: <case>/param/<dotted name>, <case>/in/<name>,
<case>/out/<name>, <case>/grad/<parameter or input>. The gradients are those of
sum(out * in/cotangent).
"""
import math
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

SEED = 20240608
torch.set_default_dtype(torch.float64)
generator = torch.Generator().manual_seed(SEED)
store = {}


def draw(*shape, scale=1.0, shift=0.0):
    """Values that float32 holds exactly, as leaves of the graph."""
    values = torch.randn(*shape, generator=generator) * scale + shift
    return values.float().double().requires_grad_(True)


def mamba_params(prefix, width, state, conv, expand):
    inner, rank = expand * width, math.ceil(width / 16)
    return {
        prefix + "in_proj.weight": draw(2 * inner, width, scale=width**-0.5),
        prefix + "conv1d.weight": draw(inner, conv, scale=conv**-0.5),
        prefix + "conv1d.bias": draw(inner, scale=0.1),
        prefix + "x_proj.weight": draw(rank + 2 * state, inner, scale=inner**-0.5),
        prefix + "dt_proj.weight": draw(inner, rank, scale=rank**-0.5),
        prefix + "dt_proj.bias": draw(inner, scale=0.5, shift=-1.0),
        prefix + "A_log": draw(inner, state, scale=0.5, shift=0.5),
        prefix + "D": draw(inner, shift=1.0),
        prefix + "out_proj.weight": draw(width, inner, scale=inner**-0.5),
    }


def norm_params(prefix, width):
    return {prefix + "weight": draw(width, scale=0.2, shift=1.0), prefix + "bias": draw(width, scale=0.2)}


def mamba(p, prefix, h):
    """One block over the tokens in the order in which they come; also its two states."""
    get = lambda name: p[prefix + name]
    inner, state = get("A_log").shape
    conv = get("conv1d.weight").shape[1]
    rank = get("dt_proj.weight").shape[1]
    x, z = (h @ get("in_proj.weight").T).split(inner, dim=-1)
    padded = F.pad(x, (0, 0, conv - 1, 0))
    conv_state = padded[:, padded.shape[1] - (conv - 1):]
    x = F.conv1d(padded.transpose(1, 2), get("conv1d.weight").unsqueeze(1), get("conv1d.bias"), groups=inner)
    x = F.silu(x).transpose(1, 2)
    dt, B, C = (x @ get("x_proj.weight").T).split([rank, state, state], dim=-1)
    delta = F.softplus(dt @ get("dt_proj.weight").T + get("dt_proj.bias"))
    A = -torch.exp(get("A_log"))
    s = torch.zeros(h.shape[0], inner, state)
    ys = []
    for t in range(h.shape[1]):
        s = torch.exp(delta[:, t, :, None] * A) * s + (delta[:, t] * x[:, t])[:, :, None] * B[:, t, None, :]
        ys.append((s * C[:, t, None, :]).sum(-1) + get("D") * x[:, t])
    y = torch.stack(ys, 1) * F.silu(z)
    return y @ get("out_proj.weight").T, conv_state, s


def layer_norm(p, prefix, x):
    return F.layer_norm(x, x.shape[-1:], p[prefix + "weight"], p[prefix + "bias"], 1e-5)


AXES = {
    ("axis_fastest", 2): [(0, 1), (1, 0)],
    ("compat", 2): [(0, 1), (1, 0)],
    ("axis_fastest", 3): [(1, 2, 0), (0, 2, 1), (0, 1, 2)],
    ("compat", 3): [(0, 1, 2), (1, 0, 2), (2, 0, 1)],
}


def directions(grid, order):
    """For each direction the flat token indices in visiting order."""
    index = torch.arange(math.prod(grid)).reshape(grid)
    for axes in AXES[order, len(grid)]:
        flat = index.permute(axes).reshape(-1)
        yield flat
        yield flat.flip(0)


def multi(p, prefix, h, orders):
    n = layer_norm(p, prefix + "norm.", h)
    out = h
    for k, order in enumerate(orders):
        y = mamba(p, f"{prefix}mamba_blocks.{k}.", n[:, order])[0]
        out = out + y[:, order.argsort()]
    return out


def attention_block(p, prefix, x, heads):
    n = layer_norm(p, prefix + "norm1.", x)
    batch, length, width = n.shape
    split = lambda name: (n @ p[f"{prefix}attn.{name}.weight"].T).reshape(batch, length, heads, -1).transpose(1, 2)
    q, k, v = split("query_proj"), split("key_proj"), split("value_proj")
    weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(width // heads), -1)
    mixed = (weights @ v).transpose(1, 2).reshape(batch, length, width)
    x = x + mixed @ p[prefix + "attn.out_proj.weight"].T
    n = layer_norm(p, prefix + "norm2.", x)
    hidden = F.gelu(n @ p[prefix + "mlp.fc1.weight"].T + p[prefix + "mlp.fc1.bias"])
    return x + hidden @ p[prefix + "mlp.fc2.weight"].T + p[prefix + "mlp.fc2.bias"]


def embed(p, images, patch):
    weight = p["patch_embed.proj.weight"].permute(0, 3, 1, 2)  # {E, p, p, C} -> {E, C, p, p}
    x = F.conv2d(images.permute(0, 3, 1, 2), weight, p["patch_embed.proj.bias"], stride=patch)
    return x.flatten(2).transpose(1, 2)


def model_params(width, patch, channels, tokens, classes):
    p = {
        "patch_embed.proj.weight": draw(width, patch, patch, channels, scale=0.2),
        "patch_embed.proj.bias": draw(width, scale=0.1),
        "pos_embed": draw(1, tokens, width, scale=0.3),
        "head.weight": draw(classes, width, scale=0.5),
        "head.bias": draw(classes, scale=0.1),
    }
    p.update(norm_params("norm.", width))
    return p


def put(case, kind, name, value):
    store[f"{case}/{kind}/{name}"] = value.detach().float().contiguous()


def record(case, params, inputs, outputs, out_name, with_gradients=True):
    for name, value in params.items():
        put(case, "param", name, value)
    for name, value in inputs.items():
        put(case, "in", name, value)
    for name, value in outputs.items():
        put(case, "out", name, value)
    if not with_gradients:
        return
    out = outputs[out_name]
    cotangent = draw(*out.shape).detach()
    put(case, "in", "cotangent", cotangent)
    leaves = {**params, **{k: v for k, v in inputs.items() if v.requires_grad}}
    gradients = torch.autograd.grad((out * cotangent).sum(), list(leaves.values()), allow_unused=True)
    for (name, leaf), gradient in zip(leaves.items(), gradients):
        put(case, "grad", name, torch.zeros_like(leaf) if gradient is None else gradient)


def main():
    p = mamba_params("", 12, 5, 4, 2)
    x = draw(2, 7, 12)
    y, conv_state, scan_state = mamba(p, "", x)
    record("mamba_block", p, {"x": x}, {"y": y, "conv_state": conv_state, "scan_state": scan_state}, "y")

    # An odd grid in two dimensions, and both orders in three.
    p = norm_params("norm.", 6)
    for k in range(6):
        p.update(mamba_params(f"mamba_blocks.{k}.", 6, 3, 3, 2))
    x2, x3 = draw(2, 6, 6), draw(1, 24, 6)
    outputs = {"grid_2_3": multi(p, "", x2, list(directions((2, 3), "axis_fastest")))}
    for order in ("axis_fastest", "compat"):
        outputs[f"grid_2_3_4_{order}"] = multi(p, "", x3, list(directions((2, 3, 4), order)))
    # A subset of the tokens: blocks 0 and 1, forwards and backwards.
    forward = torch.arange(5)
    outputs["subset"] = multi(p, "", x2[:, :5], [forward, forward.flip(0)])
    record("multi", p, {"x2": x2, "x3": x3}, outputs, None, with_gradients=False)

    width, patch, grid, channels, classes = 8, 4, (3, 3), 2, 3
    p = model_params(width, patch, channels, 9, classes)
    for i in range(2):
        p.update(norm_params(f"blocks.{i}.norm.", width))
        for k in range(4):
            p.update(mamba_params(f"blocks.{i}.mamba_blocks.{k}.", width, 4, 4, 2))
    images = draw(2, 12, 12, channels)
    orders = list(directions(grid, "axis_fastest"))
    tokens = embed(p, images, patch)
    x = tokens + p["pos_embed"]
    for i in range(2):
        x = multi(p, f"blocks.{i}.", x, orders)
    encoded = layer_norm(p, "norm.", x)
    logits = encoded.mean(1) @ p["head.weight"].T + p["head.bias"]
    chosen = torch.tensor([7, 2, 4, 0])
    x = (tokens + p["pos_embed"])[:, chosen]
    forward = torch.arange(len(chosen))
    for i in range(2):
        x = multi(p, f"blocks.{i}.", x, [forward, forward.flip(0)])
    outputs = {"tokens": tokens, "encoded": encoded, "logits": logits, "subset": layer_norm(p, "norm.", x)}
    record("vision_mamba", p, {"images": images.detach()}, outputs, "logits")

    p = model_params(width, patch, channels, 9, classes)
    for i in range(2):
        q = {**norm_params("norm1.", width), **norm_params("norm2.", width)}
        for name in ("query_proj", "key_proj", "value_proj", "out_proj"):
            q[f"attn.{name}.weight"] = draw(width, width, scale=width**-0.5)
        q["mlp.fc1.weight"], q["mlp.fc1.bias"] = draw(4 * width, width, scale=width**-0.5), draw(4 * width, scale=0.1)
        q["mlp.fc2.weight"], q["mlp.fc2.bias"] = draw(width, 4 * width, scale=0.2), draw(width, scale=0.1)
        p.update({f"blocks.{i}.{name}": value for name, value in q.items()})
    x = embed(p, images, patch) + p["pos_embed"]
    for i in range(2):
        x = attention_block(p, f"blocks.{i}.", x, 2)
    encoded = layer_norm(p, "norm.", x)
    logits = encoded.mean(1) @ p["head.weight"].T + p["head.bias"]
    record("vision_transformer", p, {"images": images.detach()}, {"encoded": encoded, "logits": logits}, "logits")

    path = pathlib.Path(__file__).resolve().parents[2] / "tests/data/golden/vision_mamba.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(store, path, metadata={"maker": "tools/golden/make_vision_mamba.py", "seed": str(SEED),
                                     "torch": torch.__version__})
    print(path.name, path.stat().st_size, "bytes,", len(store), "tensors")


if __name__ == "__main__":
    main()
