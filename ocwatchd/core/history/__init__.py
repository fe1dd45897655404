"""The journal as data: decisions, figures, cooldown intervals, costs and their wording."""
