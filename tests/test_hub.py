"""Public data through `datasets`: what is read from real rows, what is refused, and a stream that resumes exactly."""

import gzip
import hashlib
import json
import random
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard
from hub_project import ROOT, instruct, instruct_rows, make_tokenizer, read, write

from excursions.data import public as hub
from excursions.data import public_files, public_stream
from excursions.data.checks import check_data
from excursions.data.public_source import search_texts
from excursions.data.questions import normalize
from excursions.grading import grade
from excursions.params import UserError


@pytest.fixture(scope="module")
def found(hub_scale):
    return hub.load_question_set(hub_scale)


def with_hub(scale, **sources):
    return replace(scale, hub=replace(scale.hub, **{key: source and str(source) for key, source in sources.items()}))


def with_questions(scale, **values):
    return replace(scale, questions=replace(scale.questions, **values))


# --- The real data ---


def test_gsm8k_is_read_in_full_and_its_solutions_grade_correct(shared):
    for split, rows in (("train", 7473), ("test", 1319)):
        source = str(shared / "data" / "gsm8k" / f"{split}.jsonl.gz")
        questions = hub.load_gsm8k(source, f"easy_{split}", split, "gsm8k")
        assert len(questions) == rows == len({q.id for q in questions})
        assert all(grade.is_correct(q.solutions[0], q.answer, marked_only=True) for q in questions)
        assert not any("<<" in q.solutions[0] or ">>" in q.solutions[0] for q in questions)


def test_math_answers_are_those_of_an_independent_extraction(shared):
    source = str(shared / "data" / "math" / "test.jsonl.gz")
    questions = hub.load_math(source, "hard_test", "test", "math")
    reference = [row["answer"] for row in read(shared, "math/test_answers.jsonl.gz")]
    assert len(questions) == 5000 == len({q.id for q in questions})
    plain = [
        (q.answer.replace(" ", ""), answer.replace(" ", "")) for q, answer in zip(questions, reference, strict=True)
    ]
    assert sum(ours != theirs for ours, theirs in plain) <= 25  # the other source writes some answers its own way
    graded = grade.grade_batch([q.answer for q in questions], reference)
    assert graded.count(False) <= 6


def test_math_500_is_a_part_of_math_with_the_same_ids(shared):
    folder = shared / "data" / "math"
    everything = {q.id: q for q in hub.load_math(str(folder / "test.jsonl.gz"), "hard_test", "test", "math")}
    part = hub.load_math(str(folder / "math500.jsonl.gz"), "hard_test", "test", "math")
    assert len(part) == 500
    assert all(grade.is_correct(everything[q.id].answer, q.answer) for q in part)


def test_published_sources_make_the_study_of_params_yaml(hub_scale, shared):
    data = shared / "data"
    scale = with_hub(hub_scale, easy_test=data / "gsm8k/test.jsonl.gz", hard_test=data / "math/test.jsonl.gz",
                     easy_train=data / "gsm8k/train.jsonl.gz")  # fmt: skip
    found = hub.load_question_set(with_questions(scale, test=5000))
    assert [sum(q.benchmark == name for q in found.test) for name in ("gsm8k", "math")] == [1319, 5000]
    few = hub.load_question_set(with_questions(scale, test=50)).test
    assert few == found.test[:50] + found.test[1319 : 1319 + 50]
    subjects = {row["problem"]: row["type"] for row in read(shared, "math/test.jsonl.gz")}
    assert len({subjects[q.text] for q in few[50:]}) >= 5  # not the first subject of a sorted file


def test_the_row_of_openmathinstruct_is_read_and_left_out_for_its_code(hub_scale, shared):
    scale = with_hub(hub_scale, train=shared / "data" / "openmathinstruct1_schema" / "example_row.jsonl")
    with pytest.raises(UserError, match=r"example_row.jsonl \(hub.train\) has 0 usable questions for gsm8k"):
        hub.load_question_set(scale)


# --- Which questions, which solutions ---


