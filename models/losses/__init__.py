"""Losses: what a model answers and what it should have, in; named numbers out, right for any number of ranks.

base            what all promise, and their sum
cross_entropy   binary cross-entropy, also smoothed, and focal
regression      amounts: squared errors, and watch time as weighted clicks
within_groups   BPR and JRC: rows of one group compared with each other
twin_focus      TF4CTR's two encoders
"""
