"""The doors: the `genctr` command, the TorchX components, ready configs, schedules.

__main__.py    The front door, `genctr` or `python -m launch`: prepare the process, then hand over to the command line.
ckpt.py        The words of `genctr ckpt`: what it is asked, and how it shows what it found.
cli.py         The `genctr` command: one function per word, from `doctor` to `schedule`.
components.py  The TorchX components: what a scheduler is asked to run.
doctor.py      `genctr doctor`: is this installation whole, and if it is not, which line mends it?
orphans.py     A rank ends with its launcher, however that ends: one that lived on would hold memory, and write beside its successor.
plans.py       The tables of `genctr plan`: what every rank holds, where every table is, how long a step takes, what would fit.
ranks.py       Start a command once per rank on this machine: `python -m launch.ranks RANKS COMMAND …`. No port is opened to the network.
schedules.py   What repeats the daily job: a crontab, systemd units, a Kubernetes CronJob, a Slurm script, an Airflow DAG.
status.py      The table of `genctr status`: a line per day, from the ledger; times from the log.
"""  # noqa: E501
