"""Grad-CAM: which places of a map of features raise an estimate, up-sampled to the pixels."""

import numpy as np
import torch
from torch import Tensor

from galmeasure.explain.output import ExplainedRows
from galmeasure.networks import NATIVE_SIZE, PosteriorNetwork, Window
from galmeasure.networks.bodies.xception import XceptionBody

__all__ = ["check_gradcam", "gradcam"]

_NEAR = NATIVE_SIZE // 2
"""Side of the pixels in the middle of a stamp that the view ``near`` of an encoder of tokens shows."""


def check_gradcam(network: PosteriorNetwork) -> int:
    """Check that a network has a map of features.

    Parameters
    ----------
    network : PosteriorNetwork
        Network that is to be explained.

    Returns
    -------
    int
        Number of places along a side of its map, of the finest one if there are several.

    Raises
    ------
    ValueError
        If it has none that Grad-CAM is made for.
    """
    body = getattr(network, "body", None)
    if isinstance(body, XceptionBody):
        return body.window // 4
    if _has_tokens(network):
        return 8
    kinds = "Xception and encoders of tokens (mixer, attention)"
    msg = f"method 'gradcam' is for {kinds}, not for {network.config.encoder}"
    raise ValueError(msg)


def gradcam(output: ExplainedRows) -> Tensor:
    """Compute maps of the rows, up-sampled to the pixels of their stamps.

    Parameters
    ----------
    output : ExplainedRows
        Explained output of a network that `check_gradcam` accepts.

    Returns
    -------
    Tensor
        Shape ``(B, ny, nx)``; the largest absolute value of each is 1, and NaN stands where the network sees nothing.

    Notes
    -----
    Xception averages its last maps over all places, so that weights of the channels are the same at each place, as
    Grad-CAM takes them. A mixer and a network of attention tell places apart: there the gradient is multiplied place by
    place with the activation, not averaged first. Their tokens are those of two views, patches of the middle of the
    stamp and of the whole stamp, taken before they are mixed, when each still belongs to its own pixels; the maps of
    both views are added.
    """
    with torch.enable_grad():
        maps = _xception_map(output) if not _has_tokens(output.network) else _token_map(output)
    largest = maps.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    return _on_stamps(maps / largest, output.window, output.images.shape[1:])


def _has_tokens(network):
    encoder = getattr(network, "encoder", None)
    return hasattr(encoder, "near") and hasattr(encoder, "far")


def _xception_map(output):
    """Map of the last features of Xception on the pixels of the network, shape ``(B, 64, 64)``."""
    from captum.attr import LayerAttribution, LayerGradCam

    body = output.network.body
    places = LayerGradCam(output, body.maps.last).attribute(output.images, additional_forward_args=(output.members,))
    pixels = LayerAttribution.interpolate(places.detach().float(), (body.window, body.window), "bilinear")[:, 0]
    return _in_the_middle(pixels)


def _token_map(output):
    """Sum of the maps of both views of an encoder of tokens, shape ``(B, 64, 64)``."""
    from captum.attr import LayerGradientXActivation

    encoder = output.network.encoder
    layers = LayerGradientXActivation(output, [encoder.near, encoder.far])
    near, far = layers.attribute(output.images, additional_forward_args=(output.members,))
    return _in_the_middle(_spread(near, _NEAR)) + _spread(far, NATIVE_SIZE)


def _spread(tokens, size):
    """Sums over the channels of tokens ``(B, places, width)``, spread evenly over the pixels of their patches."""
    places = tokens.detach().float().sum(-1)
    side = round(places.shape[1] ** 0.5)
    patch = size // side
    maps = places.view(-1, side, side)
    return maps.repeat_interleave(patch, 1).repeat_interleave(patch, 2) / patch**2


def _in_the_middle(pixels):
    """Pixels of a smaller window within those of the network, zero around them."""
    margin = (NATIVE_SIZE - pixels.shape[-1]) // 2
    return torch.nn.functional.pad(pixels, (margin,) * 4)


def _on_stamps(maps: Tensor, window: Window, shape: tuple[int, int]) -> Tensor:
    """Maps ``(B, 64, 64)`` of windows on stamps of a shape, NaN elsewhere."""
    side = NATIVE_SIZE * window.block
    maps = maps.repeat_interleave(window.block, 1).repeat_interleave(window.block, 2)
    stamps = maps.new_full((len(maps), *shape), np.nan)
    for stamp, pixels, start in zip(stamps, maps, window.start.tolist(), strict=True):
        low = [max(first, 0) for first in start]
        high = [min(first + side, length) for first, length in zip(start, shape, strict=True)]
        rows, columns = (slice(begin - s, end - s) for begin, end, s in zip(low, high, start, strict=True))
        stamp[low[0] : high[0], low[1] : high[1]] = pixels[rows, columns]
    return stamps
