"""`python -m weightmaps`: weight maps without the rest of the house, without torch."""

from weightmaps.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
