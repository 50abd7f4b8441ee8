"""A run's folder is complete or absent, its bytes are stable, and whatever is wrong with it is said by
name.
"""

import errno
import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import synthetic
from study_file import write_study
from synthetic import make_study

from excursions.findings import estimates, statistics
from excursions.params import UserError
from excursions.results import schemas
from excursions.results import tables as results

RUN = synthetic.RUN | {"parameters": {"rl": {"steps": 2}}, "fingerprint": "abc"}
SAMPLE = {
    "benchmark": "easy",
    "question_id": "easy-000",
    "step": 2,
    "prompt": "q",
    "gold": "5",
    "completion": "5",
    "correct": True,
    "valid": None,
    "stop_reason": "eos",
}
FILES = ["general.parquet", "outcomes.parquet", "run.json", "samples.jsonl.gz", "training.parquet"]


def tables_of_run(checkpoint="p20", recipe="rl", seed=0, questions=20, samples=32, tokens=1000):
    """Outcomes at steps 0 and 2, general counts and a log, drawn from the run's name."""
    rng = np.random.default_rng(list(f"{checkpoint}{recipe}{seed}".encode()))
    who = {
        "scale": "nano",
        "suite": "main",
        "checkpoint": checkpoint,
        "tokens": tokens,
        "recipe": recipe,
        "seed": seed,
    }
    rows = [
        who | {"step": step, "benchmark": benchmark, "question_id": f"{benchmark}-{q:03d}", "n": samples}
        for step in (0, 2)
        for benchmark in ("easy", "hard")
        for q in range(questions)
    ]
    outcomes = pd.DataFrame(rows)
    outcomes["correct"] = rng.binomial(samples, rng.beta(0.5, 1, len(rows)))
    outcomes["valid"] = outcomes["correct"].where(outcomes["benchmark"] == "easy").astype("Int64")
    general = pd.DataFrame(
        [
            who | {"benchmark": b, "item_id": f"{b}-{item:02d}", "correct": int(item < 50 + 10 * i)}
            for i, b in enumerate("abc")
            for item in range(100)
        ]
    )
    training = pd.DataFrame([who | {"step": step, "reward": step / 2, "sft_loss": 1.5} for step in (1, 2)])
    return outcomes, general, training


def write(root, checkpoint="p20", recipe="rl", seed=0, **how):
    folder = results.run_folder(root, "nano", "main", checkpoint, recipe, seed)
    outcomes, general, training = tables_of_run(checkpoint, recipe, seed, **how)
    results.write_run(folder, outcomes, general, training, [SAMPLE], RUN)
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_what_is_written_is_loaded(tmp_path):
    write(tmp_path, "p20", "sft")
    write(tmp_path, "p20", "base")
    write(tmp_path, "p08", "sft", tokens=400)
    loaded = results.load_outcomes(tmp_path, "nano")
    assert list(loaded.columns) == list(schemas.OUTCOMES.columns)
    order = loaded[["checkpoint", "recipe"]].drop_duplicates().apply(tuple, axis=1).tolist()
    assert order == [("p08", "sft"), ("p20", "base"), ("p20", "sft")]
    ours = loaded[(loaded["checkpoint"] == "p20") & (loaded["recipe"] == "sft")].reset_index(drop=True)
    written = tables_of_run("p20", "sft")[0]
    ours = ours.astype({name: str for name in ours.columns[ours.dtypes == "category"]})
    pd.testing.assert_frame_equal(ours, written[list(ours.columns)], check_dtype=False)

    general = results.load_general(tmp_path, "nano").groupby(["checkpoint", "recipe", "benchmark"])["correct"].sum()
    assert general.tolist() == [50, 60, 70] * 3
    training = results.load_training(tmp_path, "nano")
    assert training["reward"].tolist() == [0.5, 1.0] * 3
    assert training["entropy"].isna().all() and (training["sft_loss"] == 1.5).all()
    runs = results.load_runs(tmp_path, "nano")
    assert runs["fingerprint"].tolist() == ["abc"] * 3 and runs["seed"].tolist() == [0] * 3
    assert results.load_samples(write(tmp_path)) == [SAMPLE]


