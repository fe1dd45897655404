"""OpenCode 1 (1.0 to 1.18): its HTTP routes and their responses."""
