"""One step of text-driven latent optimization at 1024²: image, CLIP loss, gradient to W+.

    python -m benchmarks.optimization_step

Config-F generator and a CLIP of ViT-B/32's size, both with random weights. The baseline does what the reference code
does, in plain torch: weights modulated per sample with grouped convolutions, zero insertion and padding for every
filter, all weights requiring gradients, CLIP input by enlarging seven-fold and averaging back.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from benchmarks.measure import in_subprocess, report, timed

VARIANTS = ("baseline fp32", "stylograph fp32", "stylograph bf16", "stylograph bf16 up_to=256")


def build_clip(dtype: Any) -> Any:
    from transformers import CLIPConfig, CLIPModel

    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    vision |= {"patch_size": 32, "image_size": 224}
    return CLIPModel(CLIPConfig(vision_config=vision, projection_dim=512)).eval().to(dtype)


def baseline_render(net: Any, ws: Any) -> Any:
    """The StyleGAN2 synthesis in the most straightforward form."""
    import torch.nn.functional as F

    from stylograph.nets.modulation import SQRT2, fir_kernel

    def fir(x: Any, pad: tuple[int, int], up: int = 1) -> Any:
        n, c, h, w = x.shape
        if up > 1:
            x = F.pad(x.reshape(n, c, h, 1, w, 1), (0, 1, 0, 0, 0, 1)).reshape(n, c, 2 * h, 2 * w)
        x = F.pad(x, (*pad, *pad)).reshape(n * c, 1, x.shape[2] + sum(pad), x.shape[3] + sum(pad))
        out = F.conv2d(x, fir_kernel(4.0)[None, None])
        return out.reshape(n, c, out.shape[2], out.shape[3])

    def modulated(module: Any, x: Any, style: Any, up: bool, demodulate: bool) -> Any:
        n, c, h, w = x.shape
        weight = module.weight[None] * style[:, None, :, None, None]
        if demodulate:
            weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        x = x.reshape(1, n * c, h, w)
        if up:
            weight = weight.transpose(1, 2).flatten(0, 1)
            out = F.conv_transpose2d(x, weight, stride=2, groups=n)
        else:
            out = F.conv2d(x, weight.flatten(0, 1), padding=weight.shape[-1] // 2, groups=n)
        out = out.reshape(n, -1, out.shape[2], out.shape[3])
        return fir(out, (1, 1)) if up else out

    synthesis, image = net.synthesis, None
    x = synthesis.get_parameter("b4.const").expand(len(ws), -1, -1, -1).contiguous()
    for layer in synthesis.layers:
        module = synthesis.get_submodule(layer.name)
        style = module.affine(ws[:, layer.w_index])
        if layer.to_rgb:
            rgb = modulated(module, x, style / layer.channels**0.5, False, False) + module.bias[:, None, None]
            image = rgb if image is None else fir(image, (2, 1), up=2) + rgb
        else:
            x = modulated(module, x, style, module.up, True) + module.noise_const * module.noise_strength
            x = F.leaky_relu(x + module.bias[:, None, None], 0.2) * SQRT2
    return image


def step(variant: str, resolution: int = 1024) -> Any:
    import torch
    import torch.nn.functional as F

    from stylograph.embed import Clip, Tower
    from stylograph.generator import Generator
    from stylograph.nets.stylegan2 import StyleGAN2Config
    from stylograph.types import Latents

    dtype = torch.bfloat16 if "bf16" in variant else torch.float32
    channels = tuple(min(32768 // (4 << i), 512) for i in range(resolution.bit_length() - 2))
    generator = Generator.random(StyleGAN2Config(resolution, channels, 512, 512, (512,) * 8)).to(dtype=dtype)
    torch.manual_seed(0)
    clip_model = build_clip(dtype)
    target = F.normalize(torch.randn(1, 512), dim=-1)
    ws = torch.randn(1, generator.num_ws, 512).requires_grad_()
    if variant.startswith("baseline"):
        generator.net.requires_grad_(True)

        def similarity() -> Any:
            image = baseline_render(generator.net, ws)
            pixels = F.avg_pool2d(F.interpolate(image, scale_factor=7), resolution // 32)
            return F.cosine_similarity(clip_model.get_image_features(pixel_values=pixels).pooler_output, target)
    else:
        clip = Clip([Tower("random", clip_model.requires_grad_(False), None, 224, (0.5,) * 3, (0.5,) * 3)])
        up_to = 256 if "up_to" in variant else None

        def similarity() -> Any:
            return clip.embed_images(generator.render(Latents("w+", ws), up_to=up_to)) @ target[0]

    def run() -> Any:
        ws.grad = None
        (1 - similarity()).mean().backward()
        return ws.grad

    return run


def main() -> None:
    if len(sys.argv) > 1:
        run = step(sys.argv[1])
        print(json.dumps(timed(run, repeats=2 if "baseline" in sys.argv[1] else 5)))
        return
    rows: list[dict[str, Any]] = []
    for variant in VARIANTS:
        rows.append({"variant": variant, **in_subprocess("benchmarks.optimization_step", variant)})
        rows[-1]["speed-up"] = rows[0]["seconds"] / rows[-1]["seconds"]
        rows[-1]["memory"] = rows[-1]["peak_gb"] / rows[0]["peak_gb"]
    report("optimization_step", rows)


if __name__ == "__main__":
    main()
