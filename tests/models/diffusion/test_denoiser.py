"""The denoiser: what is hidden cannot be seen, order means nothing, and ranking is restoring the labels."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from models.diffusion.balance import Balance
from models.diffusion.candidates import CandidateSampler, TableCounts
from models.diffusion.denoiser import CANDIDATES, Denoiser
from models.diffusion.slots import Slot, ids_of
from models.inputs import Inputs
from models.sparse import SparseArch, Table
from tests.models.diffusion.test_slots import jagged
from tests.models.flat import made_of

SLOTS = [
    Slot("user", "table", 4, "user", 9, 1),
    Slot("item", "table", 8, "item", 20, 2),
    Slot("past", "table", 8, "item", 20, 2, length=3),
    Slot("image", "vector", 3),
]
FIELDS = {"user": ("user",), "item": ("item", "past")}
LABELS = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
WEIGHTS = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
IMAGE = torch.arange(9.0).view(3, 3) / 9


def batch(user=(3, 4, 5), item=(7, 1, 9), past=((7, 2), (), (5, 6, 7, 8))):
    return jagged(item=[[i] for i in item], past=[list(own) for own in past], user=[[i] for i in user])


def denoiser(*, restores=True, slots=SLOTS, **options):
    torch.manual_seed(0)
    balance = options.pop("balance", None) or Balance("uniform", fields=3)
    tables = [
        Table(
            name,
            9 if name == "user" else 20,
            4 if name == "user" else 8,
            (*own, name + CANDIDATES) if restores else own,
            "none",
        )
        for name, own in FIELDS.items()
    ]
    made = made_of(
        Denoiser,
        sparse=SparseArch(tables, device=torch.device("cpu")),
        slots=slots,
        tasks=("click", "buy"),
        width=4,
        hidden=16,
        dropout=options.pop("dropout", 0.0),
        balance=balance,
        restores=restores,
        full=("user", "item"),
        **options,
    )
    for name, parameter in made.named_parameters():
        if "balance" not in name:
            torch.nn.init.normal_(parameter, std=0.4)
    return made.eval()


def restored(made, rows, hidden, labels=LABELS, image=IMAGE, **options):
    sampler = CandidateSampler(
        [TableCounts("user", 9, 1, torch.ones(9)), TableCounts("item", 20, 2, torch.ones(20))], full_rows=99, extra=0, most=99
    )
    nothing = torch.empty(0, dtype=torch.int64)
    chosen = sampler({"user": (nothing, nothing), "item": (nothing, nothing)})
    return made.restore(rows, ids_of(rows, made.tables), image, labels, hidden, chosen, **options)


def hide(*slots):
    hidden = torch.zeros(3, 8, dtype=torch.bool)  # user, item, three of past, image, two labels
    hidden[:, list(slots)] = True
    return hidden


def everything(found):
    return torch.cat([own.flatten() for _, own in sorted(found.made.items())])


@pytest.mark.parametrize("block", ["hstu", "transformer"])
def test_a_hidden_value_cannot_be_seen_and_a_visible_one_can(block):
    made = denoiser(block=block)
    hidden = hide(0)

    same = restored(made, batch(), hidden), restored(made, batch(user=(8, 8, 8)), hidden)
    torch.testing.assert_close(everything(same[0]), everything(same[1]))
    other = restored(made, batch(item=(3, 3, 3)), hidden)
    assert (everything(same[0]) - everything(other)).abs().max() > 1e-3


def test_a_hidden_label_cannot_be_seen_and_a_visible_one_can():
    made = denoiser()
    for slot, task in ((6, 0), (7, 1)):
        flipped = LABELS.clone()
        flipped[:, task] = 1 - flipped[:, task]
        hidden, seen = hide(slot), hide(0)
        torch.testing.assert_close(
            everything(restored(made, batch(), hidden)), everything(restored(made, batch(), hidden, flipped))
        )
        assert (
            everything(restored(made, batch(), seen)) - everything(restored(made, batch(), seen, flipped))
        ).abs().max() > 1e-3


def test_noise_that_replaces_is_read():
    made = denoiser()
    same, other = batch(), batch(user=(8, 8, 8))

    assert (
        everything(restored(made, same, hide(0), visible=True)) - everything(restored(made, other, hide(0), visible=True))
    ).any()


def test_a_row_knows_nothing_of_the_others():
    made = denoiser()
    found, other = restored(made, batch(), hide(0)), restored(made, batch(user=(3, 8, 8), item=(7, 3, 3)), hide(0))

    for width, own in found.made.items():
        torch.testing.assert_close(own[0], other.made[width][0])


def test_a_readout_adds_to_the_labels_own_logits_and_is_not_there_in_pre_training() -> None:
    plain, read = denoiser(restores=False), denoiser(restores=False, readout=(6,))
    read.load_state_dict(plain.state_dict(), strict=False)
    inputs = Inputs(None, batch(), torch.zeros(3, 0), IMAGE)
    added = {name: read(inputs).logits[name] - own for name, own in plain(inputs).logits.items()}
    assert all(own.abs().min() > 1e-4 for own in added.values())

    torch.nn.init.zeros_(read.readout_score.weight)
    torch.nn.init.zeros_(read.readout_score.bias)
    torch.testing.assert_close(read(inputs).logits, plain(inputs).logits)
    assert denoiser(readout=(6,)).readout is None


def test_a_readout_reads_nothing_of_slots_without_an_id() -> None:
    read = denoiser(restores=False, readout=(6,))
    short = read(Inputs(None, batch(past=((7,), (), (5,))), torch.zeros(3, 0), IMAGE)).logits["click"]
    for parameter in (read.identity_FH, *read.blocks.parameters()):
        torch.nn.init.zeros_(parameter)  # so that no token hears another
    read.readout[0].weight.data[:, :] = 0
    read.readout[0].weight.data[:, 4 * 16 : 5 * 16] = 1.0  # the third slot of the history, which is empty
    read.readout[0].bias.data[:] = 1.0
    constant = read(Inputs(None, batch(past=((7,), (), (5,))), torch.zeros(3, 0), IMAGE)).logits["click"]
    assert short.shape == constant.shape
    added = read.readout_score(torch.relu(torch.ones(1, 6)))[0, 0]
    read.readout_score.weight.data.zero_()
    read.readout_score.bias.data.zero_()
    without = read(Inputs(None, batch(past=((7,), (), (5,))), torch.zeros(3, 0), IMAGE)).logits["click"]
    torch.testing.assert_close(constant - without, added.expand(3))


def test_the_order_in_which_fields_are_listed_does_not_matter():
    one = denoiser()
    order = [2, 0, 3, 1]
    other = denoiser(slots=[SLOTS[at] for at in order])
    state = one.state_dict()
    # Fields of a width, and all fields: in the new order past comes before item; labels stay last.
    for name in ("masks.8", "field_heads.8"):
        state[name] = state[name][[1, 0]]
    state["identity_FH"] = state["identity_FH"][[2, 0, 1, 3, 4, 5]]
    other.load_state_dict(state)

    logits = [made(Inputs(None, batch(), torch.zeros(3, 0), IMAGE)).logits["click"] for made in (one, other)]
    torch.testing.assert_close(*logits)


def test_a_list_is_a_set_and_its_padding_is_not_heard():
    made = denoiser()

    def logits(past):
        return made(Inputs(None, batch(past=past), torch.zeros(3, 0), IMAGE)).logits["click"]

    torch.testing.assert_close(logits(((7, 2), (), (5, 6, 7))), logits(((2, 7), (), (7, 5, 6))))
    longer = denoiser(slots=[*SLOTS[:2], Slot("past", "table", 8, "item", 20, 2, length=5), SLOTS[3]])
    longer.load_state_dict(made.state_dict())
    past = ((7, 2), (), (5, 6, 7))
    torch.testing.assert_close(logits(past), longer(Inputs(None, batch(past=past), torch.zeros(3, 0), IMAGE)).logits["click"])


def test_ranking_is_the_label_term_of_restoring():
    made = denoiser()
    hidden = hide(6, 7)
    scores = made.label_scores(restored(made, batch(), hidden).made[0])
    output = made(Inputs(None, batch(), torch.zeros(3, 0), IMAGE))

    for at, task in enumerate(("click", "buy")):
        two_way = -scores[:, at].log_softmax(1).gather(1, LABELS[:, at : at + 1].long()).squeeze(1)
        torch.testing.assert_close(
            two_way, binary_cross_entropy_with_logits(output.logits[task], LABELS[:, at], reduction="none")
        )
    assert output.observed["emb"].shape[:2] == (3, 3) if len(made.widths) == 1 else "emb" not in output.observed


@pytest.mark.parametrize("options", [{}, {"temperature": None}, {"attention": "query+key", "balance": "progress"}])
def test_all_that_ranks_is_in_what_restores_and_does_the_same_there(options):
    balance = options.get("balance", "uniform")
    rest = {name: value for name, value in options.items() if name != "balance"}
    before = denoiser(balance=Balance(balance, fields=3), **rest)
    after = denoiser(restores=False, balance=Balance(balance, fields=3), **rest)
    if before.balance.s is not None:
        torch.nn.init.normal_(before.balance.s)
    ours, theirs = after.state_dict(), before.state_dict()
    assert ours.keys() <= theirs.keys()
    assert {name: value.shape for name, value in ours.items()} == {name: theirs[name].shape for name in ours}
    after.load_state_dict({name: theirs[name] for name in ours})

    logits = [made(Inputs(None, batch(), torch.zeros(3, 0), IMAGE)).logits["buy"] for made in (before, after)]
    torch.testing.assert_close(*logits)
    assert not any(name == "balance.s" for name, _ in after.named_parameters()), "difficulties are fixed when it ranks"


def test_only_what_is_there_can_be_hidden_and_every_label():
    made = denoiser()
    can = made.maskable(ids_of(batch(item=(7, 1, 0)), made.tables))

    assert can.int().tolist() == [
        [1, 1, 1, 1, 0, 0, 1, 1],
        [1, 0, 0, 0, 0, 0, 1, 1],  # item 1 is unseen, no past
        [1, 0, 1, 1, 1, 0, 1, 1],  # item 0 is missing
    ]


@pytest.mark.parametrize("visible", [False, True])
def test_every_parameter_gets_a_gradient(visible):
    made = denoiser(dropout=0.1, attention="query", balance=Balance("progress", fields=3)).train()
    found = restored(made, batch(), hide(), visible=visible)
    loss = everything(found).sum() + made.label_scores(found.made[0]).sum()
    loss = loss + sum(choice.vectors.sum() for choices in found.choices.values() for choice in choices)
    (loss + made.balance.s.sum()).backward()

    missing = [name for name, parameter in made.named_parameters() if parameter.grad is None]
    assert missing == []


def test_settings_that_contradict_each_other_are_told():
    with pytest.raises(ValueError, match="no attention 'keys'"):
        denoiser(attention="keys")
    with pytest.raises(ValueError, match="the balance learns none"):
        denoiser(attention="query")