def test_a_run_without_training_has_an_empty_log(tmp_path):
    folder = results.run_folder(tmp_path, "nano", "main", "p20", "base", 0)
    outcomes, general, _ = tables_of_run("p20", "base")
    results.write_run(folder, outcomes, general, pd.DataFrame([]).assign(seed=0), [], RUN)
    write(tmp_path)
    training = results.load_training(tmp_path, "nano")
    assert training["recipe"].tolist() == ["rl", "rl"]
    assert results.load_samples(folder) == []


def test_equal_runs_have_equal_bytes_whatever_the_order_of_rows(tmp_path):
    first = content(write(tmp_path / "a"))
    assert list(first) == FILES
    assert first["samples.jsonl.gz"][4:8] == bytes(4)  # no time in the gzip header
    outcomes, general, training = (table.sample(frac=1, random_state=0) for table in tables_of_run())
    folder = results.run_folder(tmp_path / "b", "nano", "main", "p20", "rl", 0)
    results.write_run(folder, outcomes, general, training, [SAMPLE], RUN)
    assert content(folder) == first


def fail_at(monkeypatch, name):
    real = Path.write_bytes

    def write_bytes(self, data):
        if self.name == name:
            real(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)


@pytest.mark.parametrize("name", FILES)
def test_a_full_disk_leaves_the_run_as_it_was(tmp_path, monkeypatch, name):
    with monkeypatch.context() as patched:
        fail_at(patched, name)
        with pytest.raises(UserError, match="No space left on device"):
            write(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    folder = write(tmp_path)
    before = content(folder)
    fail_at(monkeypatch, name)
    with pytest.raises(UserError):
        write(tmp_path, samples=64)
    assert content(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["seed-0"]


def test_a_kill_in_the_middle_leaves_the_older_run(tmp_path, monkeypatch):
    folder = write(tmp_path)
    before = content(folder)
    real = Path.write_bytes

    def killed(self, data):
        if self.name == "training.parquet":
            raise KeyboardInterrupt
        return real(self, data)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", killed)
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)  # the killed do not tidy up
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, samples=64)
    assert len(list(folder.parent.iterdir())) == 2
    assert content(folder) == before
    assert results.load_outcomes(tmp_path, "nano")["n"].unique().tolist() == [32]
    write(tmp_path, samples=64)
    assert results.load_outcomes(tmp_path, "nano")["n"].unique().tolist() == [64]


