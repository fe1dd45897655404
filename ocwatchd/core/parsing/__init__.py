"""Turn the bytes of a log into limits, in four steps: lines, records, attempts, and the author of each refused
request.
"""
