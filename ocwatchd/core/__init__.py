"""The pure part of ocwatchd: values and decisions. It uses no I/O, no clock and no random numbers."""
