"""The doors: the `genctr` command, the TorchX components, ready configs, schedules.

__main__.py    The front door, `genctr` or `python -m launch`: prepare the process, then hand over to the command line.
arguments.py   Arguments that several commands share: folders, days, settings.
cli.py         The `genctr` command: which words there are, and what it says and returns when one of them fails.
commands/      The commands of `genctr`, a file for those that belong together; each adds its own to the parser.
components.py  The TorchX components: what a scheduler is asked to run.
doctor.py      `genctr doctor`: is this installation whole, and if it is not, which line fixes it?
jobs.py        A run's job for a command: its ranks, its process group, its lease, its parts; closed when the command is done.
orphans.py     A rank ends with its launcher, however that ends: one that lived on would hold memory, and write next to its successor.
plans.py       The tables of `genctr plan`: what every rank holds, where every table is, how long a step takes, what would fit.
ranks.py       Start a command once per rank on this machine: `python -m launch.ranks RANKS COMMAND …`. No port is opened to the network.
schedules.py   What repeats the daily job: a crontab, systemd units, a Kubernetes CronJob, a Slurm script, an Airflow DAG.
status.py      The table of `genctr status`: a line per day, from the ledger; times from the log.
tables.py      Tables on standard output: as wide as the terminal, or wide enough for a file.
terminal.py    Standard streams to which only visible text is written.
"""  # noqa: E501
