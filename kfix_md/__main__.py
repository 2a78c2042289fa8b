"""`python -m kfix_md` is the `kfix` command."""

from .cli import main

if __name__ == "__main__":
    main()
