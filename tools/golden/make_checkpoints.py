#!/usr/bin/env python3
"""Makes tests/data/weights: checkpoints as the authors of the models publish them
(names, order of axes, wrapping), around the random weights of the golden files,
whose logits they must give.

    venv/bin/python tools/golden/make_checkpoints.py
    venv/bin/python tools/golden/make_checkpoints.py FOLDER    MambaVision-T, Vim-Ti and VMamba-T in full size, and of
        timm 1.0.31 ViT-Ti, ConvNeXt-T and ResNet-50, for
        ASPIS_CHECKPOINTS=FOLDER aspis_models_test --no-skip -tc='*full size*'

Written with PyTorch 2.15.0, safetensors 0.8.0 and numpy 2.4.6. Weights are
stored in float32. (In the old format of torch.save storages are named by
addresses, so that its bytes change from run to run.)
"""
import argparse
import pathlib
import sys
from collections import OrderedDict

import numpy as np
import torch
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data"


def golden(file, case):
    tensors = load_file(ROOT / "golden" / (file + ".safetensors"))
    return {k.split("/", 2)[2]: v for k, v in tensors.items() if k.startswith((case + "/param/", case + "/buffer/"))}


def published(weights, last=True):
    """Convolutions {O, I, k, k} and {C, 1, k}, and the counters of batch norm, in PyTorch's order of modules."""
    state = OrderedDict()
    for name, value in weights.items():
        value = value.detach().float()
        if value.ndim == 4 and last:
            value = value.permute(0, 3, 1, 2).contiguous()
        if "conv1d" in name and value.ndim == 2:
            value = value.unsqueeze(1)
        state[name] = value.contiguous()
        if name.endswith(".running_var"):
            state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(1000)
    return state


def small():
    folder = ROOT / "weights"
    folder.mkdir(exist_ok=True)
    # As timm's training script saves it: a wrapped model, its running average, the optimizer.
    state = published(golden("mambavision", "compat"))
    torch.save({"epoch": 309, "arch": "mamba_vision_T", "state_dict": OrderedDict(("module." + k, v) for k, v in state.items()),
                "optimizer": {"state": {0: {"step": torch.tensor(9.0)}}, "param_groups": [{"lr": 0.005, "params": [0]}]},
                "args": argparse.Namespace(model="mamba_vision_T", lr=0.005), "metric": 82.3,
                "state_dict_ema": OrderedDict((k, v * 2 if v.is_floating_point() else v) for k, v in state.items())},
               folder / "mambavision.pth.tar")
    # As the releases on the model hub: safetensors of a wrapped model.
    save_file({"model." + k: v for k, v in state.items() if v.is_floating_point()}, folder / "mambavision_hub.safetensors",
              metadata={"format": "pt"})
    torch.save({"model": published(golden("vim", "square"))}, folder / "vim.pth", _use_new_zipfile_serialization=False)
    # As mlx-vision-mamba saves: MLX's order of axes, {C, k, 1} for the convolutions along the tokens.
    arrays = {k: v.unsqueeze(2) if "conv1d" in k and v.ndim == 2 else v for k, v in golden("vision_mamba", "vision_mamba").items()}
    np.savez(folder / "vision_mamba.npz", **{k: v.numpy() for k, v in arrays.items()})


def full(folder):
    import timm

    import make_mambavision
    import make_vim
    import make_vmamba
    folder.mkdir(parents=True, exist_ok=True)

    def store(file, state, images, logits):
        torch.save(state, folder / file)
        save_file({"images": images.permute(0, 2, 3, 1).float().contiguous(), "logits": logits.float().contiguous()},
                  folder / (file.split(".")[0] + ".golden.safetensors"))

    with torch.no_grad():
        m = make_mambavision.Model(80, 32, [1, 3, 8, 4], [2, 4, 8, 16], [8, 8, 14, 7], 1000, False, True, False,
                                   channels=3, state=8, ratio=4)
        images = make_mambavision.draw(1, 3, 224, 224).detach()
        store("mamba_vision_T.pth.tar", {"state_dict": published({**m.p, **m.b}, last=False)}, images, m.forward(images)["logits"])
        p, images, logits = make_vim.vim("full", 224, 16, 16, 192, 24, 16, 1000, channels=3, batch=1, gradient=False)
        store("vim_tiny_patch16_224.pth", {"model": published(p, last=False)}, images, logits)
        m = make_vmamba.Model(96, (2, 2, 8, 2), 1, 1, False, False, 4, 2, 3, "cross", channels=3, classes=1000)
        store("vmamba_tiny_s1l8.pth", {"model": published(m.p, last=False)}, images, m.forward(images)[2])
        torch.set_default_dtype(torch.float32)
        torch.manual_seed(1)
        for name in ("vit_tiny_patch16_224", "convnext_tiny", "resnet50"):
            m = timm.create_model(name).eval()
            for q in m.parameters():  # away from the zeros and 1e-6 that training begins with
                q.add_(torch.randn_like(q) * 0.02)
            store(name + ".pth", m.state_dict(), images.float(), m(images.float()))


if len(sys.argv) > 1:
    full(pathlib.Path(sys.argv[1]))
else:
    small()
