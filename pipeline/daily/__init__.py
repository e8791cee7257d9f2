"""The daily job: every new day scored, trained once, judged, published or held back, and written down.

approvals.py   What a person decides about a run: publish a held model after all, go back to an earlier one. Needs no training code.
audit.py       Prove from the ledger that every row of every trained day was trained exactly once: read the log again, count and hash.
challenger.py  The new model against the serving one on rows that neither has seen: the last steps of the day, before they train.
gates.py       Gates: yes/no questions before a model is published, as pure functions of what is known.
job.py         The daily job: bring a model up to date with its log. Run it again and nothing happens twice.
ledger.py      The ledger: what happened to each day, one JSON line an entry, chained so that a missing or altered line is seen.
notify.py      Tell somebody what happened to a day: a webhook, a command. What goes wrong with it is said, and changes nothing.
policy.py      What the daily job does next, and why: a pure function of the ledger, the log and the policies.
prometheus.py  Numbers of a daily job for Prometheus: `metrics.prom` in the run folder, for node_exporter's textfile collector.
"""  # noqa: E501