def test_splits_are_disjoint_and_within_their_limits(found, hub_scale):
    assert [sum(q.benchmark == name for q in found.train) for name in ("gsm8k", "math")] == [8, 4]
    for split, rows in vars(found).items():
        assert {q.split for q in rows} == {split}
    assert len(found.validation) == 2 * hub_scale.questions.validation
    assert len(found.test) == 2 * hub_scale.questions.test
    texts = [normalize(q.text) for rows in vars(found).values() for q in rows]
    assert len(set(texts)) == len(texts)


def test_solutions_are_different_correct_and_without_code(found, hub_scale):
    for q in found.train + found.validation:
        assert 1 <= len(q.solutions) <= hub_scale.questions.solutions
        assert len(set(q.solutions)) == len(q.solutions)
        assert all(grade.is_correct(solution, q.answer, marked_only=True) for solution in q.solutions)
        assert not any("<llm-code>" in solution for solution in q.solutions)
    assert {len(q.solutions) for q in found.train if q.benchmark == "gsm8k"} == {3}


def test_what_was_left_out_is_counted(found, hub_scale, shared):
    rows = instruct_rows(shared)
    counts = hub.train_counts(hub_scale)
    assert counts["rows"] == len(rows)
    assert counts["false"] == sum(not row["is_correct"] for row in rows)
    assert counts["with_code"] == counts["repeated"] == sum("<llm-code>" in row["generated_solution"] for row in rows)


def test_a_solution_that_the_grader_rejects_is_no_demonstration(hub_scale, tmp_path, shared):
    rows = instruct_rows(shared)
    for row in rows:
        if row["generated_solution"].startswith("Let us think"):
            row["generated_solution"] += "\nNo, it is \\boxed{-12345}."
    scale = with_hub(hub_scale, train=write(tmp_path / "train.jsonl", rows))
    easy = [q for q in hub.load_question_set(scale).train if q.benchmark == "gsm8k"]
    assert {len(q.solutions) for q in easy} == {2} and hub.train_counts(scale)["rejected"] == 10


def test_the_order_of_rows_does_not_matter(found, hub_scale, tmp_path, shared):
    rows = instruct_rows(shared)
    rows += [row | {"question": row["question"].upper() + " "} for row in rows[:60]]  # the same to `normalize`
    several = []
    for number in range(3):
        random.Random(number).shuffle(rows)
        scale = with_hub(hub_scale, train=write(tmp_path / f"{number}.jsonl", rows))
        several.append((hub.load_question_set(scale), hub.train_counts(scale)))
    assert several[0] == several[1] == several[2]
    random.Random(1).shuffle(rows := instruct_rows(shared))
    assert hub.load_question_set(with_hub(hub_scale, train=write(tmp_path / "train.jsonl", rows))) == found


def test_a_question_less_moves_at_most_one_other_into_each_split(found, hub_scale, tmp_path, shared):
    gone = found.train[3]
    rows = [row for row in instruct_rows(shared) if row["question"] != gone.text]
    fewer = hub.load_question_set(with_hub(hub_scale, train=write(tmp_path / "train.jsonl", rows)))
    assert set(found.train) - set(fewer.train) == {gone}
    assert (fewer.validation, fewer.test) == (found.validation, found.test)


def test_the_seed_decides_which_questions_are_for_validation(found, hub_scale):
    other = hub.load_question_set(with_questions(hub_scale, seed=1))
    assert {q.id for q in other.validation} != {q.id for q in found.validation}


@pytest.mark.parametrize("form", ["jsonl.gz", "parquet", "folder"])
def test_every_form_of_a_data_set_gives_the_same_questions(form, found, hub_scale, tmp_path, shared):
    rows = instruct_rows(shared)
    if form == "parquet":
        pd.DataFrame(rows).to_parquet(source := tmp_path / "train.parquet")
    elif form == "jsonl.gz":
        source = tmp_path / "train.jsonl.gz"
        source.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    else:  # as the hub's copy, whose correct and incorrect rows are in two folders
        source = tmp_path / "OpenMathInstruct-1"
        for name, correct in (("correct_solutions", True), ("incorrect_solutions", False)):
            (source / name).mkdir(parents=True)
            write(source / name / "train.jsonl", [row for row in rows if row["is_correct"] == correct])
            write(source / name / "validation.jsonl", rows[:5])
    assert hub.load_question_set(with_hub(hub_scale, train=source)) == found


