"""What repeats the job, read by what it is for where that is here, and by its own grammar where it is not."""

import ast
import configparser
import io
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from kubernetes import client

from data.errors import GenctrError
from launch.cli import main
from launch.doctor import SYSTEM_PACKAGES
from launch.schedules import SCHEDULES, Resources
from tests.tiny import genctr

ROOT = Path(__file__).resolve().parents[2]
ASKED = {
    "config": "conf/my run.yaml",
    "out": "s3://runs/feed",
    "name": "Feed 100%",
    "at": "02:15",
    "image": "registry/genctr:1",
    "here": "/srv/feed ads",
    "program": "/opt/genctr/bin/genctr",
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_command_prints_it(kind: str) -> None:
    done = genctr("schedule", ROOT / "launch/configs/demo.yaml", "--as", kind, "--at", "03:00", "--out", "runs/x")
    assert done.code == 0, done.err
    assert "genctr" in done.out
    assert "--out" in done.out
    assert "OMP_WAIT_POLICY" in done.out


def test_an_impossible_time_is_told() -> None:
    done = genctr("schedule", ROOT / "launch/configs/demo.yaml", "--as", "cron", "--at", "25:00")
    assert done.code == 2
    assert "such as 02:00" in done.err


@pytest.mark.parametrize("kind", ["cron", "systemd", "kubernetes", "airflow"])
def test_no_schedule_starts_earlier_than_it_was_asked_to(kind: str) -> None:
    """The same minutes of every hour: half an hour after 02:45 is not one of hour 2."""
    done = genctr("schedule", ROOT / "launch/configs/demo.yaml", "--as", kind, "--at", "02:45")
    assert done.code == 2
    assert "such as 02:15" in done.err


def test_cron() -> None:
    lines = SCHEDULES["cron"](**ASKED).splitlines()
    (job,) = [line for line in lines if re.match(r"[\d*]", line)]
    minutes, hours, *rest, command = job.split(None, 5)
    assert (minutes, hours, rest) == ("15,45", "2-23", ["*", "*", "*"])
    assert (
        command
        == "cd '/srv/feed ads' && /opt/genctr/bin/genctr daily 'conf/my run.yaml' --out s3://runs/feed --quiet > /dev/null"
    )
    assert all(re.fullmatch(r"#.*|\w+=\S+", line) for line in lines if line != job)


def crontab_says(text: str, folder: Path) -> int:
    """What Debian's crontab answers to a table that it is only to check."""
    (folder / "tab").write_text(text)
    return subprocess.run(["crontab", "-n", folder / "tab"], capture_output=True, check=False).returncode


@pytest.mark.skipif(shutil.which("crontab") is None, reason="no crontab here")
def test_cron_itself_reads_it(tmp_path: Path) -> None:
    table = SCHEDULES["cron"](**ASKED)
    assert crontab_says(table, tmp_path) == 0
    assert crontab_says(table.replace("15,45 2-23", "15,75 2-23"), tmp_path) != 0, "it is not a check that lets this pass"


def units() -> dict[str, str]:
    text = SCHEDULES["systemd"](**ASKED | {"name": "feed"})
    _, *parts = re.split(r"^# (genctr-feed[\w-]*\.\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_systemd() -> None:
    found = {}
    for name, text in units().items():
        found[name] = configparser.RawConfigParser(strict=False)
        found[name].optionxform = str
        found[name].read_string(text)
    service, timer = found["genctr-feed.service"]["Service"], found["genctr-feed.timer"]["Timer"]
    assert service["ExecStart"] == "/opt/genctr/bin/genctr daily 'conf/my run.yaml' --out s3://runs/feed --quiet"
    assert service["WorkingDirectory"] == "/srv/feed ads"
    assert service["SuccessExitStatus"] == "3 75"
    assert timer["OnCalendar"] == "*-*-* 2..23:15,45:00"


def systemd_says(name: str, text: str, folder: Path) -> str:
    (folder / name).write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", folder / name], capture_output=True, text=True, check=False)
    return done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_itself_reads_it(tmp_path: Path) -> None:
    here = {name: text.replace(ASKED["program"], "/bin/true") for name, text in units().items()}  # it looks for the file
    assert here.keys() == {"genctr-feed.service", "genctr-feed-failed.service", "genctr-feed.timer"}
    for name, text in here.items():
        assert systemd_says(name, text, tmp_path) == ""
    wrong = here["genctr-feed.service"].replace("ExecStart", "ExecStrat")
    assert "Unknown key" in systemd_says("genctr-wrong.service", wrong, tmp_path), "it is not a check that lets this pass"


def test_kubernetes_models_take_it() -> None:
    document = yaml.safe_load(SCHEDULES["kubernetes"](**ASKED))

    class Answer:
        data = __import__("json").dumps(document)

    job = client.ApiClient().deserialize(Answer, "V1CronJob")  # checks every required field
    assert job.metadata.name == "genctr-feed-100"
    assert job.spec.concurrency_policy == "Forbid"
    assert job.spec.schedule == "15,45 2-23 * * *"
    pod = job.spec.job_template.spec.template.spec
    assert pod.containers[0].args == ["genctr", "daily", "conf/my run.yaml", "--out", "s3://runs/feed", "--quiet"]
    assert pod.restart_policy == "Never"
    back = client.ApiClient().sanitize_for_serialization(job)
    back["metadata"].pop("creationTimestamp", None)
    assert back == document, "the schema knows every key of it"


def test_kubernetes_does_not_start_a_job_for_ever_that_runs_out_of_memory() -> None:
    rules = yaml.safe_load(SCHEDULES["kubernetes"](**ASKED))["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    ignored = [rule for rule in rules if rule["action"] == "Ignore"]
    assert [list(rule) for rule in ignored] == [["action", "onPodConditions"]], "what is killed for memory exits with 137"


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 0), (75, 0), (2, 2), (1, 1)])
def test_kubernetes_sees_the_exit_codes(tmp_path: Path, code: int, expected: int) -> None:
    (tmp_path / "genctr").write_text(f"#!/bin/sh\n[ \"$2\" = 'conf/my run.yaml' ] && exit {code}\nexit 9\n")
    (tmp_path / "genctr").chmod(0o755)
    job = yaml.safe_load(SCHEDULES["kubernetes"](**ASKED))["spec"]["jobTemplate"]["spec"]
    container = job["template"]["spec"]["containers"][0]
    words = [*container["command"], *container["args"]]
    assert subprocess.run(words, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False).returncode == expected


