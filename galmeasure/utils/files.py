"""Files that are either written whole or not at all."""

import secrets
from os import PathLike
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: str | PathLike, content: bytes) -> None:
    """Write bytes to a file under another name, then rename it."""
    path = Path(path)
    temporary = path.with_name(f".galmeasure-{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