def test_folders_with_the_configurations_of_the_hub(found, hub_scale, hub_project, tmp_path, shared):
    # GSM8K has a second configuration; MATH has one per subject.
    easy, hard = tmp_path / "gsm8k", tmp_path / "hendrycks_math"
    configs = {easy: ["main", "socratic"], hard: list(hub.MATH_CONFIGS)}
    problems = [json.loads(line) for line in (hub_project / "data" / "math_train.jsonl").open()]
    for folder, names in configs.items():
        files = [{"split": split, "path": f"{{0}}/{split}.jsonl"} for split in ("train", "test")]
        listed = [
            {"config_name": name, "data_files": [entry | {"path": entry["path"].format(name)} for entry in files]}
            for name in names
        ]
        for name in names:
            (folder / name).mkdir(parents=True)
        (folder / "README.md").write_text("---\n" + yaml.safe_dump({"configs": listed}) + "---\n")
    easy_rows = [json.loads(line) for line in (hub_project / "data" / "gsm8k_train.jsonl").open()]
    for name in configs[easy]:
        rows = easy_rows if name == "main" else [{"question": "a socratic one?", "answer": "no"}]
        write(easy / name / "train.jsonl", rows)
        write(easy / name / "test.jsonl", rows)
    for name in configs[hard]:
        rows = [row for row in problems if row["type"].lower().replace(" & ", " and ").replace(" ", "_") == name]
        write(hard / name / "train.jsonl", rows)
        write(hard / name / "test.jsonl", rows)
    assert hub.load_question_set(with_hub(hub_scale, easy_train=easy, hard_train=hard)) == found


# --- Few-shot examples ---


def test_examples_are_the_rows_that_their_ids_say(found, shared):
    written = yaml.safe_load((ROOT / "excursions" / "data" / "examples.yaml").read_text(encoding="utf-8"))
    assert [len(written[role]) for role in ("easy", "hard")] == [8, 4]
    easy = read(shared, "gsm8k/train.jsonl.gz")
    hard = {row["id"]: row for row in read(shared, "math_model_solutions/nemo_skills_math_train50.jsonl.gz")}
    texts = {e["id"]: easy[int(e["id"].removeprefix("gsm8k/train/"))]["question"] for e in written["easy"]}
    texts |= {e["id"]: hard[e["id"].removeprefix("math/")]["problem"] for e in written["hard"]}
    for entry in written["easy"] + written["hard"]:
        assert hashlib.sha256(normalize(texts[entry["id"]]).encode()).hexdigest() == entry["sha256"]
    assert {q.id: q.text for q in found.examples} == texts


def test_examples_show_the_answer_in_the_form_of_their_benchmark(found):
    for q in found.examples:
        assert grade.is_correct(q.solutions[0], q.answer, marked_only=True)
        mark = f"#### {q.answer}" if q.benchmark == "gsm8k" else "\\boxed{"
        assert mark in q.solutions[0] and "<<" not in q.solutions[0]
    assert [q.benchmark for q in found.examples] == ["gsm8k"] * 8 + ["math"] * 4


def test_an_example_is_found_where_its_row_has_moved_to_but_not_when_it_is_gone(found, hub_scale, tmp_path, shared):
    rows = read(shared, "gsm8k/train.jsonl.gz")[:400]
    moved = with_hub(hub_scale, easy_train=write(tmp_path / "moved.jsonl", rows[::-1]))
    assert hub.load_question_set(moved).examples == found.examples
    gone = with_hub(hub_scale, easy_train=write(tmp_path / "gone.jsonl", rows[1:]))
    with pytest.raises(UserError, match=r"hub.easy_train\) has no row .* gsm8k/train/0 .*found 399 others"):
        hub.load_question_set(gone)


