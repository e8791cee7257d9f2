"""One day of the daily job: open it, score it, train it, judge the model, publish it or hold it back."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torchrec.distributed.types import ShardedTensor

from data.cursor import Cursor
from data.days import Day
from data.readers import CountsNulls
from data.row_hash import ROW_HASH
from pipeline.builders.job import Job
from pipeline.config.daily import DailyConfig
from pipeline.daily.challenger import ChallengerComparison
from pipeline.daily.dry_run import DAY_PIN, tidy
from pipeline.daily.gates import Evidence, GateResult, judge
from pipeline.daily.ledger import DayRecord, History, SharedLedger, base_of
from pipeline.daily.notify import tell
from pipeline.daily.policy import Action, OperatorRequired
from pipeline.distributed.shard import tables_in
from pipeline.jobs.advice import warn_of_scores
from pipeline.jobs.day_run import train_rows
from pipeline.jobs.evaluate import evaluate
from pipeline.run_folder.claim import digest
from pipeline.run_folder.lease import Lease
from pipeline.serving.bundle import Bundle, BundleError, bundle_name
from pipeline.serving.export import export, open_alike
from pipeline.serving.parity import parity_bound
from pipeline.serving.publish import publish_folder, switch
from pipeline.serving.scorer import Scorer
from pipeline.training.loop import Callback, TrainState

BEFORE = 7
"""[days] that a day's rows and nulls are compared with."""


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


