"""What one step of pre-training computes: hide values, restore them, and weigh the fields; and the losses per field."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec import KeyedJaggedTensor

from data.batch import Batch
from models.diffusion.candidates import CandidateSampler
from models.diffusion.denoiser import Denoiser, Restored
from models.diffusion.noise import Noise, thinned
from models.diffusion.slots import Ids, ids_of
from models.diffusion.softmax import LogQ, losses
from pipeline.config.objective import DenoiseKind
from pipeline.training.field_metrics import FieldMeters
from pipeline.training.objective import MetricSpec, Objective, StepOutput


class DenoiseObjective(DenoiseKind, Objective):
    """Hide values of every row, restore them, and sum up what that cost.

    loss = ranks * sum over local rows b of w_b * sum over restored slots s of weight_f(s) * CE_bs / rows of the step
           + the loss that teaches the balance its difficulties

    w_b and what is hidden are the `Noise`'s; the fields' weights the `Balance`'s, from the losses of the whole step; labels
    weigh `label_weight`. What is hidden is restored, but for labels that do not count and what is more of a table than it
    chooses from, see `thinned`: what is restored of that field weighs more. Averaged over ranks it is the loss over all rows of
    the step.

    Args:
        model: a denoiser that restores.
        candidates: of all its tables.
        shares: target -> (2,) how frequent the labels 0 and 1 are.
        noise: what is hidden. replace: hidden values are replaced by others of their field, and read, instead of masked.
        logq: see `losses`.
        ranks: [ranks] of the process group.
        label_weight: [1] of the labels' losses.
    """

    model: Denoiser

    def __init__(
        self,
        model: Denoiser,
        *,
        candidates: CandidateSampler,
        shares: Mapping[str, Tensor],
        noise: Noise,
        replace: bool,
        logq: LogQ,
        ranks: int,
        label_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.model, self.candidates = model, candidates
        self.noise, self.replace, self.logq, self.ranks, self.label_weight = noise, replace, logq, ranks, label_weight
        self.names = model.names
        self.headline = MetricSpec("loss", higher_is_better=False, path=("all", "loss"))
        self.label_log_p: Tensor
        self.label_S: Tensor
        self.register_buffer(
            "label_log_p", torch.stack([shares[target] for target in model.tasks]).log().float(), persistent=False
        )
        self.register_buffer("label_S", self._is_label(), persistent=False)
        self.most_F: Tensor
        self.register_buffer("most_F", self._most(), persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, StepOutput]:
        """Return the scalar to differentiate, and the losses per field with everything detached."""
        sequences, model = batch.sequences, self.model
        assert sequences is not None, "a denoiser's tables are not pooled"
        ids = ids_of(sequences, model.tables)
        hidden_BS, weight_B = self.noise(model.maskable(ids), self.label_S)
        wanted_BS, more_F = self._wanted(hidden_BS, batch.weights)
        labels_BT = batch.labels
        read, read_ids = sequences, ids
        if self.replace:
            read, read_ids = self._replaced(sequences, ids, hidden_BS)
        chosen = self.candidates(self.present(ids, wanted_BS))
        restored = model.restore(read, read_ids, batch.vectors, labels_BT, hidden_BS, chosen, visible=self.replace)
        share_BS = wanted_BS * self._shares(hidden_BS)
        loss_BS, reference_BS = (own * share_BS for own in self._losses(restored, ids, labels_BT, wanted_BS))

        sums_3K = self._per_field(torch.stack([loss_BS.detach(), reference_BS, share_BS]))
        total_3K = sums_3K.clone()
        if self.ranks > 1 and model.balance.kind != "uniform":
            dist.all_reduce(total_3K)
        fields = len(model.tables)
        present_F = total_3K[2, :fields] > 0
        means_2F = total_3K[:2, :fields] / total_3K[2, :fields].clamp(min=1)
        weight_F, own = model.balance(means_2F[0], means_2F[1], present_F)
        others = torch.cat([weight_F.new_ones(len(model.vectors)), weight_F.new_full((len(model.tasks),), self.label_weight)])
        weight_S = (torch.cat([weight_F, others]) * more_F)[model.layout.field_S]
        loss = (loss_BS * weight_S * weight_B.unsqueeze(1)).sum() / batch.rows

        seen = {"loss": sums_3K[0], "reference": sums_3K[1], "rows": sums_3K[2]}
        seen["weight"] = torch.cat([weight_F.detach(), weight_F.new_full((len(model.tasks),), self.label_weight)])
        if model.balance.s is not None:
            seen["difficulty"] = model.balance.s.detach().clone()
        return loss * self.ranks + own, StepOutput(batch, {}, {"denoise": loss.detach()}, seen)

    def day_metrics(self) -> FieldMeters:
        """Losses per field and label."""
        return FieldMeters(self.names)

    def step_metrics(self) -> FieldMeters:
        """The same: they are of constant size."""
        return FieldMeters(self.names)

    def _wanted(self, hidden_BS: Tensor, weights_BT: Tensor) -> tuple[Tensor, Tensor]:
        """What is restored, (B, S), and by how much every field of it weighs more, (F,)."""
        tasks = len(self.model.tasks)
        counting_BS = torch.cat([hidden_BS[:, :-tasks], hidden_BS[:, -tasks:] & (weights_BT > 0)], dim=1)
        return thinned(counting_BS, self.model.layout.field_S, self.most_F)

    def _shares(self, hidden_BS: Tensor) -> Tensor:
        """1 / the hidden values of the slot's field in the row, (B, S): a list is as one field, however long it is."""
        field_S, fields = self.model.layout.field_S, len(self.most_F)
        counts_BF = hidden_BS.new_zeros(len(hidden_BS), fields, dtype=torch.float32).index_add(1, field_S, hidden_BS.float())
        return 1 / counts_BF[:, field_S].clamp(min=1)

    def _losses(self, restored: Restored, ids: Ids, labels_BT: Tensor, wanted_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of every slot that is restored and its reference, two (B, S)."""
        model = self.model
        found = wanted_BS.new_zeros(2, *wanted_BS.shape, dtype=torch.float32)
        parts = list(found.unbind(0))
        for dim in model.widths:
            slots = model.layout.slots_of_width(dim)
            own = losses(
                restored.made[dim],
                ids.ids[:, slots],
                wanted_BS[:, slots],
                restored.choices[dim],
                temperature=model.temperature,
                logq=self.logq,
            )
            parts = [part.index_copy(1, slots, one) for part, one in zip(parts, own, strict=True)]
        scores_BT2, wanted_BT1 = model.label_scores(restored.made[0]), labels_BT.long().unsqueeze(2)
        label_BT = -scores_BT2.log_softmax(2).gather(2, wanted_BT1).squeeze(2)
        chance_BT = -self.label_log_p.expand_as(scores_BT2).gather(2, wanted_BT1).squeeze(2)
        slots = self.label_S.nonzero().squeeze(1)
        parts = [part.index_copy(1, slots, one) for part, one in zip(parts, (label_BT, chance_BT), strict=True)]
        return parts[0] * wanted_BS, parts[1] * wanted_BS

    def present(self, ids: Ids, wanted_BS: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Of every table that is too large for a full softmax: its values in the batch, and those that have to be restored."""
        model, found = self.model, {}
        values_BS = ids.there & (ids.ids >= model.layout.reserved_S)
        for table in model.layout.table_names:
            if not self.candidates.is_full(table):
                slots = model.layout.slots_of(table)
                own, there = ids.ids[:, slots], values_BS[:, slots]
                found[table] = own[there], own[there & wanted_BS[:, slots]]
        return found

    def _replaced(self, sequences: KeyedJaggedTensor, ids: Ids, hidden_BS: Tensor) -> tuple[KeyedJaggedTensor, Ids]:
        """The batch with every hidden value replaced by one drawn from its table's unigram; hidden labels are masked."""
        model = self.model
        values, drawn_BS = sequences.values().clone(), ids.ids.clone()
        start = 0
        for slot in model.tables:
            hidden = hidden_BS[:, start : start + slot.length]
            drawn_BS[:, start : start + slot.length][hidden] = self.candidates.draw(slot.table, int(hidden.sum()))
            start += slot.length
        hidden_ids = hidden_BS[:, :start]
        values[ids.places[hidden_ids]] = drawn_BS[hidden_ids]
        replaced = KeyedJaggedTensor(
            keys=sequences.keys(), values=values, lengths=sequences.lengths(), stride=sequences.stride()
        )
        return replaced, Ids(drawn_BS, ids.there, ids.places, ids.starts)

    def _per_field(self, of_slots_XBS: Tensor) -> Tensor:
        """Sums over rows and over the slots of a field, of fields and labels, (X, K)."""
        model = self.model
        sums = of_slots_XBS.sum(1)
        fields = len(model.tables) + len(model.vectors) + len(model.tasks)
        by_field = sums.new_zeros(len(sums), fields).index_add(1, model.layout.field_S, sums)
        return torch.cat([by_field[:, : len(model.tables)], by_field[:, -len(model.tasks) :]], dim=1)

    def _most(self) -> Tensor:
        """How many values of every field are restored at most; fields that share a table share what it chooses from."""
        tables, most = [slot.table for slot in self.model.tables], self.candidates.most
        others = len(self.model.vectors) + len(self.model.tasks)
        return torch.tensor([max(most // tables.count(table), 1) for table in tables] + [2**62] * others)

    def _is_label(self) -> Tensor:
        slots = len(self.model.layout.field_S)
        return torch.arange(slots) >= slots - len(self.model.tasks)
