"""Formats in which the numbers of result tables are printed: as many digits as their errors justify."""

import numpy as np
from astropy.table import QTable

__all__ = ["set_formats"]

_PLAIN = {
    "snr": ".1f", "chi2_reduced": ".3f", "ess": ".1f", "log_evidence": ".2f", "ood_score": ".2f", "point_like": ".2g",
    "pa": ".1f", "ra": ".7f", "dec": ".7f",
}  # fmt: skip
"""Formats of columns that have no errors of their own."""

_SAME_DIGITS = ("init", "q16", "q50", "q84")
"""Ends of the names of columns that are printed as the values of their parameter are."""

_MOST_DECIMALS = 6
"""Decimals beyond which numbers are printed with an exponent."""

_MOST_BELOW_MEDIAN = 3
"""Decimals that the smallest error of a column may ask for beyond those of its median, which an outlier would."""


def set_formats(table: QTable) -> None:
    """Set the formats of a result table's columns, in place; values, and what files hold of them, stay as they are.

    All numbers of a column have one format, in which the smallest error has two significant digits, and all the others
    have at least these.

    Parameters
    ----------
    table : astropy.table.QTable
        Result table, whose columns ``<name>_err`` hold the errors of ``<name>_fit`` or ``<name>``.
    """
    for name in table.colnames:
        if name in _PLAIN:
            table[name].info.format = _PLAIN[name]
    for name in table.colnames:
        base, _, end = name.rpartition("_")
        if end == "crb":
            table[name].info.format = _digits(table[name], table[name])
        if end != "err":
            continue
        value = next((column for column in (f"{base}_fit", base) if column in table.colnames), None)
        if value is None:
            continue
        digits = _digits(table[name], table[value])
        alike = [value, name, *(f"{base}_{suffix}" for suffix in _SAME_DIGITS)]
        for column in alike:
            if column in table.colnames:
                table[column].info.format = digits
    if "pa" in table.colnames and "theta" in table.colnames and table["theta"].info.format:
        table["pa"].info.format = table["theta"].info.format


def _digits(errors, values) -> str | None:
    """Format that shows two digits of the errors of a column, None where there are none."""
    errors, values = (np.abs(np.asarray(getattr(column, "value", column), dtype=float)) for column in (errors, values))
    errors = errors[np.isfinite(errors) & (errors > 0)]
    if not len(errors):
        return None
    decimals = 1 - np.floor(np.log10(errors)).astype(int)
    decimals = min(int(decimals.max()), int(np.median(decimals)) + _MOST_BELOW_MEDIAN)
    if decimals <= _MOST_DECIMALS:
        return f".{max(decimals, 0)}f"
    largest = np.max(values[np.isfinite(values)], initial=errors.max())
    return f".{max(decimals + int(np.floor(np.log10(largest))), 1)}e"
