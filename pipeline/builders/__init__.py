"""From config to parts: the one place where a name in a file becomes an object.

days.py        From config to the days of a log: what is listed and opened before anything is built for training.
families.py    Our own families of models: what a run file may say of each, what it reads, and how its parts are built.
fit.py         What is counted in the log before a stage trains: vocabularies, statistics, frequencies. Once, for all ranks.
job.py         From config to parts: the one place where a name in a file becomes an object.
losses.py      From a config's losses to what training adds up, and to where logits start.
models.py      From config to model: what training and serving build alike, and nothing that only training needs.
objectives.py  From a stage's config to what one of its steps computes.
optimizers.py  From config to the optimizers of everything but the tables.
source.py      The log as a run reads it: days in, batches out.
tables.py      From config to how every table learns, where it lives, and who has which of its rows.
"""
