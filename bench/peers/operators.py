#!/usr/bin/env python3
"""Times state-space operators in PyTorch on the CPU beside Aspis, same shapes, same sitting.

    python3 -m venv venv && venv/bin/pip install torch numpy
    venv/bin/python bench/peers/operators.py --aspis build/release/aspis/cli/aspis

PyTorch's forms:
  loop       one step a token, eager (selective_scan_ref of the published code)
  chunk      the same recurrence, 16 tokens unrolled in a function
  chunked    Mamba-2 as chunk products (the "minimal" form of the paper), chunk 64
each eager and with torch.compile, "primitives" in its own operators, and for Mamba-2 the sequential loop of CPU
inference engines (ssd_loop.cc, compiled on the spot with -march=native). Both sides use the same number of threads and
float32; times are medians. Nothing here is part of the build or of the tests.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F


def seconds(run, budget):
    run()
    times = []
    start = time.monotonic()
    while len(times) < 3 or time.monotonic() - start < budget:
        t = time.monotonic()
        run()
        times.append(time.monotonic() - t)
    return statistics.median(times)


# --- Mamba-1 -----------------------------------------------------------------
def scan_loop(u, delta, A, B, C):
    x = torch.zeros(u.shape[0], u.shape[2], A.shape[1])
    a = torch.exp(delta[..., None] * A)
    b = (delta * u)[..., None] * B[:, :, None]
    ys = []
    for t in range(u.shape[1]):
        x = a[:, t] * x + b[:, t]
        ys.append((x * C[:, t, None]).sum(-1))
    return torch.stack(ys, 1)


def scan_chunk(x, u, delta, A, B, C):
    ys = []
    for t in range(u.shape[1]):
        x = torch.exp(delta[:, t, :, None] * A) * x + (delta[:, t] * u[:, t])[..., None] * B[:, t, None]
        ys.append((x * C[:, t, None]).sum(-1))
    return x, torch.stack(ys, 1)


def scan_chunks(step, u, delta, A, B, C, chunk=16):
    x = torch.zeros(u.shape[0], u.shape[2], A.shape[1])
    ys = []
    for t in range(0, u.shape[1], chunk):
        x, y = step(x, *(v[:, t:t + chunk] for v in (u, delta)), A, *(v[:, t:t + chunk] for v in (B, C)))
        ys.append(y)
    return torch.cat(ys, 1)


# --- Mamba-2 -----------------------------------------------------------------
def segment_sums(x):
    cs = x.cumsum(-1)
    keep = torch.ones(x.shape[-1], x.shape[-1], dtype=torch.bool).tril()
    return (cs[..., :, None] - cs[..., None, :]).masked_fill(~keep, -torch.inf)


def ssd_chunked(x, dt, A, B, C, chunk=64):
    b, length, h, p = x.shape
    n, c = B.shape[-1], length // chunk
    cut = lambda v: v.reshape(b, c, chunk, *v.shape[2:])
    xd, B, C = cut(x * dt[..., None]), cut(B), cut(C)
    a = cut(dt * A).permute(0, 3, 1, 2)  # b h c l
    cs = a.cumsum(-1)
    scores = torch.einsum("bcln,bcsn->bcls", C, B)[:, None] * torch.exp(segment_sums(a))
    y = torch.einsum("bhcls,bcshp->bclhp", scores, xd)
    into = torch.exp(cs[..., -1:] - cs)
    states = torch.einsum("bcsn,bhcs,bcshp->bchpn", B, into, xd)
    states = torch.cat([torch.zeros_like(states[:, :1]), states], 1)
    carry = torch.exp(segment_sums(F.pad(cs[..., -1], (1, 0))))
    states = torch.einsum("bhzc,bchpn->bzhpn", carry, states)[:, :-1]
    y = y + torch.einsum("bcln,bchpn,bhcl->bclhp", C, states, torch.exp(cs))
    return y.reshape(b, length, h, p)


def forward_and_both(fn, inputs, budget):
    with torch.no_grad():
        forward = seconds(lambda: fn(*inputs), budget)
    leaves = [i.clone().requires_grad_(True) for i in inputs]
    both = seconds(lambda: torch.autograd.grad(fn(*leaves).sum(), leaves), budget)
    return forward, both


def sequential_loop(threads, *sizes):
    """Seconds of ssd_loop.cc; 0 where there is no compiler."""
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "ssd_loop")
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ssd_loop.cc")
        try:
            subprocess.run(["g++", "-O3", "-march=native", "-fopenmp-simd", "-std=c++20", "-pthread", source, "-o", program], check=True)
            out = subprocess.run([program, str(threads), *map(str, sizes)], check=True, capture_output=True, text=True).stdout
        except (OSError, subprocess.CalledProcessError) as e:
            print(f"  ssd_loop: {e}", file=sys.stderr)
            return 0
    return float(out.split()[0]) / 1e3


# --- what PyTorch has operators of its own for; the cases carry the names of cases.h ----
def primitives():
    """(operator, case, function, inputs)."""
    r = torch.randn
    yield ("attention", "8x196x6x64", lambda q, k, v: F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2), [r(8, 196, 6, 64) for _ in range(3)])
    yield "linear", "8x196x384 to 768", F.linear, [r(8, 196, 384), 0.05 * r(768, 384)]
    last = torch.channels_last
    yield ("conv2d", "8x28x28x160 * 320x3x3x160 stride 2x2", lambda x, w: F.conv2d(x, w, stride=2, padding=1),
           [r(8, 160, 28, 28).to(memory_format=last), 0.05 * r(320, 160, 3, 3).to(memory_format=last)])
    yield ("conv2d", "8x56x56x96 * 96x7x7x1 depthwise", lambda x, w: F.conv2d(x, w, padding=3, groups=96),
           [r(8, 96, 56, 56).to(memory_format=last), 0.05 * r(96, 1, 7, 7)])
    yield "softmax", "1024x1000", lambda x: torch.softmax(x, -1), [r(1024, 1000)]
    yield "layer_norm", "8x196x768", lambda x, w, b: F.layer_norm(x, (768,), w, b), [r(8, 196, 768), r(768), r(768)]
    yield "cross_entropy", "128x1000 labels smoothed mean", lambda x: F.cross_entropy(
        x, torch.arange(128), label_smoothing=0.1), [r(128, 1000)]


def row(rows, name, case, form, times):
    rows.append((name, case, form, *times))
    print(f"  {name} {case} {form}: " + " / ".join(f"{1e3 * t:.2f} ms" if t else "-" for t in times), file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aspis", required=True, help="the aspis program")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each figure")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--only", choices=["selective_scan", "ssd", "primitives"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = []

    def compiled(f):
        torch._dynamo.reset()  # or shapes seen before count against the limit of compilations
        return torch.compile(f, dynamic=False)

    if args.only in (None, "selective_scan"):
        for batch, length, channels in [(2, 196, 1536), (8, 196, 384), (1, 512, 1536)]:
            case, state = f"{batch}x{length}x{channels} N16", 16
            inputs = [torch.randn(batch, length, channels), 0.1 * torch.rand(batch, length, channels),
                      -torch.rand(channels, state) - 0.1, torch.randn(batch, length, state),
                      torch.randn(batch, length, state)]
            row(rows, "selective_scan", case, "torch loop", forward_and_both(scan_loop, inputs, args.seconds))
            if not args.no_compile:
                step = compiled(scan_chunk)
                row(rows, "selective_scan", case, "torch chunk, compiled",
                    forward_and_both(lambda *i: scan_chunks(step, *i), inputs, args.seconds))
    if args.only in (None, "ssd"):
        batch, length, heads, headdim, state = 1, 2048, 24, 64, 128
        case = f"{batch}x{length}x{heads}x{headdim} N{state}"
        inputs = [torch.randn(batch, length, heads, headdim), 0.1 * torch.rand(batch, length, heads),
                  -torch.rand(heads) - 0.5, torch.randn(batch, length, state), torch.randn(batch, length, state)]
        row(rows, "ssd", case, "torch chunked", forward_and_both(ssd_chunked, inputs, args.seconds))
        if not args.no_compile:
            row(rows, "ssd", case, "torch chunked, compiled", forward_and_both(compiled(ssd_chunked), inputs, args.seconds))

        row(rows, "ssd", case, "sequential loop, C++", (sequential_loop(args.threads, length, heads, headdim, state), 0))

    names = [args.only] if args.only and args.only != "primitives" else [] if args.only else ["selective_scan", "ssd"]
    wanted = set()
    if args.only in (None, "primitives"):
        for name, case, fn, inputs in primitives():
            wanted.add((name, case))
            names += [name] if name not in names else []
            row(rows, name, case, "torch", forward_and_both(fn, inputs, args.seconds))
    out = subprocess.run([args.aspis, "bench", *names, "--seconds", str(args.seconds), "--threads-list",
                          str(args.threads), "--kind", "operator", "--json"], check=True, capture_output=True, text=True).stdout
    for r in json.loads(out):
        if r["name"] not in ("selective_scan", "ssd") and (r["name"], r["case"]) not in wanted:
            continue
        row(rows, r["name"], r["case"], "aspis", (r["forward_ms"] / 1e3, (r.get("both_ms") or 0) / 1e3))

    print(f"\nPyTorch {torch.__version__}, {args.threads} threads\n")
    print("| operator | case | form | forward ms | forward + backward ms |\n|---|---|---|---:|---:|")
    for name, case, form, forward, both in rows:
        print(f"| {name} | {case} | {form} | {f'{1e3 * forward:.2f}' if forward else '-'} | {f'{1e3 * both:.2f}' if both else '-'} |")


if __name__ == "__main__":
    main()
