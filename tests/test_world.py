"""The nano general world: documents, what is held out, and the items of its six benchmarks."""

import hashlib
import random
import re
import time
from collections import Counter
from itertools import pairwise

import pytest

from excursions.blocks import NANO_ITEMS
from excursions.data.nano import lexicon as lex
from excursions.data.nano.benchmarks import BENCHMARKS, make_items
from excursions.data.nano.world import World, general_document, is_reserved_pair, words, zipf_cumulative
from excursions.params import UserError

DOCUMENTS = 30_000
ITEMS = 500


@pytest.fixture(scope="module")
def world() -> World:
    return World(0)


@pytest.fixture(scope="module")
def stream(world) -> list[str]:
    rng = random.Random(1)
    return [general_document(world, rng) for _ in range(DOCUMENTS)]


@pytest.fixture(scope="module")
def items(world) -> dict[str, list[dict]]:
    return make_items(world, ITEMS, seed=0)


def texts_of(item: dict) -> list[str]:
    """The item as a model that is right, or that is wrong, would write it."""
    return [f"{item['context']} {choice}" for choice in item.get("choices", [item.get("target")])]


def test_documents_are_short_and_of_known_words(world, stream):
    lengths = [len(document.split()) for document in stream]
    assert 10 <= min(lengths) and max(lengths) <= 60
    assert 25 <= sum(lengths) / len(lengths) <= 35
    known = words(world)
    assert len(known) < 480
    assert {word for document in stream for word in document.split()} <= known
    assert all(document == " ".join(document.split()) == document.lower() for document in stream[:1000])


def test_a_seed_gives_the_same_stream_everywhere(world):
    rng = random.Random(7)
    text = "\n".join(general_document(world, rng) for _ in range(500))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "73134e7886b15fbf"
    again, rng = World(0), random.Random(7)
    assert "\n".join(general_document(again, rng) for _ in range(500)) == text
    assert World(1).value != world.value


def test_documents_are_cheap(world):
    rng = random.Random(2)
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        for _ in range(4000):
            general_document(world, rng)
        best = min(best, (time.process_time() - start) / 4000)
    assert best < 60e-6  # about 4 microseconds on an idle machine


def test_frequencies_have_a_long_tail(world, stream):
    edges = [0.0, *zipf_cumulative(500), 1.0]
    shares = [high - low for low, high in zip(edges, edges[1:], strict=False)]
    assert len(shares) == 500 and shares == sorted(shares, reverse=True)
    assert 30 < shares[0] / shares[-1] < 60
    told = Counter(pair for document in stream for pair in pairwise(document.split()))
    mentions = [told[tuple(name.split())] for name in world.people]
    assert sum(mentions[:50]) > 3 * sum(mentions[-50:]) and min(mentions) > 0


def test_questions_never_name_what_is_held_out(world, stream):
    held_out_people = {p for p, held in zip(world.people, world.is_held_out_person, strict=True) if held}
    held_out_kinds = {k for k, held in zip(world.kinds, world.is_held_out_kind, strict=True) if held}
    assert 0.4 < len(held_out_people) / len(world.people) < 0.8
    questions = [document for document in stream if document.startswith("question")]
    assert len(questions) > 1000
    pairs = {" ".join(pair) for question in questions for pair in pairwise(question.split())}
    assert not pairs & (held_out_people | held_out_kinds)
    assert pairs & set(world.people) and pairs & set(world.kinds)


def test_of_held_out_kinds_only_the_family_is_told(world, stream):
    held_out = {k for k, held in zip(world.kinds, world.is_held_out_kind, strict=True) if held}
    told: dict[str, set[str]] = {prop: set() for prop in lex.PROPERTIES}
    for kind, prop in re.findall(r"\ba (\w+ \w+) (can|eats|lives in|has) \w+ \.", "\n".join(stream)):
        told[prop].add(kind)
    for kinds in told.values():
        assert not kinds & held_out
        assert kinds & set(world.kinds)


