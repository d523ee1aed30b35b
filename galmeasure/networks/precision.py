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
        True if bfloat16 is computed in hardware; False where the environment variable ``ONEDNN_MAX_CPU_ISA`` keeps
        oneDNN from these instructions.
    """
    device = str(device)
    if device != "cpu":
        return device.startswith("cuda") and torch.cuda.is_bf16_supported()
    if not getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)():
        return False  # oneDNN, which computes the products, lacks instructions or is told not to use them
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
