"""Is a representation collapsing? Spectra, correlations and dead rows, from sums that ranks can add up.

N rows, X coordinates of a representation, F fields, D width of a vector, V rows of a table.
Source: the analyses of the SFG paper's code (USTC-StarTeam/GE4Rec); scalars divided by min(N - 1, X), and what is said of
tables, are ours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

EVIDENCE = 0.98
"""[1] share of the spectrum that SVS-98 asks for."""

LEAST_SPREAD = 1e-12
"""[1] variance over mean square below which a coordinate is constant: sums of float64 products know no better."""

LEAST_DIRECTION = 1e-13
"""[1] share of the largest singular value below which a direction of a covariance is not there."""


@dataclass
class Moments:
    """Sums over rows of one representation, or of two side by side: enough for its spectrum and their correlation.

    Shape:
        count (), sums (X,), products (X, X): of the rows and of their outer products, float64
    """

    count: Tensor
    sums: Tensor
    products: Tensor

    @classmethod
    def of(cls, rows_NX: Tensor) -> "Moments":
        """The moments of these rows, in float64: products of float32 leave 1e-7 of the largest direction in all others."""
        rows_NX = rows_NX.double()
        count = torch.tensor(float(len(rows_NX)), dtype=torch.float64, device=rows_NX.device)
        return cls(count, rows_NX.sum(0), rows_NX.T @ rows_NX)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.sums + other.sums, self.products + other.products)

    def packed(self) -> Tensor:
        """All of it as one vector, so that ranks can add it up in one call."""
        return torch.cat([self.count.view(1), self.sums, self.products.flatten()])

    @classmethod
    def unpacked(cls, packed: Tensor) -> "Moments":
        """What `packed` made."""
        width = int((4 * len(packed) - 3) ** 0.5 - 1) // 2  # of 1 + X + X^2 numbers
        return cls(packed[0], packed[1 : 1 + width], packed[1 + width :].view(width, width))

    def covariance(self) -> Tensor:
        """(Z - mean)^T (Z - mean) / N, (X, X)."""
        count = self.count.clamp(min=1)
        mean_X = self.sums / count
        return self.products / count - torch.outer(mean_X, mean_X)

    def part(self, columns: slice) -> "Moments":
        """The moments of some of the coordinates."""
        return Moments(self.count, self.sums[columns], self.products[columns, columns])


def spectrum(moments: Moments, *, allowed: int | None = None) -> dict[str, float]:
    """How many directions a representation uses.

    s: singular values of its covariance, descending. abundance = sum s / max s. svs98: how many of the largest s add up to
    98 %. rankme = exp(entropy of the singular values of Z itself, divided by their sum). Each also divided by `allowed`, the
    most there can be, as `…_share`. All are nan if a number among the rows was not finite.

    Args:
        allowed: [directions] that the input allows, see `random_vectors`; None: min(N - 1, X).
    """
    if not moments.products.isfinite().all():
        return _scalars(float("nan"), float("nan"), float("nan"), most=1.0)
    s_X = singular_values(moments)
    most = float(min(max(float(moments.count) - 1, 1), len(s_X)) if allowed is None else max(allowed, 1))
    total = s_X.sum()
    if total <= 0:
        return _scalars(0.0, 0.0, 0.0, most=most)
    svs98 = (s_X.cumsum(0) < EVIDENCE * total).sum() + 1
    return _scalars(float(total / s_X[0]), float(svs98), _rankme(moments.products), most=most)


def _scalars(abundance: float, svs98: float, rankme: float, *, most: float) -> dict[str, float]:
    values = {"abundance": abundance, "svs98": svs98, "rankme": rankme}
    return values | {f"{name}_share": value / most for name, value in values.items()}


def _rankme(products_XX: Tensor) -> float:
    """exp(entropy of the singular values of Z, divided by their sum), from Z^T Z; nan if that is not finite."""
    if not products_XX.isfinite().all():
        return float("nan")
    values_X = torch.linalg.eigvalsh(products_XX).clamp(min=0).sqrt()
    p_X = values_X / values_X.sum().clamp(min=1e-300) + 1e-7
    return float(torch.exp(-(p_X * p_X.log()).sum()))


def singular_values(moments: Moments) -> Tensor:
    """Singular values of the covariance, (X,), descending."""
    values_X: Tensor = torch.linalg.eigvalsh(moments.covariance())
    return values_X.clamp(min=0).flip(0)


def directions(moments: Moments) -> int:
    """How many directions a representation has at all, however short."""
    s_X = singular_values(moments)
    return int((s_X > LEAST_DIRECTION * s_X[0]).sum())


def random_vectors(emb_BFD: Tensor) -> Tensor:
    """Vectors as random tables would have them: equal ones for equal vectors of a field, unrelated ones for any others.

    Their directions are as many as the input allows: a field of V values has V - 1 at most, and fields that follow from each
    other share theirs. What a table has learnt cannot be told from this number; it is what a spectrum is compared with.

    Shape:
        (B, F, D) float32 -> (B, F, D) float64, between -1 and 1
    """
    bits_BFD = emb_BFD.detach().float().contiguous().view(torch.int32).long()
    _, fields, width = bits_BFD.shape
    draws = torch.Generator().manual_seed(0)
    odd_D = torch.randint(-(2**62), 2**62, (width,), generator=draws).to(bits_BFD.device) * 2 + 1
    own_FD = torch.randint(-(2**62), 2**62, (fields, width), generator=draws).to(bits_BFD.device)
    mixed_BFD = (bits_BFD * odd_D).sum(2, keepdim=True) ^ own_FD
    for factor in (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15):  # splitmix64, with signs
        mixed_BFD = (mixed_BFD ^ (mixed_BFD >> 29)) * factor
    return (mixed_BFD ^ (mixed_BFD >> 32)).double() / 2.0**63


def correlation(both: Moments) -> Tensor:
    """Correlation of the coordinates of two representations, the moments of which are side by side, (X, X); a constant
    coordinate correlates with nothing."""
    width = len(both.sums) // 2
    covariance = both.covariance()
    variance, square = covariance.diagonal(), both.products.diagonal() / both.count.clamp(min=1)
    scale = torch.where(variance > LEAST_SPREAD * square, variance.clamp(min=1e-300).rsqrt(), 0)
    return (covariance * torch.outer(scale, scale))[:width, width:].clamp(-1, 1)


def redundancy(correlation_XX: Tensor, fields: int) -> dict[str, float]:
    """How much one operand tells of the other: mean |R| over all coordinates, over pairs within a field, and over the
    coordinates that are not constant, with the shares of those that are: a dead coordinate correlates with nothing."""
    absolute_XX = correlation_XX.abs()
    width = len(absolute_XX) // fields
    blocks = absolute_XX.view(fields, width, fields, width).diagonal(dim1=0, dim2=2)
    live = [absolute_XX.any(1 - side) for side in (0, 1)]
    pairs = float(live[0].sum()) * float(live[1].sum())
    return {
        "mean_r": float(absolute_XX.mean()),
        "mean_r_within": float(blocks.mean()),
        "mean_r_live": float(absolute_XX.sum()) / pairs if pairs else 0.0,
        "dead_generated": 1 - float(live[0].double().mean()),
        "dead_raw": 1 - float(live[1].double().mean()),
    }


@dataclass
class TableHealth:
    """Sums over a shard's rows of one table.

    Shape:
        rows, squares, dead, moved (): rows looked at, sum of all squared numbers, rows next to zero, rows that have moved;
        products (D, D)
    """

    rows: Tensor
    squares: Tensor
    dead: Tensor
    moved: Tensor
    products: Tensor

    @classmethod
    def of(cls, rows_VD: Tensor, moved_V: Tensor | None, *, level: float = 1e-6) -> "TableHealth":
        """The health of these rows.

        Args:
            moved_V: which rows the optimizer has ever moved, if it knows. level: [1] a row of smaller norm is dead.
        """
        rows_VD = rows_VD.double()
        squares_V = rows_VD.square().sum(1)
        moved = rows_VD.new_tensor(float("nan")) if moved_V is None else moved_V.sum().double()
        dead = (squares_V < level**2).sum().double()
        return cls(rows_VD.new_tensor(float(len(rows_VD))), squares_V.sum(), dead, moved, rows_VD.T @ rows_VD)

    def packed(self) -> Tensor:
        """All of it as one vector."""
        return torch.cat([torch.stack([self.rows, self.squares, self.dead, self.moved]), self.products.flatten()])

    @staticmethod
    def summary(packed: Tensor, width: int) -> dict[str, float]:
        """What the sums over all ranks say: rows looked at, root mean square, shares of dead and of moved rows, rankme."""
        rows, squares, dead, moved = packed[:4].tolist()
        rows = max(rows, 1.0)
        return {
            "rows": rows,
            "rms": (squares / rows / width) ** 0.5,
            "dead": dead / rows,
            "moved": moved / rows,
            "rankme": _rankme(packed[4:].view(width, width)),
        }
