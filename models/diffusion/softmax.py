"""Cross-entropies of hidden values over their tables' candidates, tables of similar size together.

B rows, S slots, G tables of a group, N hidden values, M the most of one table, C candidates, D width of a vector.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from models.diffusion.candidates import Candidates

LogQ = Literal["none", "negatives", "all"]

PADDING = 2**62
"""A candidate that is none: larger than any row, and exact as a float, which is how `pad_sequence` takes it."""

MOST_LOGITS = 2**25
"""[numbers] a group's logits may take, 128 MiB; a table with more of its own has a group to itself."""


@dataclass(frozen=True)
class Choice:
    """One table's values to choose from.

    Args:
        slots: the slots that hold its ids. candidates: the values. vectors: (C, D), looked up. bias: (C,) or None.
    """

    slots: Tensor
    candidates: Candidates
    vectors: Tensor
    bias: Tensor | None = None


def score(vectors_XMD: Tensor, values_XCD: Tensor, *, temperature: float | None) -> Tensor:
    """Return how well values fit, (X, M, C): cosine / temperature, or the dot product if temperature is None."""
    if temperature is None:
        return vectors_XMD @ values_XCD.transpose(1, 2)
    normal_XMD = torch.nn.functional.normalize(vectors_XMD, dim=2, eps=1e-6) / temperature
    return normal_XMD @ torch.nn.functional.normalize(values_XCD, dim=2, eps=1e-6).transpose(1, 2)


