"""OpenCode 2: its background service, routes, messages and events."""
