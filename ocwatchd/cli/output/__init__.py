"""Output of text and JSON: escaping, tables, and the values from which both are made."""
