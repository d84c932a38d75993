"""The arithmetic of StyleGAN2's layers: low-pass filters, modulated convolution, and its backward."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SQRT2 = math.sqrt(2.0)


def fir_kernel(gain: float = 1.0) -> Tensor:
    """The [4, 4] low-pass outer([1,3,3,1])/64, times `gain`."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) * (gain / 64.0)


def _depthwise(x: Tensor, kernel: Tensor, padding: int) -> Tensor:
    channels = x.shape[1]
    return F.conv2d(x, kernel.to(x.dtype).expand(channels, 1, 4, 4), padding=padding, groups=channels)


def upsample_image(image: Tensor) -> Tensor:
    """[N, C, r, r] -> [N, C, 2r, 2r]: zero insertion, then the FIR with gain 4.

    Inside, that is bilinear interpolation; a frame of zeros makes it so at the edges too. On a CPU it is several
    times faster than a transposed convolution.
    """
    framed = F.pad(image, (1, 1, 1, 1))
    return F.interpolate(framed, scale_factor=2, mode="bilinear", align_corners=False)[..., 2:-2, 2:-2]


def demodulation(weight: Tensor, style: Tensor) -> Tensor:
    """(Σ_i,y,x (W·s_i)² + 1e-8)^(-1/2) for weight [O, I, 3, 3] and style [N, I] -> [N, O] (StyleGAN2, eq. 3)."""
    energy = weight.square().sum(dim=(2, 3))
    return (F.linear(style.square(), energy) + 1e-8).rsqrt()


def conv(x: Tensor, weight: Tensor, up_kernel: Tensor | None) -> Tensor:
    """Same-size 3x3 correlation or, with the FIR (gain 4), 3x3 convolution with up-sampling by 2."""
    if up_kernel is None:
        return F.conv2d(x, weight, padding=1)
    return _depthwise(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), up_kernel, padding=1)


def conv_adjoint(g: Tensor, weight: Tensor, up_kernel: Tensor | None) -> Tensor:
    """The transpose of `conv` as a linear map of x, i.e. its gradient (the FIR is symmetric)."""
    if up_kernel is None:
        return F.conv_transpose2d(g, weight, padding=1)
    return F.conv2d(_depthwise(g, up_kernel, padding=2), weight.transpose(0, 1), stride=2)


def conv_weight_gradient(g: Tensor, x: Tensor, style: Tensor, weight: Tensor, up_kernel: Tensor | None) -> Tensor:
    """The gradient of `conv(x·style, weight)` with respect to the weight [O, I, 3, 3], g being the one of its result.

    One matrix product per tap: with the pictures of x and g padded to rows of one length and laid out flat, pixel after
    pixel, a tap is a shift by so many rows. On a CPU that is three to seven times faster than the library's gradient.
    """
    x = (x * style.to(x.dtype)[:, :, None, None]).permute(0, 2, 3, 1)  # [N, H, W, I]
    out = x.new_empty(3, 3, weight.shape[0], weight.shape[1])
    if up_kernel is None:
        wide = x.shape[2] + 2
        columns = F.pad(x, (0, 0, 1, 1, 1, 1)).flatten(0, 2)
        rows = F.pad(g.permute(0, 2, 3, 1), (0, 0, 0, 2, 0, 2)).flatten(0, 2)
        rows = rows[: len(rows) - 2 * wide - 2].t()
        for ky, kx in TAPS:
            shift = ky * wide + kx
            torch.mm(rows, columns[shift : shift + rows.shape[1]], out=out[ky, kx])
        return out.permute(2, 3, 0, 1)
    g = _depthwise(g, up_kernel, padding=2).permute(0, 2, 3, 1)  # [N, 2H + 1, 2W + 1, O]
    height, wide = x.shape[1] + 1, x.shape[2] + 1
    columns = F.pad(x, (0, 0, 0, 1, 0, 1)).flatten(0, 2)
    columns = columns[: len(columns) - wide - 1]
    for ky, kx in TAPS:  # a tap reads every second pixel of g, from 0 or 1 on
        phase = g[:, ky % 2 :: 2, kx % 2 :: 2]
        rows = F.pad(phase, (0, 0, 0, wide - phase.shape[2], 0, height - phase.shape[1])).flatten(0, 2)
        shift = (ky // 2) * wide + kx // 2
        torch.mm(rows[shift : shift + len(columns)].t(), columns, out=out[ky, kx])
    return out.permute(2, 3, 0, 1)


TAPS = [(ky, kx) for ky in range(3) for kx in range(3)]


class FusedStyleConv(torch.autograd.Function):
    """lrelu(d·conv(x·s) + noise + b)·√2, in place and with little kept for backward.

    Only input and output are kept, and both are kept by the neighbouring layers anyway. The gradient with respect
    to d needs the convolution's result; it follows from the output, because lrelu'(u)·u = lrelu(u):
    d·∂L/∂d = Σ g·out - Σ g·lrelu'·√2·(b + noise), g being the incoming gradient. Weight, bias and noise get a
    gradient if they ask for one; there is no second derivative.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        style: Tensor,
        scale: Tensor,
        weight: Tensor,
        bias: Tensor,
        noise: Tensor | None,
        up_kernel: Tensor | None,
        clamp: float | None,
    ) -> Tensor:
        out = conv(x * style.to(x.dtype)[:, :, None, None], weight, up_kernel)
        out.mul_((scale * SQRT2).to(x.dtype)[:, :, None, None]).add_((bias * SQRT2).to(x.dtype)[:, None, None])
        if noise is not None:
            out.add_((noise * SQRT2).to(x.dtype))
        F.leaky_relu_(out, 0.2)
        if clamp is not None:
            out.clamp_(-clamp, clamp)
        ctx.save_for_backward(x, style, scale, weight, bias, noise, up_kernel, out)
        ctx.clamp = clamp
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, style, scale, weight, bias, noise, up_kernel, out = ctx.saved_tensors
        wants_x, _, _, wants_weight, wants_bias, wants_noise, _, _ = ctx.needs_input_grad
        if ctx.clamp is not None:
            g = g.masked_fill(out.abs() >= ctx.clamp, 0.0)
        work = g * out  # the one large buffer, used again and again: a fresh one costs more than the arithmetic
        g_scale = work.sum((2, 3)).to(scale.dtype)
        g = torch.ops.aten.leaky_relu_backward.grad_input(g, out, 0.2, True, grad_input=work)
        sums = g.sum((2, 3))
        g_scale -= sums.to(scale.dtype) * (bias * SQRT2)
        g_bias = (sums.sum(0) * SQRT2).to(bias.dtype) if wants_bias else None
        g_noise = None
        if noise is not None:
            flat = (noise * SQRT2).to(g.dtype).expand(len(g), 1, *g.shape[2:]).flatten(2)
            g_scale -= torch.bmm(g.flatten(2), flat.transpose(1, 2))[:, :, 0].to(scale.dtype)
            if wants_noise:
                g_noise = (g.sum(1, keepdim=True) * SQRT2).to(noise.dtype).sum_to_size(noise.shape)
        g.mul_((scale * SQRT2).to(g.dtype)[:, :, None, None])
        g_weight = conv_weight_gradient(g, x, style, weight, up_kernel) if wants_weight else None
        g = conv_adjoint(g, weight, up_kernel)
        same = work.shape == x.shape
        g_style = (torch.mul(g, x, out=work) if same else g * x).sum((2, 3)).to(style.dtype)
        g_x = g.mul_(style.to(g.dtype)[:, :, None, None]) if wants_x else None
        return g_x, g_style, g_scale / scale, g_weight, g_bias, g_noise, None, None
