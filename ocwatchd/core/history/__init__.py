"""The journal as data: decisions, figures, cooldown intervals, costs and the wording of these."""
