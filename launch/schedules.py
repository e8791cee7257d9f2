"""What repeats the daily job: a crontab, systemd units, a Kubernetes CronJob, a Slurm script, an Airflow DAG.

Each runs `genctr daily`, starts at `at`, and knows the exit codes: 75 is nothing to do yet, 3 a held model, neither of which is
a failure; 2, 4 and 5 are not tried again; one job at a time, and a restart resumes. What runs on this machine runs in the
folder it was asked for in, `here`, by the file of the `genctr` that was asked, `program`: schedulers know neither relative
paths nor a PATH of ours.

`at` is a time of UTC for Kubernetes and Airflow, of the machine's own time zone elsewhere, and what is printed says so. No text
that is asked for can add a line or a key: control characters are refused, the rest is quoted for each target.
"""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from textwrap import dedent
from typing import Any

import yaml

from data.errors import GenctrError, visible

RUNS = "/runs"
"""Where a pod has the volume of a local run folder."""

LOCAL = "in the time zone of the machine that runs it"
UTC = "in UTC"

FATAL = (2, 4, 5)
"""Exit codes that the same command ends with again: a person has to act, or another job works on the run."""

THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


@dataclass(frozen=True)
class Resources:
    """What Kubernetes and Slurm are asked for: processors, memory [GiB], GPUs."""

    cpu: int = 2
    memory: int = 8
    gpu: int = 0


def cron(
    *, config: str, out: str, name: str, at: str, image: str, here: str, program: str, ask: Resources = Resources()
) -> str:
    """A crontab: every half hour from `at` on, so that a late day is taken up when it comes. Cron mails errors only."""
    variables = "\n".join(f"{key}={value}" for key, value in THREADS.items())
    command = f"cd {shlex.quote(here)} && {_command(config, out, program)}".replace("%", r"\%")
    zone = f"every half hour from {at} on, {LOCAL}"
    return f"# genctr {name}: crontab -e; {zone}\n{variables}\n{_half_hours(at)} {command} --quiet > /dev/null\n"


def systemd(
    *, config: str, out: str, name: str, at: str, image: str, here: str, program: str, ask: Resources = Resources()
) -> str:
    """A service, its timer and what a failure starts, in one text; the comments say where to cut.

    A job that ends with 1 is started again three times; then, and at once after 2, 4 and 5, `genctr-NAME-failed.service` runs.
    """
    minutes, hours, *_ = _half_hours(at).split()
    variables = "\n".join(f"Environment={key}={value}" for key, value in THREADS.items())
    command = _command(config, out, program).replace("%", "%%").replace("$", "$$")
    return (
        dedent("""\
        # genctr-{unit}.service
        [Unit]
        Description=genctr daily: {name}
        After=network-online.target
        Wants=network-online.target
        OnFailure=genctr-{unit}-failed.service
        # Four starts of one half hour; without a limit it would be started again for ever, and never have failed.
        StartLimitIntervalSec=1500
        StartLimitBurst=4

        [Service]
        Type=oneshot
        WorkingDirectory={here}
        {variables}
        ExecStart={command} --quiet
        SuccessExitStatus=3 75
        Restart=on-failure
        RestartSec=60
        RestartPreventExitStatus={fatal}

        # genctr-{unit}-failed.service
        [Unit]
        Description=genctr daily failed: {name}

        [Service]
        Type=oneshot
        # An alert in the journal: put what reaches a person here, such as mail or a web hook.
        ExecStart=/bin/sh -c "systemctl status --no-pager --lines=20 genctr-{unit}.service | systemd-cat -p alert -t genctr"

        # genctr-{unit}.timer
        [Unit]
        Description=genctr daily: {name}, every half hour from {at} on, {zone}

        [Timer]
        OnCalendar=*-*-* {hours}:{minutes}:00
        Persistent=true

        [Install]
        WantedBy=timers.target
    """)
        .format(
            unit=_plain(name),
            name=name.replace("%", "%%"),
            here=here.replace("%", "%%"),
            variables=variables,
            command=command,
            at=at,
            zone=LOCAL,
            fatal=" ".join(map(str, FATAL)),
            hours=hours.replace("-", ".."),
            minutes=minutes,
        )
        .rstrip("\n")
        + "\n"
    )


