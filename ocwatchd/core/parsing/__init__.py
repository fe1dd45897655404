"""Convert the bytes of a log to limits, in four steps: split them into lines, parse records, combine records to
attempts, and find out which request was refused.
"""
