"""The daily job: bring a model up to date with its log. Run it again and nothing happens twice.

For each complete day after the last one: score it, train it, save, judge the model, publish or hold it, and write it down.
What has happened is in two places: the checkpoint says how far the tensors are, the ledger what came of each day. The
checkpoint is written first, and the ledger's entry is made from what the checkpoint remembers; so a job that was killed
anywhere finds out what is left to do, and does it to the same bits.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torchrec.distributed.types import ShardedTensor

from data.cursor import Cursor
from data.days import Day, Days, open_end, parse_days
from data.errors import GenctrError
from data.paths import plain
from data.readers import CountsNulls
from data.row_hash import ROW_HASH
from pipeline.builders.job import Job
from pipeline.checkpoint.manager import Checkpoints
from pipeline.config.run import RunConfig
from pipeline.daily.challenger import FreshLook
from pipeline.daily.gates import Answer, Evidence, judge
from pipeline.daily.ledger import DayRecord, History, Ledger, base_of, fold, next_date
from pipeline.daily.notify import tell
from pipeline.daily.policy import Action, decide
from pipeline.daily.prometheus import write_metrics
from pipeline.jobs.advice import warn_of_scores
from pipeline.jobs.evaluate import evaluate
from pipeline.jobs.restore import restore
from pipeline.jobs.train import train_rows, train_stages
from pipeline.run_folder.claim import digest
from pipeline.run_folder.lease import Lease
from pipeline.serving.bundle import Bundle, BundleError
from pipeline.serving.export import export, open_alike
from pipeline.serving.parity import parity_bound
from pipeline.serving.publish import prune, switch
from pipeline.serving.scorer import Scorer
from pipeline.training.loop import Callback, TrainState
from pipeline.training.objective import StepOutput

DAY_PIN = "day-"
"""What the last checkpoint of a day is pinned as, before the day's name."""

BEFORE = 7
"""[days] that a day's rows and nulls are compared with."""


class NeedsPerson(GenctrError):
    """Somebody has to decide: the log is not what it was, or a day is missing."""

    exit_code = 4


@dataclass
class Outcome:
    """What a daily job did.

    Args:
        trained, published, held, skipped: days. waits: why it ended; empty if it was asked to stop there.
    """

    trained: list[str] = field(default_factory=list)
    published: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    waits: str = ""

    @property
    def did_nothing(self) -> bool:
        """No day was taken up."""
        return not (self.trained or self.published or self.held or self.skipped)