def test_stories_never_ask_what_is_reserved(world, stream):
    for story in (d for d in stream if re.match(r"\w+ (put|left) the", d)):
        put = {o: n for n, o in re.findall(r"(\w+) (?:put|left) the (\w+) in the", story)}
        asked = story.split()[-2]
        assert not is_reserved_pair(lex.FIRST.index(put[asked]), lex.OBJECTS.index(asked))


def test_every_fact_is_told(world):
    """What the benchmarks ask can be learned, the rarest things too (from a quarter of the nano scale's documents)."""
    rng = random.Random(3)
    text = "\n".join(general_document(world, rng) for _ in range(4 * DOCUMENTS))
    for p in range(0, len(world.people), 37):
        for attribute, wordings in lex.FACTS.items():
            value = world.people[world.friend[p]] if attribute == "friend" else world.value[attribute][p]
            of = (world.people[p], f"the friend of {world.people[p]}")
            assert any(w.format(n=of[0], v=value) in text for w in wordings)
    for action, thing, tool in world.goals[::17]:
        wordings = [f"{wording} {tool} ." for wording in lex.GOALS] + [lex.GOAL_REVERSED]
        assert any(w.format(a=action, t=thing, tool=tool) in text for w in wordings)


def test_items_are_well_formed(world, items):
    known = words(world)
    assert tuple(items) == BENCHMARKS
    for name, made in items.items():
        assert len(made) == ITEMS
        assert len({item["id"] for item in made}) == ITEMS
        assert len({item["context"] for item in made}) == ITEMS
        assert all(set(text.split()) <= known for item in made for text in texts_of(item))
        if name == "lambada":
            assert all(item["target"] in known for item in made)
            continue
        choices = 2 if name == "piqa" else 4
        assert all(len(set(item["choices"])) == choices for item in made)
        assert set(Counter(item["gold"] for item in made).values()) == {ITEMS // choices}


def test_the_smallest_benchmark_has_as_many_items_as_params_yaml_may_ask():
    assert len(lex.ACTIONS) * len(lex.THINGS) == NANO_ITEMS


def test_no_item_is_in_the_stream(items, stream):
    text = "\n".join(stream)
    for name, made in items.items():
        for item in made:
            assert item["context"] not in text, (name, item)


def test_answers_are_right(world, items):
    """Gold answers follow from the world's facts, read again from the text of the items."""
    people = {name: i for i, name in enumerate(world.people)}
    phrases = {"live": "home", "job": "job", "colour": "colour", "pet": "pet", "food": "food"}
    for name, friend in (("arc_easy", False), ("arc_challenge", True)):
        for item in items[name]:
            context = item["context"]
            attribute = next(a for phrase, a in phrases.items() if f" {phrase} " in context)
            person = people[re.search(r"(\w+ \w+) (?:live )?\? answer", context).group(1)]
            assert ("the friend of" in context) == friend
            told = world.value[attribute][world.friend[person] if friend else person]
            assert item["choices"][item["gold"]] == told
    for item in items["piqa"]:
        tool = item["choices"][item["gold"]]
        assert any(f" {a} the {t} " in f" {item['context']} " and tool == right for a, t, right in world.goals)


@pytest.mark.parametrize("name", [n for n in BENCHMARKS if n != "lambada"])
def test_guessing_without_the_context_is_at_chance(world, stream, name):
    """Choosing what the stream says most often is no better than choosing at random."""
    made = [item for seed in range(5) for item in make_items(world, 100, seed)[name]]
    length = len(made[0]["choices"][0].split())
    often: Counter = Counter()
    for document in stream:
        tokens = document.split()
        often.update(" ".join(tokens[i : i + length]) for i in range(len(tokens) - length + 1))
    chance = 1 / len(made[0]["choices"])
    right = [max(item["choices"], key=often.__getitem__) == item["choices"][item["gold"]] for item in made]
    assert abs(sum(right) / len(right) - chance) < 0.08  # over three standard errors


def test_too_many_items_are_an_error_with_the_limit(world):
    with pytest.raises(UserError, match="accepted: 1 to"):
        make_items(world, 10_000, seed=0)
