"""Diagnostics: sums that ranks can add up say what the rows themselves would."""

import math

import pytest
import torch

from models.diagnostics import (
    Moments,
    TableHealth,
    correlation,
    directions,
    random_vectors,
    redundancy,
    singular_values,
    spectrum,
)

N, X = 400, 12


def rows(rank=X, seed=0):
    """Rows that use `rank` directions."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, rank, generator=generator) @ torch.randn(rank, X, generator=generator) + 3


def test_moments_of_parts_add_up_to_those_of_the_whole_through_one_vector():
    z = rows()
    parts = [Moments.of(part).packed() for part in (z[:7], z[7:300], z[300:], z[:0])]
    total, whole = Moments.unpacked(sum(parts)), Moments.of(z)

    assert total.count == N
    torch.testing.assert_close(total.sums, whole.sums)
    torch.testing.assert_close(total.covariance(), torch.cov(z.T.double(), correction=0), rtol=1e-4, atol=1e-4)


def test_the_spectrum_is_that_of_the_rows():
    z = rows()
    s = torch.linalg.svdvals(torch.cov(z.T.double(), correction=0))
    p = torch.linalg.svdvals(z.double())
    p = p / p.sum() + 1e-7
    found = spectrum(Moments.of(z))

    torch.testing.assert_close(singular_values(Moments.of(z)), s, rtol=1e-3, atol=1e-3)
    assert found["abundance"] == pytest.approx((s.sum() / s.max()).item(), rel=1e-3)
    assert found["rankme"] == pytest.approx(math.exp(-(p * p.log()).sum().item()), rel=1e-3)
    assert found["svs98"] == int((s.cumsum(0) < 0.98 * s.sum()).sum()) + 1
    assert found["rankme_share"] == pytest.approx(found["rankme"] / X)


def test_collapse_shows_and_few_rows_are_no_collapse():
    healthy, collapsed = (spectrum(Moments.of(rows(rank) - 3)) for rank in (X, 2))
    few = spectrum(Moments.of((rows() - 3)[:4]))

    assert collapsed["svs98"] <= 2
    assert collapsed["rankme_share"] < 0.3 < healthy["rankme_share"]
    assert few["svs98_share"] == pytest.approx(few["svs98"] / 3)


def test_what_is_not_finite_has_no_spectrum_and_is_no_error():
    rows = torch.randn(N, 4)
    rows[3, 1] = float("nan")

    assert all(value != value for value in spectrum(Moments.of(rows)).values())
    assert math.isnan(TableHealth.summary(TableHealth.of(rows, None).packed(), 4)["rankme"])


def test_a_coordinate_that_rounding_alone_moves_is_constant():
    both = torch.cat([torch.full((N, 1), 0.3), torch.randn(N, 3)], dim=1)

    assert (correlation(Moments.of(both))[0] == 0).all()


def test_a_constant_has_no_spectrum_and_correlates_with_nothing():
    constant = torch.ones(N, 4)

    assert set(spectrum(Moments.of(constant * 0)).values()) == {0.0}
    both = Moments.of(torch.cat([constant, torch.randn(N, 4)], dim=1))
    assert torch.equal(correlation(both), torch.zeros(4, 4, dtype=torch.float64))


def test_the_correlation_is_that_of_the_coordinates():
    a, b = rows(seed=1), rows(seed=2) + rows(seed=1)
    expected = torch.corrcoef(torch.cat([a, b], dim=1).T.double())[:X, X:]

    torch.testing.assert_close(correlation(Moments.of(torch.cat([a, b], dim=1))), expected, rtol=1e-3, atol=1e-3)


def test_redundancy_within_fields_is_the_mean_of_their_blocks():
    r = torch.zeros(6, 6, dtype=torch.float64)
    r[:3, :3], r[3:, 3:] = 0.5, -1.0

    found = redundancy(r, fields=2)
    assert found["mean_r"] == found["mean_r_live"] == pytest.approx(0.375)
    assert found["mean_r_within"] == pytest.approx(0.75)
    assert found["dead_generated"] == found["dead_raw"] == 0


def test_dead_coordinates_do_not_look_like_independent_ones() -> None:
    torch.manual_seed(0)
    raw = torch.randn(500, 6)
    generated = raw @ torch.randn(6, 6)
    alive = correlation(Moments.of(torch.cat([generated, raw], dim=1)))
    dying = torch.cat([generated[:, :4], torch.zeros(500, 2)], dim=1)
    found = redundancy(correlation(Moments.of(torch.cat([dying, raw], dim=1))), fields=2)

    assert found["mean_r"] < 0.75 * redundancy(alive, fields=2)["mean_r"]
    assert found["mean_r_live"] == pytest.approx(alive[:4].abs().mean().item(), rel=1e-6)
    assert found["dead_generated"] == pytest.approx(1 / 3)
    assert found["dead_raw"] == 0


def test_the_input_allows_as_many_directions_as_random_tables_have() -> None:
    torch.manual_seed(0)
    small, large = torch.randint(0, 3, (N,)), torch.randint(0, 100, (N,))
    values = small, large, large % 5  # the last one follows from another
    emb_BFD = torch.stack([torch.randn(100, 8)[own] * 1e-3 for own in values], dim=1)
    assert directions(Moments.of(random_vectors(emb_BFD).flatten(1))) == 2 + 8 + 4

    flat_BFD = emb_BFD.clone()
    flat_BFD[:, 1] = emb_BFD[:, 1, :1]  # a table that has collapsed to a line
    assert directions(Moments.of(random_vectors(flat_BFD).flatten(1))) == 14, "as many as it would have without"
    found = Moments.of(flat_BFD.flatten(1))
    assert directions(found) == 2 + 1 + 4
    assert spectrum(found, allowed=14)["rankme_share"] == pytest.approx(spectrum(found)["rankme"] / 14)


def test_a_direction_that_is_not_there_stays_at_zero() -> None:
    s = singular_values(Moments.of(torch.randn(2000, 20) @ torch.randn(20, 60)))
    assert s[20] / s[0] < 1e-12 < s[19] / s[0]


def test_the_health_of_a_table_adds_up_over_shards():
    table = torch.randn(100, 8) * 0.1
    table[10:30] = 0
    moved = torch.arange(100) % 2 == 0
    shards = [TableHealth.of(table[part], moved[part]).packed() for part in (slice(0, 37), slice(37, 100))]
    told = TableHealth.summary(sum(shards), 8)

    assert told["rows"] == 100
    assert told["rms"] == pytest.approx(table.square().mean().sqrt().item(), rel=1e-5)
    assert told["dead"] == pytest.approx(0.2)
    assert told["moved"] == pytest.approx(0.5)
    p = torch.linalg.svdvals(table.double())
    p = p / p.sum() + 1e-7
    assert told["rankme"] == pytest.approx(math.exp(-(p * p.log()).sum().item()), rel=1e-4)


def test_an_optimizer_that_keeps_no_record_leaves_it_open_which_rows_moved():
    assert math.isnan(TableHealth.summary(TableHealth.of(torch.ones(3, 4), None).packed(), 4)["moved"])
