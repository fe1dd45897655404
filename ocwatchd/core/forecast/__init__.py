"""Estimates of when a model will be limited, based on its usage, the headers of its answers, and past limits."""
