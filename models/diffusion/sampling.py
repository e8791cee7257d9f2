"""Rows drawn from a denoiser: everything hidden, then unveiled in random order, each time from what is there already.

B rows, S slots.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from models.diffusion.candidates import Candidates
from models.diffusion.denoiser import Denoiser
from models.diffusion.slots import Ids
from models.diffusion.softmax import Choice, score


@torch.no_grad()
def draw(
    model: Denoiser,
    sequences: KeyedJaggedTensor,
    ids: Ids,
    vectors_BX: Tensor,
    labels_BT: Tensor,
    hidden_BS: Tensor,
    candidates: Mapping[str, Candidates],
    *,
    steps: int,
    corrected: bool = True,
) -> tuple[Tensor, Tensor]:
    """Replace the hidden values of these rows by drawn ones, a share of them in each of `steps` rounds.

    In every round the slots whose turn it is draw from their softmax, given all that is not hidden any more: ancestral sampling
    of the absorbing process. Of a table too large for all of its values, the candidates stand for it: each is drawn with
    probability ~ exp(a(v)) / Q(v), or ~ exp(a(v)) if it was not trained with a correction by Q: then a holds it already.

    Args:
        corrected: whether training corrected scores by how often values are candidates.

    Shape:
        hidden_BS (B, S) with the labels -> ids (B, S - labels), labels (B, T)
    """
    tables = ids.ids.shape[1]
    hidden_BS = hidden_BS.clone()
    turn_BS = torch.rand(hidden_BS.shape, device=hidden_BS.device).masked_fill(~hidden_BS, 2.0).argsort(1).argsort(1)
    count_B1 = hidden_BS.sum(1, keepdim=True)
    values = sequences.values().clone()
    for step in range(steps):
        now_BS = hidden_BS & (turn_BS < count_B1 * (step + 1) / steps)
        read = KeyedJaggedTensor(keys=sequences.keys(), values=values, lengths=sequences.lengths(), stride=sequences.stride())
        restored = model.restore(read, ids, vectors_BX, labels_BT, hidden_BS, dict(candidates))
        for dim in model.widths:
            slots = model.layout.slots_of_width(dim)
            for choice in restored.choices[dim]:  # once a table: values of different tables have nothing to share here
                own = slots[choice.slots]
                row_N, at_N = now_BS[:, own].nonzero(as_tuple=True)
                made_ND = restored.made[dim][row_N, choice.slots[at_N]]
                ids.ids[row_N, own[at_N]] = _chosen(made_ND, choice, model.temperature, corrected=corrected)
        row_N, at_N = now_BS[:, -len(model.tasks) :].nonzero(as_tuple=True)
        chance_BT = model.label_scores(restored.made[0]).softmax(2)[:, :, 1]
        labels_BT = labels_BT.index_put((row_N, at_N), torch.bernoulli(chance_BT[row_N, at_N]))
        drawn_BS = now_BS[:, :tables] & ids.there
        values[ids.places[drawn_BS]] = ids.ids[drawn_BS]
        hidden_BS = hidden_BS & ~now_BS
    return ids.ids, labels_BT


def _chosen(made_ND: Tensor, choice: Choice, temperature: float | None, *, corrected: bool) -> Tensor:
    """Return a drawn value for each vector, (N,), by the Gumbel-max trick."""
    logits_NC = score(made_ND.unsqueeze(0), choice.vectors.unsqueeze(0), temperature=temperature)[0]
    if corrected:
        logits_NC = logits_NC - choice.candidates.log_q
    if choice.bias is not None:
        logits_NC = logits_NC + choice.bias
    noise_NC = -torch.empty_like(logits_NC).exponential_().log()
    return choice.candidates.ids[(logits_NC + noise_NC).argmax(1)] if len(made_ND) else choice.candidates.ids[:0]
