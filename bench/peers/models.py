#!/usr/bin/env python3
"""Times whole networks in PyTorch, ONNX Runtime and OpenVINO on the CPU beside Aspis, in one sitting.

    python3 -m venv venv && venv/bin/pip install torch numpy onnx onnxscript onnxruntime openvino mambapy
    venv/bin/python bench/peers/models.py --aspis build/release/aspis/cli/aspis
    venv/bin/python bench/peers/models.py --aspis ... --only vim_tiny,demo --no-compile

Networks (random weights, float32, the same number of threads for all):
  vim_tiny       24 bidirectional Mamba-1 blocks, width 192, 197 tokens, batch 8: forward and training step
  demo           28x28 images in 4x4 patches, width 64, 4 blocks of 2 directions, batch 128: training step
  vit_tiny       12 transformer blocks, width 192, 3 heads, 197 tokens, batch 8: forward and training step
  convnext_tiny  stages of 3, 3, 9, 3 blocks, widths 96 to 768, batch 8: forward
  mambavision_tiny, mambavision_tiny_1
                 levels of 1, 3, 8, 4 blocks, widths 80 to 640: forward and training step of 8 images, forward of one

PyTorch's forms of the Mamba networks differ in the scan: "loop" one step a token,
"chunk" 16 tokens unrolled in a function that torch.compile takes, "pscan" the
work-efficient parallel scan of mamba.py in our own words, "mambapy" that of the
package itself, if it is installed. "compiled" compiles the whole network
(the loops excepted, which take minutes to trace). ONNX Runtime and OpenVINO get
the network as exported. Times are medians; a row that cannot be measured says why.
Nothing here is part of the build or of the tests.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


def seconds(run, budget, least=2):
    run()
    times, start = [], time.monotonic()
    while len(times) < least or time.monotonic() - start < budget:
        t = time.monotonic()
        run()
        times.append(time.monotonic() - t)
    return statistics.median(times)


# --- scans: u, delta {B, L, D}; A {D, N}; B, C {B, L, N} ----------------------
def scan_loop(u, delta, A, B, C):
    x = u.new_zeros(u.shape[0], u.shape[2], A.shape[1])
    a = torch.exp(delta[..., None] * A)
    b = (delta * u)[..., None] * B[:, :, None]
    ys = []
    for t in range(u.shape[1]):
        x = a[:, t] * x + b[:, t]
        ys.append((x * C[:, t, None]).sum(-1))
    return torch.stack(ys, 1)


def chunk_step(x, u, delta, A, B, C):
    ys = []
    for t in range(u.shape[1]):
        x = torch.exp(delta[:, t, :, None] * A) * x + (delta[:, t] * u[:, t])[..., None] * B[:, t, None]
        ys.append((x * C[:, t, None]).sum(-1))
    return x, torch.stack(ys, 1)


def scan_chunk(step, chunk=16):
    def scan(u, delta, A, B, C):
        x, ys = u.new_zeros(u.shape[0], u.shape[2], A.shape[1]), []
        for t in range(0, u.shape[1], chunk):
            x, y = step(x, u[:, t:t + chunk], delta[:, t:t + chunk], A, B[:, t:t + chunk], C[:, t:t + chunk])
            ys.append(y)
        return torch.cat(ys, 1)
    return scan


def prefix(a, b):
    """h_t = a_t h_{t-1} + b_t along axis 1, h_{-1} = 0: pairs joined, half the length solved, the rest filled in."""
    length = b.shape[1]
    if length == 1:
        return b
    pairs = length // 2
    odd = prefix(a[:, 1:2 * pairs:2] * a[:, 0:2 * pairs:2],
                 a[:, 1:2 * pairs:2] * b[:, 0:2 * pairs:2] + b[:, 1:2 * pairs:2])
    h = torch.empty_like(b)
    h[:, 0] = b[:, 0]
    h[:, 1:2 * pairs:2] = odd
    rest = (length - 1) // 2
    h[:, 2::2] = a[:, 2::2] * odd[:, :rest] + b[:, 2::2]
    return h


class ParallelScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        h = prefix(a, b)
        ctx.save_for_backward(a, h)
        return h

    @staticmethod
    def backward(ctx, g):
        a, h = ctx.saved_tensors
        ahead = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], 1)
        db = prefix(ahead.flip(1), g.flip(1)).flip(1)
        before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1)
        return db * before, db


def scan_parallel(u, delta, A, B, C):
    a = torch.exp(delta[..., None] * A)
    b = (delta * u)[..., None] * B[:, :, None]
    return (ParallelScan.apply(a, b) @ C[..., None])[..., 0]


def scan_mambapy():
    """The parallel scan of the package mambapy; None if it is not there."""
    try:
        from mambapy.pscan import pscan
    except ImportError:
        return None

    def scan(u, delta, A, B, C):
        return (pscan(torch.exp(delta[..., None] * A), (delta * u)[..., None] * B[:, :, None]) @ C[..., None])[..., 0]
    return scan


# --- networks ------------------------------------------------------------------
class Direction(nn.Module):
    """Convolution, projections and scan of one direction of a Mamba-1 block."""

    def __init__(self, inner, state, rank, scan):
        super().__init__()
        self.state, self.rank, self.scan = state, rank, scan
        self.conv = nn.Conv1d(inner, inner, 4, groups=inner, padding=3)
        self.x_proj = nn.Linear(inner, rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1, state + 1.0)).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))

    def forward(self, x):
        x = F.silu(self.conv(x.transpose(1, 2))[..., :x.shape[1]].transpose(1, 2))
        dt, B, C = self.x_proj(x).split([self.rank, self.state, self.state], -1)
        return self.scan(x, F.softplus(self.dt_proj(dt)), -torch.exp(self.A_log), B, C) + self.D * x


class VimBlock(nn.Module):
    """Two directions that share their projections in and out."""

    def __init__(self, width, state, scan):
        super().__init__()
        inner, rank = 2 * width, math.ceil(width / 16)
        self.norm = nn.LayerNorm(width)
        self.in_proj, self.out_proj = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)
        self.ahead, self.back = Direction(inner, state, rank, scan), Direction(inner, state, rank, scan)

    def forward(self, h):
        x, z = self.in_proj(self.norm(h)).chunk(2, -1)
        y = self.ahead(x) + self.back(x.flip(1)).flip(1)
        return h + self.out_proj(y * F.silu(z))


class TwoBlocks(nn.Module):
    """The demo's: two whole Mamba blocks, one of them backwards."""

    def __init__(self, width, state, scan):
        super().__init__()
        inner, rank = 2 * width, math.ceil(width / 16)
        self.norm = nn.LayerNorm(width)
        self.into = nn.ModuleList(nn.Linear(width, 2 * inner, bias=False) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(inner, width, bias=False) for _ in range(2))
        self.paths = nn.ModuleList(Direction(inner, state, rank, scan) for _ in range(2))

    def forward(self, h):
        n, total = self.norm(h), h
        for k in range(2):
            x, z = self.into[k](n if k == 0 else n.flip(1)).chunk(2, -1)
            y = self.out[k](self.paths[k](x) * F.silu(z))
            total = total + (y if k == 0 else y.flip(1))
        return total


class TransformerBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Tokens(nn.Module):
    """Patches, positions, blocks, mean, classifier."""

    def __init__(self, size, channels, patch, width, classes, blocks):
        super().__init__()
        self.patch = nn.Conv2d(channels, width, patch, patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2, width))
        self.blocks, self.norm = nn.Sequential(*blocks), nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        x = self.patch(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(x)).mean(1))


class ConvNextBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.dw, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(1e-6 * torch.ones(width))

    def forward(self, x):
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.fc2(F.gelu(self.fc1(y)))).permute(0, 3, 1, 2)


class ChannelNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext(depths=(3, 3, 9, 3), widths=(96, 192, 384, 768), classes=1000):
    parts = [nn.Conv2d(3, widths[0], 4, 4), ChannelNorm(widths[0])]
    for i, (depth, width) in enumerate(zip(depths, widths)):
        if i:
            parts += [ChannelNorm(widths[i - 1]), nn.Conv2d(widths[i - 1], width, 2, 2)]
        parts += [ConvNextBlock(width) for _ in range(depth)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(widths[-1]), nn.Linear(widths[-1], classes))


# The shape of MambaVision-T, from the description of its layers.
class ConvBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.parts = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.GELU(approximate="tanh"),
                                   nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))

    def forward(self, x):
        return x + self.parts(x)


