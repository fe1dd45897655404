"""OpenCode's sessions: message stores, snapshots, names, and capabilities of models."""
