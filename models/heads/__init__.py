"""Heads: what a decoder returns becomes one logit per row and target.

base        what all promise; linear scores
towers      a network of its own for every target
experts     MMoE and PLE: networks that targets share, and gates that choose among them
esmm        targets that presuppose others: clicks, purchases after clicks
two_logits  one logit for yes and one for no
twin_focus  TF4CTR's fusion of two encoders
"""

from models.heads.base import Head

__all__ = ["Head"]
