"""The command line: thin commands, views that are the JSON contract, and their rendering."""
