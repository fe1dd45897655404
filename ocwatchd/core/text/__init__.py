"""Text from providers and users, made comparable and safe: normalized, sanitized, matched in bounded time."""
