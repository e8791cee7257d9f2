"""Sequence encoders: formulas worked out, what time does, and that padding and other rows change nothing."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from models.inputs import Payload
from models.registries import SEQUENCE_ENCODERS
from models.sequences import SequenceEncoder
from models.sequences.base import Actions, newest, occupied
from models.sequences.dien import Gates
from models.sequences.next_action import NextAction
from models.sequences.pooling import attend
from models.sequences.time_aware import Clock, TimeAware, TimeLSTM, _log_minutes
from models.sparse import JaggedEvents

D, L = 8, 6
LENGTHS = [3, 0, 6, 1]
NOON = 1_700_000_000.0 // 86_400 * 86_400 + 43_200
OPTIONS: Mapping[str, Mapping[str, Any]] = {"transact": {"actions": 3}, "hstu": {"actions": 3}}
SORTED = {"dien", "bst", "transact", "hstu", "time_aware"}
"""Those for which the order of the events matters."""


def make(name: str, **options: Any) -> SequenceEncoder:
    torch.manual_seed(1)
    return SEQUENCE_ENCODERS[name](width=D, length=L, **(OPTIONS.get(name, {}) | options)).eval()


def rows(lengths: list[int] = LENGTHS) -> tuple[Tensor, JaggedEvents, Payload, Tensor]:
    torch.manual_seed(2)
    ago = torch.cat([torch.zeros(0), *(torch.rand(own).sort(descending=True).values * 90_000 for own in lengths)]).double()
    time_B = NOON + 3600.0 * torch.arange(len(lengths), dtype=torch.float64)
    times_N = time_B.repeat_interleave(torch.tensor(lengths, dtype=torch.int64)) - ago
    events = JaggedEvents(torch.randn(sum(lengths), D), torch.tensor(lengths, dtype=torch.int64))
    return torch.randn(len(lengths), D), events, Payload(times_N, torch.randint(0, 8, (sum(lengths),))), time_B


def only(row: int) -> tuple[Tensor, JaggedEvents, Payload, Tensor]:
    """One of the rows alone."""
    query, events, payload, time_B = rows()
    own = slice(sum(LENGTHS[:row]), sum(LENGTHS[: row + 1]))
    carried = Payload(payload.times_N[own], payload.actions_N[own])
    one = JaggedEvents(events.values[own], events.lengths[row : row + 1])
    return query[row : row + 1], one, carried, time_B[row : row + 1]


@pytest.mark.parametrize("name", SEQUENCE_ENCODERS)
def test_rows_do_not_know_each_other_and_one_without_events_is_zero(name: str) -> None:
    encode = make(name)
    together = encode(*rows())
    assert together.shape == (4, encode.out)
    assert not together[1].any()
    for row in range(4):
        torch.testing.assert_close(encode(*only(row))[0], together[row], rtol=1e-5, atol=1e-6)
    assert encode(*rows([0, 0])).shape == (2, encode.out)
    assert encode(*rows([])).shape == (0, encode.out)


@pytest.mark.parametrize("name", SEQUENCE_ENCODERS)
def test_in_float64_it_says_the_same_with_more_digits(name: str) -> None:
    encode, (query, events, payload, time_B) = make(name), rows()
    found = encode(query, events, payload, time_B)
    exact = encode.double()(query.double(), JaggedEvents(events.values.double(), events.lengths), payload, time_B)
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SEQUENCE_ENCODERS)
def test_every_parameter_and_every_event_gets_a_gradient(name: str) -> None:
    encode, (query, events, payload, time_B) = make(name), rows()
    events.values.requires_grad_()
    encode(query, events, payload, time_B).square().sum().backward()
    assert [key for key, own in encode.named_parameters() if own.grad is None or not own.grad.any()] == []
    assert events.values.grad.isfinite().all()
    if name != "transact":  # there an event may be the greatest in no column
        assert events.values.grad.any(1).all()


@pytest.mark.parametrize("name", SEQUENCE_ENCODERS)
def test_the_order_of_the_events_matters_to_those_that_say_so(name: str) -> None:
    encode, (query, events, payload, time_B) = make(name), rows([4])
    turned = JaggedEvents(events.values.flip(0), events.lengths)
    back = Payload(payload.times_N.flip(0), payload.actions_N.flip(0))
    same = torch.allclose(encode(query, events, payload, time_B), encode(query, turned, back, time_B), atol=1e-6)
    assert same == (name not in SORTED)


def test_slots_hold_the_newest_events() -> None:
    values = torch.arange(1.0, 7.0).unsqueeze(1)
    lengths = torch.tensor([4, 0, 2])
    assert newest(values, lengths, 3).squeeze(2).tolist() == [[2.0, 3.0, 4.0], [0.0, 0.0, 0.0], [0.0, 5.0, 6.0]]
    assert occupied(lengths, 3).tolist() == [[True] * 3, [False] * 3, [False, True, True]]
    skipped = torch.tensor([2, 0, 2])
    assert newest(values, lengths, 3, skipped).squeeze(2).tolist() == [[0.0, 1.0, 2.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_actions_are_sums_over_their_bits() -> None:
    actions = Actions(count=3, width=2)
    with torch.no_grad():
        actions.vectors_AD.copy_(torch.tensor([[1.0, 0.0], [10.0, 0.0], [0.0, 5.0]]))
    assert actions(torch.tensor([5, 2, 0, 8])).tolist() == [[1.0, 5.0], [10.0, 0.0], [0.0, 0.0], [0.0, 0.0]]


# --- DIN ---


def test_din_by_hand() -> None:
    encode = SEQUENCE_ENCODERS["din"](width=1, length=3, hidden=(1,))
    with torch.no_grad():
        encode.mlp[0].weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
        encode.weigh.weight.copy_(torch.tensor([[2.0]]))
        encode.weigh.bias.copy_(torch.tensor([-1.0]))
    events = JaggedEvents(torch.tensor([[3.0], [-1.0]]), torch.tensor([2]))
    # q = 2; k = 3: relu(2 + 6 - 3 + 24) * 2 - 1 = 57; k = -1: relu(2 - 2 + 9 - 8) * 2 - 1 = 1
    assert encode(torch.tensor([[2.0]]), events, Payload(), None).item() == 57 * 3 - 1


def test_a_din_that_says_nothing_is_a_mean_with_a_softmax() -> None:
    encode, (query, events, payload, time_B) = make("din", softmax=True), rows()
    torch.nn.init.zeros_(encode.weigh.weight)
    mean = SEQUENCE_ENCODERS["mean"](width=D, length=L)
    torch.testing.assert_close(encode(query, events, payload, time_B), mean(query, events, payload, time_B))


# --- TransAct ---


def test_transact_hides_only_young_events_and_only_while_training() -> None:
    encode, (query, events, payload, time_B) = make("transact", hide_hours=1e-9, dropout=0.0), rows()
    seen = encode(query, events, payload, time_B)
    torch.testing.assert_close(encode.train()(query, events, payload, time_B), seen)

    encode = make("transact", hide_hours=1e9, dropout=0.0).train()
    assert not encode(query, events, payload, time_B).any(), "all are younger than that"


def test_a_hidden_event_is_as_one_that_never_was() -> None:
    encode, (query, events, payload, time_B) = make("transact", hide_hours=1.0, dropout=0.0).train(), rows([3])
    times = time_B - torch.tensor([9000.0, 7200.0, 0.0])  # the newest is hidden, whatever is drawn
    without = JaggedEvents(events.values[:2], torch.tensor([2]))
    found = encode(query, events, Payload(times, payload.actions_N), time_B)
    torch.testing.assert_close(found, encode(query, without, Payload(times[:2], payload.actions_N[:2]), time_B))


# --- HSTU ---


def test_hstu_is_causal() -> None:
    block, tokens, there = make("hstu").blocks[0], torch.randn(1, L, D), torch.ones(1, L, 1)
    changed = tokens.clone()
    changed[:, 3] += torch.randn(D)
    torch.testing.assert_close(block(tokens, there)[:, :3], block(changed, there)[:, :3])
    assert not torch.allclose(block(tokens, there)[:, 4:], block(changed, there)[:, 4:])


# --- time ---


def test_minutes_of_seconds() -> None:
    found = _log_minutes(torch.tensor([0.0, 60.0, 3600.0, 86_400.0, -5.0], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.6931, 4.1109, 7.2731, 0.0], dtype=torch.float64), atol=5e-5, rtol=0)


def shifted(seconds: float) -> tuple[Tensor, JaggedEvents, Payload, Tensor]:
    query, events, payload, time_B = rows()
    return query, events, Payload(payload.times_N + seconds, payload.actions_N), time_B + seconds


def test_a_week_later_nothing_has_changed_and_an_hour_later_the_period_has() -> None:
    encode = make("time_aware")
    now = encode(*rows())
    torch.testing.assert_close(encode(*shifted(7 * 86_400)), now)
    assert not torch.allclose(encode(*shifted(3600)), now)
    assert not torch.allclose(encode(*shifted(86_400)), now), "another weekday"

    short = make("time_aware", long=False)
    torch.testing.assert_close(short(*shifted(3600)), short(*rows())), "intervals are what they were"

    no_weekday = make("time_aware", clock=Clock(weekday=False))
    torch.testing.assert_close(no_weekday(*shifted(86_400)), no_weekday(*rows()))


def test_the_time_zone_moves_the_hour() -> None:
    ahead = make("time_aware", clock=Clock(timezone_hours=8.0))
    torch.testing.assert_close(ahead(*rows()), make("time_aware")(*shifted(8 * 3600)))


def test_without_moments_long_interest_is_attention_by_content() -> None:
    encode, (query, events, payload, time_B) = make("time_aware", short=False), rows()
    for layer in encode.moment.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.zeros_(layer.weight)
    found = encode(query, events, payload, time_B)
    torch.testing.assert_close(found, encode(*shifted(3600)))
    asked = query.repeat_interleave(events.lengths, 0)
    score_N = encode.content(torch.cat([events.values, asked, events.values * asked, events.values - asked], 1)).squeeze(1)
    for row, (scores, own) in enumerate(zip(score_N.split(LENGTHS), events.values.split(LENGTHS), strict=True)):
        torch.testing.assert_close(found[row], scores.softmax(0) @ own)


def test_an_lstm_whose_time_gates_are_open_is_an_ordinary_one() -> None:
    cell = TimeLSTM(D, steps=4)
    x, there = torch.randn(2, 4, D), torch.ones(2, 4, dtype=torch.bool)
    with torch.no_grad():
        for layer in (*cell.own, *cell.out, *cell.times):
            layer.weight.zero_()
        cell.events.weight[4 * D :].zero_()
        cell.events.bias[4 * D :] = 100.0  # both gates at 1
    found = cell(x, torch.rand(2, 4), torch.rand(2, 4), there)

    order = [0, 2, 1, 3]  # torch says i, f, g, o; ours i, j, f, o
    usual = torch.nn.LSTM(D, D, batch_first=True)
    with torch.no_grad():
        blocks = (
            cell.events.weight[: 4 * D].view(4, D, D),
            cell.state.weight.view(4, D, D),
            cell.events.bias[: 4 * D].view(4, D),
        )
        bias = blocks[2].clone()
        bias[2] += 1  # the forget gate begins open
        for own, value in zip(usual.parameters(), (blocks[0], blocks[1], bias, torch.zeros(4, D)), strict=True):
            own.copy_(value[order].reshape(own.shape))
    torch.testing.assert_close(found, usual(x)[0][:, -1])


def test_only_the_last_ten_events_are_of_the_short_interest() -> None:
    torch.manual_seed(1)
    encode = TimeAware(width=D, length=12, long=False).eval()
    query, events, payload, time_B = rows([12])
    changed = JaggedEvents(events.values.clone(), events.lengths)
    changed.values[:2] += 1
    torch.testing.assert_close(encode(query, changed, payload, time_B), encode(query, events, payload, time_B))
    changed.values[2] += 1
    assert not torch.allclose(encode(query, changed, payload, time_B), encode(query, events, payload, time_B))


# --- DIEN ---


def test_gates_are_a_gru_whose_updates_are_multiplied() -> None:
    torch.manual_seed(3)
    gates, gru, events_BLD = Gates(D), torch.nn.GRU(D, D, batch_first=True), torch.randn(4, L, D)
    there_BL = torch.ones(4, L, dtype=torch.bool)
    with torch.no_grad():
        for own, theirs in ((gates.read, gru.weight_ih_l0), (gates.state, gru.weight_hh_l0)):
            r, z, new = theirs.chunk(3)  # torch's order, and its z keeps where ours moves
            own.weight.copy_(torch.cat([-z, r, new]))
        gates.read.bias.zero_()
        gru.bias_ih_l0.zero_()
        gru.bias_hh_l0.zero_()
    torch.testing.assert_close(gates(events_BLD, there_BL), gru(events_BLD)[0])

    held_BLD = gates(events_BLD, there_BL, torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0]).expand(4, L))
    torch.testing.assert_close(held_BLD[:, -1], gru(events_BLD[:, [0, 3]])[0][:, -1])


def test_no_part_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="set long or short to true"):
        TimeAware(width=D, length=L, long=False, short=False)


@pytest.mark.parametrize("name", ["bst", "hstu", "transact"])
def test_heads_that_do_not_share_the_width_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: 5 heads do not divide"):
        make(name, heads=5)


def test_morning_and_evening_tastes_are_learnt_with_times_and_not_without() -> None:
    """Everybody clicks A before noon and B after it; the history has both, each at its hour."""
    torch.manual_seed(0)
    count = 512
    hour_B = torch.randint(0, 24, (count,))
    query_BD = torch.randn(2, D)[torch.randint(0, 2, (count,))]
    kinds_2D = torch.randn(2, D)
    values = kinds_2D.repeat(count, 1)  # A at 9, then B at 18
    at_N = torch.tensor([9.0, 18.0]).repeat(count) * 3600
    time_B = NOON + 86_400 + hour_B.double() * 3600 - 43_200
    events = JaggedEvents(values, torch.full((count,), 2))
    payload = Payload((NOON - 43_200 + at_N).double())
    wants_BD = kinds_2D[(hour_B >= 12).long()]

    def error(name: str) -> float:
        encode = make(name)
        optimizer = torch.optim.Adam([*encode.parameters(), *(w := torch.nn.Linear(D, D)).parameters()], lr=0.02)
        for _ in range(150):
            loss = (w(encode(query_BD, events, payload, time_B)) - wants_BD).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    assert error("time_aware") < 0.1 * error("target_attention")


# --- next action ---


def test_the_next_action_is_known_only_from_what_was_before() -> None:
    loss, (_, events, payload, _) = NextAction(width=D, length=L, actions=3).eval(), rows([5])
    before = loss(events, payload)
    done = payload.actions_N.clone()
    done[-1] ^= 7
    flipped = loss(events, Payload(None, done))
    assert flipped != before, "the last action is a label"

    grads = []
    for own in (payload.actions_N, done):
        values = events.values.clone().requires_grad_()
        states = []
        handle = loss.blocks[-1].register_forward_hook(lambda module, given, out: states.append(out))  # noqa: B023
        loss(JaggedEvents(values, events.lengths), Payload(None, own))
        handle.remove()
        grads.append(states[0][0, -5:-1])
    torch.testing.assert_close(*grads)


def test_next_action_by_hand() -> None:
    loss = NextAction(width=2, length=3, actions=1, layers=0, heads=1)
    with torch.no_grad():
        loss.actions.vectors_AD.copy_(torch.tensor([[10.0, 0.0]]))
        loss.reads_ADD.copy_(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
        loss.bias_A.fill_(0.5)
    events = JaggedEvents(torch.tensor([[1.0, 0.0], [0.1, 1.0], [0.0, -1.0], [5.0, 5.0]]), torch.tensor([3, 1]))
    payload = Payload(None, torch.tensor([1, 0, 1, 1]))
    # s_1 = (11, 0): (11, 0) . (.1, 1) + .5 = 1.6, label 0; s_2 = (.1, 1): (.1, 1) . (0, -1) + .5 = -.5, label 1
    expected = (math.log1p(math.exp(1.6)) + math.log1p(math.exp(0.5))) / 2
    found = loss(events, payload)
    assert found[0].item() == pytest.approx(expected, rel=1e-5)
    assert found[1].item() == 0, "nothing came after its only event"


@pytest.mark.parametrize("items", [True, False])
def test_next_action_reaches_every_parameter(items: bool) -> None:
    loss, (_, events, payload, _) = NextAction(width=D, length=L, actions=3, items=items), rows()
    loss(events, payload).sum().backward()
    assert [key for key, own in loss.named_parameters() if own.grad is None or not own.grad.any()] == []
    assert loss(*rows([0])[1:3]).tolist() == [0.0]


def test_attention_is_still_that_of_its_events() -> None:
    query, events, *_ = rows()
    torch.testing.assert_close(make("target_attention")(query, events, Payload(), None), attend(query, events))
