"""Functions that make text from providers and users comparable and safe: normalize, redact, and match in
bounded time.
"""
