"""The command line: thin commands, their results as JSON documents, and text output."""
