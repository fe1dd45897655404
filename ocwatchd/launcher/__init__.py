"""The `oc-smart` launcher, which runs OpenCode with fallbacks. The modules that only a limit needs
are imported late.
"""
