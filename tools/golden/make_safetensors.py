#!/usr/bin/env python3
"""Writes tests/data/reference.safetensors with the format's own library.

Needs `pip install safetensors numpy ml_dtypes` (made with safetensors 0.8.0).
Run from the repository root:

    python3 tools/golden/make_safetensors.py tests/data/reference.safetensors

One tensor "values.<DTYPE>" of shape {2, 3} per element type, holding 0 1 2 3 4
5 (BOOL: 0 1 1 1 1 1), and one metadata entry. Run with --check it reads a file
that Aspis wrote and compares it with the same content.
"""

import sys

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

TYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "I16": np.int16,
    "U16": np.uint16,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I32": np.int32,
    "U32": np.uint32,
    "F32": np.float32,
    "F64": np.float64,
    "I64": np.int64,
    "U64": np.uint64,
}


def content():
    return {f"values.{name}": np.arange(6).reshape(2, 3).astype(t) for name, t in TYPES.items()}


def main():
    if sys.argv[1] == "--check":
        got = load_file(sys.argv[2])
        want = content()
        assert sorted(got) == sorted(want), sorted(got)
        for name, values in want.items():
            assert got[name].dtype == values.dtype and np.array_equal(got[name], values), name
        print(f"{sys.argv[2]}: {len(want)} tensors agree")
    else:
        save_file(content(), sys.argv[1], metadata={"made_by": "make_safetensors.py"})


if __name__ == "__main__":
    main()
