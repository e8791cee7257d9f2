"""DHEN: a stack of layers, in each of which several interaction modules read the same tokens.

B rows, F fields, D width of a vector, m = F * D, k modules of a layer.
Source: DHEN (arXiv 2203.11014); where it leaves a choice, the notes on a production layer that Unity published.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models.decoders.base import Decoder, Generate, Pairs, pairs_of
from models.decoders.cross import CrossNet, CrossOptions
from models.decoders.networks import MLPDecoder
from models.diffusion.blocks import Transformer
from models.encoders import Identity
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, Dropout, Flat, MakeMLP, MLPOptions, Tokens, flat, linear
from models.options import grouped
from models.registries import DECODERS, INTERACTIONS

ENSEMBLES = ("weighted", "sum", "concat")
NORMS = ("layer", "none")

mlp = partial(MLPDecoder, network=MLPOptions(hidden=(128,), dropout=0.1))
"""relu(W flat(generated)), as wide as a module of a stack needs it."""

cross = partial(CrossNet, cross=CrossOptions(layers=1))
"""flat(emb) + flat(generated) * (W flat(emb))."""


MakeInteraction = Callable[[str, Mapping[str, Any], Mapping[str, Any]], Decoder]
"""Makes a module: its name, a user's options, and the arguments that every decoder is given."""


def make_own(name: str, options: Mapping[str, Any], given: Mapping[str, Any]) -> Decoder:
    """Return one of the project's own modules or decoders."""
    make: Callable[..., Decoder] = INTERACTIONS[name] if name in INTERACTIONS else DECODERS[name]
    return make(**given, **grouped(make, options))


class TransformerModule(Decoder):
    """A pre-norm Transformer layer over the generated vectors, see `Transformer`.

    Args:
        heads: a divisor of D. dropout: of attention and feed-forward.

    Shape:
        emb_BFD (B, F, D) -> tokens (B, F, D)
    """

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        heads: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads is {heads}; expected a divisor of the vectors' width, {width}")
        self.encoder = generate()
        self.block = Transformer(hidden=width, heads=heads, dropout=dropout)
        self.out = Tokens(len(fields), width)

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the tokens after the layer, (B, F, D)."""
        generated_BFD = self.encoder(x.emb_BFD)
        all_BF = torch.ones(generated_BFD.shape[:2], dtype=torch.bool, device=generated_BFD.device)
        out_BFD: Tensor = self.block(generated_BFD, all_BF)
        return out_BFD


class MaskModule(Decoder):
    """A block of MaskNet.

    relu(LayerNorm(W (mask * flat(generated))))        mask = U relu(V flat(emb))

    Args:
        hidden: width of the mask's hidden layer. units: width of what is returned. dropout: of that.

    Shape:
        emb_BFD (B, F, D) -> (B, units)
    """

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        hidden: int = 128,
        units: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if min(hidden, units) < 1:
            raise ValueError(f"hidden is {hidden}, units {units}; expected each 1 or more")
        row = len(fields) * width
        self.encoder = generate()
        self.mask = nn.Sequential(linear(row, hidden), nn.ReLU(), linear(hidden, row))
        self.read = nn.Sequential(linear(row, units, bias=False), nn.LayerNorm(units), nn.ReLU(), Dropout(dropout))
        self.out = Flat(units)

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the masked row's hidden layer, (B, units)."""
        generated_BX, raw_BX = (side.flatten(1) for side in self.operands(x.emb_BFD))
        out_BH: Tensor = self.read(self.mask(raw_BX) * generated_BX)
        return out_BH


