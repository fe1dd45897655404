"""Cooldowns that several machines share: the record, its merge, and its effect on the blacklist. Pure."""
