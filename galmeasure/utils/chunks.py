"""Sizes of the chunks in which arrays are worked through, in one table, with their reasons.

A row of a result does not depend on the other rows of its batch, up to the rounding of matrix products of different
sizes, which is some 1e-6 of its error: this law lets catalogues be split, resumed and measured in parallel with one
answer. It has a price: chunks that go through a network have a few constant sizes, and the last one is filled up with
copies of its last row, so that one galaxy costs one galaxy, and sixty cost sixty-four.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CACHE_LINE",
    "SIDE_BY_SIDE",
    "CHUNKS",
    "ChunkSizes",
    "chunk_size",
    "chunk_sizes",
    "padded_chunks",
    "rows_per_chunk",
]

CACHE_LINE = 16
"""Single-precision numbers in a cache line: matrix products round alike wherever such a block lies in memory."""

SIDE_BY_SIDE = 8
"""Single-precision numbers that a processor works on at once."""


@dataclass(frozen=True)
class ChunkSizes:
    """Entry of the table.

    Parameters
    ----------
    cpu : tuple of int
        Sizes on a processor, ascending; the largest is used until less is left.
    accelerator : tuple of int
        Sizes on any other torch device, ascending.
    unit : str
        Name of what is counted.
    reason : str
        Reason for these sizes.
    """

    cpu: tuple[int, ...]
    accelerator: tuple[int, ...]
    unit: str
    reason: str


CHUNKS = {
    "batch": ChunkSizes(
        (2**20,), (2**20,), "pixels of stamps",
        "a thread's tensors, some twenty times as large, stay below 100 MB",
    ),
    "least-squares batch": ChunkSizes(
        (2**21,), (2**21,), "pixels of stamps",
        "many fits share the cost of a step, and a thread's tensors stay below 200 MB",
    ),
    "network batch": ChunkSizes(
        (2**22,), (2**25,), "pixels of stamps",
        "rows that are rendered together must share the band of their PSFs; an accelerator must be kept busy",
    ),
    "network stamps": ChunkSizes(
        (1, 8, 64), (2048,), "stamps of 64 x 64 pixels", "tensors of the encoder stay in a core's cache",
    ),
    "network PSFs": ChunkSizes(
        (1, 4, 16, 64), (512,), "PSF images", "operations on fewer images cost more than their pixels",
    ),
    "transformed images": ChunkSizes((32,), (32,), "PSF images", "padded transforms of these stay below 100 MB"),
    "rendered stamps": ChunkSizes(
        (64 * 64**2,), (1024 * 64**2,), "pixels of stamps", "models, residuals and weights stay in a core's cache",
    ),
    "least-squares temporaries": ChunkSizes(
        (1_200_000,), (240_000_000,), "numbers of the largest temporary array",
        "it stays in the cache and in the heap that the C library keeps",
    ),
    "compiled models": ChunkSizes(
        (2_500_000,), (2_500_000,), "numbers of the images of models and derivatives",
        "many models share the cost of operations beside compiled loops, which themselves need little memory",
    ),
    "spectra": ChunkSizes(
        (200_000,), (30_000_000,), "complex numbers of the spectra of models and derivatives",
        "these and their transforms stay in a core's own cache",
    ),
    "Fourier temporaries": ChunkSizes(
        (600_000,), (60_000_000,), "numbers of the largest temporary array", "all of them stay in a core's cache",
    ),
    "posterior models": ChunkSizes((32,), (2048,), "models", "transforms of the draws stay in a core's cache"),
    "flow draws": ChunkSizes((512,), (512,), "draws", "splines of these stay in a core's cache"),
    "proposals": ChunkSizes((1, 8), (512,), "galaxies", "few sizes, because products of matrices round by their size"),
    "flow frames": ChunkSizes((32,), (512,), "galaxies", "their draws from the flow stay in a core's cache"),
    "scores": ChunkSizes((8192,), (8192,), "galaxies", "nearest nodes of these stay below 100 MB"),
    "kept transforms": ChunkSizes(
        (8_000_000,), (8_000_000,), "complex numbers of transforms of PSFs on larger grids", "they take 64 MB at most",
    ),
    "prepared pixels": ChunkSizes(
        (2**18,), (2**18,), "pixels of stamps", "stamps, errors and their copies in double precision stay in a cache",
    ),
    "catalogue pixels": ChunkSizes(
        (2**21,), (2**21,), "pixels of stamps", "stamps, errors, masks and their copies stay below 100 MB",
    ),
    "catalogue pixels of all threads": ChunkSizes(
        (2**24,), (2**24,), "pixels of stamps", "memory stays below 1 GB, however many threads wait for a batch each",
    ),
    "chunk of a process": ChunkSizes(
        (2**21,), (2**25,), "pixels of stamps",
        "some thousand galaxies keep several processes busy, and larger ones are 7 % faster at most",
    ),
    "table bytes": ChunkSizes(
        (2**22,), (2**22,), "bytes of a result table", "writing any table needs 20 MB, less than measuring its rows",
    ),
    "text bytes": ChunkSizes(
        (2**22,), (2**22,), "bytes of a result table", "objects of Python and text need ten times as many",
    ),
    "sky positions": ChunkSizes(
        (20_000,), (20_000,), "positions", "one block has enough in blank sky, unless the field is crowded",
    ),
    "PSF pixels": ChunkSizes((2**19,), (2**19,), "pixels of PSF images", "an array of them has 4 MB"),
    "simulated stamps": ChunkSizes(
        (12,), (4096,), "stamps", "temporaries stay in a core's cache, or within an accelerator's memory",
    ),
    "study galaxies": ChunkSizes((48,), (48,), "stamps", "stamps and transforms of their PSFs stay below 20 MB"),
    "injected pixels": ChunkSizes((2**18,), (2**18,), "pixels of stamps", "a few copies of stamps stay below 10 MB"),
    "injected stamps": ChunkSizes((16,), (16,), "stamps", "temporaries of the renderer stay in a core's cache"),
    "injected galaxies": ChunkSizes(
        (500,), (500,), "galaxies", "all threads are busy, and their stamps need little memory beside the image",
    ),
    "held-out stamps": ChunkSizes((256,), (256,), "stamps", "as many as in a step of the training, which fit"),
    "bounds": ChunkSizes(
        (2**18,), (2**18,), "pixels of stamps", "Jacobians of all seven parameters are held at once, by each thread",
    ),
    "posterior draws": ChunkSizes((2**22,), (2**22,), "numbers of draws", "an array of them has 32 MB"),
    "explained stamps": ChunkSizes(
        (64,), (2048,), "stamps", "gradients through all layers are held at once, and so are steps of an integration",
    ),
    "resampled numbers": ChunkSizes((2**20,), (2**20,), "numbers", "an array of them has 8 MB, and there are ten"),
}  # fmt: skip
"""Sizes by what is worked through."""


def chunk_sizes(name: str, device: str = "cpu") -> tuple[int, ...]:
    """Look up the sizes of chunks.

    Parameters
    ----------
    name : str
        Key of the table `CHUNKS`.
    device : str, optional
        Torch device on which the chunks are worked through.

    Returns
    -------
    tuple of int
        Sizes in ascending order.
    """
    entry = CHUNKS[name]
    return entry.cpu if str(device) == "cpu" else entry.accelerator


def chunk_size(name: str, device: str = "cpu") -> int:
    """Look up the largest size of chunks.

    Parameters
    ----------
    name : str
        Key of the table `CHUNKS`.
    device : str, optional
        Torch device on which the chunks are worked through.

    Returns
    -------
    int
        Largest size of a chunk.
    """
    return chunk_sizes(name, device)[-1]


def rows_per_chunk(name: str, size: int, device: str = "cpu") -> int:
    """Number of rows of a chunk, at least one.

    Parameters
    ----------
    name : str
        Key of the table `CHUNKS`.
    size : int
        Size of one row, in what the table counts.
    device : str, optional
        Torch device on which the chunks are worked through.

    Returns
    -------
    int
        Rows whose sizes sum to the largest size of a chunk, or one row that is larger.
    """
    return max(1, chunk_size(name, device) // size)


def padded_chunks(rows: NDArray, sizes: tuple[int, ...]) -> Iterator[tuple[NDArray, int]]:
    """Cut rows into chunks of a few constant sizes.

    Parameters
    ----------
    rows : ndarray
        Rows that are cut, along the first axis.
    sizes : tuple of int
        Sizes in ascending order. Chunks have the largest one; what is left has the smallest that holds it, filled up
        with its last row.

    Yields
    ------
    chunk : ndarray
        As many rows as one of the sizes says.
    count : int
        Number of rows that are not filled up.
    """
    for start in range(0, len(rows), sizes[-1]):
        chunk = rows[start : start + sizes[-1]]
        count = len(chunk)
        size = next(size for size in sizes if size >= count)
        if count < size:
            chunk = np.concatenate([chunk, np.repeat(chunk[-1:], size - count)])
        yield chunk, count
