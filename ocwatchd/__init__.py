"""ocwatchd keeps OpenCode working when a model is rate limited."""

__version__ = "0.1.0"
