"""Check an installation. All facts are gathered first, and the checks use only these facts."""
