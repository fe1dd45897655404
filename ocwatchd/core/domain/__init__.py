"""The value types: limits, cooldowns, chains, pools, budget, snapshots and moves."""
