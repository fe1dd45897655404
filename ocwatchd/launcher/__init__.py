"""The `oc-smart` launcher, which runs OpenCode with fallbacks. Modules that are needed only after a limit are imported
only then.
"""
