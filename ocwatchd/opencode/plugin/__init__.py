"""The companion plugin and its installation."""
