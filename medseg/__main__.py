"""``python -m medseg``, which torchrun needs."""

from medseg.cli import main

if __name__ == "__main__":
    main()