def losses(
    made_BSD: Tensor, ids_BS: Tensor, hidden_BS: Tensor, choices: Sequence[Choice], *, temperature: float | None, logq: LogQ
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of every hidden value and that of a predictor which knows the unigram only; 0 elsewhere.

    With a(v) the score of candidate v and v* the true value,

    none:      -ln exp(a(v*)) / sum_v exp(a(v))
    negatives: the same with a(v) - ln Q(v) for v != v*: the true value is always a candidate, the others were drawn
    all:       the same with a(v) - ln Q(v) for all

    The unigram predictor has a(v) = ln p(v).

    Shape:
        made_BSD (B, S, D) what the denoiser makes of every slot; ids_BS, hidden_BS (B, S) -> two (B, S)
    """
    if not len(ids_BS):  # a rank without rows looked nothing up, and takes part in the backward pass all the same
        used = [made_BSD, *(own.vectors for own in choices), *(own.bias for own in choices if own.bias is not None)]
        return made_BSD.sum(2) + 0 * sum(part.sum() for part in used), made_BSD.detach().sum(2)
    loss_BS, reference_BS = torch.zeros(2, *ids_BS.shape, device=made_BSD.device, dtype=made_BSD.dtype).unbind(0)
    for group in _groups(choices, hidden_BS):
        table_S = torch.full((ids_BS.shape[1],), -1, device=ids_BS.device)
        lengths = torch.tensor([len(choice.slots) for choice in group])
        owners = torch.arange(len(group)).repeat_interleave(lengths).to(ids_BS.device)
        table_S[torch.cat([choice.slots for choice in group])] = owners
        row_N, slot_N = (hidden_BS & (table_S >= 0)).nonzero(as_tuple=True)
        values_GC = pad_sequence([own.candidates.ids for own in group], batch_first=True, padding_value=PADDING)
        vectors_GCD = pad_sequence([own.vectors for own in group], batch_first=True)
        places_GM, table_N, place_N = _packed(table_S[slot_N], len(group))
        target_GM = torch.searchsorted(values_GC, ids_BS[row_N, slot_N][places_GM]).clamp(max=values_GC.shape[1] - 1)
        logits_GMC = score(made_BSD[row_N, slot_N][places_GM], vectors_GCD, temperature=temperature)
        if any(own.bias is not None for own in group):
            zeros = [own.vectors.new_zeros(len(own.vectors)) if own.bias is None else own.bias for own in group]
            logits_GMC = logits_GMC + pad_sequence(zeros, batch_first=True).unsqueeze(1)
        log_q_GC = pad_sequence([own.candidates.log_q for own in group], batch_first=True)
        log_p_GC = pad_sequence([own.candidates.log_p for own in group], batch_first=True, padding_value=-torch.inf)
        padding_GC = values_GC == PADDING
        found_GM = _cross_entropy(logits_GMC.masked_fill(padding_GC.unsqueeze(1), -torch.inf), target_GM, log_q_GC, logq)
        loss_BS = loss_BS.index_put((row_N, slot_N), found_GM[table_N, place_N])
        with torch.no_grad():
            by_chance_GM = _by_chance(log_p_GC, log_q_GC, target_GM, logq)
            reference_BS = reference_BS.index_put((row_N, slot_N), by_chance_GM[table_N, place_N])
    return loss_BS, reference_BS


def _cross_entropy(logits_GMC: Tensor, target_GM: Tensor, log_q_GC: Tensor, logq: LogQ) -> Tensor:
    target_GM1 = target_GM.unsqueeze(2)
    true_GM1 = logits_GMC.gather(2, target_GM1)
    if logq == "none":
        return torch.logsumexp(logits_GMC, dim=2) - true_GM1.squeeze(2)
    logits_GMC = logits_GMC - log_q_GC.unsqueeze(1)
    if logq == "negatives":
        logits_GMC = logits_GMC.scatter(2, target_GM1, true_GM1)
    return torch.logsumexp(logits_GMC, dim=2) - logits_GMC.gather(2, target_GM1).squeeze(2)


def _by_chance(log_p_GC: Tensor, log_q_GC: Tensor, target_GM: Tensor, logq: LogQ) -> Tensor:
    """The same for a(v) = ln p(v), (G, M): the sum over candidates is one number per table, but for the true value's part."""
    corrected_GC = log_p_GC if logq == "none" else log_p_GC - log_q_GC
    own_GM, true_GM = corrected_GC.gather(1, target_GM), log_p_GC.gather(1, target_GM)
    if logq != "negatives":
        return torch.logsumexp(corrected_GC, dim=1, keepdim=True) - own_GM
    others_GM = (corrected_GC.exp().sum(1, keepdim=True) - own_GM.exp()).clamp(min=0)
    return torch.log1p(others_GM / true_GM.exp())


def _packed(table_N: Tensor, tables: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where N values of G tables go in (G, M): which value is at every place, and the table and place of every value.

    A place that no value takes repeats value 0, whose loss there nobody reads.
    """
    counts_G = torch.bincount(table_N, minlength=tables)
    order_N = table_N.argsort(stable=True)
    starts_G = counts_G.cumsum(0) - counts_G
    place_N = torch.empty_like(order_N)
    place_N[order_N] = torch.arange(len(order_N), device=order_N.device) - starts_G[table_N[order_N]]
    places_GM = order_N.new_zeros(tables, int(counts_G.max()) if len(order_N) else 0)
    places_GM[table_N, place_N] = torch.arange(len(order_N), device=order_N.device)
    return places_GM, table_N, place_N


def _groups(choices: Sequence[Choice], hidden_BS: Tensor) -> Iterator[list[Choice]]:
    """Tables of one width and of about as many candidates, so that padding at most doubles the work."""
    classes: dict[tuple[int, int], list[Choice]] = {}
    for choice in choices:
        count, width = choice.vectors.shape
        classes.setdefault((width, max(count - 1, 1).bit_length()), []).append(choice)
    for same in classes.values():
        group: list[Choice] = []
        for choice in same:
            logits = (
                (len(group) + 1)
                * hidden_BS.shape[0]
                * max(len(own.slots) for own in [*group, choice])
                * 2 ** max((len(own.vectors) - 1).bit_length() for own in [*group, choice])
            )
            if group and logits > MOST_LOGITS:
                yield group
                group = []
            group.append(choice)
        yield group