def test_wrong_tables_are_not_written(tmp_path):
    outcomes, general, training = tables_of_run()
    folder = results.run_folder(tmp_path, "nano", "main", "p20", "rl", 0)
    wrong = [
        ((outcomes.drop(columns="correct"), general, training, [], RUN), "correct"),
        ((outcomes.assign(correct=33), general, training, [], RUN), "'correct' is 33, accepted: 0 to n"),
        (
            (pd.concat([outcomes, outcomes]), general, training, [], RUN),
            "a second row with the same step, benchmark, question",
        ),
        (
            (outcomes, general.assign(correct=2), training, [], RUN),
            "general.*is 2, accepted: 0 to 1",
        ),
        ((outcomes, general, training.drop(columns="step"), [], RUN), "step"),
        ((outcomes, general, training, [], {"parameters": {}}), "run.json: key 'versions' is missing"),
        ((outcomes, general, training, [{"prompt": "q"}], RUN), "samples.*key 'benchmark' is missing; found: prompt"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            results.write_run(folder, *arguments)
    assert not folder.exists()


def rewrite(file, change):
    table = pq.read_table(file).to_pandas()
    change(table).to_parquet(file, index=False)


def first(table, **values):
    """The table with other values in its first row."""
    return pd.concat([table.iloc[:1].assign(**values), table.iloc[1:]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: first(table, correct=33), "'correct' is 33, accepted: 0 to n [(]32[)]"),
        (lambda table: first(table, correct=-1), "'correct' is -1, accepted: 0 to n"),
        (lambda table: first(table, correct=5, valid=6), "'valid' is 6, accepted: 0 to correct [(]5[)]"),
        (lambda table: first(table, n=0), "'n' is 0, accepted: 1 or more"),
        (lambda table: first(table, seed=-1), "'seed' is -1, accepted: 0 or more"),
        (lambda table: first(table, tokens=0), "'tokens' is 0"),
        (lambda table: first(table, question_id=None), "'question_id' is empty"),
        (lambda table: first(table, n=None), "'n' is empty"),
        (lambda table: first(table, n=1.5), "'n' is double, expected int64"),
        (lambda table: pd.concat([table, table[:3]]), "a second row with the same step, benchmark, question_id"),
        (lambda table: table[:0], "the table has no rows"),
        (lambda table: table[1:], "its first step, 0, and its last one are not of the same questions"),
        (lambda table: table[table["step"] == table["step"].max()], "its first step, 0, and its last one"),
        (lambda table: table.drop(columns="correct"), "column 'correct' is missing; found: scale, suite"),
        (lambda table: table.assign(n="many"), "column 'n' is .*string, expected int64"),
        (
            lambda table: table.assign(recipe="sft"),
            "column 'recipe' holds 'sft', but the folder is of 'rl'",
        ),
    ],
)
def test_a_wrong_table_is_named_with_the_remedy(tmp_path, change, message):
    file = write(tmp_path) / "outcomes.parquet"
    rewrite(file, change)
    with pytest.raises(UserError, match=message) as caught:
        results.load_outcomes(tmp_path, "nano")
    assert str(file) in str(caught.value)
    assert f"git checkout -- {file}" in str(caught.value) and "excursions train --scale nano" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: first(table, reward=1.5), "'reward' is 1.5, accepted: 0 to 1"),
        (lambda table: first(table, entropy=-0.1), "'entropy' is -0.1, accepted: 0 or more"),
        (lambda table: table[1:], "the log has not one row for each step"),
    ],
)
def test_an_impossible_log_is_named(tmp_path, change, message):
    rewrite(write(tmp_path) / "training.parquet", change)
    with pytest.raises(UserError, match=message):
        results.load_training(tmp_path, "nano")


def test_damaged_and_missing_files_are_named(tmp_path):
    folder = write(tmp_path)
    loads = {
        "outcomes.parquet": results.load_outcomes,
        "general.parquet": results.load_general,
        "training.parquet": results.load_training,
        "run.json": results.load_runs,
        "samples.jsonl.gz": lambda root, scale: results.load_samples(folder),
    }
    for name, load in loads.items():
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match=name):
            load(tmp_path, "nano")
        (folder / name).unlink()
        with pytest.raises(UserError, match=f"{name}: the file is missing"):
            load(tmp_path, "nano")
        (folder / name).write_bytes(whole)
        load(tmp_path, "nano")


def test_columns_and_steps_are_read_as_asked(tmp_path):
    folder = results.run_folder(tmp_path, "nano", "main", "p20", "rl", 0)
    outcomes, general, training = tables_of_run()
    between = pd.concat([outcomes, outcomes[outcomes["step"] == 0].assign(step=1)])
    results.write_run(folder, between, general, training, [SAMPLE], RUN)
    whole = results.load_outcomes(tmp_path, "nano")
    assert sorted(whole["step"].unique()) == [0, 1, 2]
    ends = results.load_outcomes(tmp_path, "nano", between=False)
    pd.testing.assert_frame_equal(ends, whole[whole["step"] != 1].reset_index(drop=True))
    few = results.load_files([folder], "outcomes", ["recipe", "step", "n"])
    pd.testing.assert_frame_equal(few, whole[["recipe", "step", "n"]])
    assert whole["valid"].isna().sum() == 60 and whole["valid"].dtype == "Int32"


def test_no_results_and_mixed_results_are_errors(tmp_path):
    with pytest.raises(UserError, match="There are no results of scale 'nano'"):
        results.load_outcomes(tmp_path, "nano")
    write(tmp_path, "p20", "rl", tokens=1000)
    write(tmp_path, "p20", "sft", tokens=2000)
    with pytest.raises(UserError, match="p20: its runs disagree on the checkpoint's tokens"):
        results.load_outcomes(tmp_path, "nano")