def test_examples_are_never_trained_on(found, hub_scale, tmp_path, shared):
    example = found.examples[0]
    about = {"question": example.text, "expected_answer": example.answer, "dataset": "gsm8k"}
    rows = [*instruct_rows(shared), instruct(**about, solution=f"So \\boxed{{{example.answer}}}.")]
    assert hub.load_question_set(with_hub(hub_scale, train=write(tmp_path / "train.jsonl", rows))) == found


# --- Train and test ---


def test_a_training_question_that_is_in_the_test_set_is_refused(found, hub_scale, tmp_path, shared):
    asked = found.test[0]
    about = {"question": asked.text.upper() + " ", "expected_answer": asked.answer, "dataset": "gsm8k"}
    rows = [*instruct_rows(shared), instruct(**about, solution=f"So \\boxed{{{asked.answer}}}.")]
    source = write(tmp_path / "train.jsonl", rows)
    scale = with_hub(hub_scale, train=source)
    with pytest.raises(UserError) as error:
        hub.load_question_set(scale)
    assert str(source) in str(error.value) and hub_scale.hub.easy_test in str(error.value)
    assert asked.id in str(error.value) and "write_without_overlap" in str(error.value)
    # the remedy works, and moves no other question
    assert hub.write_without_overlap(scale, tmp_path / "clean.jsonl") == 1
    assert hub.load_question_set(with_hub(hub_scale, train=tmp_path / "clean.jsonl")) == found


def test_also_one_that_questions_test_leaves_out_is_refused(hub_scale, tmp_path, shared):
    row = instruct_rows(shared)[0]
    test = [{"question": row["question"], "answer": f"#### {row['expected_answer']}"}]
    test += [{"question": f"How much is {i} plus {i}?", "answer": f"#### {2 * i}"} for i in range(40)]
    scale = with_questions(with_hub(hub_scale, easy_test=write(tmp_path / "test.jsonl", test)), test=1)
    with pytest.raises(UserError, match="1 questions of .* stand in a test set"):
        hub.load_question_set(scale)


def test_an_example_that_is_in_the_test_set_is_refused(found, hub_scale, tmp_path):
    example = found.examples[2]
    rows = [{"question": example.text, "answer": example.solutions[0]}]
    with pytest.raises(UserError, match=f"example {example.id} .* also the question gsm8k-"):
        hub.load_question_set(with_hub(hub_scale, easy_test=write(tmp_path / "test.jsonl", rows)))


# --- Errors of sources and schemas ---

SOURCES = [
    ("train", "openmathinstruct1", "OpenMathInstruct-1", hub.OPENMATHINSTRUCT),
    ("easy_train", "gsm8k_train", "GSM8K", hub.GSM8K),
    ("easy_test", "gsm8k_test", "GSM8K", hub.GSM8K),
    ("hard_train", "math_train", "MATH", hub.MATH),
    ("hard_test", "math_test", "MATH", hub.MATH),
]
COLUMNS = [
    (key, file, schema, name) for key, file, schema, columns in SOURCES for name in columns if columns[name][-1] != "?"
]


@pytest.mark.parametrize("key, file, schema, column", COLUMNS)
def test_a_missing_an_ill_typed_and_an_empty_column_are_named(
    key, file, schema, column, hub_scale, hub_project, tmp_path
):
    rows = [json.loads(line) for line in (hub_project / "data" / f"{file}.jsonl").open()][:6]
    forms = {
        "missing": rows[:1] + [{name: value for name, value in row.items() if name != column} for row in rows[1:]],
        "typed": rows[:2] + [row | {column: [3.5]} for row in rows[2:]],
        "empty": rows[:4] + [rows[4] | {column: None}],
    }
    said = {
        "missing": rf"line 2, has no column '{column}'; found: .*; accepted: the columns of {schema}: ",
        "typed": rf"line 3, column '{column}': found \[3.5\] \(list\); accepted: (text|bool)",
        "empty": rf"line 5, column '{column}': found nothing; accepted: (text|bool)",
    }
    for form, changed in forms.items():
        source = write(tmp_path / f"{form}.jsonl", changed)
        with pytest.raises(UserError, match=rf"{form}.jsonl \(hub.{key}\), {said[form]}"):
            hub.load_question_set(with_hub(hub_scale, **{key: source}))


