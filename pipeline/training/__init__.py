"""The loop, what happens around a step, what a step computes, and its metrics.

callbacks.py         What a job does around a step: meters, the tally of rows, saves, progress.
collapse_monitor.py  Diagnostics while training: spectra of what enters the products, correlation of its two sides, health of the tables.
denoise.py           What one step of pre-training computes: hide values, restore them, and weigh the fields; and the losses per field.
diverged.py          A model that has diverged is not saved: every number of a checkpoint is finite.
field_metrics.py     Losses per field and label of a pre-training, over all the rows they were shown.
inputs.py            From a batch to what a model may read of it: everything but labels, weights and groups.
loop.py              The training loop.
lr_schedule.py       Learning rates and randomness, each a function of the step alone, so that resuming needs no state.
metrics.py           Metrics per target: exact ones for a scored day, and running ones of constant size for training.
objective.py         What one step computes: a batch in, a loss and an output out; and what it is judged by.
objectives/          What one step of further objectives computes, and how they are judged; one file each.
paired_bootstrap.py  Two models on the same rows: paired differences of metrics with bootstrap intervals over users; how far scores have moved.
rank.py              What one step of ranking computes: the losses of all targets.
"""  # noqa: E501
