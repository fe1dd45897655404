"""Estimates of when a model will be limited, from its usage, its headers and past limits."""
