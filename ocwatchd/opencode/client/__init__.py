"""OpenCode's HTTP API: transport, event stream, and one adapter for each generation."""
