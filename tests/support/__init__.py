"""Test support: real OpenCode binaries in private homes, a fake provider on loopback, and fakes for rare faults."""
