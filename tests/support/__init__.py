"""What the tests share: real OpenCode binaries in private homes, and a fake provider on loopback."""
