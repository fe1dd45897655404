"""Classification of errors: whether an error is a limit, of which kind, and until when."""
