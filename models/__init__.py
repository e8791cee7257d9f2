"""Tensors in, tensors out: the models, their losses and their diagnostics. No config and no schema comes here.

apg.py              Dense layers whose weights are generated row by row from a condition (APG).
contrast.py         Contrastive learning of two id tables: a user's vector is near those of the items it took, and far from others of the step.
decoders/           Interaction decoders: score how well every field's generated vector meets the vectors of the others.
diagnostics.py      Is a representation collapsing? Spectra, correlations and dead rows, from sums that ranks can add up.
diffusion/          The discrete-diffusion denoiser: tokens of a row, some hidden, all restored from the rest.
encoders/           Encoders: generate a new vector for every field from the vectors of all the fields.
field_embedding.py  Field embedding: whatever a field is, it becomes one vector of the model's width.
gather.py           The rows of all ranks on every rank, with their gradients: for losses that compare rows with each other.
heads/              Heads: what a decoder returns becomes one logit per row and target.
id_table.py         Ids that come and go: which raw id has which row of a table, as tensors; who is admitted, and who has to leave.
inputs.py           What a model may read: one object of tensors, and what its fields are called.
layers.py           Dense layers that start as FuxiCTR starts them (xavier-normal weights, zero biases), and the shapes between modules.
losses/             Losses: what a model answers and what it should have, in; named numbers out, right for any number of ranks.
norm.py             Batch normalisation over the rows of all ranks.
options.py          What a user may set of a part: the arguments of its constructor, and the fields of those that hold several.
output.py           What a model returns: one object for every model, so that losses, metrics and diagnostics need no cases.
ranker.py           The click model: look-ups, field embedding, decoder and head, in that order.
registries.py       The parts of a model by name. Each is imported when it is asked for, so that names are checked before torch is loaded.
sequences/          Sequence encoders: the events of a row become one vector.
sparse.py           Embedding look-ups: ids in, one vector per field (or per event) out, over TorchRec tables that can be sharded.
table_names.py      What tables are called: their companions, and the keys of state dicts that are theirs.
"""  # noqa: E501
