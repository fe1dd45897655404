"""`python -m ocwatchd.cli` is `ocwatch`."""

from ocwatchd.cli.main import main

if __name__ == "__main__":
    main()
