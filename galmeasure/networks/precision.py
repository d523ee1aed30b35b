"""Precision in which encoders compute."""

import torch

__all__ = ["bf16_is_fast"]


def bf16_is_fast(device: str | torch.device) -> bool:
    """Tell whether a device has instructions for bfloat16, which is ten times as slow as single precision without them.

    Parameters
    ----------
    device : str or torch.device
        Torch device on which to compute.

    Returns
    -------
    bool
        True if bfloat16 is computed in hardware.
    """
    device = str(device)
    if device != "cpu":
        return device.startswith("cuda") and torch.cuda.is_bf16_supported()
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
