"""Share cooldowns between machines, in a separate process. Only this package communicates with other machines."""
