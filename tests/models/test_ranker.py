"""The click model from ids to logits."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn

from models.field_embedding import Field, FieldEmbedding
from models.inputs import FieldInfo, Inputs
from models.layers import flat
from models.ranker import Ranker
from models.registries import DECODERS, ENCODERS, HEADS
from models.sparse import SparseArch, Table
from tests.models.flat import made_of
from tests.models.test_sparse import CPU, ids

CHOICES = [(decoder, encoder) for decoder in DECODERS for encoder in ENCODERS]


INFOS = [FieldInfo(name) for name in ("user", "price", "item")]
LIVELY = {"fibinet": {"reduction": 0.25}, "dcnv3": {"deep_layers": 1, "shallow_layers": 1}}
"""Options by which two rows of three fields pass every ReLU somewhere."""


def fields(width):
    return [Field("user", "table", width), Field("price", "number"), Field("item", "table", width)]


def ranker(decoder, encoder, **options):
    torch.manual_seed(0)
    width = DECODERS[decoder].embedding_width(fields=3, dim=4)
    generate = partial(made_of, ENCODERS[encoder], fields=3, width=width, **options)
    made = made_of(DECODERS[decoder], fields=INFOS, width=width, generate=generate, **LIVELY.get(decoder, {}))
    second = made.second_width
    tables = [Table(name, 9, width, (name,), linear=made.needs_linear, second=second) for name in ("item", "user")]
    return Ranker(
        sparse=SparseArch(tables, device=CPU),
        embed=FieldEmbedding(fields(width), width=width, linear=made.needs_linear),
        second=FieldEmbedding(fields(second), width=second, linear=False) if second else None,
        decoder=made,
        head=HEADS[made.head](features=flat(made.out), targets=("click", "buy")),
    )


def rows():
    return Inputs(ids(user=[[1], [2]], item=[[3], [4]]), None, torch.tensor([[0.5], [2.0]]), torch.zeros(2, 0))


@pytest.mark.parametrize(("decoder", "encoder"), CHOICES)
def test_one_logit_per_row_and_task(decoder, encoder):
    output = ranker(decoder, encoder)(rows())

    assert {task: logits.shape for task, logits in output.logits.items()} == {"click": (2,), "buy": (2,)}
    assert output.aux == {}


@pytest.mark.parametrize(("decoder", "encoder"), CHOICES)
def test_one_step_moves_every_table_and_every_weight(decoder, encoder):
    made = ranker(decoder, encoder)

    output = made(rows())
    sides = [own for name, own in output.representations.items() if "/" in name]
    sum(logit.square().sum() for logit in [*output.logits.values(), *sides]).backward()

    assert [name for name, parameter in made.named_parameters() if parameter.grad is None or not parameter.grad.any()] == []


def test_the_logits_of_a_factorisation_machine_from_ids_by_hand():
    made = ranker("fm", "none")
    with torch.no_grad():
        for name, weight in made.named_parameters():
            weight.fill_({"user_linear": 0.1, "item_linear": 0.2, "linear_numbers_N": 0.3, "bias": 7}.get(_table(name), 1))

    logits = made(rows()).logits["click"]

    #   first order 0.1 + 0.2 + 0.3 price, pairs 4 * (price + 1 + price), bias 7
    torch.testing.assert_close(logits.detach(), torch.tensor([0.45 + 8 + 7, 0.9 + 20 + 7]))


def _table(name):
    parts = name.split(".")
    return parts[-1] if parts[-1] != "weight" else parts[-2]


def test_the_operands_are_seen_only_if_asked_and_are_detached():
    made = ranker("dcnv2", "sfg")
    assert set(made(rows()).observed) == {"emb"}

    made.watch = True
    seen = made(rows()).observed

    assert {name: tensor.shape for name, tensor in seen.items()} == dict.fromkeys(["emb", "generated", "raw"], (2, 3, 4))
    assert not any(tensor.requires_grad for tensor in seen.values())
    expected = made.decoder.encoders[0](seen["emb"])
    torch.testing.assert_close(seen["generated"], expected)


def test_training_pipelines_can_trace_the_ranker():
    """They look for sharded modules symbolically: the forward may not look at tensors outside of leaf modules."""

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return not isinstance(module, Ranker | SparseArch)

    graph = Tracer().trace(ranker("deepfm", "sfg"))

    assert "sparse_bags" in [node.name for node in graph.nodes]


def test_an_encoder_may_learn_to_restore_as_well_which_teaches_it_alone():
    made = ranker("fm", "sfg")
    made.restore = 0.5
    output = made(rows())
    (loss_B, weight) = output.aux["restore"]
    emb_BFD = output.observed["emb"]

    assert weight == 0.5
    torch.testing.assert_close(loss_B, (made.decoder.encoder(emb_BFD) - emb_BFD).square().mean((1, 2)))
    loss_B.sum().backward()
    taught = {name for name, parameter in made.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    assert taught == {"decoder.encoder.transform.weight"}
    assert made.eval()(rows()).aux == {}


@pytest.mark.parametrize(
    "options", [{"batch_norm": True}, {"transform": "attention"}, {"training_target": "random", "num_targets": 2}]
)
def test_looking_changes_nothing(options):
    torch.manual_seed(0)
    made = ranker("fm", "sfg", **options).train()
    states, logits = [], []
    for watch in (False, True):
        torch.manual_seed(1)
        again = deepcopy(made)
        again.watch = watch
        again(rows())
        logits.append(again(rows()).logits["click"])
        states.append(again.state_dict())

    assert again.decoder.training
    assert torch.equal(*logits)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(("decoder", "encoder"), CHOICES)
def test_representations_keep_their_gradient_and_what_is_observed_does_not(decoder, encoder):
    made = ranker(decoder, encoder)
    output = made(rows())

    names = {template.format(target=target) for template in made.head.represents for target in ("click", "buy")}
    assert set(output.representations) == {*Ranker.represents, *names}
    assert not any(own.requires_grad for own in output.observed.values())
    for own in output.representations.values():
        made.zero_grad()
        own.square().sum().backward(retain_graph=True)
        tables = [parameter for name, parameter in made.named_parameters() if name.startswith("sparse")]
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in tables)
