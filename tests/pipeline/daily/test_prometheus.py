import re

from pipeline.daily.ledger import fold
from pipeline.daily.prometheus import metrics

ENTRIES = [
    {"event": "scored", "day": "2026-11-02", "metrics": {"click": {"auc": 0.75, "gauc": None}}},
    {"event": "trained", "day": "2026-11-02", "rows": 1234, "files": {}, "quarantined": {}},
    {
        "event": "judged",
        "day": "2026-11-02",
        "bundle": "b",
        "publish": True,
        "answers": [{"gate": 'a"b', "number": 0.5, "ok": True}, {"gate": "psi", "number": None, "ok": False}],
    },
    {"event": "published", "day": "2026-11-02", "bundle": "b"},
]


def test_every_line_is_what_prometheus_reads() -> None:
    text = metrics(fold(ENTRIES), now=1.5)
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{\w+="([^"\\]|\\.)*"(,\w+="([^"\\]|\\.)*")*\})? [-+.e\d]+', line), line
    assert "genctr_rows 1234\n" in text
    assert "genctr_last_day_timestamp_seconds 1793577600\n" in text
    assert 'genctr_score{target="click",metric="auc"} 0.75\n' in text
    assert "gauc" not in text
    assert 'genctr_gate_ok{gate="psi"} 0\n' in text
    assert 'genctr_days{state="published"} 1\n' in text


def test_late_files_make_nothing_older() -> None:
    scored, *late = [{**entry, "day": "2026-11-01+1"} for entry in ENTRIES]
    scored |= {"metrics": {"click": {"auc": 0.25}}}
    late[0] |= {"rows": 3}
    late[1] |= {"bundle": "late"}
    late[2] |= {"bundle": "late"}
    text = metrics(fold([*ENTRIES, scored, *late]), now=1.5)

    assert "genctr_rows 1234\n" in text
    assert 'genctr_score{target="click",metric="auc"} 0.75\n' in text
    assert "genctr_last_day_timestamp_seconds 1793577600\n" in text
    assert "genctr_serving_day_timestamp_seconds 1793577600\n" in text


def test_before_the_first_day_there_is_little_to_say() -> None:
    assert "genctr_rows" not in metrics(fold([]), now=0.0)
