"""Memory of freed tensors, which the C library is to keep."""

import torch

__all__ = ["reserve_heap"]

_HEAP = 31 * 2**20  # bytes; glibc raises its threshold for mmap to the size of a freed block of up to 32 MiB


def reserve_heap() -> None:
    """Let the C library keep freed blocks of this size, so that temporaries do not cost a page fault each time."""
    torch.empty(_HEAP, dtype=torch.uint8)
