"""Field embedding: every kind of field worked out, the order of fields, and rows without anything."""

import math

import pytest
import torch

from models.field_embedding import Field, FieldEmbedding
from models.inputs import Inputs, Payload
from models.registries import SEQUENCE_ENCODERS
from models.sequences import SequenceEncoder
from models.sequences.pooling import attend, pool
from models.sparse import JaggedEvents, Lookups

NOTHING = torch.zeros(2, 0)


def given(numbers_BN, vectors_BX):
    return Inputs(None, None, numbers_BN, vectors_BX)


def events(values, lengths):
    return JaggedEvents(torch.tensor(values), torch.tensor(lengths))


def embed(*fields, linear=False, width=2):
    torch.manual_seed(0)
    sequences = {field.name: SEQUENCE_ENCODERS[field.encoder](width=field.dim, length=20) for field in fields if field.encoder}
    return FieldEmbedding(fields, width=width, linear=linear, sequences=sequences)


def fill(parameter, values):
    with torch.no_grad():
        parameter.copy_(torch.tensor(values))


# pooling


def test_the_sum_of_every_rows_own_events():
    #   rows of two, no and one events
    found = pool(events([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]], [2, 0, 1]), mean=False)

    torch.testing.assert_close(found, torch.tensor([[3.0, 30.0], [0.0, 0.0], [4.0, 40.0]]))


def test_the_mean_of_every_rows_own_events():
    found = pool(events([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]], [2, 0, 1]), mean=True)

    torch.testing.assert_close(found, torch.tensor([[1.5, 15.0], [0.0, 0.0], [4.0, 40.0]]))


def test_attention_weighs_the_events_that_answer_the_query():
    #   row 0: scores sqrt(2) * ln 3 / sqrt(2) = ln 3 and 0, so weights 3/4 and 1/4; row 1: no events; row 2: one event
    query_BD = torch.tensor([[math.sqrt(2) * math.log(3), 0.0], [1.0, 1.0], [5.0, 5.0]])

    found = attend(query_BD, events([[1.0, 0.0], [0.0, 1.0], [7.0, -7.0]], [2, 0, 1]))

    torch.testing.assert_close(found, torch.tensor([[0.75, 0.25], [0.0, 0.0], [7.0, -7.0]]))


def test_attention_survives_huge_scores():
    found = attend(torch.tensor([[1e4]]), events([[1.0], [2.0]], [2]))

    torch.testing.assert_close(found, torch.tensor([[2.0]]))


def test_attention_is_the_softmax_of_a_loop_and_so_is_its_gradient():
    torch.manual_seed(0)
    query_BD = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    keys_ND = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    lengths = [3, 0, 1, 2]
    rows = []
    for query_D, own_LD in zip(query_BD, keys_ND.split(lengths), strict=True):
        rows.append((own_LD @ query_D / math.sqrt(3)).softmax(0) @ own_LD)
    expected = torch.autograd.grad(torch.stack(rows).square().sum(), [query_BD, keys_ND])

    found_BD = attend(query_BD, JaggedEvents(keys_ND, torch.tensor(lengths)))

    torch.testing.assert_close(found_BD, torch.stack(rows))
    torch.testing.assert_close(torch.autograd.grad(found_BD.square().sum(), [query_BD, keys_ND]), expected)


# fields


def test_fields_come_in_their_own_order_whatever_they_are():
    made = embed(Field("price", "number"), Field("user", "table", 2), Field("image", "vector", 1), Field("age", "number"))
    fill(made.numbers_ND, [[1.0, 2.0], [3.0, 4.0]])
    fill(made.projections[0].weight, [[5.0], [6.0]])
    looked = Lookups(vectors={"other": torch.zeros(1, 2), "user": torch.tensor([[7.0, 8.0]])})

    emb_BFD, linear_BF = made(looked, given(torch.tensor([[10.0, 100.0]]), torch.tensor([[0.5]])))

    torch.testing.assert_close(emb_BFD, torch.tensor([[[10.0, 20.0], [7.0, 8.0], [2.5, 3.0], [300.0, 400.0]]]))
    assert linear_BF is None


def test_a_table_of_another_width_is_projected():
    made = embed(Field("user", "table", 3))
    fill(made.projections[0].weight, [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])

    emb_BFD, _ = made(Lookups(vectors={"user": torch.tensor([[1.0, 2.0, 4.0]])}), given(torch.zeros(1, 0), torch.zeros(1, 0)))

    torch.testing.assert_close(emb_BFD, torch.tensor([[[3.0, 4.0]]]))


def test_a_table_of_the_right_width_costs_no_parameters():
    assert list(embed(Field("user", "table", 2), linear=True).parameters()) == []


