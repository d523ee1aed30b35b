"""Files that are either written whole or not at all."""

import secrets
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path, content):
    """Write bytes to a file under another name, then rename it."""
    path = Path(path)
    temporary = path.with_name(f".galmeasure-{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
