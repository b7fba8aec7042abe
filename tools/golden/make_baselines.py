#!/usr/bin/env python3
"""Makes tests/data/golden/baselines.safetensors: timm's own ViT, ConvNeXt and ResNet,
small, with random weights, at several image sizes. Gradients belong to the last size.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 timm==1.0.31 torchvision==0.29.2 safetensors numpy
    venv/bin/python tools/golden/make_baselines.py
"""
import timm
import torchvision
from timm.models.convnext import ConvNeXt
from timm.models.resnet import Bottleneck, ResNet
from timm.models.vision_transformer import VisionTransformer
from torchvision.models.convnext import CNBlockConfig

from store import Store

SEED = 20261125
store = Store(SEED)


def case(name, module, sizes, maps_of, training=False):
    params, buffers, images, out = store.randomise(module.double().train(training)), {}, {}, {}
    for key, value in module.named_buffers():
        if "num_batches" not in key:
            buffers[key] = value.clone()
    for i, (batch, height, width) in enumerate(sizes):
        images[f"images{i}"] = x = store.draw(batch, 2, height, width).detach()
        features = module.forward_features(x)
        out |= {f"features{i}": features, f"logits{i}": module.forward_head(features)}
        out |= {f"map{i}.{j}": m for j, m in enumerate(maps_of(module, x))} if not training else {}
    store.record(name, params, images, out, f"logits{len(sizes) - 1}", buffers)


def intermediates(module, x):
    return module.forward_intermediates(x, intermediates_only=True)


def stages(module, x):
    x, maps = module.stem(x), []
    for stage in module.stages:
        x = stage(x)
        maps.append(x)
    return maps


vit = VisionTransformer(img_size=32, patch_size=8, in_chans=2, num_classes=3, embed_dim=12, depth=2, num_heads=3,
                        dynamic_img_size=True, dynamic_img_pad=True)
case("vit", vit, [(2, 32, 32), (1, 64, 16), (2, 19, 45)], intermediates)

convnext = dict(in_chans=2, num_classes=3, depths=(1, 1, 2, 1), dims=(4, 6, 8, 10))
case("convnext", ConvNeXt(**convnext), [(1, 32, 64), (1, 45, 70)], stages)

# The same network under torchvision's names.
sizes = [CNBlockConfig(a, b, n) for a, b, n in ((4, 6, 1), (6, 8, 1), (8, 10, 2), (10, None, 1))]
other = torchvision.models.ConvNeXt(sizes, num_classes=3).double().eval()
params, x = store.randomise(other), store.draw(1, 3, 32, 64).detach()
store.record("convnext_torchvision", params, {"images": x}, {"logits": other(x)})

resnet = dict(block=Bottleneck, in_chans=2, num_classes=3, layers=(1, 2, 1, 1), channels=(2, 3, 4, 5))
case("resnet", ResNet(**resnet), [(1, 32, 32), (1, 27, 38)], intermediates)
case("resnet_training", ResNet(**resnet), [(3, 40, 33)], intermediates, training=True)

store.save("make_baselines", SEED, timm=timm.__version__, torchvision=torchvision.__version__)
