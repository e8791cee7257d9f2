"""The daily job: every new day scored, trained once, judged, published or held back, and written down.

approvals.py   What a person decides about a run: publish a held model after all, go back to an earlier one. Needs no training code.
audit.py       Prove from the ledger that every row of every trained day was trained exactly once: read the log again, count and hash.
challenger.py  The new model against the serving one on rows that neither has seen: the last steps of the day, before they train.
day.py         One day of the daily job: open it, score it, train it, judge the model, publish it or hold it back.
dry_run.py     What a daily job would do, without doing it: the plan of a dry run, and whether a night has nothing to do. Without torch.
gates.py       Gates: yes/no questions before a model is published, as pure functions of what is known.
job.py         The daily job: bring a model up to date with its log. Run it again and nothing happens twice.
ledger.py      The ledger: what happened to each day, one JSON line an entry, chained so that a missing or altered line is seen.
notify.py      Tell somebody what happened to a day: a webhook, a command. What goes wrong with it is said, and changes nothing.
policy.py      What the daily job does next, and why: decided by the ledger, the log and the policies alone.
prometheus.py  Numbers of a daily job for Prometheus: `metrics.prom` in the run folder, for node_exporter's textfile collector.
rewind.py      Where a daily job stands, and how it goes back: to its newest good checkpoint, or to one before a day.
"""  # noqa: E501
