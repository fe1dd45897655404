"""The ways to move a session to another model."""
