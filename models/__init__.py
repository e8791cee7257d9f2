"""Tensors in, tensors out: the models, their losses and their diagnostics. No config and no schema comes here.

decoders/       Interaction decoders: score how well every field's generated vector meets the vectors of the others.
diagnostics.py  Is a representation collapsing? Spectra, correlations and dead rows, from sums that ranks can add up.
diffusion/      The discrete-diffusion denoiser: tokens of a row, some hidden, all restored from the rest.
embed.py        Field embedding: whatever a field is, it becomes one vector of the model's width.
encoders.py     Encoders: generate a new vector for every field from the vectors of all the fields.
heads.py        Heads: what a decoder returns becomes one logit per row and task.
layers.py       Dense layers that start as FuxiCTR starts them: xavier-normal weights, zero biases.
losses.py       Losses on logits: row weights in, named numbers out, right for any number of ranks.
managed.py      Ids that come and go: which raw id has which row of a table, as tensors; who is admitted, and who has to leave.
norm.py         Batch normalisation over the rows of all ranks.
output.py       What a model returns: one object for every model, so that losses, meters and diagnostics need no cases.
ranker.py       The click model: look-ups, field embedding, decoder and head, in that order.
sparse.py       Embedding look-ups: ids in, one vector per field (or per event) out, over TorchRec tables that can be sharded.
"""