def test_a_requeued_slurm_script_does_not_queue_another_night(tmp_path: Path) -> None:
    for name, does in (("sbatch", f"echo once >> {tmp_path}/queued"), ("srun", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    for again in ({}, {"SLURM_RESTART_COUNT": "1"}, {"SLURM_RESTART_COUNT": "2"}):
        own = {"PATH": f"{tmp_path}:/usr/bin:/bin", **again}
        assert subprocess.run(["bash"], input=SCHEDULES["slurm"](**ASKED), text=True, env=own, check=False).returncode == 0
    assert (tmp_path / "queued").read_text() == "once\n"


@pytest.mark.parametrize("today", ["2027-03-20", "2027-03-27", "2027-03-28", "2027-10-31"])
def test_slurm_queues_the_next_night_whatever_clocks_do(tmp_path: Path, today: str) -> None:
    """In Berlin 02:15 is not a time of 2027-03-28: date(1) refuses it, and without a next night there is never one again."""
    days = {"2027-03-20": "21", "2027-03-27": "28", "2027-03-28": "29", "2027-10-31": "01"}
    date = f'[ "$1" = -d ] || exit 9\nexec {shutil.which("date")} -d "{today} $2" "$3"'
    for name, does in (("date", date), ("sbatch", f"echo $1 > {tmp_path}/queued"), ("srun", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    own = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TZ": "Europe/Berlin"}
    subprocess.run(["bash"], input=SCHEDULES["slurm"](**ASKED), text=True, env=own, check=True)
    assert re.fullmatch(rf"--begin=2027-\d\d-{days[today]}T02:15\n", (tmp_path / "queued").read_text())


def test_slurm_is_a_script_of_bash() -> None:
    script = SCHEDULES["slurm"](**ASKED)
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert script.startswith("#!/bin/bash\n#SBATCH")
    command = "/opt/genctr/bin/genctr daily 'conf/my run.yaml' --out s3://runs/feed --quiet"
    assert f"srun --ntasks=1 --cpus-per-task=2 {command}" in script
    assert '#SBATCH --chdir="/srv/feed ads"\n' in script


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 0), (75, 0), (2, 2)])
def test_slurm_knows_the_exit_codes(tmp_path: Path, code: int, expected: int) -> None:
    for name, does in (("sbatch", "exit 0"), ("srun", f"exit {code}")):
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    script = SCHEDULES["slurm"](**ASKED)
    done = subprocess.run(["bash"], input=script, text=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert done.returncode == expected


def test_airflow_compiles_and_says_what_it_runs() -> None:
    text = SCHEDULES["airflow"](**ASKED)
    tree = ast.parse(text)
    compile(tree, "dag.py", "exec")
    calls = {node.func.id: node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    dag = {keyword.arg: keyword.value for keyword in calls["DAG"].keywords}
    task = {keyword.arg: keyword.value for keyword in calls["DailyOperator"].keywords}
    assert dag["schedule"].value == "15,45 2-23 * * *"
    assert dag["max_active_runs"].value == 1
    assert task["skip_on_exit_code"].value == 75
    assert task["bash_command"].value.startswith("/opt/genctr/bin/genctr daily 'conf/my run.yaml'")
    assert task["cwd"].value == "/srv/feed ads"


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 0), (75, 75), (2, 2)])
def test_airflow_sees_the_exit_codes(tmp_path: Path, code: int, expected: int) -> None:
    (tmp_path / "genctr").write_text(f"#!/bin/bash\nexit {code}\n")
    (tmp_path / "genctr").chmod(0o755)
    command = re.search(r'bash_command=(".*")', SCHEDULES["airflow"](**ASKED | {"program": "genctr"}))
    assert command is not None
    done = subprocess.run(["bash", "-c", ast.literal_eval(command[1])], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert done.returncode == expected


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("key", ["config", "out", "name", "image", "here", "program"])
@pytest.mark.parametrize("ending", ["\n* * * * * rm", "\r\nExecStartPre=/bin/rm", "\x0bx", "\u2028x"])
def test_no_text_adds_a_line_to_a_schedule(kind: str, key: str, ending: str) -> None:
    with pytest.raises(GenctrError, match=f"{key}: .* control character"):
        SCHEDULES[kind](**ASKED | {key: ASKED[key] + ending})


def test_no_name_adds_code_to_a_dag() -> None:
    tree = ast.parse(SCHEDULES["airflow"](**ASKED | {"name": '"""; import os; os.abort() #'}))

    assert {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names} == {"pendulum"}


def test_systemd_expands_nothing_in_a_command() -> None:
    text = SCHEDULES["systemd"](**ASKED | {"out": "runs/$HOME-%h"})

    assert "--out 'runs/$$HOME-%%h' --quiet" in text


def test_a_local_run_folder_outlives_its_pod() -> None:
    text = SCHEDULES["kubernetes"](**ASKED | {"out": "runs/feed"})
    pod = yaml.safe_load(text)["spec"]["jobTemplate"]["spec"]["template"]["spec"]

    assert pod["volumes"] == [{"name": "runs", "persistentVolumeClaim": {"claimName": "genctr-feed-100"}}]
    assert pod["containers"][0]["args"][3:5] == ["--out", "/runs/feed-100"]
    assert "PersistentVolumeClaim genctr-feed-100" in text.splitlines()[0]


def test_resources_are_what_was_asked_for() -> None:
    ask = Resources(cpu=16, memory=120, gpu=2)
    pod = yaml.safe_load(SCHEDULES["kubernetes"](**ASKED, ask=ask))["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    batch = SCHEDULES["slurm"](**ASKED, ask=ask)

    assert pod["containers"][0]["resources"]["limits"] == {"memory": "120Gi", "nvidia.com/gpu": "2"}
    assert "#SBATCH --cpus-per-task=16\n#SBATCH --mem=120G\n#SBATCH --gres=gpu:2\n" in batch


def test_systemd_starts_an_alert_when_the_job_has_failed() -> None:
    text = SCHEDULES["systemd"](**ASKED)  # a name with a blank and a percent sign

    assert "OnFailure=genctr-feed-100-failed.service\n" in text
    assert "# genctr-feed-100-failed.service\n" in text
    assert "StartLimitBurst=4\n" in text, "a job that is restarted for ever never fails"


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_schedule_says_in_which_time_zone_it_starts(kind: str) -> None:
    zone = "in UTC" if kind in ("kubernetes", "airflow") else "in the time zone of the machine that runs it"

    assert [line for line in SCHEDULES[kind](**ASKED).splitlines() if "02:15" in line and zone in line]


def test_help_says_in_which_time_zone_a_schedule_starts() -> None:
    with redirect_stdout(out := io.StringIO()), pytest.raises(SystemExit):
        main(["schedule", "--help"])
    text = " ".join(out.getvalue().split())

    assert "UTC for kubernetes and airflow" in text
    assert "the time zone of the machine that runs it for cron, systemd and slurm" in text


class Refused(Exception):
    """Airflow's own class of a failure that may be tried again."""


class Fatal(Refused):
    """Airflow's own class of a failure that may not."""


class Skipped(Refused):
    """Airflow's own class of a task that is left out."""


TASKS: "list[BashOperator]" = []


class BashOperator:
    """What the DAG uses of Airflow's: runs the command, and has the process that did."""

    def __init__(self, *, bash_command: str, env: dict[str, str], skip_on_exit_code: int, **others: object) -> None:
        self.command, self.env, self.skip, self.subprocess_hook = bash_command, env, skip_on_exit_code, SimpleNamespace()
        TASKS.append(self)

    def execute(self, context: object) -> None:
        done = subprocess.Popen(["bash", "-c", self.command], env=self.env)
        self.subprocess_hook.sub_process = done
        if done.wait() == self.skip:
            raise Skipped
        if done.returncode:
            raise Refused(f"exit code {done.returncode}")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("code", "expected"), [(0, None), (3, None), (75, Skipped), (1, Refused), (2, Fatal), (4, Fatal), (5, Fatal)]
)
def test_airflow_tries_again_only_what_may_end_otherwise(
    code: int, expected: type[Exception] | None, version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exceptions = SimpleNamespace(AirflowException=Refused, AirflowFailException=Fatal, AirflowSkipException=Skipped)
    bash, dag = SimpleNamespace(BashOperator=BashOperator), SimpleNamespace(DAG=lambda **_: nullcontext())
    pendulum = SimpleNamespace(datetime=lambda *_, **__: None, duration=lambda **_: None)
    old = {"airflow": dag, "airflow.exceptions": exceptions, "airflow.operators.bash": bash}
    new = {"airflow.providers.standard.operators.bash": bash, "airflow.sdk": dag, "airflow.sdk.exceptions": exceptions}
    for name, module in {"pendulum": pendulum, **(new if version == 3 else old)}.items():
        monkeypatch.setitem(sys.modules, name, module)
    (tmp_path / "genctr").write_text(f"#!/bin/bash\nexit {code}\n")
    (tmp_path / "genctr").chmod(0o755)
    exec(SCHEDULES["airflow"](**ASKED | {"program": str(tmp_path / "genctr")}), {})

    with nullcontext() if expected is None else pytest.raises(Refused) as raised:
        TASKS.pop().execute({})
    assert expected is None or type(raised.value) is expected


@pytest.mark.parametrize("key", ["config", "out", "here", "program"])
def test_airflow_takes_no_name_for_a_template(key: str) -> None:
    with pytest.raises(GenctrError, match=f"{key}: .* template of Jinja"):
        SCHEDULES["airflow"](**ASKED | {key: "runs/{{ macros }}"})


DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_image_has_what_the_schedules_and_components_start() -> None:
    lines = [line for line in DOCKERFILE.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    needed = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    base = re.search(r"^FROM \S*python:([\d.]+)", DOCKERFILE, re.MULTILINE)

    assert copied
    assert all((ROOT / word).exists() for word in copied), copied
    assert needed is not None
    assert base is not None
    assert tuple(map(int, base[1].split("."))) >= tuple(map(int, needed[1].split(".")))
    assert set(SYSTEM_PACKAGES.values()) - {"libgcc-s1", "libstdc++6"} <= set(DOCKERFILE.split()), "a slim image lacks them"
    assert "tools/fbgemm-gpu-shim" in DOCKERFILE
    assert re.search(r"\bgenctr doctor\b", DOCKERFILE), "an image that is not whole is not made"


def test_a_local_log_is_not_in_a_pod_and_that_is_said() -> None:
    done = genctr("schedule", ROOT / "launch/configs/demo.yaml", "--as", "kubernetes")

    assert "data.root runs/demo-log is a folder of this machine" in done.err
    assert genctr("schedule", ROOT / "launch/configs/demo.yaml", "--as", "cron").err == ""
