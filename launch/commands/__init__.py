"""The commands of `genctr`, a file for those that belong together; each adds its own to the parser.

checkpoint.py  The words of `genctr ckpt`: what it is asked, and how it shows what it found.
daily.py       The commands of the daily job: `daily`, `status`, `verify` and `schedule`.
logs.py        The commands about logs: `synth`, `inspect` and `import`.
plan.py        `genctr plan`: memory, time and price of a run on ranks that are not there.
publish.py     The commands about published models: `approve`, `rollback` and `score`.
run.py         The commands that run a job by hand: `train`, `evaluate`, `diagnose` and `sample`.
"""