@pytest.mark.parametrize(
    "answer, read_as",
    [
        ("5", "5"),
        (5, "5"),
        (0.5, "0.5"),
        (float("nan"), "nan .float"),
        ([5], "list"),
        (True, "True .bool"),
        (None, "nothing"),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_an_answer_is_text_or_a_number(answer, read_as, form, tmp_path):
    rows = [{"problem": "How much?", "solution": "It is \\boxed{7}.", "answer": answer}]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), source := tmp_path / "test.parquet")
    else:
        source = write(tmp_path / "test.jsonl", rows)
    place = "row 1" if form == "parquet" else "line 1"
    if answer is None or isinstance(answer, bool | list) or answer != answer:
        with pytest.raises(
            UserError, match=rf"{place}, column 'answer': found .*{read_as}.*; accepted: text or number"
        ):
            hub.load_math(str(source), "hard_test", "test", "math")
    else:
        assert hub.load_math(str(source), "hard_test", "test", "math")[0].answer == read_as


def test_columns_that_nobody_needs_may_change_and_come_late(hub_scale, found, tmp_path, shared):
    rows = [row | {"extra": i if i % 2 else [str(i)]} for i, row in enumerate(instruct_rows(shared))]
    rows[-1]["late"] = {"a": 1}
    assert hub.load_question_set(with_hub(hub_scale, train=write(tmp_path / "train.jsonl", rows))) == found
    (tmp_path / "list.json").write_text(json.dumps(rows, indent=1))
    assert hub.load_question_set(with_hub(hub_scale, train=tmp_path / "list.json")) == found
    (tmp_path / "mixed.json").write_text(json.dumps([*rows, 5]))
    with pytest.raises(UserError, match=rf"item {len(rows) + 1}: found 5; accepted: a JSON object each"):
        hub.load_question_set(with_hub(hub_scale, train=tmp_path / "mixed.json"))


def test_other_bytes_than_utf_8_are_named_by_line_and_place(hub_scale, tmp_path):
    lines = [json.dumps({"question": f"{name}?", "answer": "#### 1"}, ensure_ascii=False) for name in ("Zoe", "Zoé")]
    (tmp_path / "test.jsonl").write_bytes("\n".join(lines).encode("latin-1"))
    with pytest.raises(UserError, match=r"test.jsonl, line 2, byte 17: found b'\\xe9'; accepted: UTF-8.*iconv"):
        hub.load_gsm8k(str(tmp_path / "test.jsonl"), "easy_test", "test", "gsm8k")
    (tmp_path / "bom.jsonl").write_bytes("\n".join(lines).encode("utf-8-sig"))
    assert [q.text for q in hub.load_gsm8k(str(tmp_path / "bom.jsonl"), "easy_test", "test", "gsm8k")] == [
        "Zoe?",
        "Zoé?",
    ]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_brackets_in_a_path_are_no_pattern(form, tmp_path):
    folder = tmp_path / "data [1]"
    folder.mkdir()
    rows = [{"question": "How much?", "answer": "#### 1", "text": "a document"}]
    if form == "parquet":
        pd.DataFrame(rows).to_parquet(source := folder / "a*.parquet")
    else:
        source = write(folder / "a*.jsonl", rows)
    assert len(hub.load_gsm8k(str(source), "easy_test", "test", "gsm8k")) == 1
    assert public_stream.TextStream(str(source)).next_text() == "a document"


def test_an_answer_without_its_mark_is_named(hub_scale, tmp_path):
    rows = [{"question": "How much is 2 plus 2?", "answer": "It is 4."}]
    with pytest.raises(
        UserError, match=r"hub.easy_test\), line 1, column 'answer': found 'It is 4.'; accepted: .*####"
    ):
        hub.load_question_set(with_hub(hub_scale, easy_test=write(tmp_path / "test.jsonl", rows)))
    rows = [{"problem": "How much is $2 + 2$?", "solution": "The answer is $4$."}]
    with pytest.raises(UserError, match=r"hub.hard_test\), line 1, column 'solution': found .*; accepted: .*boxed"):
        hub.load_question_set(with_hub(hub_scale, hard_test=write(tmp_path / "test2.jsonl", rows)))


