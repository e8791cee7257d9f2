"""Optimizers of what has a learning rate of its own."""

import torch

from pipeline.builders.optimizers import PresentAdam


def test_a_coordinate_that_a_step_has_not_seen_stays_where_it_is_and_its_moments_too() -> None:
    ours, usual = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    present, adam = PresentAdam([ours], lr=0.01), torch.optim.Adam([usual], lr=0.01)
    for step in range(40):
        for own in (ours, usual):
            own.grad = torch.tensor([1.0, 1.0 if step < 20 else 0.0])
        present.step()
        adam.step()
        if step == 19:
            at, state = ours.detach().clone(), present.state[ours]["exp_avg"].clone()
            torch.testing.assert_close(ours, usual)

    assert ours[1] == at[1]
    assert present.state[ours]["exp_avg"][1] == state[1]
    assert usual[1] < at[1], "torch's own goes on moving it"
    torch.testing.assert_close(ours[0], usual[0])
