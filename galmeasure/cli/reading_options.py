"""Options of the commands that say how files are read, as `galmeasure.io` takes them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from galmeasure.io import ReadOptions

__all__ = ["reading_options"]


def reading_options(options: dict[str, Any]) -> "ReadOptions":
    """Options of reading among those of a command, with their words turned into values.

    Parameters
    ----------
    options : dict
        Values of all options of the command by their names.

    Returns
    -------
    galmeasure.io.ReadOptions
        Options of `galmeasure.io.open_catalog` and `galmeasure.io.SkySource`.

    Raises
    ------
    ValueError
        If options do not fit together; the message names them.
    """
    from galmeasure.io import ReadOptions

    reading = {name: options[name] for name in ReadOptions.__dataclass_fields__ if name in options}
    for name in ("error", "psf_flux"):
        reading[name] = _number_or_text(reading[name])
    includes = reading["psf_includes_pixel"]
    reading["psf_includes_pixel"] = None if includes is None else includes == "yes"
    return ReadOptions(**reading)


def _number_or_text(text):
    """A number where a text is one, else the text."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return text
