"""`python -m zorya` is the `zorya` command."""

from zorya.cli.main import main

if __name__ == "__main__":
    main()
