"""How the C library keeps memory that tensors have freed."""

import torch

__all__ = ["reserve_heap"]

_HEAP = 31 * 2**20


def reserve_heap() -> None:
    """Let the C library keep freed blocks of this size, so that temporaries do not cost a page fault each time."""
    torch.empty(_HEAP, dtype=torch.uint8)