# --- One benchmark, examples out of the training data ---


def test_one_benchmark_is_a_study(found, hub_scale, tmp_path, shared):
    alone = replace(hub_scale.hub, hard_train=None, hard_test=None, stream=None)
    scale = with_questions(replace(hub_scale, hub=alone), hard=None)
    one = hub.load_question_set(scale)
    for split in ("train", "validation", "test", "examples"):
        assert list(getattr(one, split)) == [q for q in getattr(found, split) if q.benchmark == "gsm8k"]
    assert hub.train_counts(scale)["other_benchmark"] > 0
    assert check_data(scale)["stream"] is None
    # training data of one's own may name the benchmark as the study does
    rows = [row | {"dataset": "mine"} for row in instruct_rows(shared) if row["dataset"] == "gsm8k"]
    own = with_questions(with_hub(scale, train=write(tmp_path / "train.jsonl", rows)), easy="mine")
    own = replace(own, hub=replace(own.hub, hard_train=None, hard_test=None, stream=None))
    assert [q.text for q in hub.load_question_set(own).train] == [q.text for q in one.train]


def test_examples_can_come_out_of_the_training_data(found, hub_scale):
    scale = replace(hub_scale, hub=replace(hub_scale.hub, easy_train=None))
    own = hub.load_question_set(scale)
    shown = [q for q in own.examples if q.benchmark == "gsm8k"]
    assert len(shown) == 8 and {q.split for q in shown} == {"examples"}
    assert not {q.text for q in shown} & {q.text for q in own.train + own.validation + own.test}
    assert [q for q in own.examples if q.benchmark == "math"] == [q for q in found.examples if q.benchmark == "math"]


def test_an_unknown_dataset_of_a_row_is_named(hub_scale, tmp_path, shared):
    rows = [row | {"dataset": "aqua"} for row in instruct_rows(shared)]
    with pytest.raises(UserError, match=r"column 'dataset' holds 'aqua'; accepted: gsm8k, math"):
        hub.load_question_set(with_hub(hub_scale, train=write(tmp_path / "train.jsonl", rows)))


@pytest.mark.parametrize("key", ["train", "easy_train", "easy_test", "hard_train", "hard_test", "tokenizer", "stream"])
def test_without_network_a_hub_name_is_one_sentence_with_the_remedy(key, hub_scale):
    scale = with_hub(hub_scale, **{key: "someone/something"})
    with pytest.raises(UserError) as error:
        if key == "tokenizer":
            public_files.load_tokenizer(scale.hub.tokenizer)
        elif key == "stream":
            public_stream.TextStream(scale.hub.stream)
        else:
            hub.load_question_set(scale)
    assert f"someone/something (hub.{key}) could not be read: " in str(error.value)
    assert "hf download " in str(error.value) and f"set hub.{key} in params.yaml" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["nothing.jsonl", "damaged.jsonl", "empty.jsonl", "folder", "table.csv"])
def test_an_unreadable_local_source_is_one_sentence(source, hub_scale, tmp_path):
    (tmp_path / "damaged.jsonl").write_text('{"question": "What')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "table.csv").write_text("question,answer\n1,2\n")
    (tmp_path / "folder").mkdir()
    path = tmp_path / source
    for read_source in (
        lambda: hub.load_question_set(with_hub(hub_scale, train=path)),
        lambda: public_stream.TextStream(str(path)).next_text(),
    ):
        with pytest.raises(UserError) as error:
            read_source()
        assert str(path) in str(error.value) and "\n" not in str(error.value)
        assert "accepted: " in str(error.value).lower()


def test_a_split_that_a_folder_lacks_is_named(hub_scale, tmp_path, shared):
    write(tmp_path / "train.jsonl", read(shared, "gsm8k/test.jsonl.gz")[:5])
    with pytest.raises(UserError, match=r"hub.easy_test\) could not be read: .*test"):
        hub.load_question_set(with_hub(hub_scale, easy_test=tmp_path))


