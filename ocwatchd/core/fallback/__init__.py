"""The choice of a limited model's fallback. No other package makes this choice."""
