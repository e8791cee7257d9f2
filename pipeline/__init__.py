"""The work, in rooms of their own; upper rooms import lower ones only.

builders/     From config to parts: the one place where a name in a file becomes an object.
checkpoint/   Checkpoints: saved and restored by the ranks of a job, read and rewritten without them.
config/       The settings of a run: one YAML file in, frozen objects out.
daily/        The daily job: every new day scored, trained once, judged, published or held back, and written down.
distributed/  The ranks and the tables that are sharded over them.
jobs/         One-shot jobs on a run folder: train, evaluate, diagnose, sample; and what one model takes over from another.
planning/     Plan before you pay: estimate a run on ranks that are not there.
run_folder/   The run folder: who may write it, what is logged in it, how far a job has come.
serving/      What serving loads: bundles are written, published and scored here.
training/     The loop, what happens around a step, what a step computes, and its metrics.
"""
