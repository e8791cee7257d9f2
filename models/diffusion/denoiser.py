"""The denoiser: tokens of all values of a row, the labels among them; what is hidden is restored from the rest.

B rows, S slots, T labels (the last slots), H hidden width, D width of a table, F fields.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from models.diffusion.balance import Balance
from models.diffusion.blocks import BLOCKS, GUIDANCE, Guidance
from models.diffusion.candidates import Candidates
from models.diffusion.slots import Ids, Slot, SlotLayout, ids_of
from models.diffusion.softmax import Choice, score
from models.inputs import Inputs
from models.layers import MLP, linear
from models.output import Output
from models.sparse import SparseArch

CANDIDATES = "?"
"""What a table's candidates are called among the keys of a batch: the table's name, and this."""


@dataclass(frozen=True)
class Restored:
    """What a denoiser makes of a batch.

    Shape:
        made: {width: (B, S', D)} of the slots of tables of that width, and {0: (B, T, D)} of the labels; choices: {width: what
        the values of each table are chosen from}.
    """

    made: dict[int, Tensor]
    choices: dict[int, list[Choice]] = field(default_factory=dict)


@dataclass(frozen=True)
class DenoiserOptions:
    """The network of a denoiser.

    Args:
        hidden: H. layers, heads, dropout: of the `block`, a name in `BLOCKS`.
        attention: where difficulties guide it, see `Guidance`; needs a balance that learns them.
        temperature: of the cosine; None for dot products, with a bias per value for `full` tables.
        readout: widths of a network that reads all tokens when ranking, in addition to the labels' own; empty for none.
    """

    hidden: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.1
    block: str = "hstu"
    attention: str = "none"
    temperature: float | None = 0.05
    readout: Sequence[int] = ()


OPTIONS = DenoiserOptions()


class Denoiser(nn.Module):
    """A bidirectional network over the values of a row. One module for both of its tasks: to restore hidden values, whichever
    they are (pre-training), and to predict the labels from all the others (ranking), which is the same with only they hidden.

    token_s = W u_s + c_f        u_s = E[id_s], or the mask vector m_f of its field where it is hidden; c_f says the field
    layers of `HSTU` or `Transformer`, then
    made_s = P_f h_s             a(v) = cos(made_s, E[v]) / temperature, or <made_s, E[v]> + b_v
    label: logit = a(1) - a(0), so its cross-entropy is the two-way softmax of the label slot; when ranking with a readout, plus
    w . MLP(all h_s side by side): a label's token hears a mean of the others, and this reads each of them.

    There are no positions: fields may be listed in any order, and a list is a set. There is no time either: how much is hidden
    can be seen.

    Args:
        sparse: the tables, none of them pooled; if it restores, each also reads the key `<table>?` of its candidates.
        slots: the fields. tasks: the labels, in the order of their columns.
        width: D of the labels' own tables.
        options: hidden, layers, heads, dropout, block, attention, temperature.
        balance: weighs the fields' losses and owns their difficulties.
        restores: whether it has heads for the fields, for pre-training. Without, difficulties are fixed as they are loaded.
        full: the tables whose values are all candidates.

    Shape:
        Inputs with all ids among the sequences -> Output

    Source: DGenCTR (arXiv 2508.14500) and HeteGenCTR (arXiv 2605.24986) as far as they are published; shapes, heads and sizes
    are derived (ours).
    """

    def __init__(
        self,
        *,
        sparse: SparseArch,
        slots: Sequence[Slot],
        tasks: tuple[str, ...],
        width: int,
        options: DenoiserOptions = OPTIONS,
        balance: Balance,
        restores: bool = False,
        full: Sequence[str] = (),
    ) -> None:
        super().__init__()
        attention = options.attention
        if attention not in GUIDANCE:
            raise ValueError(f"denoiser: no attention {attention!r}; choose from {list(GUIDANCE)}")
        if attention != "none" and balance.s is None:
            raise ValueError(f"denoiser: attention {attention} is guided by difficulties, and the balance learns none")
        self.sparse, self.tasks, self.attention, self.temperature = sparse, tasks, attention, options.temperature
        self.layout = SlotLayout(slots, labels=len(tasks))
        self.tables, self.vectors, self.widths = self.layout.tables, self.layout.vectors, self.layout.widths
        self.names = (*(slot.name for slot in self.tables), *tasks)
        self._make_readers(options.hidden, width)
        make_block = partial(BLOCKS[options.block], hidden=options.hidden, heads=options.heads, dropout=options.dropout)
        self.blocks = nn.ModuleList(make_block() for _ in range(options.layers))
        self.balance = balance
        if balance.s is not None and not restores:
            del balance.s
            balance.register_buffer("s", torch.zeros(len(self.tables)))
        self.readout = self.readout_score = None
        if options.readout and not restores:
            self.readout = MLP(len(self.layout.field_S) * options.hidden, hidden=options.readout, dropout=options.dropout)
            self.readout_score = linear(self.readout.out_features, len(tasks))
        self.field_heads: nn.ParameterDict | None = None
        self.biases: nn.ParameterDict | None = None
        if restores:
            self._make_field_heads(options.hidden, full)

    def _make_readers(self, hidden: int, width: int) -> None:
        """What makes tokens of values and labels, and what makes vectors of the labels' tokens."""
        tasks = len(self.tasks)
        self.read = nn.ModuleDict({str(dim): linear(dim, hidden, bias=False) for dim in self.widths})
        self.read_vectors = nn.ModuleList(linear(slot.dim, hidden, bias=False) for slot in self.vectors)
        self.masks = nn.ParameterDict({str(dim): _small(len(self.layout.fields_of_width(dim)), dim) for dim in self.widths})
        self.identity_FH = _small(len(self.tables) + len(self.vectors) + tasks, hidden)
        self.read_labels = linear(width, hidden, bias=False)
        self.label_mask_TD, self.labels_T2D = _small(tasks, width), _small(tasks, 2, width)
        self.label_heads_THD = nn.Parameter(_xavier(tasks, hidden, width))

    def _make_field_heads(self, hidden: int, full: Sequence[str]) -> None:
        """What makes vectors of the fields' tokens, and with dot products a bias per value of the tables in `full`."""
        heads = {dim: _xavier(len(self.layout.fields_of_width(dim)), hidden, dim) for dim in self.widths}
        self.field_heads = nn.ParameterDict({str(dim): nn.Parameter(own) for dim, own in heads.items()})
        if self.temperature is None:
            rows = {slot.table: slot.rows - slot.reserved for slot in self.tables if slot.table in full}
            self.biases = nn.ParameterDict({table: nn.Parameter(torch.zeros(count)) for table, count in rows.items()})

    def forward(self, inputs: Inputs) -> Output:
        """Return the logits of the labels, all of them hidden."""
        sequences, vectors_BX = inputs.sequences, inputs.vectors_BX
        assert sequences is not None, "a denoiser's tables are not pooled"
        ids = ids_of(sequences, self.tables)
        rows = sequences.stride()
        hidden_BS = torch.zeros(rows, len(self.layout.field_S), dtype=torch.bool, device=ids.ids.device)
        hidden_BS[:, -len(self.tasks) :] = True
        labels_BT = vectors_BX.new_zeros(rows, len(self.tasks))
        found = self._look_up(sequences, {})
        tokens_BSH, fields_BFD = self._tokens(found, ids, vectors_BX, labels_BT, hidden_BS, visible=False)
        tokens_BSH = self._through(tokens_BSH, ids)
        scores_BT2 = self.label_scores(self._label_vectors(tokens_BSH))
        logits_BT = scores_BT2[:, :, 1] - scores_BT2[:, :, 0]
        if self.readout is not None and self.readout_score is not None:
            read_BX = (tokens_BSH * self._there(ids, tokens_BSH).unsqueeze(2)).flatten(1)
            logits_BT = logits_BT + self.readout_score(self.readout(read_BX))
        logits = {task: logits_BT[:, i] for i, task in enumerate(self.tasks)}
        return Output(logits, observed={} if fields_BFD is None else {"emb": fields_BFD.detach()})

    def restore(
        self,
        sequences: KeyedJaggedTensor,
        ids: Ids,
        vectors_BX: Tensor,
        labels_BT: Tensor,
        hidden_BS: Tensor,
        candidates: dict[str, Candidates],
        *,
        visible: bool = False,
    ) -> Restored:
        """Hide what is to be hidden, and say what the network makes of every slot and what its values are chosen from.

        Args:
            sequences: the batch's ids. ids: the same in slots. candidates: of every table.
            visible: hidden slots are read as they are, not as the mask vector: they hold other values (noise by replacement).

        Shape:
            labels_BT (B, T) of 0 and 1; hidden_BS (B, S) with the labels
        """
        assert self.field_heads is not None, "this one was built to rank only"
        found = self._look_up(sequences, candidates)
        tokens_BSH, _ = self._tokens(found, ids, vectors_BX, labels_BT, hidden_BS, visible=visible)
        tokens_BSH = self._through(tokens_BSH, ids)
        made, choices = {}, {}
        for dim in self.widths:
            slots = self.layout.slots_of_width(dim)
            heads_SHD = self.field_heads[str(dim)][self.layout.places_of_width(dim)]
            made[dim] = torch.bmm(tokens_BSH[:, slots].transpose(0, 1), heads_SHD).transpose(0, 1)
            choices[dim] = [
                Choice(self.layout.own_slots(table), own, found[table + CANDIDATES], self._bias(table))
                for table, own in candidates.items()
                if self.layout.width_of(table) == dim
            ]
        made[0] = self._label_vectors(tokens_BSH)
        return Restored(made, choices)

    def label_scores(self, made_BTD: Tensor) -> Tensor:
        """Return a(0) and a(1) of every label, (B, T, 2)."""
        return score(made_BTD.transpose(0, 1), self.labels_T2D, temperature=self.temperature).transpose(0, 1)

    def maskable(self, ids: Ids) -> Tensor:
        """Return which slots can be hidden, (B, S): values that are there, and all labels.

        Labels that do not count are hidden like the others, and read as 0 where they are not: if they stayed visible, seeing
        one would tell the label that it depends on.
        """
        values_BS = ids.there & (ids.ids >= self.layout.reserved_S)
        vectors_BX = values_BS.new_zeros(len(values_BS), len(self.vectors))
        labels_BT = values_BS.new_ones(len(values_BS), len(self.tasks))
        return torch.cat([values_BS, vectors_BX, labels_BT], dim=1)

    def _look_up(self, sequences: KeyedJaggedTensor, candidates: dict[str, Candidates]) -> dict[str, Tensor]:
        """The vectors of every field's ids and, if it restores, of every table's candidates, through one look-up."""
        if self.field_heads is not None:
            nothing = sequences.values()[:0]
            chosen = {table: candidates[table].ids if table in candidates else nothing for table in self.layout.table_names}
            rows = sequences.stride()
            counts = torch.zeros(len(chosen), rows, dtype=sequences.lengths().dtype, device=nothing.device)
            if rows:  # all of them in row 0; a rank without rows has no candidates either
                counts[:, 0] = torch.tensor([len(own) for own in chosen.values()])
            sequences = KeyedJaggedTensor(
                keys=[*sequences.keys(), *(table + CANDIDATES for table in chosen)],
                values=torch.cat([sequences.values(), *(own if rows else nothing for own in chosen.values())]),
                lengths=torch.cat([sequences.lengths(), counts.flatten()]),
                stride=rows,
            )
        return {name: events.values for name, events in self.sparse(None, sequences).events.items()}

    def _tokens(
        self, found: dict[str, Tensor], ids: Ids, vectors_BX: Tensor, labels_BT: Tensor, hidden_BS: Tensor, *, visible: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the tokens, (B, S, H), and the fields' vectors, (B, F, D), if all tables have one width."""
        hidden_BS1 = hidden_BS.unsqueeze(2)
        parts, order = [], []
        emb_BFD = None
        for dim in self.widths:
            slots = self.layout.slots_of_width(dim)
            vectors_BSD = self.layout.vectors_of_width(found, ids, dim)
            if len(self.widths) == 1:
                emb_BFD = self.layout.averaged(vectors_BSD, ids)
            mask_SD = self.masks[str(dim)][self.layout.places_of_width(dim)]
            vectors_BSD = torch.where(hidden_BS1[:, slots] & (not visible), mask_SD, vectors_BSD)
            parts.append(self.read[str(dim)](vectors_BSD))
            order.append(slots)
        given = torch.split(vectors_BX, [slot.dim for slot in self.vectors], dim=1)
        parts += [read(own).unsqueeze(1) for read, own in zip(self.read_vectors, given, strict=True)]
        tasks = torch.arange(len(self.tasks), device=labels_BT.device)
        label_BTD = torch.where(hidden_BS1[:, -len(self.tasks) :], self.label_mask_TD, self.labels_T2D[tasks, labels_BT.long()])
        parts.append(self.read_labels(label_BTD))
        tokens_BSH = torch.cat(parts, dim=1)
        if len(order) > 1:
            back = torch.cat(order).argsort()
            rest = torch.arange(len(back), tokens_BSH.shape[1], device=back.device)
            tokens_BSH = tokens_BSH[:, torch.cat([back, rest])]
        return tokens_BSH + self.identity_FH[self.layout.field_S], emb_BFD

    def _through(self, tokens_BSH: Tensor, ids: Ids) -> Tensor:
        """The tokens after all layers; slots without an id are heard by nobody."""
        valid_BS = self._there(ids, tokens_BSH)
        guidance = self._guidance()
        for block in self.blocks:
            tokens_BSH = block(tokens_BSH, valid_BS, guidance)
        return tokens_BSH

    def _there(self, ids: Ids, tokens_BSH: Tensor) -> Tensor:
        """Which slots have something, (B, S): given vectors and labels always."""
        others = tokens_BSH.shape[1] - ids.there.shape[1]
        return torch.cat([ids.there, ids.there.new_ones(len(tokens_BSH), others)], dim=1)

    def _guidance(self) -> Guidance | None:
        factors_F = self.balance.factors()
        if self.attention == "none" or factors_F is None:
            return None
        ones = factors_F.new_ones(len(self.vectors) + len(self.tasks))
        return Guidance(self.attention, torch.cat([factors_F, ones])[self.layout.field_S])

    def _label_vectors(self, tokens_BSH: Tensor) -> Tensor:
        labels_TBH = tokens_BSH[:, -len(self.tasks) :].transpose(0, 1)
        made_TBD: Tensor = labels_TBH @ self.label_heads_THD
        return made_TBD.transpose(0, 1)

    def _bias(self, table: str) -> Tensor | None:
        bias: Tensor | None = self.biases[table] if self.biases is not None and table in self.biases else None
        return bias


def _small(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * 0.05)


def _xavier(*shape: int) -> Tensor:
    std: float = (2 / (shape[-1] + shape[-2])) ** 0.5
    return torch.randn(*shape) * std
