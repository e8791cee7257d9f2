"""What a run can be told: one YAML file in, frozen objects out.

daily.py   What the daily job does with each day.
data.py    Where the log is, which days are for what, and how they are read.
model.py   What the model is made of.
run.py     Everything a run can be told. One YAML file in, frozen objects out.
stages.py  The stages of a run, and what one takes over from another.
tables.py  How embedding tables learn and where they live.
train.py   How long, how fast, on what, and how often it is saved.
"""
