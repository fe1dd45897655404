"""Read, query and write `blacklist.json`, the public list of cooldowns."""
