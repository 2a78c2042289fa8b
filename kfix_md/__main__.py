"""`python -m kfix_md` is the `kfix` command."""

from kfix_md.cli import main

if __name__ == "__main__":
    main()
