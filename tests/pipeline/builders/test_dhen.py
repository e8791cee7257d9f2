"""A stack of modules in a run file: what it may name, what is refused, and that its weights are logged."""

import json
from pathlib import Path

import pytest

from models.decoders.dhen import DHEN
from tests.pipeline.config.test_registry import install
from tests.tiny import built, genctr, train, write_log


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("dhen"))


def dhen(layers: str) -> tuple[str, str]:
    return "model.decoder=dhen", f"model.decoder_options={{layers: {layers}}}"


def test_modules_have_options_and_may_be_decoders_and_stacks(config: Path, tmp_path: Path) -> None:
    layers = "[[{mlp: {hidden: [6]}}, ipnn], [{dhen: {layers: [[cross]]}}, transformer]]"
    with built(config, tmp_path / "run", *dhen(layers)) as job:
        first, second = job.objective.model.decoder.layers

        assert [own.out.width for own in first.parts.values()] == [6, 400]
        assert type(next(iter(second.parts.values()))) is DHEN


def test_the_log_says_what_the_modules_weigh(config: Path, tmp_path: Path) -> None:
    done = train(config, tmp_path / "run", *dhen("[[mlp, cross], [mlp]]"), "train.diagnose_every_steps=5")

    assert done.code == 0, done.err
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    weights = [line["weights"] for line in lines if line["event"] == "diagnosed"]
    assert len(weights) > 1
    assert weights[-1].keys() == {"layer 0", "layer 1"}
    assert sum(weights[-1]["layer 0"]) == pytest.approx(1)
    assert weights[-1]["layer 0"] != weights[0]["layer 0"]
    assert weights[-1]["layer 1"] == [1.0]


def test_a_module_may_be_of_another_package(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from models.decoders.dhen import PairsModule\n\nclass Ours(PairsModule):\n    pass\n"
    install(tmp_path, "ours = outside_shapes:Ours", code, group="genctr.interactions")
    monkeypatch.syspath_prepend(str(tmp_path))

    with built(config, tmp_path / "run", *dhen("[[ours, mlp]]")) as job:
        assert [type(own).__name__ for own in job.objective.model.decoder.layers[0].parts.values()] == ["Ours", "MLPDecoder"]


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ("[[mpl]]", "decoder dhen: no module 'mpl'; did you mean 'mlp'?"),
        ("[[{mlp: {hiden: [6]}}]]", "module mlp: unknown option 'hiden', nearest 'hidden'; it has ["),
        ("[[deepfm]]", "decoder dhen: layers: deepfm reads first-order terms or second vectors"),
        ("[mlp]", "decoder dhen: layers is ['mlp']; expected a list of lists"),
    ],
)
def test_what_cannot_be_is_refused_by_name(config: Path, tmp_path: Path, layers: str, why: str) -> None:
    words = [word for setting in dhen(layers) for word in ("--set", setting)]
    done = genctr("train", config, "--out", tmp_path / "run", *words)

    assert done.code == 2
    assert why in done.err
