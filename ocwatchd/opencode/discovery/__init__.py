"""Find the OpenCode processes of this user, their endpoints and the sessions that are stuck."""