WRONG_JSON = {
    b"[1, 2]": "the content is .*should be an object",
    b"null": "the content is None",
    b'{"a": 1}': "key '[a-z_]+' is missing; found: a",
    b"{}": "key '[a-z_]+' is missing; found: no key",
    b'{"a": ': "Invalid JSON",
    b"": "Invalid JSON",
    b'\xff{"a": 1}': "Invalid JSON",
    b"\x00\x01": "Invalid JSON",
}


@pytest.mark.parametrize("content", WRONG_JSON)
def test_json_of_another_shape_is_one_sentence_with_the_remedy(tmp_path, content):
    folder = write(tmp_path)
    suite = tmp_path / "checkpoints" / "nano" / "main" / "suite.json"
    suite.parent.mkdir(parents=True)
    loads = {
        folder / "run.json": lambda: results.load_runs(tmp_path, "nano"),
        folder / "samples.jsonl.gz": lambda: results.load_samples(folder),
        suite: lambda: results.load_suite(tmp_path, "nano"),
    }
    for file, load in loads.items():
        file.write_bytes(gzip.compress(content + b"\n") if file.suffix == ".gz" else content)
        with pytest.raises(UserError, match=WRONG_JSON[content]) as caught:
            load()
        assert str(file) in str(caught.value) and f"git checkout -- {file}" in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [("wall_seconds", "long"), ("wall_seconds", -1), ("parameters", []), ("fingerprint", ""), ("git_commit", 5)],
)
def test_a_wrong_value_in_run_json_is_named(tmp_path, key, value):
    file = write(tmp_path) / "run.json"
    file.write_text(json.dumps(RUN | {key: value}))
    with pytest.raises(UserError, match=f"run.json: key '{key}' is {value!r}".replace("[", ".")):
        results.load_runs(tmp_path, "nano")


def test_suite_json_is_checked(tmp_path):
    with pytest.raises(UserError, match="suite.json: the file is missing"):
        results.load_suite(tmp_path, "nano")
    file = tmp_path / "checkpoints" / "nano" / "main" / "suite.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"parameters": 100, "tokens": {"p20": 1000}}')
    with pytest.raises(UserError, match="key 'total_tokens' is missing"):
        results.load_suite(tmp_path, "nano")
    file.write_text('{"parameters": 100, "tokens": {"p20": "many"}, "total_tokens": 5000}')
    with pytest.raises(UserError, match="key 'tokens.p20' is 'many'"):
        results.load_suite(tmp_path, "nano")
    file.write_text('{"parameters": 100, "tokens": {"p20": 1000}, "total_tokens": 5000}')
    assert estimates.chinchilla(1000, results.load_suite(tmp_path, "nano")["parameters"]) == 0.5


def test_pass_at_k_table_is_of_the_last_step_and_holds_all_seeds(tmp_path):
    for seed in range(3):
        write(tmp_path, seed=seed)
    write(tmp_path, recipe="base", samples=8)
    outcomes = results.load_outcomes(tmp_path, "nano")
    table = estimates.pass_at_k_table(outcomes)
    assert table[["recipe", "benchmark", "k"]].apply(tuple, axis=1).tolist() == [
        *(("base", benchmark, k) for benchmark in ("easy", "hard") for k in (1, 8)),  # 8 samples: no pass@32
        *(("rl", benchmark, k) for benchmark in ("easy", "hard") for k in (1, 8, 32)),
    ]
    row = table[(table["recipe"] == "rl") & (table["benchmark"] == "hard") & (table["k"] == 8)].iloc[0]
    last = outcomes.query("recipe == 'rl' and benchmark == 'hard' and step == 2")
    assert row["estimate"] == pytest.approx(100 * statistics.pass_at_k(last["n"], last["correct"], 8).mean())
    assert row["ci_low"] < row["estimate"] < row["ci_high"]
    assert (row["n_seeds"], row["n_questions"]) == (3, 20)
    by_step = estimates.pass_at_k_table(outcomes, by_step=True)
    assert sorted(by_step["step"].unique()) == [0, 2]
    kept = by_step[by_step["step"] == 2].drop(columns="step").reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, table)
    pd.testing.assert_frame_equal(estimates.pass_at_k_table(outcomes.sample(frac=1, random_state=1)), table)


