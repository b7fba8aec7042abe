"""Makes the archives that the tests of aspis/io read: tests/data/state.pth, views.pth,
legacy.pth, arrays.npz, orders.npz.

    python tools/golden/make_archives.py tests/data

Written with PyTorch 2.15.0 and numpy 2.4.6. Values are fixed, there is no
random state. (torch.save puts an identifier into the archive that is a hash of
its content; in the old format storages are named by addresses.)
"""

import argparse
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

folder = Path(sys.argv[1])
weight = torch.arange(6, dtype=torch.float32).reshape(2, 3)
state = OrderedDict(weight=weight, turned=weight.t(), half=torch.ones(2, dtype=torch.bfloat16))
torch.save({"model": state, "epoch": 3, "lr": 0.5, "name": "tiny"}, folder / "state.pth")
np.savez_compressed(folder / "arrays.npz", ramp=np.arange(400, dtype=np.int32), one=np.float64(1))

# What checkpoints of training programs hold: views of larger storages, tied tensors,
# parameters, a running copy, the optimizer and the arguments of the command line.
base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
model = OrderedDict(
    columns=base[:, 3:5],
    last=torch.arange(24.0).reshape(2, 3, 4)[:, 1:2, ::2],
    conv=torch.arange(48.0).reshape(2, 3, 2, 4).contiguous(memory_format=torch.channels_last),
    embedding=torch.nn.Parameter(torch.arange(4.0).reshape(2, 2)),
    flags=torch.tensor([True, False, True]),
    steps=torch.tensor(7),
    none=torch.zeros(0, 3),
    double=torch.tensor([0.1], dtype=torch.float64),
)
model["head"] = model["embedding"].detach()
copy = OrderedDict((k, v.detach() + 1) for k, v in model.items() if v.dtype == torch.float32 and v.numel())
content = {
    "model": model,
    "model_ema": copy,
    "optimizer": {"state": {0: {"step": torch.tensor(5.0), "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
    "args": argparse.Namespace(model="small", lr=0.1),
    "epoch": 300,
}
torch.save(content, folder / "views.pth")
torch.save(content, folder / "legacy.pth", _use_new_zipfile_serialization=False)


def npy(descr, fortran, shape, data):
    header = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


# As MLX writes it: no compression, bfloat16 as two raw bytes. And the other order of axes.
with zipfile.ZipFile(folder / "orders.npz", "w") as z:
    z.writestr("blocks.0.bf16.npy", npy("<V2", False, (2,), struct.pack("<HH", 0x3F80, 0xC000)))
    z.writestr("rows.npy", npy("<f2", False, (2, 3), np.arange(6, dtype=np.float16).tobytes()))
    z.writestr("columns.npy", npy("<f4", True, (2, 3), np.arange(6, dtype=np.float32).reshape(2, 3).tobytes("F")))
