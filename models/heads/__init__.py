"""Heads: what a decoder returns becomes one logit per row and target.

base.py        What every head promises, and the scores that most of them end in.
esmm.py        Targets that presuppose others, learnt over all rows: clicks, and purchases after clicks.
experts.py     Networks that targets share, and gates that choose among them: MMoE and PLE.
towers.py      A network of its own for every target, over the features that all share.
twin_focus.py  The head of TF4CTR's two encoders.
two_logits.py  One logit for yes and one for no, for losses that compare rows within a group by either.
"""

from models.heads.base import Head

__all__ = ["Head"]