def kubernetes(
    *, config: str, out: str, name: str, at: str, image: str, here: str, program: str, ask: Resources = Resources()
) -> str:
    """A CronJob; a pod that failed is started again and resumes: three times, and as often as the cluster took it away."""
    remote, memory = "://" in out, f"{ask.memory}Gi"
    gpus = {"nvidia.com/gpu": f"{ask.gpu}"} if ask.gpu else {}
    container: dict[str, Any] = {
        "name": "daily",
        "image": image,
        # Kubernetes takes every code but 0 for a failure.
        "command": ["sh", "-c", '"$@"; code=$?; case $code in 3|75) exit 0;; esac; exit $code', "sh"],
        "args": ["genctr", "daily", config, "--out", out if remote else f"{RUNS}/{_plain(name)}", "--quiet"],
        "env": [{"name": key, "value": value} for key, value in THREADS.items()],
        "resources": {"requests": {"cpu": f"{ask.cpu}", "memory": memory}, "limits": {"memory": memory, **gpus}},
    }
    pod: dict[str, Any] = {"restartPolicy": "Never", "containers": [container]}
    needs = f"the image {image}, such as the Dockerfile of genctr makes"
    if not remote:  # what a pod writes into itself is gone with it
        claim = f"genctr-{_plain(name)}"
        container["volumeMounts"] = [{"name": "runs", "mountPath": RUNS}]
        pod["volumes"] = [{"name": "runs", "persistentVolumeClaim": {"claimName": claim}}]
        needs += f", and a PersistentVolumeClaim {claim} for the run folder, which is local"
    # Not by exit code: 137 is also what a job leaves that needs more memory than its limit, tonight and every time.
    moved = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    asks = {"action": "FailJob", "onExitCodes": {"containerName": "daily", "operator": "In", "values": list(FATAL)}}
    job = {
        "backoffLimit": 3,
        "podFailurePolicy": {"rules": [moved, asks]},
        "template": {"spec": pod},
    }
    document = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": f"genctr-{_plain(name)}"},
        "spec": {
            "schedule": _half_hours(at),
            "timeZone": "Etc/UTC",
            "concurrencyPolicy": "Forbid",
            "jobTemplate": {"spec": job},
        },
    }
    return f"# needs {needs}\n# every half hour from {at} on, {UTC}\n{yaml.safe_dump(document, sort_keys=False)}"


def slurm(
    *, config: str, out: str, name: str, at: str, image: str, here: str, program: str, ask: Resources = Resources()
) -> str:
    """A batch script that puts itself into the queue again for the next night."""
    if '"' in here:
        raise GenctrError(f"Slurm cannot be told of a folder with a quote in its name: {here}\n  next: ask from another folder")
    hour, minute = _time(at)
    variables = "\n".join(f"export {key}={value}" for key, value in THREADS.items())
    return dedent("""\
        #!/bin/bash
        #SBATCH --job-name=genctr-{name}
        #SBATCH --chdir="{here}"
        #SBATCH --cpus-per-task={cpu}
        #SBATCH --mem={memory}G{gpus}
        #SBATCH --requeue
        #SBATCH --dependency=singleton
        #SBATCH --output=genctr-{name}.%j.log
        # Every night at {at}, {zone}.
        {variables}
        # A script that is requeued has done this before: each time it would be one night's job more. The time is put behind
        # the date: date(1) refuses an hour that today has not, where clocks go forward, and Slurm takes one for the hour after.
        night="$(date -d tomorrow +%Y-%m-%dT{hour:02}:{minute:02})"
        [ "${{SLURM_RESTART_COUNT:-0}}" -gt 0 ] || sbatch --begin="$night" "$0"
        srun --ntasks=1 --cpus-per-task={cpu} {command} --quiet  # srun does not take it from above
        code=$?
        # 3: a model was held back, 75: nothing to do yet. Neither is a failure of the job.
        if [ "$code" -eq 3 ] || [ "$code" -eq 75 ]; then exit 0; fi
        exit "$code"
    """).format(
        name=_plain(name),
        here=here,
        variables=variables,
        at=at,
        zone=LOCAL,
        hour=hour,
        minute=minute,
        command=_command(config, out, program),
        cpu=ask.cpu,
        memory=ask.memory,
        gpus=f"\n#SBATCH --gres=gpu:{ask.gpu}" if ask.gpu else "",
    )


