"""The run folder: who may write it, what is logged in it, how far a job has come.

claim.py     A run folder belongs to one config and schema: stored at the first start, compared at every later one.
heartbeat.py A rank that is stopped, or hangs as a whole, is noticed: torch alone would wait for it for hours without a word.
launcher.py  What a launcher tells a rank, in the environment of its process.
lease.py     The lease of a run folder: one job writes, a second one refuses and names the first; a dead job's lease is taken over.
log.py       One JSON line per event: the record of a run that reports read; and the same numbers for TensorBoard.
meeting.py   The ranks of a job find each other. One that does not come is reported: torch would wait for hours without a message.
progress.py  How far a day has come: a bar on a terminal, plain lines elsewhere.
"""  # noqa: E501
