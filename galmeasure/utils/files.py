"""Files that are either written whole or not at all, and what is said of those that cannot be read."""

import secrets
from os import PathLike
from pathlib import Path

__all__ = ["in_brief", "write_whole"]


def in_brief(text: object, most: int = 200) -> str:
    """Text of an exception, or of a value from a file, on one line and not longer than a reader can bear."""
    line = " ".join(str(text).split()) or type(text).__name__
    return line if len(line) <= most else f"{line[: most - 4]} ..."


def write_whole(path: str | PathLike, content: bytes) -> None:
    """Write bytes to a file under another name, then rename it."""
    path = Path(path)
    temporary = path.with_name(f".galmeasure-{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