def airflow(
    *, config: str, out: str, name: str, at: str, image: str, here: str, program: str, ask: Resources = Resources()
) -> str:
    """A DAG of one task, tried again three times if a rank died; exit code 75 skips it, and it runs again in half an hour."""
    for key, text in {"config": config, "out": out, "here": here, "program": program}.items():
        if any(mark in text for mark in ("{{", "{%", "{#")):
            raise GenctrError(f"{key}: {text}: Airflow would read it as a template of Jinja\n  next: rename it")
    # The job itself reports a held model; a task that fails would be tried again in vain.
    command = f"{_command(config, out, program)} --quiet; code=$?; [ $code -ne 3 ] || code=0; exit $code"
    return dedent("""\
        # genctr daily: {name}; every half hour from {at} on, {zone}

        import pendulum

        try:
            from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
        except ImportError:  # before Airflow 3.1
            from airflow.exceptions import AirflowException, AirflowFailException, AirflowSkipException

        try:
            from airflow.providers.standard.operators.bash import BashOperator
            from airflow.sdk import DAG
        except ImportError:  # before Airflow 3
            from airflow import DAG
            from airflow.operators.bash import BashOperator


        class DailyOperator(BashOperator):
            def execute(self, context):
                try:
                    return super().execute(context)
                except AirflowSkipException:
                    raise
                except AirflowException as error:
                    process = self.subprocess_hook.sub_process
                    if process is not None and process.returncode in {fatal}:  # the same would happen again
                        raise AirflowFailException(str(error)) from error
                    raise


        with DAG(
            dag_id={dag},
            schedule={schedule},
            start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
            catchup=False,
            max_active_runs=1,
        ):
            DailyOperator(
                task_id="daily",
                bash_command={command},
                cwd={here},
                env={env},
                append_env=True,
                skip_on_exit_code=75,
                retries=3,
                retry_delay=pendulum.duration(minutes=5),
            )
    """).format(
        name=name,
        at=at,
        zone=UTC,
        fatal=FATAL,
        dag=json.dumps(f"genctr_{_plain(name)}"),
        schedule=json.dumps(_half_hours(at)),
        command=json.dumps(command),
        here=json.dumps(here),
        env=json.dumps(THREADS),
    )


def _on_one_line(made: Callable[..., str]) -> Callable[..., str]:
    """The same schedule, of texts that cannot be anything else than their own line."""

    @wraps(made)
    def checked(
        *, config: str, out: str, name: str, at: str, image: str, here: str, program: str, ask: Resources = Resources()
    ) -> str:
        texts = {"config": config, "out": out, "name": name, "at": at, "image": image, "here": here, "program": program}
        for key, text in texts.items():
            if visible(text) != text:
                raise GenctrError(
                    f"{key}: {visible(text)} has a line break or another control character, which a schedule could take for "
                    "a line of its own\n  next: rename it"
                )
        return made(config=config, out=out, name=name, at=at, image=image, here=here, program=program, ask=ask)

    return checked


SCHEDULES: Mapping[str, Callable[..., str]] = {
    own.__name__: _on_one_line(own) for own in (cron, systemd, kubernetes, slurm, airflow)
}


def _command(config: str, out: str, program: str) -> str:
    return shlex.join([program, "daily", config, "--out", out])


def _time(at: str) -> tuple[int, int]:
    hour, colon, minute = at.partition(":")
    if not (colon and hour.isdigit() and minute.isdigit() and int(hour) < 24 and int(minute) < 60):
        raise GenctrError(f"--at {at!r}: expected a time of the day such as 02:00")
    return int(hour), int(minute)


def _half_hours(at: str) -> str:
    """Every half hour from `at` to midnight, in cron's words: the same minutes of every hour."""
    hour, minute = _time(at)
    if minute >= 30:
        raise GenctrError(
            f"--at {at!r}: it starts again every half hour, and these schedules know the same minutes of every hour only\n"
            f"  next: a time in the first half of an hour, such as {hour:02}:{minute - 30:02}"
        )
    return f"{minute},{minute + 30} {hour}-23 * * *"


def _plain(name: str) -> str:
    """The name as DNS labels allow it."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name.lower()).strip("-") or "run"
