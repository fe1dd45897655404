"""Run the daemon as `python -m ocwatchd`."""

from ocwatchd.daemon.loop import main

if __name__ == "__main__":
    main()
