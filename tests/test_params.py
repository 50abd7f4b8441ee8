"""params.yaml: what is misspelt, missing or of a wrong type is named; nothing becomes a silent default."""

from pathlib import Path

import pytest
import yaml

from excursions import params
from excursions.params import UserError

FILE = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture
def raw() -> dict:
    return yaml.safe_load(FILE.read_text())


def load(raw: dict, folder: Path) -> params.Study:
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    return params.load(folder / "params.yaml")


def test_every_scale_has_the_same_keys():
    study = params.load(FILE)
    assert study.scale("paper").pretrain.save == study.scale("nano").pretrain.save
    assert set(study.recipes) <= set(params.RECIPES)


def test_every_value_of_the_paper_block_is_marked_as_published_or_ours():
    block = FILE.read_text().split("\npaper:\n")[1].splitlines()
    values = [line for line in block if line.strip() and not line.split("#")[0].rstrip().endswith(":")]
    assert len(values) > 60
    assert [line for line in values if not line.partition("#")[2].strip().startswith(("published", "ours"))] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["nano"]["rl"].update(learning_rat=1.0), "'nano.rl.learning_rat'"),
        (lambda r: r["nano"]["rl"].pop("learning_rate"), "missing key 'nano.rl.learning_rate'"),
        (lambda r: r["nano"]["rl"].update(steps="many"), "'nano.rl.steps' must be of type int, found 'many'"),
        (lambda r: r["nano"]["rl"].update(steps=True), "'nano.rl.steps' must be of type int, found True"),
        (lambda r: r["nano"]["rl"].update(rollouts=1), "nano.rl.rollouts is 1; accepted: 2 or more"),
        (lambda r: r["nano"]["rl"].update(betas=[0.9]), "'nano.rl.betas' must have 2 values"),
        (lambda r: r["nano"].update(rl=None), "'nano.rl' must be a mapping"),
        (lambda r: r["nano"]["parallel"].update(rl_weight=1.5), "accepted: 0 to 1"),
        (lambda r: r.update(scales=["nan"]), "Did you mean 'nano'?"),
        (lambda r: r.update(recipes=["rll"]), "There is no recipe"),
        (lambda r: r.update(checkpoints=["p07"]), "There is no checkpoint"),
        (lambda r: r.update(checkpoints="p08"), "'checkpoints' must be a list"),
        (lambda r: r.update(more_seeds={"rll": {}}), "There is no recipe in recipes (key 'more_seeds' of"),
        (
            lambda r: r.update(more_seeds={"rl": {"p04": [1]}}),
            "There is no checkpoint in checkpoints (key 'more_seeds.rl'",
        ),
        (
            lambda r: r.update(more_seeds={"rl": {"p08": [1, 0]}}),
            "more_seeds.rl.p08 is [1, 0]; accepted: seeds that are not",
        ),
    ],
)
def test_a_mistake_is_named(raw, tmp_path, change, said):
    change(raw)
    with pytest.raises(UserError, match="params.yaml") as error:
        load(raw, tmp_path)
    assert said in str(error.value)


def test_nearest_key_is_offered(raw, tmp_path):
    raw["nano"]["rl"]["learning_rat"] = 1.0
    with pytest.raises(UserError, match="Did you mean 'nano.rl.learning_rate'"):
        load(raw, tmp_path)


def test_missing_file_and_broken_yaml(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        params.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not valid YAML"):
        params.load(tmp_path / "params.yaml")
