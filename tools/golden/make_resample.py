#!/usr/bin/env python3
"""Makes tests/data/golden/resample.safetensors.

Resizing and pooling as PyTorch computes them in float64, with its
gradients. Arrays are stored channels last.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 safetensors numpy
    venv/bin/python tools/golden/make_resample.py

Keys: <case>/in, <case>/out, <case>/cot, <case>/grad, all float32 values of float64
results; inputs and cotangents hold values that float32 represents exactly. The
gradient is that of sum over outputs of <output, cotangent>. Options of a case are
in tests/golden/resample_test.cc.
"""
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)
generator = torch.Generator()
store = {}


def last(t):
    return t.movedim(1, -1).contiguous().float()


def case(name, shape, f):
    """shape: {B, C, ..}."""
    generator.manual_seed(20261125)
    x = torch.randn(*shape, generator=generator).float().double().requires_grad_(True)
    y = f(x)
    cotangent = torch.randn(*y.shape, generator=generator).float().double()
    (gradient,) = torch.autograd.grad((y * cotangent).sum(), x)
    for key, value in {"in": x.detach(), "out": y.detach(), "cot": cotangent, "grad": gradient}.items():
        store[f"{name}/{key}"] = last(value)


resize = F.interpolate
case("nearest_1d", (2, 3, 7), lambda x: resize(x, size=11, mode="nearest"))
case("nearest_2d", (1, 2, 5, 7), lambda x: resize(x, size=(8, 3), mode="nearest"))
case("nearest_scale", (1, 2, 9, 7), lambda x: resize(x, scale_factor=(1.3, 0.6), mode="nearest"))
case("nearest_exact_3d", (1, 2, 3, 4, 5), lambda x: resize(x, size=(5, 3, 8), mode="nearest-exact"))
case("linear_1d", (1, 2, 6), lambda x: resize(x, size=9, mode="linear"))
case("bilinear_up", (1, 2, 4, 5), lambda x: resize(x, size=(9, 7), mode="bilinear"))
case("bilinear_aligned", (1, 2, 4, 5), lambda x: resize(x, size=(7, 3), mode="bilinear", align_corners=True))
case("bilinear_scale", (1, 2, 4, 5), lambda x: resize(x, scale_factor=(1.7, 2.3), mode="bilinear"))
case("bilinear_antialias", (1, 2, 9, 11), lambda x: resize(x, size=(4, 14), mode="bilinear", antialias=True))
case("trilinear", (1, 2, 3, 4, 5), lambda x: resize(x, size=(4, 7, 3), mode="trilinear"))
case("bicubic_up", (1, 2, 4, 5), lambda x: resize(x, size=(9, 7), mode="bicubic"))
case("bicubic_down", (1, 2, 9, 8), lambda x: resize(x, size=(4, 5), mode="bicubic"))
case("bicubic_aligned", (1, 2, 4, 5), lambda x: resize(x, size=(7, 9), mode="bicubic", align_corners=True))
case("bicubic_antialias", (1, 2, 9, 11), lambda x: resize(x, size=(4, 14), mode="bicubic", antialias=True))
case("bicubic_antialias_aligned", (1, 2, 9, 11),
     lambda x: resize(x, size=(4, 6), mode="bicubic", antialias=True, align_corners=True))

case("max_2d", (2, 3, 7, 8), lambda x: F.max_pool2d(x, 3, 2, 1))
case("max_dilated", (1, 2, 9, 8), lambda x: F.max_pool2d(x, (2, 3), (1, 2), (1, 1), dilation=(2, 1)))
case("max_ceil", (1, 2, 7), lambda x: F.max_pool1d(x, 3, 2, 1, ceil_mode=True))
case("max_3d", (1, 2, 4, 5, 6), lambda x: F.max_pool3d(x, 2))
case("average_2d", (2, 3, 7, 8), lambda x: F.avg_pool2d(x, 3, 2, 1))
case("average_without_padding", (1, 2, 7, 8), lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False))
case("average_ceil", (1, 2, 8, 7), lambda x: F.avg_pool2d(x, (3, 2), (2, 2), (1, 1), ceil_mode=True))
case("average_3d", (1, 2, 4, 5, 6), lambda x: F.avg_pool3d(x, 2))
case("adaptive_average", (1, 2, 7, 8), lambda x: F.adaptive_avg_pool2d(x, (3, 10)))
case("adaptive_max", (1, 2, 7, 8), lambda x: F.adaptive_max_pool2d(x, (3, 5)))

path = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "golden" / "resample.safetensors"
save_file(store, str(path), metadata={"torch": torch.__version__})
print(path, len(store), "tensors")
