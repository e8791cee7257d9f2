"""Plan before you pay: estimate a run on ranks that are not there.

dense_cost.py    What the network next to the tables costs: its weights, and operations and memory a row, found by training a few rows.
estimate.py      Plan before you pay: a run on ranks that are not there, who would hold what, what a step would take, and what would fit.
vocabularies.py  The vocabularies of a run that has not begun: as large as they are known or guessed to be.
"""  # noqa: E501
