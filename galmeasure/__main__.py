"""``python -m galmeasure``: the same as the command ``galmeasure``."""

from galmeasure.cli import main

if __name__ == "__main__":
    main()
