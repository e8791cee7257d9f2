"""EDCN: two towers, bridges and gates."""

import pytest
import torch

from models.decoders.crosses.dcn import DCN
from models.decoders.crosses.edcn import BRIDGES, EDCN
from models.inputs import FieldVectors
from tests.models.flat import made_of
from tests.models.test_decoders import FIELDS, PLAIN, SFG, B, D, F, made

X = F * D


def gates(decoder, layer):
    """The gate of the cross tower and that of the dense tower, number by number."""
    own = (decoder.gates[layer].gates_2F / decoder.gates[layer].temperature).softmax(1)
    return own.repeat_interleave(D, dim=1)


def unlike_each_other(decoder):
    with torch.no_grad():
        for gate in decoder.gates:
            gate.gates_2F.normal_()
    return decoder


@pytest.mark.parametrize("bridge", ["product", "sum"])
def test_two_layers_step_by_step(bridge):
    decoder = unlike_each_other(made("edcn", SFG, layers=2, bridge=bridge, temperature=2.0)[0])
    row = torch.randn(B, X)

    def cross(layer, start, x):
        generated = decoder.encoders[layer](start.view(B, F, D)).flatten(1)
        weigh, bias = decoder.crosses[layer].weigh.weight[0], decoder.crosses[layer].bias_X
        return x + generated * (x @ weigh)[:, None] + bias

    join = torch.mul if bridge == "product" else torch.add
    start, dense = row * gates(decoder, 0)[0], row * gates(decoder, 0)[1]
    c, d = cross(0, start, start), decoder.denses[0](dense)
    shared = join(c, d)
    c, d = cross(1, start, shared * gates(decoder, 1)[0]), decoder.denses[1](shared * gates(decoder, 1)[1])

    torch.testing.assert_close(decoder(FieldVectors(row.view(B, F, D))), torch.cat([c, d, join(c, d)], 1))


def test_without_a_bridge_it_is_dcn_on_gated_vectors():
    decoder = unlike_each_other(made("edcn", SFG, layers=2, bridge="none")[0])
    dcn = made_of(DCN, fields=FIELDS, width=D, generate=SFG, layers=2, hidden=[X, X])
    dcn.encoders.load_state_dict(decoder.encoders.state_dict())
    dcn.crosses.load_state_dict(decoder.crosses.state_dict())
    for at, dense in enumerate(decoder.denses):
        dcn.mlp[2 * at].load_state_dict(dense[0].state_dict())  # a ReLU stands between two of them
    row = torch.randn(B, X)

    out = decoder(FieldVectors(row.view(B, F, D)))

    cross, dense = (FieldVectors((row * gate).view(B, F, D)) for gate in gates(decoder, 0))
    torch.testing.assert_close(out, torch.cat([dcn(cross)[:, :X], dcn(dense)[:, X:]], 1))


def test_the_bridge_that_joins_both_in_a_layer_and_the_one_that_attends():
    cross, dense = torch.randn(B, X), torch.randn(B, X)
    joins, attends = (made("edcn", PLAIN, bridge=bridge)[0].bridges[0] for bridge in ("concat", "attention"))

    torch.testing.assert_close(joins(cross, dense), torch.relu(joins.join[0](torch.cat([cross, dense], 1))))
    shares = [own(side) for own, side in zip(attends.attend, (cross, dense), strict=True)]
    torch.testing.assert_close(attends(cross, dense), shares[0] * cross + shares[1] * dense)
    torch.testing.assert_close(shares[0].sum(1), torch.ones(B))


@pytest.mark.parametrize("bridge", BRIDGES)
def test_gradients_reach_every_parameter_of_every_bridge(bridge):
    decoder, _ = made("edcn", SFG, bridge=bridge, batch_norm=True)
    decoder(FieldVectors(torch.randn(50, F, D))).square().sum().backward()

    assert [name for name, own in decoder.named_parameters() if own.grad is None or not own.grad.any()] == []


def test_asking_for_the_operands_moves_no_running_average():
    decoder, _ = made("edcn", SFG, batch_norm=True)
    before = {name: own.clone() for name, own in decoder.named_buffers()}
    decoder.operands(torch.randn(B, F, D))

    assert all(torch.equal(own, before[name]) for name, own in decoder.named_buffers())


def test_a_high_temperature_makes_the_gates_of_all_fields_alike():
    decoder = unlike_each_other(made("edcn", PLAIN, temperature=1e6)[0])

    torch.testing.assert_close(gates(decoder, 0), torch.full((2, X), 1 / F), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "edcn: layers is 0; expected 1 or more"),
        ({"bridge": "hadamard"}, "edcn: no bridge 'hadamard'; choose from"),
        ({"temperature": 0}, "edcn: temperature is 0; expected more than 0"),
    ],
)
def test_options_without_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        made_of(EDCN, fields=FIELDS, width=D, generate=PLAIN, **options)
