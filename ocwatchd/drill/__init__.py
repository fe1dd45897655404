"""The fire drill: the user's own OpenCode against a provider of ours that rate-limits, in a private HOME."""
