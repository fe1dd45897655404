"""Output of text and JSON: escaping, tables, and the values from which text and JSON are made."""
