"""ocwatchd keeps OpenCode working when a model is rate limited."""

__version__ = "0.1.0"
DOCUMENTATION = "https://github.com/ocwatchd/ocwatchd/tree/main/docs"
"""URL of the documentation, which is not installed with the program."""
