"""Follow OpenCode's logs. No other package reads growing log files."""
