"""OpenCode 1 (1.0 to 1.18): its routes and their responses."""
