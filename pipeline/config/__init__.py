"""The settings of a run: one YAML file in, frozen objects out.

daily.py      What the daily job does with each day.
data.py       Where the log is, which days are for what, and how they are read.
family.py     A family: a kind of model, as data. What a run file may say of it, what it reads, what a step of it can compute.
model.py      What the models of our own families are made of.
objective.py  What is known of an objective before it is built: a run file is checked by it before torch is loaded.
registry.py   Find a component by name: the project's own first, then installed packages.
renamed.py    Keys of run files that have another name now; a file that says the old one is refused with the new one.
run.py        All settings of a run. One YAML file in, frozen objects out.
stages.py     The stages of a run, and what one takes over from another.
tables.py     How embedding tables learn and where they live.
train.py      How long, how fast, on what, and how often it is saved.
"""
