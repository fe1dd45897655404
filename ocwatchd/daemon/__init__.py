"""The daemon: a main loop that owns the engine, and worker threads that carry out its effects."""
