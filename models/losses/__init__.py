"""Losses: what a model answers and what it should have, in; named numbers out, right for any number of ranks.

base.py           Losses: what a model answers and what it should have, in; named numbers out, right for any number of ranks.
cross_entropy.py  Losses of one row at a time: binary cross-entropy and what was made of it.
regression.py     Losses of amounts: seconds watched, money spent. Labels are 0 or more.
twin_focus.py     TF4CTR's loss of a model and its two encoders.
within_groups.py  Losses that compare the rows of one group, usually of one user, with each other: BPR and JRC.
"""