class HalfMixer(nn.Module):
    """Half of the channels through convolution and scan, half through a convolution alone."""

    def __init__(self, width, state, scan):
        super().__init__()
        half = width // 2
        self.half, self.state, self.rank, self.scan = half, state, math.ceil(width / 16), scan
        self.in_proj, self.out_proj = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.conv_x, self.conv_z = (nn.Conv1d(half, half, 3, padding=1, groups=half, bias=False) for _ in range(2))
        self.x_proj = nn.Linear(half, self.rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(self.rank, half)
        self.A_log = nn.Parameter(torch.log(torch.arange(1, state + 1.0)).repeat(half, 1))
        self.D = nn.Parameter(torch.ones(half))

    def forward(self, h):
        x, z = self.in_proj(h).transpose(1, 2).chunk(2, 1)
        x, z = F.silu(self.conv_x(x)).transpose(1, 2), F.silu(self.conv_z(z)).transpose(1, 2)
        dt, B, C = self.x_proj(x).split([self.rank, self.state, self.state], -1)
        y = self.scan(x, F.softplus(self.dt_proj(dt)), -torch.exp(self.A_log), B, C) + self.D * x
        return self.out_proj(torch.cat([y, z], -1))


class MixerBlock(nn.Module):
    def __init__(self, width, scan):
        super().__init__()
        self.norm1, self.norm2, self.mixer = nn.LayerNorm(width), nn.LayerNorm(width), HalfMixer(width, 8, scan)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.mixer(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Windowed(nn.Module):
    """Blocks over the one window that the whole map is, as at 224 x 224."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x):
        return self.blocks(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)


def mambavision(scan, depths=(1, 3, 8, 4), heads=(2, 4, 8, 16), width=80, stem=32, classes=1000):
    parts = []
    for i, o in ((3, stem), (stem, width)):
        parts += [nn.Conv2d(i, o, 3, 2, 1, bias=False), nn.BatchNorm2d(o, eps=1e-4), nn.ReLU()]
    for level, depth in enumerate(depths):
        w = width << level
        if level < 2:
            parts += [ConvBlock(w) for _ in range(depth)]
        else:
            mixers = (depth + 1) // 2
            parts.append(Windowed([MixerBlock(w, scan) for _ in range(mixers)] +
                                  [TransformerBlock(w, heads[level]) for _ in range(depth - mixers)]))
        if level < 3:
            parts.append(nn.Conv2d(w, 2 * w, 3, 2, 1, bias=False))
    last = width << 3
    return nn.Sequential(*parts, nn.BatchNorm2d(last), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes))


def mamba_net(name, scan):
    if name.startswith("mambavision"):
        return mambavision(scan)
    if name == "vim_tiny":
        return Tokens(224, 3, 16, 192, 1000, [VimBlock(192, 16, scan) for _ in range(24)])
    return Tokens(28, 1, 4, 64, 10, [TwoBlocks(64, 8, scan) for _ in range(4)])


# network: batch, images, passes, arguments of `aspis bench`
NETWORKS = {
    "vim_tiny": (8, (3, 224, 224), ("forward", "step"), ["vim_tiny_patch16_224"]),
    "demo": (128, (1, 28, 28), ("step",), ["vision_mamba_fmnist", "--set", "depth=4"]),
    "vit_tiny": (8, (3, 224, 224), ("forward", "step"),
                 ["vit_small", "--set", "embed_dim=192", "--set", "depth=12", "--set", "num_heads=3", "--set", "num_classes=1000"]),
    "convnext_tiny": (8, (3, 224, 224), ("forward",), ["convnext_tiny"]),
    "mambavision_tiny": (8, (3, 224, 224), ("forward", "step"), ["mamba_vision_T"]),
    "mambavision_tiny_1": (1, (3, 224, 224), ("forward",), ["mamba_vision_T"]),
}


def stepper(net, images, labels):
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-6, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return step


def forward_of(net, images):
    def run():
        with torch.no_grad():
            net(images)
    return run


def torch_forms(name, compile_too):
    """(form, network, is it worth a forward pass) one after the other, so that memory is freed in between."""
    def compiled(f):
        torch._dynamo.reset()  # or shapes seen before count against the limit of compilations
        return torch.compile(f, dynamic=False)

    if name in ("vim_tiny", "demo") or name.startswith("mambavision"):
        yield "torch loop", lambda: mamba_net(name, scan_loop)
        yield "torch pscan", lambda: mamba_net(name, scan_parallel)
        package = scan_mambapy()
        if package:
            yield "torch mambapy", lambda: mamba_net(name, package)
        if compile_too:
            yield "torch chunk, compiled", lambda: mamba_net(name, scan_chunk(compiled(chunk_step)))
        if name.startswith("mambavision"):
            yield "torch chunk, eager", lambda: mamba_net(name, scan_chunk(chunk_step))
        return
    make = (lambda: Tokens(224, 3, 16, 192, 1000, [TransformerBlock(192, 3) for _ in range(12)])) if name == "vit_tiny" else convnext
    yield "torch eager", make
    if compile_too:
        yield "torch compiled", lambda: compiled(make())


def exported(name, images, threads, budget, add):
    """ONNX Runtime and OpenVINO; each states what it could not do."""
    net = (Tokens(224, 3, 16, 192, 1000, [TransformerBlock(192, 3) for _ in range(12)]) if name == "vit_tiny" else convnext()).eval()
    try:
        import onnxruntime as ort
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "net.onnx")
            torch.onnx.export(net, (images,), path, dynamo=True, verbose=False)
            options = ort.SessionOptions()
            options.intra_op_num_threads = threads
            session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            feed = {session.get_inputs()[0].name: images.numpy()}
            add(f"onnxruntime {ort.__version__}", "forward", seconds(lambda: session.run(None, feed), budget))
    except Exception as e:  # a peer that is not there or cannot take the network is a row, not an end
        add("onnxruntime", "forward", None, f"{type(e).__name__}: {str(e).splitlines()[0][:80] if str(e) else ''}")
    try:
        import openvino as ov
        core = ov.Core()
        core.set_property("CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"})
        model = core.compile_model(ov.convert_model(net, example_input=images), "CPU", {"PERFORMANCE_HINT": "LATENCY"})
        request = model.create_infer_request()
        add(f"openvino {ov.__version__.split('-')[0]}", "forward", seconds(lambda: request.infer([images.numpy()]), budget))
    except Exception as e:
        add("openvino", "forward", None, f"{type(e).__name__}: {str(e).splitlines()[0][:80] if str(e) else ''}")


def aspis_rows(program, arguments, batch, passes, threads, budget, add):
    command = [program, "bench", *arguments, "--kind", "model", "--batch", str(batch), "--pass", ",".join(passes), "--seconds",
               str(budget * len(passes)), "--threads-list", str(threads), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        for p in passes:
            add("aspis", p, None, done.stderr.strip().split("\n")[-1][:100])
        return
    for row in json.loads(done.stdout):
        for p in passes:
            add("aspis", p, (row[p + "_ms"] or 0) / 1e3 or None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aspis", required=True, help="the aspis program")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each figure")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--passes", default="forward,step", help="forward, step or both, with a comma")
    parser.add_argument("--forms", default="", help="only forms whose name holds one of these words, with commas; aspis always")
    parser.add_argument("--only", default=",".join(NETWORKS), help="networks, with commas: " + ", ".join(NETWORKS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = []
    for name in args.only.split(","):
        batch, shape, passes, arguments = NETWORKS[name]
        passes = [p for p in passes if p in args.passes.split(",")]
        if not passes:
            continue
        images, classes = torch.randn(batch, *shape), 10 if name == "demo" else 1000
        labels = torch.arange(batch) % classes

        def add(form, what, time_or_none, why=""):
            rows.append((name, batch, form, what, time_or_none, why))
            shown = f"{1e3 * time_or_none:.1f} ms, {batch / time_or_none:.1f} img/s" if time_or_none else why or "-"
            print(f"  {name} {form} {what}: {shown}", file=sys.stderr, flush=True)

        aspis_rows(args.aspis, arguments, batch, passes, args.threads, args.seconds, add)
        wanted = lambda form: not args.forms or any(w in form for w in args.forms.split(","))
        for form, make in torch_forms(name, not args.no_compile):
            if not wanted(form):
                continue
            try:
                net = make()
                if "forward" in passes:
                    net.eval()
                    add(form, "forward", seconds(forward_of(net, images), args.seconds))
                if "step" in passes:
                    net.train()
                    add(form, "step", seconds(stepper(net, images, labels), args.seconds))
                del net
            except Exception as e:
                add(form, passes[-1], None, f"{type(e).__name__}: {str(e).splitlines()[0][:80] if str(e) else ''}")
        if name in ("vit_tiny", "convnext_tiny") and "forward" in passes and (wanted("onnxruntime") or wanted("openvino")):
            exported(name, images, args.threads, args.seconds, add)

    own = {(n, w): t for n, _, form, w, t, _ in rows if form == "aspis"}
    print(f"\nPyTorch {torch.__version__}, {args.threads} threads, float32\n")
    print("| network | batch | form | pass | ms | images/s | Aspis is faster by |\n|---|---:|---|---|---:|---:|---:|")
    for name, batch, form, what, t, why in rows:
        mine = own.get((name, what))
        ratio = f"{t / mine:.2f}" if t and mine and form != "aspis" else ""
        print(f"| {name} | {batch} | {form} | {what} | " + (f"{1e3 * t:.1f} | {batch / t:.1f}" if t else f"{why or '-'} | ") + f" | {ratio} |")


if __name__ == "__main__":
    main()
