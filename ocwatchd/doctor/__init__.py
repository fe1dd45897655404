"""Checks of an installation: facts are gathered once, and every check decides on facts alone."""
