"""The journal as data: decisions, figures, cooldown intervals and costs, and their wording."""
