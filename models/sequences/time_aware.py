"""TLSI: long and short interest, by the time of day and by how long ago.

B rows, D width of an event's vector, N events of a field in the whole batch, K newest events of the short part.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.inputs import Payload
from models.layers import MLP, linear
from models.sequences.base import SequenceEncoder, newest, occupied, rows_of, softmax, summed
from models.sparse import JaggedEvents

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
PERIOD = 4
"""[columns] of a vector of the hour, and of the weekday."""


@dataclass(frozen=True)
class Clock:
    """What the time of day is read from.

    Args:
        timezone_hours: [h] that local time is ahead of the log's, which counts from 1970 in UTC.
        weekday: whether the day of the week is read; a log of less than some weeks cannot teach it.
    """

    timezone_hours: float = 0.0
    weekday: bool = True


CLOCK = Clock()


class TimeAware(SequenceEncoder):
    """u = g u_long + (1 - g) u_short        g = sigmoid(MLP[q, u_long, u_short, p_T])

    p(t) = [vector of the hour, vector of the weekday]
    D_j = ln(1 + (T - t_j) / 60 s)        d_j = ln(1 + (t_j - t_{j-1}) / 60 s), 0 of the first
    long:  u = sum_j softmax_j(MLP[e_j, q, e_j * q, e_j - q] + MLP[p_j, p_T, p_j * p_T, D_j]) e_j
    short: the last state of an LSTM over the 10 newest events whose gates also read D_j and d_j, see `TimeLSTM`

    Args:
        clock: timezone_hours, weekday.
        long, short: which parts there are; one alone is u.
        newest_events: K of the short part.

    Shape:
        query_BD (B, D), events (N, D) with times, time_B (B,) -> (B, D)

    Source: TLSI (arXiv 2511.06213) for the parts; the cell is SLi-Rec's Time4LSTM; the formulas between them are ours.
    """

    asks = True
    reads = ("time",)

    def __init__(
        self,
        *,
        width: int,
        length: int,
        clock: Clock = CLOCK,
        long: bool = True,
        short: bool = True,
        newest_events: int = 10,
    ) -> None:
        super().__init__(width=width, length=length)
        if not (long or short):
            raise ValueError("time_aware: both parts are off; set long or short to true")
        self.clock, self.newest = clock, min(newest_events, length)
        self.hours_HP = nn.Parameter(torch.randn(24, PERIOD) * PERIOD**-0.5) if long else None
        self.weekdays_WP = nn.Parameter(torch.randn(7, PERIOD) * PERIOD**-0.5) if long and clock.weekday else None
        period = PERIOD * (2 if clock.weekday else 1)
        self.content = _scorer(4 * width, 36, bias=False) if long else None  # which a softmax would not see
        self.moment = _scorer(3 * period + 1, 16, bias=False) if long else None
        self.lstm = TimeLSTM(width, self.newest) if short else None
        self.gate = _scorer(3 * width + period, 36) if long and short else None

    def forward(self, query_BD: Tensor | None, events: JaggedEvents, payload: Payload, time_B: Tensor | None) -> Tensor:
        """Return one vector per row, (B, D)."""
        assert query_BD is not None
        assert payload.times_N is not None
        assert time_B is not None
        row_N = rows_of(events)
        ago_N = _log_minutes(time_B.index_select(0, row_N) - payload.times_N).to(events.values.dtype)
        long_BD = self._long(query_BD, events, payload.times_N, time_B, ago_N, row_N) if self.content is not None else None
        short_BD = self._short(events, payload.times_N, ago_N) if self.lstm is not None else None
        if self.gate is None:
            only_BD = short_BD if long_BD is None else long_BD
            assert only_BD is not None
            return only_BD
        assert long_BD is not None
        assert short_BD is not None
        share_B1 = torch.sigmoid(self.gate(torch.cat([query_BD, long_BD, short_BD, self._period(time_B)], dim=1)))
        return share_B1 * long_BD + (1 - share_B1) * short_BD

    def _period(self, time_N: Tensor) -> Tensor:
        """p(t), (N, 4 or 8)."""
        local_N = time_N + self.clock.timezone_hours * HOUR
        assert self.hours_HP is not None
        hour_NP = self.hours_HP.index_select(0, (local_N / HOUR).floor().remainder(24).long())
        if self.weekdays_WP is None:
            return hour_NP
        return torch.cat([hour_NP, self.weekdays_WP.index_select(0, (local_N / DAY).floor().remainder(7).long())], dim=1)

    def _long(
        self, query_BD: Tensor, events: JaggedEvents, times_N: Tensor, time_B: Tensor, ago_N: Tensor, row_N: Tensor
    ) -> Tensor:
        assert self.content is not None
        assert self.moment is not None
        event_ND, query_ND = events.values, query_BD.index_select(0, row_N)
        then_NP, now_NP = self._period(times_N), self._period(time_B).index_select(0, row_N)
        score_N1 = self.content(torch.cat([event_ND, query_ND, event_ND * query_ND, event_ND - query_ND], dim=1))
        score_N1 = score_N1 + self.moment(torch.cat([then_NP, now_NP, then_NP * now_NP, ago_N.unsqueeze(1)], dim=1))
        return summed(softmax(score_N1.squeeze(1), events, row_N).unsqueeze(1) * event_ND, events, row_N)

    def _short(self, events: JaggedEvents, times_N: Tensor, ago_N: Tensor) -> Tensor:
        assert self.lstm is not None
        lengths_B = events.lengths
        # One more than is read, whose time is that of the event before the first.
        then_BS = newest(times_N.unsqueeze(1), lengths_B, self.newest + 1).squeeze(2)
        there_BS = occupied(lengths_B, self.newest + 1)
        since_BK = _log_minutes(then_BS[:, 1:] - then_BS[:, :-1]).to(ago_N.dtype) * there_BS[:, :-1]
        ago_BK = newest(ago_N.unsqueeze(1), lengths_B, self.newest).squeeze(2)
        last_BD: Tensor = self.lstm(newest(events.values, lengths_B, self.newest), ago_BK, since_BK, there_BS[:, 1:])
        return last_BD


class TimeLSTM(nn.Module):
    """An LSTM whose gates read how long ago an event was and how long after the one before.

    a = tanh(w_1 D + b_1), s = tanh(w_2 d + b_2)
    A = sigmoid(W_x1 x + W_t1 a + c_1), S = sigmoid(W_x2 x + W_t2 s + c_2)
    [i, j, f, o] = W [x; h] + b, o += W_o1 a + W_o2 s
    c = sigmoid(f + 1) * S * c + sigmoid(i) * A * tanh(j)        h = sigmoid(o) * tanh(c)

    Args:
        width: D of the events and of the state. steps: K.

    Shape:
        events_BKD (B, K, D) oldest first, ago_BK, since_BK (B, K) [ln minutes], there_BK (B, K) bool -> the last state, (B, D)

    Source: Yu et al., SLi-Rec, 2019, the released Time4LSTM.
    """

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.width, self.steps = width, steps
        self.times = nn.ModuleList(linear(1, width) for _ in range(2))
        self.events = linear(width, 6 * width)
        self.own = nn.ModuleList(linear(width, width, bias=False) for _ in range(2))
        self.out = nn.ModuleList(linear(width, width, bias=False) for _ in range(2))
        self.state = linear(width, 4 * width, bias=False)

    def forward(self, events_BKD: Tensor, ago_BK: Tensor, since_BK: Tensor, there_BK: Tensor) -> Tensor:
        """Return the last state, (B, D)."""
        read_BKX = self.events(events_BKD)  # all but what the state adds is known before the first step
        times = [torch.tanh(layer(own.unsqueeze(2))) for layer, own in zip(self.times, (ago_BK, since_BK), strict=True)]
        gates_BKX, open_ago_BKD, open_since_BKD = torch.split(read_BKX, [4 * self.width, self.width, self.width], dim=2)
        opened = zip((open_ago_BKD, open_since_BKD), self.own, times, strict=True)
        ago_BKD, since_BKD = (torch.sigmoid(own + layer(time)) for own, layer, time in opened)
        late_BKD = sum(layer(time) for layer, time in zip(self.out, times, strict=True))
        state_BD = cell_BD = torch.zeros_like(events_BKD[:, 0])
        for k in range(self.steps):
            i, j, f, o = (gates_BKX[:, k] + self.state(state_BD)).chunk(4, dim=1)
            kept_BD = torch.sigmoid(f + 1) * since_BKD[:, k] * cell_BD
            new_BD = kept_BD + torch.sigmoid(i) * ago_BKD[:, k] * torch.tanh(j)
            there_B1 = there_BK[:, k : k + 1]
            cell_BD = torch.where(there_B1, new_BD, cell_BD)
            state_BD = torch.where(there_B1, torch.sigmoid(o + late_BKD[:, k]) * torch.tanh(cell_BD), state_BD)
        return state_BD


def _scorer(inputs: int, hidden: int, *, bias: bool = True) -> nn.Module:
    return nn.Sequential(MLP(inputs, hidden=(hidden,)), linear(hidden, 1, bias=bias))


def _log_minutes(seconds: Tensor) -> Tensor:
    """ln(1 + minutes), of differences in float64, in which seconds since 1970 lose nothing."""
    return torch.log1p(seconds.clamp(min=0) / MINUTE)
