"""What the SFG encoder is compared with in the paper's ablations: other transforms and other sources, which do not win.

B rows, F fields, D width of a vector. Every one is made with F and D: (B, F, D) -> (B, F, D).
"""

import torch
from torch import Tensor, nn

from models.layers import linear
from models.norm import BatchNorm1d


class Others(nn.Linear):
    """flat(emb) @ W^T, where no field reads itself: the F diagonal D x D blocks of W are 0."""

    blocks: Tensor

    def __init__(self, fields: int, width: int) -> None:
        super().__init__(fields * width, fields * width, bias=False)
        nn.init.xavier_normal_(self.weight)
        blocks = torch.kron(torch.eye(fields), torch.ones(width, width))
        self.register_buffer("blocks", 1 - blocks, persistent=False)

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return (B, F, D)."""
        return nn.functional.linear(emb_BFD.flatten(1), self.weight * self.blocks).view_as(emb_BFD)


class Self(nn.Module):
    """emb_f @ W_f: a D x D matrix per field, that reads the field itself."""

    def __init__(self, fields: int, width: int) -> None:
        super().__init__()
        self.weight_FDD = nn.Parameter(torch.empty(fields, width, width))
        nn.init.xavier_normal_(self.weight_FDD)

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return (B, F, D)."""
        return torch.bmm(emb_BFD.transpose(0, 1), self.weight_FDD).transpose(0, 1)


class Deep(nn.Sequential):
    """Linear - BatchNorm - ReLU - Linear, each layer as wide as the row."""

    def __init__(self, fields: int, width: int) -> None:
        flat = fields * width
        first, last = (linear(flat, flat, bias=False) for _ in range(2))
        super().__init__(first, BatchNorm1d(flat), nn.ReLU(), last)

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return (B, F, D)."""
        out_BX: Tensor = super().forward(emb_BFD.flatten(1))  # type: ignore[no-untyped-call]
        return out_BX.view_as(emb_BFD)


class FieldShared(nn.Linear):
    """One vector, generated from all the fields, for every field (the released code keeps the matrices it never reads)."""

    def __init__(self, fields: int, width: int) -> None:
        super().__init__(fields * width, width, bias=False)
        nn.init.xavier_normal_(self.weight)

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return (B, F, D)."""
        return super().forward(emb_BFD.flatten(1)).unsqueeze(1).expand_as(emb_BFD)


class Attention(nn.Module):
    """relu(LayerNorm(softmax(Q K^T / sqrt(d)) V)): the fields attend to each other, with 4 heads where D allows."""

    def __init__(self, fields: int, width: int, *, dropout: float = 0.2) -> None:
        super().__init__()
        self.heads = next(heads for heads in (4, 2, 1) if width % heads == 0)
        self.read = linear(width, 3 * width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.dropout = dropout

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return (B, F, D)."""
        q, k, v = (own.unflatten(2, (self.heads, -1)).transpose(1, 2) for own in self.read(emb_BFD).chunk(3, dim=2))
        dropout = self.dropout if self.training else 0.0
        out_BHFX = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return torch.relu(self.norm(out_BHFX.transpose(1, 2).flatten(2)))


class SENet(nn.Module):
    """emb_f * w_f: squeeze every field to its mean, excite: w = relu(U relu(V mean)), V reduces F to F / 3."""

    def __init__(self, fields: int, width: int) -> None:
        super().__init__()
        squeezed = max(fields // 3, 1)
        self.weigh = nn.Sequential(
            linear(fields, squeezed, bias=False), nn.ReLU(), linear(squeezed, fields, bias=False), nn.ReLU()
        )

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return (B, F, D)."""
        out_BFD: Tensor = emb_BFD * self.weigh(emb_BFD.mean(2)).unsqueeze(2)
        return out_BFD
