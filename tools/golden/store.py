"""What the golden scripts of the image models share.

Weights and inputs are float32 values; everything is computed from them in
float64 with PyTorch's autograd and stored rounded to float32. Keys of a file:
<case>/param/<dotted name>, <case>/buffer/<name>, <case>/in/<name>,
<case>/out/<name>, <case>/grad/<parameter>. Gradients are those of
sum(out * in/cotangent). Images are stored channels last, convolution weights in
MLX's order of axes {O, kh, kw, I}.
"""
import pathlib

import torch
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)
FOLDER = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "golden"


class Store:
    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.tensors = {}

    def draw(self, *shape, scale=1.0, shift=0.0):
        """Values that float32 holds exactly, as leaves of the graph."""
        values = torch.randn(*shape, generator=self.generator) * scale + shift
        return values.float().double().requires_grad_(True)

    def positive(self, *shape):
        return (torch.rand(*shape, generator=self.generator) + 0.5).float().double().requires_grad_(True)

    def randomise(self, module):
        """Fills a PyTorch module with values that float32 holds: norms near 1, running
        variances positive, matrices of deviation 1/sqrt(fan in). Returns its parameters."""
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if "num_batches" in name:
                continue
            if "running_var" in name:
                new = self.positive(*value.shape)
            elif value.ndim == 1:
                new = self.draw(*value.shape, scale=0.2, shift=0.0 if "bias" in name or "mean" in name else 1.0)
            elif value.ndim == 3:
                new = self.draw(*value.shape, scale=0.5)
            else:
                new = self.draw(*value.shape, scale=value[0].numel() ** -0.5)
            value.data.copy_(new.detach())
        return dict(module.named_parameters())

    def put(self, case, kind, name, value):
        self.tensors[f"{case}/{kind}/{name}"] = value.detach().float().contiguous()

    def record(self, case, params, inputs, outputs, gradient_of=None, buffers=None):
        """`params` and `inputs` in PyTorch's layout; 4-D ones turn channels last."""
        last = lambda v: v.permute(0, 2, 3, 1) if v.ndim == 4 else v
        for name, value in params.items():
            self.put(case, "param", name, last(value))
        for name, value in (buffers or {}).items():
            self.put(case, "buffer", name, value)
        for name, value in inputs.items():
            self.put(case, "in", name, last(value))
        for name, value in outputs.items():
            self.put(case, "out", name, last(value))
        if gradient_of is None:
            return
        cotangent = self.draw(*outputs[gradient_of].shape).detach()
        self.put(case, "in", "cotangent", last(cotangent))
        names = [n for n, v in params.items() if v.requires_grad]
        loss = (outputs[gradient_of] * cotangent).sum()
        gradients = torch.autograd.grad(loss, [params[n] for n in names], allow_unused=True)
        for name, g in zip(names, gradients):
            self.put(case, "grad", name, last(torch.zeros_like(params[name]) if g is None else g))

    def save(self, file, seed, **versions):
        meta = {"script": file + ".py", "seed": str(seed), "torch": torch.__version__, **versions}
        save_file(dict(sorted(self.tensors.items())), str(FOLDER / (file.replace("make_", "") + ".safetensors")),
                  metadata=meta)