class Held(Callback):
    """Ends a job that slept so long that another one has taken the run over: two must not save into one folder."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def on_step_end(self, state: TrainState, output: StepOutput) -> None:
        """Raise `Busy` if the lease is lost, before the step is saved."""
        if self._lease.was_lost:
            self._lease.check()


class Daily:
    """The daily job of a run folder. All ranks make one and call it alike; rank 0 reads and writes the ledger.

    Args:
        job: standing where its newest checkpoint stands. lease: held by rank 0, None elsewhere.
        until: the last day to take up; None for all there are.
    """

    def __init__(self, job: Job, lease: Lease | None, *, until: str | None, quiet: bool) -> None:
        self._job, self._lease, self._quiet = job, lease, quiet
        self._callbacks = [Held(lease)] if lease is not None else []
        last = job.stages[-1].config
        self._config, self._world, self._until = last.daily, job.world, last_day(last, until)
        self._folder = publish_folder(last.daily.publish, job.folder)
        self._ledger: Ledger | None = None
        self._world.agree(self._read, None)
        _check(last)

    def _read(self) -> None:
        self._ledger = Ledger(self._job.folder)
        if self._ledger.mended:
            sys.stderr.write(f"genctr: {self._ledger.mended}\n")

    @property
    def history(self) -> History:
        """What the ledger says, on every rank."""
        return self._world.agree(lambda: self._own.history(), History)

    @property
    def _own(self) -> Ledger:
        assert self._ledger is not None, "only rank 0 has the ledger"
        return self._ledger

    def run(self, *, follow: bool) -> Outcome:
        """Take up days until there is none left, or for ever.

        Raises:
            NeedsPerson: the log changed, or a day is missing, in a way that the policies leave to a person.
        """
        job, outcome = self._job, Outcome()
        self._world.agree(self._tidy, None)
        self._drop_abandoned()
        state, restored = self._resumed()
        state, restored = train_stages(
            job, state, restored, last=len(job.stages) - 1, quiet=self._quiet, others=self._callbacks
        )
        poll = self._config.poll_seconds
        while True:
            action = self._world.agree(lambda: self._decide(self._own.history()), Action)
            if action.kind == "stop":
                raise NeedsPerson(action.why)
            if action.kind == "wait":
                job.log.write("waiting", state.step, {"day": action.day, "why": action.why})
                outcome.waits = action.why
                done = self._until is not None and (self.history.last_day or "") >= self._until
                if not follow or done:
                    return outcome
                self._sleep(poll)
                poll = min(poll * 2, self._config.most_poll_seconds)
                continue
            poll = self._config.poll_seconds
            if action.kind == "skip":
                self._append("skipped", {"day": action.day, "why": action.why}, state.step)
                outcome.skipped.append(action.day)
            elif action.kind == "leave":
                self._append("late", {"day": action.day, "files": list(action.files)}, state.step)
            elif action.kind == "rewind":
                state, restored = self.rewind(action.day, action.why)
            else:
                state = self._day(action, state, restored, outcome)
                restored = {}

    def _resumed(self) -> tuple[TrainState, Mapping[str, Any]]:
        """Where the newest good checkpoint stands. It and the ledger must agree, or nothing is trained."""
        job = self._job
        restored: Mapping[str, Any]
        state, restored = restore(job)
        if "ledger" in restored:
            self._world.agree(lambda: self._own.check(restored), None)
        elif job.at == len(job.stages) - 1 and state.step > state.began:
            raise GenctrError(
                f"{job.folder} was trained by `genctr train`: no ledger has its days, so they would be trained again\n"
                "  next: give a new --out, which begins with the first day of the log"
            )
        self._told_of_lost_checkpoints(state)
        self._score_again(state, restored)
        return state, restored

    def _told_of_lost_checkpoints(self, state: TrainState) -> None:
        """Days that the ledger has as trained, and the newest checkpoint has not, are trained again."""
        names = list(self.history.days)
        lost = [own.name for own in self.history.days.values() if own.trained is not None and own.trained["step"] > state.step]
        if lost:
            newest = f"the newest there is stands in {state.cursor.day}" if self._job.checkpoints.latest() else "there is none"
            kind = "damaged" if self._job.checkpoints.damaged() else "gone"
            why = f"the checkpoint at the end of day {lost[-1]} is {kind}; {newest}"
            if self._world.first:
                sys.stderr.write(f"genctr: {why}: training again from {lost[0]}\n")
            gone = names[names.index(lost[0]) :]
            self._append("rewound", {"day": lost[0], "gone": gone, "why": why}, state.step)

    def _score_again(self, state: TrainState, restored: Mapping[str, Any]) -> None:
        """A day that goes on from its middle keeps the scores that this checkpoint has seen in the ledger, even if a later one
        is lost and its day forgotten: the model of the day before, whose they are, cannot be asked again."""
        name = state.cursor.day
        if not state.cursor.row or "ledger" not in restored or self.history.days.get(name, DayRecord(name)).scored is not None:
            return
        seen = self._world.agree(lambda: fold(self._own.entries[: restored["ledger"]["n"]]), History)
        scored = seen.days.get(name, DayRecord(name)).scored
        if scored is not None:
            values = {key: own for key, own in scored.items() if key not in ("n", "prev", "event")}
            self._append("scored", values, scored["step"])

    def backfill(self, day: str, mark: str) -> None:
        """Go back to a checkpoint by its name or its pin's, to train again from `day` on.

        Raises:
            GenctrError: there is none of this name, or it does not end the day that was trained before `day`.
        """
        mark = _mark_before(self._job.checkpoints, self.history, day, mark)
        self.rewind(day, f"backfill from {mark}", mark)

    def rewind(self, day: str, why: str, mark: str | None = None) -> tuple[TrainState, Mapping[str, Any]]:
        """Go back to before `day`: to the checkpoint at the end of the day before it, or to the one named.

        Raises:
            NeedsPerson: there is no such checkpoint any more.
        """
        job, history = self._job, self.history
        before = _before(history, day)
        begins = not before and mark is None
        pin = f"{DAY_PIN}{before[-1]}" if before else ""
        mark = mark or (None if begins else job.checkpoints.pinned(pin))
        if mark is None and not begins:
            raise NeedsPerson(
                f"{why}\n  the checkpoint at the end of day {before[-1]} is not kept any more (daily.keep_days)\n"
                "  next: bring the files back, or begin a new run folder"
            )
        step = job.checkpoints.read_meta(mark)["step"] if mark else 0
        if begins and len(job.stages) > 1:
            raise NeedsPerson(
                f"{why}\n  it is the first day, and the stages before it are not kept\n  next: begin a new run folder"
            )
        self._append("rewound", {"day": day, "gone": history.since(day), "why": why.splitlines()[0]}, step)
        self._drop_abandoned()
        job.enter(len(job.stages) - 1)
        return self._resumed()

    def _drop_abandoned(self) -> None:
        """Remove the checkpoints of days that were rewound, should a kill have come between."""
        job = self._job
        entries = self._world.agree(lambda: self._own.entries, list[dict[str, Any]])
        rewound = [entry for entry in entries if entry["event"] == "rewound"]
        if not rewound:
            return
        last = rewound[-1]
        stale = []
        for mark in job.checkpoints.marks():
            meta = job.checkpoints.read_meta(mark)
            # Those of stages before the last know no ledger, and hold no day of it.
            if meta["step"] > last["step"] and "ledger" in meta and meta["ledger"]["n"] <= last["n"]:
                stale.append(mark)
        job.checkpoints.drop(stale)

    def _decide(self, history: History) -> Action:
        return next_action(history, self._job.stages[-1].config, self._job.source.days, self._until)

    def _day(self, action: Action, state: TrainState, restored: Mapping[str, Any], outcome: Outcome) -> TrainState:
        """Take up a day, or go on with it from wherever it stands."""
        job, name = self._job, action.day
        record = self.history.days.get(name, DayRecord(name))
        day = self._open(name, record, action, state, restored)
        if not day.rows:  # of late files; a whole day of that kind is refused
            nothing = {job.source.days.below_root(own.path): {"size": own.size, "why": "it has no rows"} for own in day.files}
            quarantined = self._quarantined(day) | nothing
            self._append("late", {"day": base_of(name), "files": [], "quarantined": quarantined}, state.step)
            return state
        if state.cursor.day != name or (state.cursor.row == 0 and record.trained is None):
            state = replace(state, cursor=Cursor(0, name, 0, job.config.data.lanes), fresh={}, scores={})
        if record.trained is None:
            state = self._train(day, record, state, restored)
            outcome.trained.append(name)
        if record.judged is None:
            self._judge(day, state)
        self._publish(name, outcome)
        return state

    def _train(self, day: Day, record: DayRecord, state: TrainState, restored: Mapping[str, Any]) -> TrainState:
        job, name, begun = self._job, day.name, state.cursor.row > 0
        if record.scored is None and not begun and state.step > state.began:
            scores = evaluate(job, [day], step=state.step, quiet=self._quiet)
            job.log.write("scored", state.step, {"day": name, **scores})
            warn_of_scores(job, f"day {name}", scores, state.step)
            self._append("scored", {"day": name, **_lasting(scores)}, state.step)
        stream = job.source.stream(day, shuffle=True)
        if not begun or stream.steps_left(state.cursor):
            files = [[job.source.days.below_root(file.path), file.size, file.rows] for file in day.files]
            quarantined = self._quarantined(day)
            nulls = self._world.agree(lambda: self._nulls(day), dict[str, float])
            facts = {"files": files, "quarantined": quarantined, "nulls": nulls, "ledger": self._mark()}
            facts["schema"] = digest(job.source.schema)
            if begun and restored.get("schema", facts["schema"]) != facts["schema"]:
                raise NeedsPerson(
                    f"day {name} is half trained with another schema\n  next: finish it with the schema it was begun with"
                )
            look = self._look(name, state, begun)
            pause = look.begins(stream, state.cursor) if not state.fresh else None
            if pause is not None:
                look.before(stream, pause, state)
            if not begun:
                self._renew()
            looking = partial(look, stream, pause) if pause is not None else dict
            state, saver, ended = train_rows(
                job, day, state, restored, quiet=self._quiet, pause=pause, look=looking, facts=facts, others=self._callbacks
            )
            assert ended, "a daily job has no max_steps"
            saver.save(state, pin=f"{DAY_PIN}{name}")
            job.checkpoints.wait()
        mark = job.checkpoints.latest()
        assert mark is not None
        meta = job.checkpoints.read_meta(mark)
        counted = zip(meta["files"], *meta["tally"], strict=True)
        told = {file: {"size": size, "rows": r, "hash": h, "skipped": s} for (file, size, _), r, h, s in counted}
        values = {"day": name, "rows": sum(meta["tally"][0]), "files": told, "row_hash": ROW_HASH}
        values |= {"ids": meta["ids"]} if "ids" in meta else {}
        self._append(
            "trained",
            {**values, "quarantined": meta["quarantined"], "nulls": meta["nulls"], "schema": meta["schema"]},
            state.step,
        )
        kept = [f"{DAY_PIN}{day}" for day, own in self.history.days.items() if own.trained is not None][
            -self._config.keep_days :
        ]
        job.checkpoints.unpin(pin for pin in job.checkpoints.pins() if pin.startswith(DAY_PIN) and pin not in kept)
        return state

    def _look(self, day: str, state: TrainState, begun: bool) -> FreshLook:
        """What compares the new model with the one that serves."""
        history = self.history
        serving = open_alike(self._world, lambda: self._serving(history, day, state))
        last = [own for own in history.days.values() if own.trained is not None]
        same = (
            not begun
            and serving is not None
            and bool(last)
            and last[-1].bundle == serving.name
            and serving.step == state.step
            and serving.manifest["tables_kept"] == "float32"
        )
        return FreshLook(self._job, share=self._config.fresh_share, serving=serving, same=same)

    def _serving(self, history: History, day: str, state: TrainState) -> Bundle | None:
        """What serves, if it can be compared with."""
        if history.serving is None:
            return None
        try:
            bundle = Bundle(f"{self._folder}/{self._own.rival(history, day)}")
            if (bundle.schema, bundle.model) != (self._job.source.schema, self._job.config.model):
                raise BundleError("it has another schema or model", bundle.path, "nothing: the next one that serves can be")
            bundle.verify()
        except BundleError as error:
            sys.stderr.write(f"genctr: the new model is not compared with what serves: {error}\n")
            self._job.log.write("warning", state.step, {"why": str(error)})
            return None
        return bundle

    @torch.no_grad()
    def _renew(self) -> None:
        """What a new day begins with: tables that forget, optimizers that do."""
        job, config = self._job, self._config
        state = job.sharded.model.state_dict()
        for key, value in state.items():
            factor = config.row_decay.get(key.split(".")[-2] if "." in key else "")
            if factor is not None and isinstance(value, ShardedTensor):
                for shard in value.local_shards():
                    shard.tensor.mul_(factor)
        if config.row_decay:
            job.sharded.model.load_state_dict(state)  # what a card keeps of tables in main memory is read anew
        for name, own in job.optimizer.optimizers if config.optimizer != "keep" else ():
            if name != "tables" or config.optimizer == "reset_all":
                _forget(own.state_dict())

    def _judge(self, day: Day, state: TrainState) -> None:
        """Write the bundle, ask the gates, write down what they say."""
        job, history = self._job, self.history
        rewound = self._world.agree(lambda: sum(entry["event"] == "rewound" for entry in self._own.entries), int)
        name = f"{day.name}-{state.step:07d}" + (f"-{rewound}" if rewound else "")
        record = history.days[day.name]
        facts = {
            "name": job.stages[-1].config.name,
            "parent": history.serving,
            "scored": (record.scored or {}).get("metrics"),
            "fresh": state.fresh,
            "tables_kept": self._config.tables,
        }
        export(job, self._folder, name, day=day, step=state.step, facts=facts)
        answers = self._world.agree(lambda: self._answers(day.name, history, state, name), list[Answer])
        publish = all(answer.ok for answer in answers)
        values = {"day": day.name, "bundle": name, "publish": publish, "fresh": state.fresh}
        self._append("judged", {**values, "answers": [answer.to_json() for answer in answers]}, state.step)

    def _answers(self, name: str, history: History, state: TrainState, bundle: str) -> list[Answer]:
        record = history.days[name]
        assert record.trained is not None
        earlier = [
            own.trained for day, own in history.days.items() if day != name and "+" not in day and own.trained is not None
        ][-BEFORE:]
        whole = "+" not in name  # late files are no day of their own
        first = self._job.objective.headline
        scored = (record.scored or {}).get("metrics", {}).get(first.path[0], {})
        scorer = Scorer(Bundle(f"{self._folder}/{bundle}"))
        evidence = Evidence(
            scored=scored if whole or scored.get(first.name) is not None else {},  # a few late rows of one label are no sign
            fresh=state.fresh,
            rows=record.trained["rows"],
            earlier_rows=[own["rows"] for own in earlier] if whole else (),
            nulls=record.trained["nulls"],
            earlier_nulls=[own["nulls"] for own in earlier] if whole else (),
            parity=scorer.parity(),
            parity_bound=parity_bound(scorer),
            alone=history.serving is None or ("candidate" in state.fresh and "serving" not in state.fresh),
        )
        return judge(evidence, self._config.gates, self._config.first_gates)

    def _publish(self, name: str, outcome: Outcome) -> None:
        record = self.history.days[name]
        judged = record.judged
        assert judged is not None
        config, step = self._config, judged["step"]
        if judged["publish"]:
            parent = self.history.serving
            self._world.agree(lambda: self._switch(judged["bundle"]), None)
            self._append("published", {"day": name, "bundle": judged["bundle"], "parent": parent}, step)
            outcome.published.append(name)
        else:
            outcome.held.append(name)
        self._world.agree(self._tidy, None)
        if self._world.first:
            event: Literal["published", "held"] = "published" if judged["publish"] else "held"
            failed = [_told(own) for own in judged["answers"] if not own["ok"]]
            known = {"day": name, "bundle": judged["bundle"], "publish": judged["publish"], "failed": failed}
            self._job.log.write("judged", step, known)
            tell(config.hooks, event, run=self._job.folder, day=name, text=", ".join(failed) or f"bundle {judged['bundle']}")

    def _tidy(self) -> None:
        """Let go of old bundles, and tell the monitoring; again at the start, should a kill have come between."""
        history = self._own.history()
        needed = history.wanted
        known = [entry["bundle"] for entry in self._own.entries if entry["event"] == "judged"]
        prune(self._folder, keep=self._config.keep, needed=needed, known=known)
        write_metrics(self._job.folder, history)

    def _switch(self, bundle: str) -> None:
        if self._lease is not None:
            self._lease.check()
        switch(self._folder, bundle)

    def _open(self, name: str, record: DayRecord, action: Action, state: TrainState, restored: Mapping[str, Any]) -> Day:
        """The day's files: those it was begun with, the late ones, or all there are."""
        job = self._job
        begun = state.cursor.day == name and state.cursor.row > 0
        half = [file for file, _, _ in restored["files"]] if begun and "files" in restored else []
        opened = job.open(base_of(name), state.step, known={*self.history.files(base_of(name)), *half})
        names = {job.source.days.below_root(file.path): file.path for file in opened.files}
        if record.trained is not None:
            wanted = list(record.trained["files"])
        elif half:
            wanted = half
        elif action.files:
            wanted = [own for own in action.files if own not in self._quarantined(opened)]
        elif "+" in name:
            history = self.history
            known = history.files(base_of(name)).keys() | history.ignored.get(base_of(name), set())
            wanted = [own for own in names if own not in known]
        else:
            wanted = list(names)
        if not wanted and record.scored is not None:
            raise NeedsPerson(f"day {name} was begun, and its files cannot be read any more\n  next: bring them back")
        if missing := [own for own in wanted if own not in names]:
            raise NeedsPerson(f"day {name} was begun with {missing[0]}, which is gone\n  next: bring it back")
        return opened.only(name, [names[own] for own in wanted])

    def _quarantined(self, day: Day) -> dict[str, dict[str, Any]]:
        days = self._job.source.days
        names = {days.below_root(path): why for path, why in day.quarantined.items()}
        sizes = self._world.agree(lambda: days.sizes(base_of(day.name)) if names else {}, dict[str, int | None])
        return {name: {"size": sizes.get(name), "why": why.splitlines()[0]} for name, why in names.items()}

    def _nulls(self, day: Day) -> dict[str, float]:
        """Share of nulls by column, of the columns that are read; nothing if the files do not say."""
        reader = self._job.source.reader
        if not isinstance(reader, CountsNulls):
            return {}
        counts: dict[str, int] = {}
        known = [reader.nulls(file.path) for file in day.files]
        for column in self._job.source.schema.columns():
            if all(column in own for own in known):
                counts[column] = sum(own[column] for own in known)
        return {column: count / day.rows for column, count in counts.items()}

    def _mark(self) -> dict[str, Any]:
        return self._world.agree(lambda: self._own.mark, dict[str, Any])

    def _append(self, event: str, values: Mapping[str, Any], step: int) -> None:
        def append() -> None:
            if self._lease is not None:
                self._lease.check()
            self._own.append(event, {"step": step, **values})

        self._world.agree(append, None)

    def _sleep(self, seconds: float) -> None:
        """Wait on every rank alike; Ctrl-C is heard."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(0.2, seconds))
            self._job.interrupt.on_step_begin(TrainState(0, 0, Cursor(0, "", 0, 1)))


def _before(history: History, day: str) -> list[str]:
    """What was trained before the first of `day` or a later one, in order."""
    gone = set(history.since(day))
    return [name for name, own in history.days.items() if name not in gone and own.trained is not None]


def _mark_before(checkpoints: Checkpoints, history: History, day: str, mark: str) -> str:
    """The checkpoint of this name, or its pin's, that a backfill of `day` begins with.

    Raises:
        GenctrError: there is none of this name, or it does not end the day that was trained before `day`.
    """
    mark = checkpoints.pins().get(mark, mark)
    if mark not in checkpoints.marks():
        known = ", ".join([*checkpoints.pins(), *checkpoints.marks()])
        raise GenctrError(f"there is no checkpoint {mark}\n  there are: {known}")
    cursor = Cursor.from_json(checkpoints.read_meta(mark)["state"]["cursor"])
    before = _before(history, day)
    pinned = [pin for pin, own in checkpoints.pins().items() if own == mark]
    if not before or cursor.day != before[-1] or f"{DAY_PIN}{cursor.day}" not in pinned:
        raise GenctrError(
            f"checkpoint {mark} does not end the day before {day}: it stands in {cursor.day}\n"
            f"  next: take {DAY_PIN}{before[-1] if before else '…'}, or another first day"
        )
    return mark


def _check(config: RunConfig) -> None:
    """Refuse what no night can do, before a day is trained; `config`: of the last stage.

    Raises:
        GenctrError: days would not be trained once each, or are not named in their order, or nobody knows a gate.
    """
    if config.train.epochs != 1 or config.train.early_stop is not None or config.train.max_steps is not None:
        raise GenctrError("a daily job trains every day once: set train.epochs to 1, and early_stop and max_steps to null")
    names = parse_days(config.data.days)
    if moved := [name for before, name in pairwise(names) if name < before]:
        raise GenctrError(
            f"data.days: a daily job takes days up in the order of their names, and {moved[0]} is named after a later one: it "
            "would never be trained\n  next: name the days in their order"
        )
    judge(Evidence(), config.daily.gates)


def last_day(config: RunConfig, until: str | None) -> str | None:
    """The last day to take up; None for all there are.

    Raises:
        GenctrError: `until` is no date, and the days are: it would be compared letter by letter.
    """
    dates = next_date(parse_days(config.data.days)[0]) is not None
    if until is not None and dates and next_date(until) is None and until != str(date.max):
        raise GenctrError(f"--until {until!r} is no date\n  expected: a day such as 2026-11-05")
    return until or (None if open_end(config.data.days) else parse_days(config.data.days)[-1])


def next_action(history: History, config: RunConfig, days: Days, until: str | None) -> Action:
    """What a daily job of this config does next."""
    names, found = parse_days(config.data.days), days.list()
    named, last = set(names), names[-1] if open_end(config.data.days) else None
    sizes = days.sizes_of(day for day in found if history.was_taken_up(day))
    return decide(
        history,
        found,
        lambda day: sizes[day],
        config.daily,
        rows=days.rows if config.daily.compare == "rows" else lambda day: {},
        first=names[0],
        until=until,
        asked=lambda day: day in named or (last is not None and day > last),
        now=datetime.now(UTC),
    )


def plan(
    folder: str, config: RunConfig, days: Days, until: str | None, *, backfill: tuple[str, str] | None = None
) -> list[Action]:
    """What a daily job would do, without doing it. Ends with what it would wait or stop for.

    Args:
        config: of the last stage. backfill: the first day to train again, and the checkpoint to begin with.
    """
    _check(config)
    history = Ledger(folder, mend=False).history()
    actions: list[Action] = []
    if backfill is not None:
        checkpoints = Checkpoints(f"{folder}/checkpoints", keep=1, asynchronous=False)
        mark = _mark_before(checkpoints, history, *backfill)
        actions.append(Action("rewind", backfill[0], f"backfill from {mark}"))
        for name in history.since(backfill[0]):
            del history.days[name]
    while not actions or actions[-1].kind not in ("wait", "stop"):
        action = next_action(history, config, days, last_day(config, until))
        actions.append(action)
        if action.kind == "rewind":
            for name in history.since(action.day):
                del history.days[name]
        elif action.kind == "leave":
            history.ignored.setdefault(action.day, set()).update(action.files)
        elif action.kind == "skip":
            history.days[action.day] = DayRecord(action.day, skipped="planned")
        elif action.kind == "train":
            sizes = days.sizes(base_of(action.day))
            rows = days.rows(base_of(action.day)) if config.daily.compare == "rows" else {}
            files = {
                name: {"size": size, "rows": rows.get(name, 0), "skipped": 0}
                for name, size in sizes.items()
                if not action.files or name in action.files
            }
            history.days[action.day] = DayRecord(action.day, trained={"files": files, "quarantined": {}}, bundle="planned")
    return actions


def publish_folder(publish: str | None, folder: str) -> str:
    """Where bundles go: as the config says, or beside the run."""
    return plain(publish or f"{folder}/published")


def _forget(state: Any) -> None:
    """Zero what an optimizer remembers, in place."""
    for value in state.values() if isinstance(state, Mapping) else ():
        if isinstance(value, ShardedTensor):
            for shard in value.local_shards():
                shard.tensor.zero_()
        elif isinstance(value, torch.Tensor):
            value.zero_()
        else:
            _forget(value)


def _told(answer: Mapping[str, Any]) -> str:
    """A gate's answer in a few words: its number, or why it has none."""
    if answer["number"] is None:
        return f"{answer['gate']}: {answer['note'] or 'no number'}"
    return f"{answer['gate']} {answer['number']}"


def _lasting(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores without what depends on the machine."""
    return {key: value for key, value in scores.items() if key not in ("seconds", "rows_per_second")}
