"""Cooldowns shared by several machines: the record, its merge, and its effect on the blacklist. Pure functions and
classes.
"""
