"""Checkpoints: saved and restored by the ranks of a job, read and rewritten without them.

archive.py   One piece of a checkpoint's file: what `torch.save` wrote of a tensor or a value, and whether it is still that.
coverage.py  Whether the pieces of a stored tensor cover it: every number once.
dcp.py       DCP's storage and planners as checkpoints use them: in pieces, with little memory, and running nothing that a file says.
errors.py    What can be wrong with a checkpoint, and what to do about it.
inspect.py   Look at the checkpoints of a run: list them, show one, verify all of it, compare two. Nothing of the model is built.
intact.py    Whether a checkpoint is what was written, byte by byte. Needs no torch, and builds nothing of what the checkpoint holds.
manager.py   Save and restore model, optimizers and cursor with DCP: sharded, in the background, whole or not at all.
markers.py   What makes a folder a checkpoint: its name and its marker, checkpoint.json, which is written last.
reader.py    The tensors of a checkpoint in pieces: any rows of any of them, a block in memory at a time.
rewrite.py   Checkpoints that move: rewritten for other ranks or in another place, with a larger table, or one table as Parquet.
store.py     The folder of a run's checkpoints: their names, markers and pins. One process, without the others and without torch.
writer.py    A new checkpoint from tensors that are read a block at a time, cut as so many ranks would have cut it.
"""  # noqa: E501
