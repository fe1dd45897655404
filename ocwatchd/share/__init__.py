"""Share cooldowns between machines, in a separate process. Only this package exchanges cooldowns with other
machines.
"""
