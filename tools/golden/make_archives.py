"""Makes the archives that the tests of aspis/io read: tests/data/state.pth, arrays.npz.

    python tools/golden/make_archives.py tests/data

Written with PyTorch 2.15.0 and numpy 2.4.6. Values are fixed, there is no
random state. (torch.save puts an identifier into the archive that is a hash of
its content.)
"""

import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

folder = Path(sys.argv[1])
weight = torch.arange(6, dtype=torch.float32).reshape(2, 3)
state = OrderedDict(weight=weight, turned=weight.t(), half=torch.ones(2, dtype=torch.bfloat16))
torch.save({"model": state, "epoch": 3, "lr": 0.5, "name": "tiny"}, folder / "state.pth")
np.savez_compressed(folder / "arrays.npz", ramp=np.arange(400, dtype=np.int32), one=np.float64(1))
