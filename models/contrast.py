"""Contrastive learning of two id tables: a user's vector is near those of the items it took, and far from others of the step.

B rows of this rank, N pairs of all ranks, D width of a vector.
Source: arXiv 2508.18700 (two-stage training of id embeddings); the formula is ours, as the paper's is not public.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from models.diffusion.candidates import CandidateSampler, TableCounts
from models.gather import gathered
from models.inputs import Inputs
from models.layers import linear
from models.output import Output
from models.sparse import SparseArch

HITS = 10
"""[candidates] among which the pair's own has to be for a hit."""

SUMS = ("loss", "reference", "hits", "pairs")


class PairModel(nn.Module):
    """The vectors of a row's user and item, and nothing else.

    Args:
        sparse: the two tables. user, item: their fields.
        project: whether a linear layer of its own stands behind each table.

    Raises:
        ValueError: the tables have vectors of two widths.

    Shape:
        Inputs of B rows -> Output without logits, with representations {user: (B, D), item: (B, D)} and observed {"emb": (B, 2,
        D)} in the order of the tables
    """

    def __init__(self, *, sparse: SparseArch, user: str, item: str, project: bool) -> None:
        super().__init__()
        widths = set(sparse.dims.values())
        if len(widths) > 1:
            raise ValueError(f"vectors of {user} and {item} are {sorted(widths)} wide; expected one width for both")
        [self.width] = widths
        self.sparse = sparse
        self.project = nn.ModuleDict({name: linear(self.width, self.width) for name in (user, item)} if project else {})

    def forward(self, inputs: Inputs) -> Output:
        """Return the vectors."""
        found = self.sparse(inputs.bags, inputs.sequences).vectors
        for name, layer in self.project.items():
            found[name] = layer(found[name])
        return Output({}, found, observed={"emb": torch.stack([own.detach() for own in found.values()], dim=1)})


class PairLoss(nn.Module):
    """Cross-entropy of each pair's item among the items of all pairs of the step.

    s_bj = <u_b, v_j> / temperature - ln q(i_j)        loss = 1/N sum_b -ln softmax_j(s_bj)_b

    u, v are of length 1. What is a pair of u_b in the step itself, the same item in another pair too, is no candidate, but for
    b. Frequent items are candidates more often than others, for which ln q makes up.

    Args:
        users, items: how often the ids of both tables occur among pairs.
        temperature: of the softmax. logq: whether ln q is subtracted; else 0.
        symmetric: the mean of this and of the same for each pair's user among the users.

    Shape:
        vectors (B, D), ids (B,) and is_pair_B (B,) bool -> (this rank's share of the loss, (), its sums as in `SUMS`, (4,))
    """

    def __init__(self, *, users: TableCounts, items: TableCounts, temperature: float, logq: bool, symmetric: bool) -> None:
        super().__init__()
        self.tables = (users, items)
        self.counts = CandidateSampler(self.tables, full_rows=0, extra=0, most=0)
        self.temperature, self.logq, self.symmetric = temperature, logq, symmetric

    def forward(
        self, user_BD: Tensor, item_BD: Tensor, user_B: Tensor, item_B: Tensor, is_pair_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the loss and the sums."""
        users, items = self.tables
        is_pair_B = is_pair_B & (user_B >= users.reserved) & (item_B >= items.reserved)
        user_BD, item_BD = (normalize(own[is_pair_B], dim=1) for own in (user_BD, item_BD))
        ids_N2, here = gathered(torch.stack([user_B, item_B], dim=1)[is_pair_B])
        loss_B, sums = self._towards(user_BD, item_BD, ids_N2, here, items)
        if self.symmetric:
            back_B, _ = self._towards(item_BD, user_BD, ids_N2.flip(1), here, users)
            loss_B = (loss_B + back_B) / 2
        return loss_B.sum() / max(len(ids_N2), 1), torch.stack([loss_B.detach().sum().double(), *sums])

    def _towards(
        self, one_BD: Tensor, other_BD: Tensor, ids_N2: Tensor, here: slice, table: TableCounts
    ) -> tuple[Tensor, list[Tensor]]:
        """Cross-entropies of the pairs' other side among all of it, (B,), and the sums but for the loss."""
        vectors_ND, _ = gathered(other_BD)
        own_B1 = torch.arange(here.start, here.stop, device=vectors_ND.device).unsqueeze(1)
        known_BN = _known(ids_N2, here).scatter(1, own_B1, False)
        logits_BN = one_BD @ vectors_ND.T / self.temperature
        if self.logq:
            logits_BN = logits_BN - self.counts.unigram(table.name, ids_N2[:, 1]).log().to(logits_BN.dtype)
        logits_BN = logits_BN.masked_fill(known_BN, -torch.inf)
        with torch.no_grad():
            before_B = (logits_BN >= logits_BN.gather(1, own_B1)).sum(1) - 1
            reference_B = (~known_BN).sum(1).double().log()
            sums = [own.sum().double() for own in (reference_B, before_B < HITS, torch.ones_like(before_B))]
        return cross_entropy(logits_BN, own_B1.squeeze(1), reduction="none"), sums


def _known(ids_N2: Tensor, here: slice) -> Tensor:
    """Whether the other id of pair j stands in any pair next to the one of row b, (B, N)."""
    ones, one_N = torch.unique(ids_N2[:, 0], return_inverse=True)
    others, other_N = torch.unique(ids_N2[:, 1], return_inverse=True)
    known = one_N.new_zeros(len(ones), len(others), dtype=torch.bool)
    known[one_N, other_N] = True
    known_BN: Tensor = known[one_N[here]][:, other_N]
    return known_BN
