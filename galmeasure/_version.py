"""Version of the installed package, and how to cite it."""

from importlib.metadata import version

__all__ = ["__citation__", "__version__"]

__version__ = version("galmeasure")

__citation__ = f"""@software{{galmeasure,
  author  = {{{{The galmeasure developers}}}},
  title   = {{{{galmeasure: Sersic parameters of galaxies with trustworthy errors}}}},
  version = {{{__version__}}},
}}"""
