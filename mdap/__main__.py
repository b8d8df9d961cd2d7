"""``python -m mdap`` is the command ``mdap``."""

from mdap.cli.main import main

if __name__ == "__main__":
    main()
