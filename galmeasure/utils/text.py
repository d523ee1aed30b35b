"""Texts for a terminal: on one line, and without bytes that are no characters."""

__all__ = ["one_line", "printable"]


def printable(text: object) -> str:
    """Replace the bytes of file names that are no characters, which a terminal may refuse.

    Parameters
    ----------
    text : object
        Anything that can be made a string, such as a path or an exception.

    Returns
    -------
    str
        Text that can be encoded as UTF-8.
    """
    return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def one_line(error: object) -> str:
    """Write the text of an error or a warning on one line.

    Parameters
    ----------
    error : object
        Exception, warning or text.

    Returns
    -------
    str
        The text with single spaces, or the name of the class where there is none.
    """
    return " ".join(printable(error).split()) or type(error).__name__
