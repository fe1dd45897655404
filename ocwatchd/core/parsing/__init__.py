"""Find the limits in the bytes of a log, in four steps: split the bytes into lines, parse the records, combine records
into attempts, and find out which request was refused.
"""
