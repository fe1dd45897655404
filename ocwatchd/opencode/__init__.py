"""Access to a running OpenCode: its processes, its HTTP API, its message stores."""
