"""The only writers of our own files."""