def test_only_common_questions_are_compared(tmp_path):
    outcomes, _, _ = tables_of_run()
    outcomes = outcomes[outcomes["benchmark"] == "easy"]
    steps = estimates.per_question(
        outcomes[(outcomes["step"] == 2) | (outcomes["question_id"] < "easy-005")], 1, ["step"]
    )
    assert steps.shape == (2, 5)
    apart = outcomes[(outcomes["step"] == 2) == (outcomes["question_id"] < "easy-005")]
    with pytest.raises(UserError, match="no question in common"):
        estimates.per_question(apart, 1, ["step"])


def test_general_table_has_the_benchmarks_and_their_mean(tmp_path):
    write(tmp_path)
    table = estimates.general_table(results.load_general(tmp_path, "nano")).set_index("benchmark")
    assert table["estimate"].to_dict() == pytest.approx({"a": 50, "average": 60, "b": 60, "c": 70})
    assert (table["ci_low"] < table["estimate"]).all() and (table["estimate"] < table["ci_high"]).all()
    width = table["ci_high"] - table["ci_low"]
    assert width["average"] < width[["a", "b", "c"]].min()
    np.testing.assert_allclose(width["a"], 4 * 5, atol=1.5)  # 2 x 1.96 x sqrt(0.5 x 0.5 / 100)


def test_tables_hold_the_cells_that_params_yaml_names(tmp_path):
    root = make_study(tmp_path, seeds=(0, 1, 2))
    everything = results.load_tables(root, "nano")
    keep = sorted(everything.outcomes.checkpoint.unique())[-1]
    write_study(root, checkpoints=[keep], recipes=["base", "rl"], seeds=[0], more_seeds={"rl": {keep: [2]}})
    tables = results.load_tables(root, "nano")
    for table in (tables.outcomes, tables.general):
        assert set(table.checkpoint) == {keep}
        assert set(zip(table.recipe, table.seed, strict=True)) == {("base", 0), ("rl", 0), ("rl", 2)}
    assert set(everything.outcomes.recipe) > {"base", "rl"}
    # a suite whose first run is still computed, and a study that names no run that is there
    (root / "results" / "nano" / "shots-0" / keep / "base").mkdir(parents=True)
    assert set(results.load_tables(root, "nano").outcomes.checkpoint) == {keep}
    write_study(root, checkpoints=[keep], seeds=[7], more_seeds={})
    with pytest.raises(UserError, match="None of the runs that .*params.yaml names for scale 'nano' has results"):
        results.load_tables(root, "nano")
    write_study(root, checkpoints=[keep], recipes=["base", "rl"], seeds=[0], more_seeds={"rl": {keep: [2]}})
    # a public suite has checkpoints of its own
    for kind in ("results", "checkpoints"):
        (root / kind / "nano" / "main").rename(root / kind / "nano" / "here")
    make_study(root, checkpoints=("p20",))
    for kind in ("results", "checkpoints"):
        (root / kind / "nano" / "main").rename(root / kind / "nano" / "pythia-1b")
        (root / kind / "nano" / "here").rename(root / kind / "nano" / "main")
    for file in (root / "results" / "nano" / "pythia-1b").glob("*/*/*/*.parquet"):
        pd.read_parquet(file).assign(suite="pythia-1b").to_parquet(file, index=False)
    both = results.load_tables(root, "nano").outcomes
    assert set(both[both.suite == "main"].checkpoint) == {keep} and keep != "p20"
    assert set(both[both.suite == "pythia-1b"].checkpoint) == {"p20"}
    for kind in ("results", "checkpoints"):  # a suite that params.yaml no longer has
        (root / kind / "nano" / "pythia-1b").rename(root / kind / "nano" / "of-old")
    assert set(results.load_tables(root, "nano").outcomes.suite) == {"main"}