# --- Tokenizer ---


def test_a_tokenizer_pads_with_its_end_token_and_must_have_one(tmp_path):
    tokenizer = make_tokenizer(["a few words"])
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "padless")
    assert public_files.load_tokenizer(str(tmp_path / "padless")).pad_token_id == tokenizer.eos_token_id
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "endless")
    with pytest.raises(UserError, match="has no end token"):
        public_files.load_tokenizer(str(tmp_path / "endless"))


@pytest.mark.parametrize(
    "name", ["PreTrainedTokenizerFast", "LlamaTokenizer", "GPT2Tokenizer", "Qwen2Tokenizer", "BertTokenizer"]
)
def test_a_tokenizer_is_used_as_it_was_written_or_refused(name, tmp_path):
    tokenizer = make_tokenizer(["How many apples are left?", "a few words"])
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"tokenizer_class": name}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    text = " How many\n apples"
    try:
        found = public_files.load_tokenizer(str(tmp_path))
    except UserError as error:
        assert name == "BertTokenizer" and "could not be read: WordPiece" in str(error)
    else:
        assert found(text, add_special_tokens=False).input_ids == tokenizer(text, add_special_tokens=False).input_ids
        assert found.eos_token_id == tokenizer.eos_token_id


# --- The pretraining stream ---


