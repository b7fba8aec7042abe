"""Makes tests/data/preprocess.golden: pictures through timm's evaluation transform.

    pip install pillow==11.3.0 timm==1.0.31 torch torchvision numpy
    python tools/golden/make_preprocess.py tests/data

Pillow must be older than 13, which changed the order of the passes (see
make_resize.py). Pictures come from the formula there, seed = number of the case.

  one line of text, then for each case eight little-endian u32 (in height, in
  width, out height, out width, crop percentage in 1/1000, mode 0 center |
  1 squash | 2 border, filter 2 bilinear | 3 bicubic, seed) and the result as
  float32, HWC
"""

import struct
import sys
from pathlib import Path

import numpy as np
import PIL
import timm
from make_resize import picture
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_eval

MODES = ["center", "squash", "border"]
FILTERS = {2: "bilinear", 3: "bicubic"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CASES = [
    # in h, in w, out h, out w, crop percentage
    (37, 53, 14, 14, 875),
    (53, 37, 14, 14, 900),
    (61, 40, 13, 13, 1000),
    (14, 14, 14, 14, 875),
    (9, 12, 16, 16, 950),
    (50, 75, 12, 20, 900),
    (70, 31, 18, 10, 1000),
]


def main():
    cases = [(*c, mode, kind) for c in CASES for mode in range(3) for kind in FILTERS if mode == 0 or kind == 3]
    out = [f"timm {timm.__version__}, Pillow {PIL.__version__}, {len(cases)} cases\n".encode()]
    for seed, (h, w, oh, ow, pct, mode, kind) in enumerate(cases):
        size = oh if oh == ow else (oh, ow)
        t = transforms_imagenet_eval(size, pct / 1000, MODES[mode], interpolation=FILTERS[kind], mean=MEAN, std=STD)
        values = t(Image.fromarray(picture(h, w, 3, seed))).permute(1, 2, 0).contiguous().numpy()
        assert values.shape == (oh, ow, 3) and values.dtype == np.float32
        out += [struct.pack("<8I", h, w, oh, ow, pct, mode, kind, seed), values.tobytes()]
    path = Path(sys.argv[1]) / "preprocess.golden"
    path.write_bytes(b"".join(out))
    print(path.name, path.stat().st_size, "bytes,", len(cases), "cases")


if __name__ == "__main__":
    main()
