"""Run `ocwatch` as `python -m ocwatchd.cli`."""

from ocwatchd.cli.main import main

if __name__ == "__main__":
    main()