@pytest.fixture(params=["file", "folder", "parquet"])
def stream(request, hub_scale, tmp_path):
    """(scale, all its documents): one file; files of several sources, with different columns; Parquet."""
    texts = [f"Document {i} says\u2028{'word ' * (i % 7)}and ends." for i in range(90)]
    if request.param == "file":
        source = write(tmp_path / "stream.jsonl", [{"text": text} for text in texts])
    elif request.param == "parquet":
        pd.DataFrame({"n": range(90), "text": texts}).to_parquet(
            source := tmp_path / "stream.parquet", row_group_size=11
        )
    else:
        source = tmp_path / "mixture"
        (source / "data" / "web").mkdir(parents=True)
        (source / "data" / "math").mkdir()
        write(source / "data" / "web" / "a.jsonl", [{"text": t, "metadata": {"url": "x"}} for t in texts[:40]])
        rows = [{"id": i, "text": t, "metadata": [i]} for i, t in enumerate(texts[40:50])]
        write(source / "data" / "math" / "b.jsonl", rows)
        lines = "".join(json.dumps({"text": t, "added": "y"}, ensure_ascii=False) + "\n" for t in texts[50:])
        (source / "data" / "math" / "c.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    scale = with_hub(hub_scale, stream=source)
    small = replace(scale, pretrain=replace(scale.pretrain, batch_size=3), model=replace(scale.model, context=64))
    return small, texts


@pytest.fixture(scope="module")
def tokenizer(hub_scale):
    return public_files.load_tokenizer(hub_scale.hub.tokenizer)


def test_one_pass_holds_every_document_once(stream):
    scale, texts = stream
    documents = public_stream.TextStream(scale.hub.stream)
    first = [documents.next_text() for _ in texts]
    assert sorted(first) == sorted(texts) and documents.passes == 1
    assert [documents.next_text() for _ in texts] == first and documents.passes == 2


def test_files_are_read_side_by_side(stream):
    scale, texts = stream
    documents = public_stream.TextStream(scale.hub.stream)
    first = [documents.next_text() for _ in range(9)]
    places = len(documents.parts)
    assert len({texts.index(text) // 10 for text in first}) >= places
    assert places == (3 if "mixture" in scale.hub.stream else 1)


def test_batches_are_the_documents_joined_by_the_end_token(stream, tokenizer):
    scale, texts = stream
    packed, documents = public_stream.PackedStream(scale, tokenizer), public_stream.TextStream(scale.hub.stream)
    batches = [packed.next_batch() for _ in range(30)]
    assert all(batch.shape == (3, 64) and batch.dtype == np.int32 for batch in batches)
    found = np.concatenate([batch.ravel() for batch in batches])
    expected = []
    while len(expected) < len(found):
        expected += [*tokenizer(documents.next_text(), add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    assert found.tolist() == expected[: len(found)]
    assert documents.passes > 1


def test_resuming_at_any_batch_gives_the_same_batches(stream, tokenizer, monkeypatch):
    scale, _ = stream
    monkeypatch.setattr(public_stream, "DOCUMENTS", 7)
    packed, states, batches = public_stream.PackedStream(scale, tokenizer), [], []
    for _ in range(18):
        states.append(packed.state_dict())
        batches.append(packed.next_batch())
    assert packed.texts.passes > 1
    for at, state in enumerate(states):
        resumed = public_stream.PackedStream(scale, tokenizer)
        resumed.load_state_dict(json.loads(json.dumps(state)))
        for batch in batches[at : at + 3]:
            assert (resumed.next_batch() == batch).all()


def test_a_state_of_other_data_is_refused(hub_scale, tmp_path, tokenizer):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl", [{"text": name}])
    state = public_stream.PackedStream(with_hub(hub_scale, stream=tmp_path), tokenizer).state_dict()
    with pytest.raises(UserError, match="no longer what the saved state was made with: 1 parts, it had 2"):
        public_stream.PackedStream(hub_scale, tokenizer).load_state_dict(state)


@pytest.mark.parametrize(
    "line, said",
    [
        ('{"document": "a"}', "has no column 'text' of type string; found: document; accepted"),
        ('{"text": 3}', "has no column 'text' of type string; found: text"),
        ('{"text": "a', "holds a line that is no JSON: .*; accepted: one JSON object a line"),
        ("", "holds no documents; accepted: at least one"),
    ],
)
def test_bad_documents_are_named(line, said, tmp_path):
    (tmp_path / "stream.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=rf"stream.jsonl \(hub.stream\) {said}"):
        public_stream.TextStream(str(tmp_path / "stream.jsonl")).next_text()


def test_a_damaged_zst_file_is_named_and_a_whole_one_read(tmp_path):
    file = tmp_path / "stream.jsonl.zst"
    file.write_bytes(zstandard.compress(b'{"text": "a document"}\n'))
    assert public_stream.TextStream(str(file)).next_text() == "a document"
    file.write_bytes(file.read_bytes()[:9])
    with pytest.raises(UserError, match=r"stream.jsonl.zst \(hub.stream\)"):
        public_stream.TextStream(str(file)).next_text()


def test_parquet_without_text_is_named(tmp_path):
    pd.DataFrame({"document": ["a"]}).to_parquet(tmp_path / "stream.parquet")
    with pytest.raises(UserError, match="has no column 'text' of type string; found: document"):
        public_stream.TextStream(str(tmp_path / "stream.parquet"))


# --- Checks before training ---


def test_the_data_check_counts_public_data(hub_scale, found):
    checked = check_data(hub_scale)
    assert checked["questions"] == {split: len(rows) for split, rows in vars(found).items()}
    assert checked["training_rows"] == hub.train_counts(hub_scale)
    assert checked["stream"] == {"documents_searched": 400, "test_questions_found": []}
    assert checked["test_questions_alike"] == 0


def test_the_data_check_counts_test_questions_that_read_alike(hub_scale, tmp_path, shared):
    alike = [row for row in read(shared, "math/test.jsonl.gz") if "\\arccos" in row["problem"]]
    scale = with_questions(with_hub(hub_scale, hard_test=write(tmp_path / "test.jsonl", alike)), test=5000)
    assert check_data(scale)["test_questions_alike"] == 1  # arccos 1 and arccos (-1)


def test_a_test_question_in_the_stream_is_found(found, tmp_path):
    asked = max(found.test, key=lambda q: len(q.text))
    pages = ["nothing here", f"Seen on the web:\n\n{asked.text.upper()}\n\nWho knows?", asked.text[:-20]]
    documents = public_stream.TextStream(str(write(tmp_path / "stream.jsonl", [{"text": page} for page in pages])))
    assert search_texts(documents, {normalize(q.text): q.id for q in found.test}) == {
        "documents_searched": 3,
        "test_questions_found": [asked.id],
    }
