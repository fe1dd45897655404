"""Follow OpenCode's logs: the only readers of log files."""
