"""PEPNet: gates made of chosen fields, over the vectors and over every layer of a network."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.decoders.base import Decoder, Generate, features_of, places_of
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, NETWORK, Flat, MakeMLP, MLPOptions, linear


@dataclass(frozen=True)
class PriorOptions:
    """What the gates of PEPNet read, besides what they gate.

    Args:
        domains: names of the fields that say in which domain a row is, for the gate over the vectors.
        priors: names of the fields that say who and what it is about (user, item, author), for the gates over the layers.
        gate_hidden: hidden widths of every gate.
    """

    domains: Sequence[str] = ()
    priors: Sequence[str] = ()
    gate_hidden: Sequence[int] = (64,)


PRIORS = PriorOptions()


class PEPNet(Decoder):
    """A network whose input (EPNet) and whose layers (PPNet) are scaled number by number for the row at hand.

    gate(x) = 2 sigmoid(W make_mlp(x) + b), between 0 and 2
    h_0 = gate(concat(emb of domains, stop(flat(emb)))) * flat(generated)                 stop: no gradient goes back
    h_{l+1} = layer_l(gate_l(concat(emb of priors, stop(h_0))) * h_l)                     out = h_L

    Fields are named as the schema names them; without any a gate reads only what it does not teach. All targets share the
    network, where PEPNet has one for each. The encoder makes the vectors that the first gate multiplies; without it this is
    PEPNet, and generating is our own extension, no result of the SFG paper.

    Args:
        prior: domains, priors, gate_hidden.
        network: hidden, dropout, batch_norm of the gated network.

    Shape:
        emb_BFD (B, F, D) -> (B, hidden[-1])

    Raises:
        ValueError: there is no hidden layer, or no such field.

    Source: Chang et al., "PEPNet: Parameter and Embedding Personalized Network for Infusing with Personalized Prior
    Information", KDD 2023.
    """

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        prior: PriorOptions = PRIORS,
        network: MLPOptions = NETWORK,
    ) -> None:
        super().__init__()
        flat = len(fields) * width
        self.domains = places_of("pepnet: domains", prior.domains, fields)
        self.priors = places_of("pepnet: priors", prior.priors, fields)
        self.out = Flat(features_of("pepnet", network.hidden))
        self.encoder = generate()
        inputs = [flat, *network.hidden[:-1]]
        self.vector_gate = _Gate(len(self.domains) * width + flat, flat, prior.gate_hidden, make_mlp)
        self.gates = nn.ModuleList(
            _Gate(len(self.priors) * width + flat, below, prior.gate_hidden, make_mlp) for below in inputs
        )
        self.layers = nn.ModuleList(
            make_mlp(below, hidden=[units], dropout=network.dropout, batch_norm=network.batch_norm)
            for below, units in zip(inputs, network.hidden, strict=True)
        )

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the last hidden layer, (B, hidden[-1])."""
        generated_BX, raw_BX = (side.flatten(1) for side in self.operands(x.emb_BFD))
        domains_BX, priors_BX = (x.emb_BFD[:, places].flatten(1) for places in (self.domains, self.priors))
        h_BH: Tensor = self.vector_gate(torch.cat([domains_BX, raw_BX.detach()], dim=1), x) * generated_BX
        read_BX = torch.cat([priors_BX, h_BH.detach()], dim=1)
        for gate, layer in zip(self.gates, self.layers, strict=True):
            h_BH = layer(gate(read_BX, x) * h_BH, x)
        return h_BH


class _Gate(nn.Module):
    """2 sigmoid(W MLP(x) + b), (B, inputs) -> (B, outputs)."""

    def __init__(self, inputs: int, outputs: int, hidden: Sequence[int], make_mlp: MakeMLP) -> None:
        super().__init__()
        self.mlp = make_mlp(inputs, hidden=hidden)
        self.last = linear(self.mlp.out_features, outputs)

    def forward(self, x_BX: Tensor, fields: FieldVectors) -> Tensor:
        gate_BX: Tensor = 2 * torch.sigmoid(self.last(self.mlp(x_BX, fields)))
        return gate_BX
