"""Follow OpenCode's logs. No other package follows log files."""
