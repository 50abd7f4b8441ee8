"""params.yaml: what is misspelt, missing or out of range is named; nothing becomes a silent default."""

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from study_file import FILE, read_study

from excursions import keys, params
from excursions.data.questions import Question, build_prompt
from excursions.params import UserError

ROOT = Path(__file__).parents[1]
RAW = read_study()
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def raw() -> dict:
    return read_study(seeds=[0])


def load_text(text: str | bytes, folder: Path) -> params.Study:
    (folder / "params.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    return params.load(folder / "params.yaml")


def put(raw: dict, key: str, value: object) -> None:
    *blocks, name = key.split("/")
    for block in blocks:
        raw = raw[block]
    raw[name] = value


def test_every_scale_has_the_same_keys():
    study = params.load(FILE)
    assert study.scale("paper").pretrain.save == study.scale("nano").pretrain.save
    assert set(study.recipes) <= set(params.RECIPES)
    assert {"smoke", "nano", "paper"} <= set(study.blocks)


def test_every_value_of_the_paper_block_is_marked_as_published_or_ours():
    block = FILE.read_text().split("\npaper:\n")[1].splitlines()
    values = [line for line in block if line.strip() and not line.split("#")[0].rstrip().endswith(":")]
    assert len(values) > 60
    assert [line for line in values if not line.partition("#")[2].strip().startswith(("published", "ours"))] == []


OWN = {"checkpoints": ["p40"], "recipes": ["base"], "seeds": [0]}
# key with '/', value, what the error says besides the file
WRONG = [
    ("nano/rl/learning_rat", 1.0, "'nano.rl.learning_rat'; accepted here"),
    ("nano/rl/Learning_Rate", 1.0, "Did you mean 'nano.rl.learning_rate'?"),
    ("nano/rl/steps", "many", "'nano.rl.steps' is 'many'; accepted: a whole number, 1 to 1,000,000"),
    ("nano/rl/steps", True, "'nano.rl.steps' is True"),
    ("nano/evaluate/general", 5000, "1 to 512, as many as the smallest has"),
    ("nano/rl/steps", 10.5, "'nano.rl.steps' is 10.5"),
    ("nano/rl/steps", None, "'nano.rl.steps' is None"),
    ("nano/rl/steps", 0, "'nano.rl.steps' is 0"),
    ("nano/rl/steps", [60], "'nano.rl.steps' is [60]"),
    ("nano/rl/rollouts", 1, "'nano.rl.rollouts' is 1; accepted: a whole number, 2 to"),
    ("nano/rl/learning_rate", NAN, "'nano.rl.learning_rate' is nan; accepted: a number, 0 to 1, not 0 itself"),
    ("nano/rl/learning_rate", INF, "is inf"),
    ("nano/rl/learning_rate", -1e-4, "is -0.0001"),
    ("nano/rl/learning_rate", 0, "is 0"),
    ("nano/rl/learning_rate", 10**400, "accepted: a number"),
    ("nano/rl/max_grad_norm", INF, "is inf"),
    ("nano/rl/max_grad_norm", 10**400, "accepted: a number, above 0"),
    ("nano/rl/temperature", 0, "'nano.rl.temperature' is 0"),
    ("nano/rl/betas", [0.9], "'nano.rl.betas' must have 2 values"),
    ("nano/rl/betas", [0.9, 1.0], "'nano.rl.betas[1]' is 1.0"),
    ("nano/rl/betas", 0.9, "'nano.rl.betas' must be a list"),
    ("nano/rl/kl", -0.1, "'nano.rl.kl' is -0.1"),
    ("nano/rl/micro_batch", 0, "'nano.rl.micro_batch' is 0"),
    ("smoke/rl/warmup_steps", 3, "smoke.rl.warmup_steps is 3; accepted: at most rl.steps, which is 2"),
    ("nano/rl/questions_per_step", 1001, "at most the 1,000 training questions"),
    ("nano/parallel/sft_batch_size", 1001, "at most the 1,000 training questions"),
    ("nano/questions/easy_mixture", {"a": 1.0}, "cells named e<events>n<largest number>"),
    ("nano/rl/max_new_tokens", 256, "nano.rl.max_new_tokens is 256; accepted: less than model.context, which is 256"),
    ("nano/rl/advantage", "grup", "Did you mean 'group'?"),
    ("nano/rl/advantage", 1, "'nano.rl.advantage' is 1; accepted: group, mean, loo"),
    ("nano/rl/normalizer", "token", "Did you mean 'tokens'?"),
    ("nano/rl/clip_high", 0.1, "nano.rl.clip_high is 0.1; accepted: rl.clip, which is 0.2, or more"),
    ("nano/rl", None, "'nano.rl' must be a mapping of keys, found None"),
    ("nano/rl", [1], "'nano.rl' must be a mapping of keys, found [1]"),
    ("nano/sft/warmup_steps", 200, "at most the 157 steps of SFT"),
    ("nano/sft/batch_size", -32, "'nano.sft.batch_size' is -32"),
    ("nano/sft/micro_batch_tokens", 0, "'nano.sft.micro_batch_tokens' is 0"),
    ("nano/parallel/rl_weight", 1.5, "accepted: a number, 0 to 1"),
    ("nano/model/hidden_size", 130, "nano.model.hidden_size is 130; accepted: a multiple of 2 x model.heads, which"),
    ("nano/model/hidden_size", 4, "accepted: a multiple of 2 x model.heads"),  # four heads of width 1
    ("nano/model/heads", 0, "'nano.model.heads' is 0"),
    ("nano/model/layers", -1, "'nano.model.layers' is -1"),
    ("nano/model/rope_theta", NAN, "'nano.model.rope_theta' is nan"),
    ("nano/pretrain/tokens", 0, "'nano.pretrain.tokens' is 0"),
    ("nano/pretrain/tokens", 20 * 2048, "each checkpoint of pretrain.save is another step (now there are 20 steps)"),
    ("nano/pretrain/batch_size", 0, "'nano.pretrain.batch_size' is 0"),
    ("nano/pretrain/warmup_steps", 10**5, "at most the 13,867 steps"),
    ("nano/pretrain/threads", 10**6, "'nano.pretrain.threads' is 1000000; accepted: a whole number, 1 to 1,024"),
    ("nano/pretrain/seed", -1, "'nano.pretrain.seed' is -1"),
    ("nano/pretrain/seed", 2**63, "'nano.pretrain.seed' is 9223372036854775808"),
    ("nano/pretrain/save", ["p08", "p04"], "accepted: one name or more, increasing, each once"),
    ("nano/pretrain/save", ["p08", "p08"], "accepted: one name or more, increasing, each once"),
    ("nano/pretrain/save", [], "accepted: one name or more"),
    ("nano/pretrain/save", ["p8"], "'nano.pretrain.save[0]' is 'p8'; accepted: p01 to p100"),
    ("nano/pretrain/save", ["p\u00b2\u00b2"], "accepted: p01 to p100"),
    ("nano/pretrain/dtype", "Float16", "Did you mean 'float16'?"),
    ("nano/pretrain/mixture", {"math": 0.5, "reasoning": 0.4, "general": 0.3}, "that sum to 1"),
    ("nano/pretrain/mixture", {"maths": 1.0}, "accepted: shares of math, reasoning and general that sum to 1"),
    ("nano/pretrain/mixture", {"math": -1.0, "general": 2.0}, "'nano.pretrain.mixture.math' is -1.0"),
    ("nano/questions/easy_mixture", None, "nano.questions.easy_mixture is {}; accepted: shares of cells"),
    ("nano/questions/hard_mixture", {"e1n9": NAN}, "'nano.questions.hard_mixture.e1n9' is nan"),
    ("nano/questions/hard", None, "nano.questions.hard is None"),
    ("nano/questions/style", {"chat": "yes"}, "'nano.questions.style.chat' is 'yes'; accepted: true or false"),
    ("paper/hub/hard_test", None, "paper.hub.hard_test is null; accepted: a test set"),
    ("suites/pythia-1b/lora", {"rank": 0, "alpha": 1}, "'suites.pythia-1b.lora.rank' is 0"),
    ("nano/questions/train_easy", 10**9, "'nano.questions.train_easy' is 1000000000; accepted: a whole number, 0 to"),
    ("nano/questions/source", "hub", "nano.hub is null, and questions.source is 'hub'"),
    ("nano/questions/hard", "easy", "accepted: another name than questions.easy"),
    ("nano/questions/easy", "../x", "'nano.questions.easy' is '../x'; accepted: letters, digits"),
    ("nano/questions/prompt", "answer :", "accepted: text with {question}"),
    ("nano/questions/prompt", "{Question} {}", "accepted: text with {question}"),
    ("nano/questions/separator", "", "accepted: text that is not empty"),
    ("nano/questions/stop", "", "'nano.questions.stop' is ''"),
    ("nano/evaluate/samples", 0, "'nano.evaluate.samples' is 0"),
    ("nano/evaluate/temperature", -0.5, "'nano.evaluate.temperature' is -0.5"),
    ("smoke/evaluate/questions_between", 7, "at most questions.test, which is 6"),
    ("nano/engine/name", "VLLM", "Did you mean 'vllm'?"),
    ("nano/engine/importance_cap", 0, "'nano.engine.importance_cap' is 0"),
    ("nano/workers", 0, "'nano.workers' is 0"),
    ("nano/overrides", {"rll": {}}, "There is no recipe (key 'nano.overrides' of"),
    ("nano/overrides", {"rl": {"sfft": {}}}, "Did you mean 'sft'?"),
    ("nano/overrides", {"rl": {"rl": {"steps": 0}}}, "'nano.overrides.rl.rl.steps' is 0"),
    ("smoke/overrides", {"rl": {"rl": {"warmup_steps": 99}}}, "is 99 with 'smoke.overrides.rl'; accepted: at most"),
    ("nano/overrides", {"rl": {"hub": {"train": "x"}}}, "nano.hub is null, and 'nano.overrides.rl' would change"),
    ("nano/overrides", {"rl": ["kl"]}, "'nano.overrides.rl' must be a mapping"),
    ("scales", ["nan"], "Did you mean 'nano'?"),
    ("scales", [], "'scales' is [none]; accepted: 1 or more, each once"),
    ("recipes", ["RL"], "Did you mean 'rl'?"),
    ("recipes", ["rl", "rl"], "'recipes' is [rl, rl]; accepted: 1 or more, each once"),
    ("checkpoints", ["p07"], "There is no checkpoint in nano.pretrain.save"),
    ("checkpoints", "p08", "'checkpoints' must be a list, found 'p08'"),
    ("seeds", [-1], "'seeds[0]' is -1"),
    ("seeds", [0, 0], "'seeds' is [0, 0]; accepted: 0 or more, each once"),
    ("seeds", [2**64], "accepted: a whole number, 0 to 9,223,372,036,854,775,807"),
    ("more_seeds", {"rll": {}}, "There is no recipe in recipes (key 'more_seeds' of"),
    ("more_seeds", {"rl": {"p04": [1]}}, "There is no checkpoint in checkpoints (key 'more_seeds.rl'"),
    ("more_seeds", {"rl": {"p08": [1, 0]}}, "more_seeds.rl.p08 is [1, 0]; accepted: seeds that are not"),
    ("more_seeds", {1: {}}, "'more_seeds' has the name 1; accepted: text"),
    ("more_seed", {}, "unknown key 'more_seed'"),
    ("keep_models", ["p40/seed-7"], "keep_models has p40/seed-7; accepted: seeds of p40 that are computed"),
    ("keep_models", ["p41/seed-0"], "There is no checkpoint in checkpoints (key 'keep_models'"),
    ("keep_models", ["p40/seed-x"], "accepted: <checkpoint>/seed-<k>"),
    ("../x", RAW["smoke"], "cannot be the name of a scale"),
    ("large", {"rl": RAW["nano"]["rl"]}, "missing key 'large.model'"),
    ("suites/-x", OWN, "cannot be the name of a suite"),
    ("suites/a;b", OWN, "cannot be the name of a suite"),
    ("suites/main", OWN, "choose another name"),
    ("suites/larger", {}, "missing key 'suites.larger.checkpoints'"),
    ("suites/larger", OWN | {"checkpoints": ["p05"]}, "There is no checkpoint of nano, suite larger"),
    ("suites/larger", OWN | {"seeds": []}, "'suites.larger.seeds' is [none]"),
    ("suites/larger", OWN | {"recipes": ["bse"]}, "Did you mean 'base'?"),
    ("suites/larger", OWN | {"checkpoints_of": "mian"}, "Did you mean 'main'?"),
    ("suites/larger", OWN | {"overrides": {"model": 3}}, "'suites.larger.overrides'"),
    ("suites/larger", OWN | {"overrides": {"model.hidden": 3}}, "Did you mean 'hidden_size'?"),
    ("suites/larger", OWN | {"overrides": {"model.hidden_size": "3"}}, "'suites.larger.overrides.model.hidden_size'"),
    ("suites/larger", OWN | {"overrides": {"model.hidden_size": 129}}, "is 129 with 'suites.larger.overrides'"),
    ("suites/larger", OWN | {"checkpoints_of": "main", "overrides": {"model.layers": 3}}, "changes model, which"),
    ("suites/pythia-1b/checkpoints", {}, "'suites.pythia-1b.checkpoints' is empty"),
    ("suites/pythia-1b/checkpoints/p01/tokens", 10**13, "accepted: at most 299892736000"),
    ("suites/pythia-1b/checkpoints/p01/revision", "../../x", "accepted: a name without '..'"),
    ("suites/pythia-1b/checkpoints/$(x)", {"revision": "a", "tokens": 1}, "has the name '$(x)'"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "said"), WRONG)
def test_a_mistake_is_named(raw, key, value, said):
    if key == "../x":
        raw[key] = value
    else:
        put(raw, key, value)
    with pytest.raises(UserError, match="params.yaml") as error:
        params.check(raw, FILE)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_missing_key_is_named_and_an_optional_one_is_null(raw):
    del raw["nano"]["engine"]["importance_cap"], raw["nano"]["hub"], raw["nano"]["pretrain"]["mixture"]
    assert params.check(raw, FILE).blocks == params.load(FILE).blocks
    del raw["nano"]["rl"]["learning_rate"]
    with pytest.raises(UserError, match="missing key 'nano.rl.learning_rate'"):
        params.check(raw, FILE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "not valid YAML: line"),
        ("a: 1\na: 2\n", 'not valid YAML: line 2: found duplicate key "a"'),
        ("nano: {rl: {kl: 0.0, kl: 1.0}}\n", 'found duplicate key "kl"'),
        ("\ta: 1", "not valid YAML: line 1"),
        ("- 1\n- 2\n", "must be a mapping of keys; found [1, 2]"),
        ("nano", "must be a mapping of keys; found 'nano'"),
        ("", "must be a mapping of keys; it is empty"),
        ("# nothing\n", "it is empty"),
        ("a: 2024-13-45", "not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("a: 1\n---\nb: 1\n", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("[1]: 2\n", "params.yaml"),
        ("a: &x {b: *x}\n", "unknown key 'a'"),
        ("nano: &x\n  model: *x\n", "missing key 'scales'"),
        ("caf\xe9: 1".encode("latin-1"), "is not UTF-8 (byte 3)"),
        (b"\x00", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_in_one_line(tmp_path, text, said):
    with pytest.raises(UserError, match="params.yaml") as error:
        load_text(text, tmp_path)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        params.load(tmp_path / "params.yaml")


def test_a_number_without_a_point_is_a_number(tmp_path):
    text = FILE.read_text().replace("learning_rate: 2.0e-4", "learning_rate: 2e-4")
    assert text != FILE.read_text()
    assert load_text("\ufeff" + text, tmp_path).scale("nano").rl.learning_rate == 2e-4


def test_braces_in_a_prompt_stand_for_themselves(raw):
    raw["nano"]["questions"]["prompt"] = "Put it in \\boxed{}. {question} {answer}"
    questions = params.check(raw, FILE).scale("nano").questions
    example = Question("e", "easy", "train", "1 {question} ?", "1", ("#### 1",))
    assert build_prompt("2 ?", [example], questions).split(" <eos> ") == [
        "Put it in \\boxed{}. 1 {question} ? {answer} #### 1",
        "Put it in \\boxed{}. 2 ? {answer}",
    ]


def test_a_scale_of_ones_own_is_a_scale(raw):
    raw["tiny.2"] = raw["smoke"]
    raw["scales"] = ["tiny.2"]
    raw["checkpoints"], raw["more_seeds"] = ["p20"], {}
    study = params.check(raw, FILE)
    assert study.scale("tiny.2") == study.scale("smoke")
    with pytest.raises(UserError, match="Did you mean 'tiny.2'"):
        study.scale("Tiny2")


def test_one_recipe_may_see_other_values(raw):
    raw["nano"]["overrides"] = {"rl": {"rl": {"betas": [0, 0.5], "kl": 1}}}
    scale = params.check(raw, FILE).scale("nano")
    assert scale.of("sft_rl") == scale
    assert scale.of("rl").rl == replace(scale.rl, betas=(0.0, 0.5), kl=1.0)
    assert replace(scale.of("rl"), rl=scale.rl) == scale
    raw["nano"]["overrides"] = {"sft": {"rl": {"kl": 1}}}  # which would change nothing
    with pytest.raises(UserError, match="There is no block that sft reads"):
        params.check(raw, FILE)


def test_a_suite_of_our_own_sees_its_overrides_and_has_its_runs(raw):
    mixture = {"math": 0.5, "reasoning": 0.25, "general": 0.25}
    overrides = {"model.hidden_size": 256, "pretrain.mixture": mixture, "evaluate.shots": 0}
    raw["suites"] |= {
        "larger": OWN | {"overrides": overrides, "seeds": [0, 3]},
        "rollouts_64": {"overrides": {"rl.rollouts": 64}, "checkpoints_of": "larger", "checkpoints": ["p40"],
                        "recipes": ["rl"], "seeds": [1]},
    }  # fmt: skip
    study = params.check(raw, FILE)
    main, larger = study.scale("nano"), study.scale("nano", "larger")
    assert larger.model == replace(main.model, hidden_size=256) and larger.rl == main.rl
    assert larger.pretrain == replace(main.pretrain, mixture=mixture)
    assert study.scale("nano", "rollouts_64").rl.rollouts == 64
    assert study.scale("nano", "unnamed") == main
    assert study.cells("nano", "larger") == [("p40", "base", 0), ("p40", "base", 3)]
    assert study.cells("nano", "rollouts_64") == [("p40", "rl", 1)]
    assert [study.checkpoint_suite(name) for name in ("main", "larger", "rollouts_64", "unnamed", "pythia-1b")] == [
        "main", "larger", "larger", "unnamed", "pythia-1b",
    ]  # fmt: skip
    assert set(study.public_suites) == set(RAW["suites"])
    assert {c for c, _, _ in study.cells("nano", "pythia-1b")} == set(RAW["suites"]["pythia-1b"]["checkpoints"])
    with pytest.raises(UserError, match=r"smoke.model.hidden_size is 6 with 'suites.odd.overrides'"):
        replace(study, suites={"odd": replace(study.suites["larger"], overrides={"model": {"hidden_size": 6}})}).scale(
            "smoke", "odd"
        )


def test_lists_are_cut_and_close_names_offered():
    with pytest.raises(UserError, match=r"accepted: q0, .*, q9 and 990 more\. Did you mean 'q7'\?") as error:
        params.one_of("Q7", [f"q{i}" for i in range(1000)], "question")
    assert len(str(error.value)) < 150
    with pytest.raises(UserError, match="accepted: none"):
        params.one_of("x\n" * 1000, [], "question")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "-x", ".x", "a b", "a;b", "$(b)", "a\n", "é", "x" * 101]
)
def test_a_name_that_is_no_part_of_a_path_or_a_command_is_refused(name):
    with pytest.raises(UserError, match="cannot be the name of a suite; accepted: letters, digits"):
        params.checked_name(name, "suite")


@pytest.mark.parametrize("name", ["main", "p08", "OLMo-2_1b.v2", "_x", "0"])
def test_other_names_are_accepted(name):
    assert params.checked_name(name, "suite") == name


def test_every_key_has_a_purpose_and_the_table_in_the_docs_is_of_them():
    table = params.keys_table()
    assert (ROOT / "docs" / "params.md").read_text(encoding="utf-8") == table + "\n"
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) > 100 and all(len(row) == 4 and row[1] and row[3].strip("| ") for row in rows)
    named = {row[0].strip("| `") for row in rows}
    assert {f"<scale>.{block}.{key}" for block, of_it in RAW["nano"].items() if isinstance(of_it, dict) for key in of_it} <= named  # fmt: skip # noqa: E501


def test_reading_is_fast():
    started = time.process_time()
    params.load(FILE)
    assert time.process_time() - started < 2


def test_what_other_tools_write_is_read_back(raw, tmp_path):
    """As other tools write YAML: block style, keys in another order."""
    text = io.StringIO()
    yaml.safe_dump(raw, text, default_flow_style=False, sort_keys=True)
    assert load_text(text.getvalue(), tmp_path).scale("nano") == params.load(FILE).scale("nano")


def test_a_range_says_what_it_holds():
    assert str(keys.Range(0, 1, above=True, below=True)) == "0 to 1, not 0 itself, not 1 itself"
    assert [x in keys.Range(0, 1, above=True) for x in (0, 1e-9, 1, 1.1, NAN)] == [False, True, True, False, False]


def test_a_public_suite_has_a_seed_where_none_are_named(raw, tmp_path):
    named = raw | {"seeds": [], "more_seeds": {"base": {"p20": [3]}}}
    study = load_text(yaml.safe_dump(named), tmp_path)
    assert {seed for _, _, seed in study.cells("nano", "pythia-1b")} == {0} and study.seeds_of(
        "nano", "base", "p20"
    ) == (3,)