def test_attention_asks_with_the_vector_of_the_query_before_any_projection():
    fields = [
        Field("history", "table", 1, encoder="target_attention", query="item"),
        Field("item", "table", 1),
        Field("liked", "table", 1, "mean"),
    ]
    made = embed(*fields)
    for projection in made.projections:
        fill(projection.weight, [[1.0], [10.0]])
    looked = Lookups(
        events={
            "item": events([[math.log(3)], [0.0]], [1, 1]),
            "history": events([[1.0], [0.0]], [2, 0]),
            "liked": events([[2.0], [4.0]], [0, 2]),
        }
    )

    emb_BFD, _ = made(looked, given(NOTHING, NOTHING))

    #   history of row 0: weights 3/4 and 1/4 of 1 and 0; row 1 has none
    torch.testing.assert_close(emb_BFD[:, 0], torch.tensor([[0.75, 7.5], [0.0, 0.0]]))
    torch.testing.assert_close(emb_BFD[:, 1], torch.tensor([[math.log(3), 10 * math.log(3)], [0.0, 0.0]]))
    torch.testing.assert_close(emb_BFD[:, 2], torch.tensor([[0.0, 0.0], [3.0, 30.0]]))


def test_first_order_terms_of_every_kind():
    made = embed(
        Field("price", "number"),
        Field("user", "table", 2),
        Field("image", "vector", 2),
        Field("item", "table", 2),
        Field("tags", "table", 2, "sum"),
        Field("history", "table", 2, encoder="target_attention", query="item"),
        linear=True,
    )
    fill(made.linear_numbers_N, [3.0])
    fill(made.linear_vectors[0].weight, [[1.0, 10.0]])
    vectors = {"user": torch.zeros(1, 2)}
    ids = {"item": [1], "tags": [2], "history": [2]}
    looked = Lookups(
        vectors=vectors,
        linear={"user": torch.tensor([[0.5]])},
        events={name: events([[0.0, 0.0]] * lengths[0], lengths) for name, lengths in ids.items()},
        linear_events={
            "item": events([[7.0]], [1]),
            "tags": events([[1.0], [2.0]], [2]),
            "history": events([[1.0], [2.0]], [2]),
        },
    )

    _, linear_BF = made(looked, given(torch.tensor([[2.0]]), torch.tensor([[4.0, 5.0]])))

    torch.testing.assert_close(linear_BF, torch.tensor([[6.0, 0.5, 54.0, 7.0, 3.0, 1.5]]))


def test_no_rows_still_give_every_parameter_a_gradient():
    fields = [Field("price", "number"), Field("image", "vector", 3), Field("item", "table", 4)]
    made = embed(*fields, Field("history", "table", 4, encoder="target_attention", query="item"), linear=True)
    none = JaggedEvents(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    no_weights = JaggedEvents(torch.zeros(0, 1), none.lengths)
    looked = Lookups(
        events=dict.fromkeys(["item", "history"], none), linear_events=dict.fromkeys(["item", "history"], no_weights)
    )

    emb_BFD, linear_BF = made(looked, given(torch.zeros(0, 1), torch.zeros(0, 3)))
    (emb_BFD.sum() + linear_BF.sum()).backward()

    assert emb_BFD.shape == (0, 4, 2)
    assert linear_BF.shape == (0, 4)
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_a_query_that_cannot_ask_is_told():
    history = Field("history", "table", 4, encoder="target_attention", query="itm")
    with pytest.raises(ValueError, match=r"field history: attention asks with 'itm'; choose from \['item'\]"):
        embed(history, Field("item", "table", 4))
    with pytest.raises(ValueError, match="width 4 asks with 'itm', which has width 8"):
        embed(history, Field("itm", "table", 8))


# sequence encoders


class Newest(SequenceEncoder):
    """An encoder of another package: the event with the latest time, times its age in days."""

    def forward(self, query_BD, events, payload, time_B):
        ends_B = events.lengths.cumsum(0) - 1
        days_B = ((time_B - payload.times_N[ends_B]) / 86_400).float()
        return events.values[ends_B] * days_B[:, None]


def test_a_sequence_encoder_reads_what_events_carry_and_the_time_of_the_row():
    fields = [Field("history", "table", 2, encoder="newest")]
    made = FieldEmbedding(fields, width=2, linear=False, sequences={"history": Newest(length=20, width=2)})
    day = 86_400.0
    payload = Payload(times_N=torch.tensor([0.0, day, 5 * day], dtype=torch.float64))
    times_B = torch.tensor([3 * day, 6 * day], dtype=torch.float64)
    inputs = Inputs(None, None, NOTHING, NOTHING, {"history": payload}, times_B)

    emb_BFD, _ = made(Lookups(events={"history": events([[1.0, 1.0], [2.0, 3.0], [4.0, 5.0]], [2, 1])}), inputs)

    torch.testing.assert_close(emb_BFD[:, 0], torch.tensor([[4.0, 6.0], [4.0, 5.0]]))  # two days old, one day old
