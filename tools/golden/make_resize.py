"""Makes the golden files of aspis/data: pictures resized and decoded by Pillow.

    pip install pillow==9.4.0 numpy==1.26.4
    python tools/golden/make_resize.py tests/data

Written with Pillow 9.4.0 (the version of Debian 12), numpy 1.26.4, Python 3.11.
Up to 12.0 Pillow resizes the columns first; 13.0 starts with the rows when they
shrink more than the columns, which changes a few samples by one or two steps.
Published accuracies were made with the older order, so that is the one kept.

There is no random state: input pictures come from the formula in `picture`,
which the test repeats, so that only results are stored.

  resize.golden   one line of text, then for each case seven little-endian u32
                  (in height, in width, channels, out height, out width, filter
                  2 bilinear | 3 bicubic, seed) and the resized samples
  exif_3.jpg, exif_6.jpg, cmyk.jpg   JPEGs, two with an EXIF orientation
  *.png           the same, upright and RGB, as Pillow decodes them
"""

import struct
import sys
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps

CASES = [
    # in h, in w, channels, out h, out w
    (28, 28, 1, 32, 32),
    (28, 28, 1, 14, 14),
    (28, 28, 1, 56, 28),
    (28, 28, 1, 28, 13),
    (48, 64, 3, 16, 16),
    (48, 64, 3, 37, 53),
    (200, 150, 3, 24, 18),
    (301, 7, 3, 11, 29),
    (5, 5, 3, 40, 40),
    (1, 1, 3, 9, 5),
    (2, 300, 1, 3, 17),
    (97, 101, 3, 96, 100),
    (400, 400, 1, 1, 1),
]
FILTERS = [2, 3]


def picture(height, width, channels, seed):
    """A ramp plus noise of a 32-bit linear congruential generator, with hard edges."""
    state, out = seed, np.empty(height * width * channels, np.uint8)
    for i in range(out.size):
        state = (state * 1664525 + 1013904223) % 2**32
        noise = state >> 24
        out[i] = noise if (i // 7) % 3 else (255 if (i // 21) % 2 else i % 256)
    return out.reshape(height, width, channels)


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    blob = f"resized by Pillow {PIL.__version__}, numpy {np.__version__}\n".encode()
    seed = 1
    for h, w, c, oh, ow in CASES:
        for resample in FILTERS:
            image = Image.fromarray(picture(h, w, c, seed).squeeze(2) if c == 1 else picture(h, w, c, seed))
            blob += struct.pack("<7I", h, w, c, oh, ow, resample, seed)
            blob += np.asarray(image.resize((ow, oh), resample)).tobytes()
            seed += 1
    (folder / "resize.golden").write_bytes(blob)

    y, x = np.mgrid[0:16, 0:24]
    smooth = np.stack([x * 10, y * 15, 255 - (x + y) * 6], axis=2).astype(np.uint8)
    smooth[2:6, 3:9] = (250, 30, 20)
    for orientation in (3, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif[0x010E] = "golden picture"
        path = folder / f"exif_{orientation}.jpg"
        Image.fromarray(smooth).save(path, quality=90, exif=exif)
        ImageOps.exif_transpose(Image.open(path)).save(folder / f"exif_{orientation}.png")
    Image.fromarray(smooth).convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    Image.open(folder / "cmyk.jpg").convert("RGB").save(folder / "cmyk.png")


main()
