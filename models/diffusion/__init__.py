"""The discrete-diffusion denoiser: tokens of a row, some hidden, all restored from the rest.

balance.py     How much every field's loss weighs (HeteGenCTR): learnt log-difficulties s, one per field.
blocks.py      Bidirectional layers over the tokens of a row: HSTU and Transformer, without positions.
candidates.py  The values a softmax chooses from: all of a small table, of a large one those of the batch and some drawn by frequency.
denoiser.py    The denoiser: tokens of all values of a row, the labels among them; what is hidden is restored from the rest.
noise.py       Which values of a row are perturbed, what restoring them weighs, and which of them are restored.
sampling.py    Rows drawn from a denoiser: everything hidden, then unveiled in random order, each time from what is there already.
slots.py       The values of a row as slots: one for an id, several for a list, one for a vector, one for each label.
softmax.py     Cross-entropies of hidden values over their tables' candidates, tables of similar size together.
"""  # noqa: E501
