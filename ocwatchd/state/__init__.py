"""Readers and writers of ocwatchd's own files. No other package writes them."""
