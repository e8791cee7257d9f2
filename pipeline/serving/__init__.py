"""What serving loads: bundles are written, published and scored here.

bundle.py   The bundle: all that serving needs of a model, as safetensors, Parquet and JSON. Nothing in it can run.
export.py   Write the model as a bundle: every rank its own shards, rank 0 the rest, the manifest last.
int8.py     Rows of a table as int8, a byte a number with a scale and a bias per row, and back: FBGEMM's kernels.
parity.py   How far a bundle's logits may be from the trainer's (law 8): as far as rounding explains, which the bundle's sample says.
publish.py  The serving bundle: `current.json` switched in one step, the newest bundles kept, and the way back.
scorer.py   Serving: a bundle in, scores out. Nothing that trains is loaded here.
"""  # noqa: E501
