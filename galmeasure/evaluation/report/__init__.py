"""The report of ``galmeasure evaluate``: one page, its figures and its tables."""
