"""`oc-smart`: OpenCode under our name. What every start needs is light; the rest is imported when a limit shows."""
