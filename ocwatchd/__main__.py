"""`python -m ocwatchd` is the daemon."""

from ocwatchd.daemon import main

if __name__ == "__main__":
    main()
