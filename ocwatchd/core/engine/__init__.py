"""The engine, which decides what to do about a limited session. `Engine.handle(message, now)` only returns effects; it
performs none.
"""