class DayWork:
    """What a daily job does with one day after the other. All ranks make one and call it alike.

    Args:
        job: standing in its last stage, where its newest checkpoint stands. lease: held by rank 0, None elsewhere.
        callbacks: what else is done around a step.
    """

    def __init__(
        self, job: Job, ledger: SharedLedger, lease: Lease | None, callbacks: Sequence[Callback], *, quiet: bool
    ) -> None:
        self._job, self._ledger, self._lease = job, ledger, lease
        self._callbacks, self._quiet = callbacks, quiet
        self._config, self._world = job.stages[-1].config.daily, job.world
        self._folder = publish_folder(self._config.publish, job.folder)

    def tidy(self) -> None:
        """Let go of old bundles, and tell the monitoring."""
        self._world.from_rank_zero(lambda: tidy(self._job.folder, self._folder, self._ledger.own, keep=self._config.keep), None)

    def take_up(self, action: Action, state: TrainState, restored: Mapping[str, Any], outcome: Outcome) -> TrainState:
        """Take up a day, or go on with it from wherever it stands."""
        job, name = self._job, action.day
        record = self._ledger.history.days.get(name, DayRecord(name))
        day = self._open(name, record, action, state, restored)
        if not day.rows:  # of late files; a whole day of that kind is refused
            nothing = {job.source.days.below_root(own.path): {"size": own.size, "why": "it has no rows"} for own in day.files}
            quarantined = self._quarantined(day) | nothing
            self._ledger.append("late", {"day": base_of(name), "files": [], "quarantined": quarantined}, state.step)
            return state
        if state.cursor.day != name or (state.cursor.row == 0 and record.trained is None):
            state = replace(state, cursor=Cursor(0, name, 0, job.config.data.lanes), holdout={}, scores={})
        if record.trained is None:
            state = self._train(day, record, state, restored)
            outcome.trained.append(name)
        if record.judged is None:
            self._judge(day, state)
        self._publish(name, outcome)
        return state

    def _train(self, day: Day, record: DayRecord, state: TrainState, restored: Mapping[str, Any]) -> TrainState:
        job, begun = self._job, state.cursor.row > 0
        if record.scored is None and not begun and state.step > state.began:
            scores = evaluate(job, [day], step=state.step, quiet=self._quiet)
            job.log.write("scored", state.step, {"day": day.name, **scores})
            warn_of_scores(job, f"day {day.name}", scores, state.step)
            self._ledger.append("scored", {"day": day.name, **_lasting(scores)}, state.step)
        if not begun or job.source.stream(day, shuffle=True).steps_left(state.cursor):
            state = self._train_rows(day, state, restored)
        self._write_down(day.name, state)
        return state

    def _train_rows(self, day: Day, state: TrainState, restored: Mapping[str, Any]) -> TrainState:
        """Train what is left of the day, look at its last rows before they train, and save its end."""
        job, name, begun = self._job, day.name, state.cursor.row > 0
        stream = job.source.stream(day, shuffle=True)
        quarantined = self._quarantined(day)
        nulls = self._world.from_rank_zero(lambda: self._nulls(day), dict[str, float])
        facts = {"quarantined": quarantined, "nulls": nulls, "ledger": self._ledger.mark}
        facts["schema"] = digest(job.source.schema)
        if begun and restored.get("schema", facts["schema"]) != facts["schema"]:
            raise OperatorRequired(
                f"day {name} is half trained with another schema\n  next: finish it with the schema it was begun with"
            )
        look = self._look(name, state, begun)
        pause = look.begins(stream, state.cursor) if not state.holdout else None
        if pause is not None:
            look.before(stream, pause, state)
        if not begun:
            renew(job, self._config)
        looking = partial(look, stream, pause) if pause is not None else dict
        state, saver, ended = train_rows(
            job, day, state, restored, quiet=self._quiet, pause=pause, look=looking, facts=facts, others=self._callbacks
        )
        assert ended, "a daily job has no max_steps"
        saver.save(state, pin=f"{DAY_PIN}{name}")
        job.checkpoints.wait()
        return state

    def _write_down(self, name: str, state: TrainState) -> None:
        """Write into the ledger what the checkpoint at the day's end says, and keep it for a way back."""
        job = self._job
        mark = job.checkpoints.latest()
        assert mark is not None
        meta = job.checkpoints.read_meta(mark)
        counted = zip(meta["files"], *meta["tally"], strict=True)
        told = {file: {"size": size, "rows": r, "hash": h, "skipped": s} for (file, size, _), r, h, s in counted}
        values = {"day": name, "rows": sum(meta["tally"][0]), "files": told, "row_hash": ROW_HASH}
        values |= {"ids": meta["ids"]} if "ids" in meta else {}
        self._ledger.append(
            "trained",
            {**values, "quarantined": meta["quarantined"], "nulls": meta["nulls"], "schema": meta["schema"]},
            state.step,
        )
        kept = [f"{DAY_PIN}{day}" for day, own in self._ledger.history.days.items() if own.trained is not None][
            -self._config.keep_days :
        ]
        job.checkpoints.unpin(pin for pin in job.checkpoints.pins() if pin.startswith(DAY_PIN) and pin not in kept)

    def _look(self, day: str, state: TrainState, begun: bool) -> ChallengerComparison:
        """What compares the new model with the one that serves."""
        history = self._ledger.history
        serving = open_alike(self._world, lambda: self._serving(history, day, state))
        last = [own for own in history.days.values() if own.trained is not None]
        same = (
            not begun
            and serving is not None
            and bool(last)
            and last[-1].bundle == serving.name
            and serving.step == state.step
            and serving.manifest["bundle_precision"] == "fp32"
        )
        return ChallengerComparison(self._job, share=self._config.holdout_fraction, serving=serving, same=same)

    def _serving(self, history: History, day: str, state: TrainState) -> Bundle | None:
        """The serving bundle, if it can be compared with."""
        if history.serving is None:
            return None
        try:
            bundle = Bundle(f"{self._folder}/{self._ledger.own.incumbent(history, day)}")
            if (bundle.schema, bundle.model) != (self._job.source.schema, self._job.config.model):
                raise BundleError("it has another schema or model", bundle.path, "nothing: the next one that serves can be")
            bundle.verify()
        except BundleError as error:
            sys.stderr.write(f"genctr: the new model is not compared with the serving model: {error}\n")
            self._job.log.write("warning", state.step, {"why": str(error)})
            return None
        return bundle

    def _judge(self, day: Day, state: TrainState) -> None:
        """Write the bundle, ask the gates, write down what they say."""
        job, history = self._job, self._ledger.history
        rewound = self._world.from_rank_zero(
            lambda: sum(entry["event"] == "rewound" for entry in self._ledger.own.entries), int
        )
        name = bundle_name(day.name, state.step, rewound)
        record = history.days[day.name]
        facts = {
            "name": job.stages[-1].config.name,
            "parent": history.serving,
            "scored": (record.scored or {}).get("metrics"),
            "holdout": state.holdout,
            "bundle_precision": self._config.bundle_precision,
        }
        export(job, self._folder, name, day=day, step=state.step, facts=facts)
        answers = self._world.from_rank_zero(lambda: self._answers(day.name, history, state, name), list[GateResult])
        publish = all(answer.ok for answer in answers)
        values = {"day": day.name, "bundle": name, "publish": publish, "holdout": state.holdout}
        self._ledger.append("judged", {**values, "answers": [answer.to_json() for answer in answers]}, state.step)

    def _answers(self, name: str, history: History, state: TrainState, bundle: str) -> list[GateResult]:
        record = history.days[name]
        assert record.trained is not None
        earlier = [
            own.trained for day, own in history.days.items() if day != name and "+" not in day and own.trained is not None
        ][-BEFORE:]
        whole = "+" not in name  # late files are not a day of their own
        first = self._job.objective.headline
        scored = (record.scored or {}).get("metrics", {}).get(first.path[0], {})
        scorer = Scorer(Bundle(f"{self._folder}/{bundle}"))
        evidence = Evidence(
            scored=scored if whole or scored.get(first.name) is not None else {},  # a few late rows of one label are not a sign
            holdout=state.holdout,
            rows=record.trained["rows"],
            earlier_rows=[own["rows"] for own in earlier] if whole else (),
            nulls=record.trained["nulls"],
            earlier_nulls=[own["nulls"] for own in earlier] if whole else (),
            parity=scorer.parity(),
            parity_bound=parity_bound(scorer),
            alone=history.serving is None or ("candidate" in state.holdout and "serving" not in state.holdout),
        )
        return judge(evidence, self._config.gates, self._config.first_gates)

    def _publish(self, name: str, outcome: Outcome) -> None:
        record = self._ledger.history.days[name]
        judged = record.judged
        assert judged is not None
        config, step = self._config, judged["step"]
        if judged["publish"]:
            parent = self._ledger.history.serving
            self._world.from_rank_zero(lambda: self._switch(judged["bundle"]), None)
            self._ledger.append("published", {"day": name, "bundle": judged["bundle"], "parent": parent}, step)
            outcome.published.append(name)
        else:
            outcome.held.append(name)
        self.tidy()
        if self._world.is_rank_zero:
            event: Literal["published", "held"] = "published" if judged["publish"] else "held"
            failed = [_in_words(own) for own in judged["answers"] if not own["ok"]]
            known = {"day": name, "bundle": judged["bundle"], "publish": judged["publish"], "failed": failed}
            self._job.log.write("judged", step, known)
            tell(config.hooks, event, run=self._job.folder, day=name, text=", ".join(failed) or f"bundle {judged['bundle']}")

    def _switch(self, bundle: str) -> None:
        if self._lease is not None:
            self._lease.check()
        switch(self._folder, bundle)

    def _open(self, name: str, record: DayRecord, action: Action, state: TrainState, restored: Mapping[str, Any]) -> Day:
        """The day's files: those it was begun with, the late ones, or all there are."""
        job = self._job
        begun = state.cursor.day == name and state.cursor.row > 0
        half = [file for file, _, _ in restored["files"]] if begun and "files" in restored else []
        had = {file: size for file, size, _ in restored["files"]} if half else {}
        opened = job.open(base_of(name), state.step, known={*self._ledger.history.files(base_of(name)), *half})
        names = {job.source.days.below_root(file.path): file.path for file in opened.files}
        if record.trained is not None:
            wanted = list(record.trained["files"])
        elif half:
            wanted = half
        elif action.files:
            wanted = [own for own in action.files if own not in self._quarantined(opened)]
        elif "+" in name:
            history = self._ledger.history
            known = history.files(base_of(name)).keys() | history.ignored.get(base_of(name), set())
            wanted = [own for own in names if own not in known]
        else:
            wanted = list(names)
        if not wanted and record.scored is not None:
            raise OperatorRequired(f"day {name} was begun, and its files cannot be read any more\n  next: bring them back")
        if missing := [own for own in wanted if own not in names]:
            raise OperatorRequired(f"day {name} was begun with {missing[0]}, which is gone\n  next: bring it back")
        sizes = {job.source.days.below_root(file.path): file.size for file in opened.files}
        if changed := [own for own in wanted if own in had and sizes[own] != had[own]]:
            raise OperatorRequired(
                f"day {name} is half trained, and {changed[0]} has {sizes[changed[0]]:,} bytes, had {had[changed[0]]:,}\n"
                "  next: bring the file back as it was"
            )
        return opened.only(name, [names[own] for own in wanted])

    def _quarantined(self, day: Day) -> dict[str, dict[str, Any]]:
        days = self._job.source.days
        names = {days.below_root(path): why for path, why in day.quarantined.items()}
        sizes = self._world.from_rank_zero(lambda: days.sizes(base_of(day.name)) if names else {}, dict[str, int | None])
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


@torch.no_grad()
def renew(job: Job, config: DailyConfig) -> None:
    """What a new day begins with: tables that forget, optimizers that do."""
    state = job.sharded.model.state_dict()
    for table in tables_in(state):
        if table.name in config.table_decay:
            for shard in table.shards:
                shard.values.mul_(config.table_decay[table.name])
    if config.table_decay:
        job.sharded.model.load_state_dict(state)  # what a GPU keeps of tables in main memory is read again
    for name, own in job.optimizer.optimizers if config.optimizer != "keep" else ():
        if name != "tables" or config.optimizer == "reset_all":
            _forget(own.state_dict())


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


def _in_words(answer: Mapping[str, Any]) -> str:
    """A gate's answer in a few words: its number, or why it has none."""
    if answer["number"] is None:
        return f"{answer['gate']}: {answer['note'] or 'no number'}"
    return f"{answer['gate']} {answer['number']}"


def _lasting(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores without what depends on the machine."""
    return {key: value for key, value in scores.items() if key not in ("seconds", "rows_per_second")}
