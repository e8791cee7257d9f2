"""Discrete diffusion over the values of a row: hide some, restore them from the rest."""