class PairsModule(Decoder):
    """The products <generated_i, emb_j> of all pairs of fields i < j: a factorisation machine without its sum.

    Shape:
        emb_BFD (B, F, D) -> (B, P)
    """

    def __init__(self, *, fields: Sequence[FieldInfo], width: int, generate: Generate, make_mlp: MakeMLP = MLP) -> None:
        super().__init__()
        self.encoder = generate()
        self.pairs = Pairs(len(fields))
        self.out = Flat(pairs_of(len(fields)))

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the products, (B, P)."""
        products_BP: Tensor = self.pairs(*self.operands(x.emb_BFD))
        return products_BP


@dataclass(frozen=True)
class StackOptions:
    """What a layer makes of what its modules return.

    Args:
        ensemble: weighted: a sum weighted by a learnt softmax. sum: a plain sum. concat: each module makes F / k of the tokens.
        norm: layer: LayerNorm over D after every layer. none: nothing.
        shortcut: whether what a layer reads is added to what its modules make of it.
    """

    ensemble: str = "weighted"
    norm: str = "layer"
    shortcut: bool = True


STACK = StackOptions()


class DHEN(Decoder):
    """Layers of modules; all modules of a layer read the same tokens.

    X' = LayerNorm(X + sum_i softmax(a)_i * P_i(M_i(X)))        X^0 = emb        out = flat(the last X)

    P_i is a linear layer to m numbers, and absent where M_i returns m already; a starts at 0. In the first layer a module's
    left side is generated; with the identity encoder, and in the layers above, it is what the layer reads.

    Args:
        make_interaction: makes the modules; the project's own by default.
        layers: for every layer the names of its modules; a module with options is {name: options}.
        stack: ensemble, norm, shortcut.

    Raises:
        ValueError: a layer has no module, or one that reads first-order terms or second vectors, which tokens have not.

    Shape:
        emb_BFD (B, F, D) -> (B, m)
    """

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        make_interaction: MakeInteraction = make_own,
        layers: Sequence[Sequence[str | Mapping[str, Any]]] = (("mlp", "transformer"), ("mlp", "masknet")),
        stack: StackOptions = STACK,
    ) -> None:
        super().__init__()
        for what, name, names in (("ensemble", stack.ensemble, ENSEMBLES), ("norm", stack.norm, NORMS)):
            if name not in names:
                raise ValueError(f"no {what} {name!r}; choose from {list(names)}")
        if not layers or not all(isinstance(layer, list | tuple) and layer for layer in layers):
            raise ValueError(f"layers is {layers}; expected a list of lists, such as [[mlp, transformer], [mlp, masknet]]")
        raw = partial(Identity, fields=len(fields), width=width)
        self.layers = nn.ModuleList()
        for at, layer in enumerate(layers):
            given = {"fields": fields, "width": width, "generate": raw if at else generate, "make_mlp": make_mlp}
            named = enumerate(_named(module) for module in layer)
            modules = {f"{number}_{name}": make_interaction(name, options, given) for number, (name, options) in named}
            for name, module in modules.items():
                if module.needs_linear or module.second_width:
                    why = "reads first-order terms or second vectors, which the tokens of a layer have not"
                    raise ValueError(f"layers: {name.partition('_')[2]} {why}: choose another module")
            self.layers.append(_Layer(modules, len(fields), width, stack))
        self.out = Flat(len(fields) * width)

    def operands(self, emb_BFD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two sides of the first module's first product."""
        first = next(own for own in self.layers[0].modules() if isinstance(own, Decoder))
        return first.operands(emb_BFD)

    def observed(self) -> dict[str, Tensor]:
        """Return the weights of the modules, by layer: one of them may be starved by the others."""
        layers = enumerate(own for own in self.layers if isinstance(own, _Layer))
        return {f"weights/layer {at}": own.weights().detach() for at, own in layers}

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the last layer's tokens side by side, (B, m)."""
        x_BFD = x.emb_BFD
        for layer in self.layers:
            x_BFD = layer(x_BFD)
        return x_BFD.flatten(1)


def _named(module: str | Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The name of a module and its options."""
    if isinstance(module, str):
        return module, {}
    if isinstance(module, Mapping) and len(module) == 1:
        [(name, options)] = module.items()
        return name, options or {}
    raise ValueError(f"layers: {module!r} is not a module; expected a name such as mlp, or {{mlp: {{hidden: [64]}}}}")


class _Layer(nn.Module):
    """One layer of `DHEN`."""

    def __init__(self, modules: Mapping[str, Decoder], fields: int, width: int, stack: StackOptions) -> None:
        super().__init__()
        count = len(modules)
        if stack.ensemble == "concat" and count > fields:
            raise ValueError(f"layers: {count} modules cannot share {fields} tokens: take fewer, or another ensemble")
        shares = [fields] * count
        if stack.ensemble == "concat":
            shares = [fields // count + (at < fields % count) for at in range(count)]
        self.parts = nn.ModuleDict(modules)
        self.projections = nn.ModuleList(
            nn.Identity() if (has := flat(own.out).width) == (wants := share * width) else linear(has, wants)
            for own, share in zip(modules.values(), shares, strict=True)
        )
        self.scores_k = nn.Parameter(torch.zeros(count)) if stack.ensemble == "weighted" and count > 1 else None
        self.ones_k: Tensor
        self.register_buffer("ones_k", torch.ones(count), persistent=False)
        self.concat, self.shortcut = stack.ensemble == "concat", stack.shortcut
        self.norm = nn.LayerNorm(width) if stack.norm == "layer" else nn.Identity()

    def weights(self) -> Tensor:
        """Return the weight of every module, (k,)."""
        return self.ones_k if self.scores_k is None else self.scores_k.softmax(0)

    def forward(self, x_BFD: Tensor) -> Tensor:
        x = FieldVectors(x_BFD)
        made = [project(part(x).flatten(1)) for part, project in zip(self.parts.values(), self.projections, strict=True)]
        mixed_BX = torch.cat(made, dim=1) if self.concat else torch.einsum("kbx,k->bx", torch.stack(made), self.weights())
        mixed_BFD = mixed_BX.view_as(x_BFD)
        out_BFD: Tensor = self.norm(x_BFD + mixed_BFD if self.shortcut else mixed_BFD)
        return out_BFD
