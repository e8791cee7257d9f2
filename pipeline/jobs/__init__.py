"""One-shot jobs on a run folder: train, evaluate, diagnose, sample; and what one model takes over from another.

advice.py      Warnings about a run that does what it was asked to and is of little use: in the log as `warning`, and once on stderr.
day_run.py     Train the rows of one day: what is done around its steps, and what is known of it afterwards.
diagnose.py    Diagnostics on demand: the best model of a run, looked at over many rows, as numbers and pictures.
evaluate.py    Score days without training on them.
findings.py    What a diagnosis means, in a sentence for each picture.
plots.py       Pictures of a diagnosis: spectra, correlations, fields, and how they went over the steps.
reshape.py     Go on with a model of another shape: a new field, a larger table, another label. What fits is kept, the rest starts over.
restore.py     Where a run stands: its newest checkpoint into the model, a stage's beginning, its best model.
sample.py      Draw rows from a pre-trained denoiser and say how far they are from the log's: the honest check that it generates.
train.py       The one-shot job: train the stages and days a config names, in order, from wherever the run folder stands.
warm_start.py  What a stage takes over from an earlier one: tables by their names, the network by the names of its parameters.
"""  # noqa: E501
