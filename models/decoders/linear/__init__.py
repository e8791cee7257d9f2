"""Decoders that need no product: the sum of all first-order terms, alone and next to a network.

lr.py         Logistic regression (LR): one weight for every value of every field.
wide_deep.py  Wide & Deep: first-order terms and a network side by side.
"""
