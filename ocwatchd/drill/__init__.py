"""The drill: a test of ocwatchd with the user's OpenCode and a simulated provider, in a private HOME."""
