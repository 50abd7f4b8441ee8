"""Prompts as token ids: the plain form, the tokenizer's own BOS rule and chat template, lengths, round trips."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from excursions.data.prompts import check_lengths, check_round_trip, completion_ids, describe_prompts, prompt_ids
from excursions.data.questions import Question, QuestionSet
from excursions.params import Style, UserError

EXAMPLES = [Question("e", "easy", "examples", "Two?", "2", ("It is two. #### 2",))]
CHAT = (
    "{% for m in messages %}<bos>{{ m.role }}\n{{ m.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant\n{% endif %}"
)


def letters(adds_bos: bool, template: str | None = CHAT, **special) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes, which by itself begins a text with its BOS token, or not."""
    vocab = {name: i for i, name in enumerate(["<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    special = {"bos_token": "<bos>", "eos_token": "<eos>"} | special
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **special)


@pytest.fixture
def questions(smoke):
    return replace(smoke.questions, prompt="Question: {question}\nAnswer:", separator="\n\n", stop="\n\nQuestion:")


@pytest.mark.parametrize(("adds_bos", "bos", "begins"), [(False, None, False), (True, None, True), (True, False, False),
                                                         (False, True, True)])  # fmt: skip
def test_a_plain_prompt_begins_as_the_tokenizer_or_the_style_says(adds_bos, bos, begins, questions):
    tokenizer = letters(adds_bos)
    ids = prompt_ids(tokenizer, "One?", EXAMPLES, questions, Style(bos=bos))
    text = "Question: Two?\nAnswer: It is two. #### 2\n\nQuestion: One?\nAnswer:"
    assert tokenizer.decode(ids) == "<bos>" * begins + text
    assert tokenizer.decode(ids + completion_ids(tokenizer, "It is one.", questions)) == (
        "<bos>" * begins + text + " It is one.<eos>"
    )


def test_without_a_style_the_ids_are_those_of_the_text(questions):
    tokenizer = letters(False)
    assert prompt_ids(tokenizer, "One?", [], questions) == tokenizer("Question: One?\nAnswer:").input_ids
    styled = replace(questions, style=Style(instruction="End with ####."))
    assert tokenizer.decode(prompt_ids(tokenizer, "One?", [], styled)) == "End with ####.\n\nQuestion: One?\nAnswer:"


def test_a_chat_is_the_tokenizers_template(questions):
    tokenizer, style = letters(True), Style(chat=True, instruction="End with ####.")
    ids = prompt_ids(tokenizer, "One?", EXAMPLES, questions, style)
    turns = [
        {"role": "user", "content": "Two?\n\nEnd with ####."},
        {"role": "assistant", "content": "It is two. #### 2"},
        {"role": "user", "content": "One?\n\nEnd with ####."},
    ]
    expected = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert ids == expected and ids.count(tokenizer.bos_token_id) == 4  # those of the template alone
    assert tokenizer.decode(completion_ids(tokenizer, "It is one.", questions, style)) == "It is one.<eos>"


def test_what_the_tokenizer_has_not_is_refused(questions):
    with pytest.raises(UserError, match="no chat template"):
        prompt_ids(letters(False, template=None), "One?", [], questions, Style(chat=True))
    with pytest.raises(UserError, match="no BOS token"):
        prompt_ids(letters(False, bos_token=None), "One?", [], questions, Style(bos=True))


def test_one_prompt_of_each_kind_is_shown_at_its_ends(questions):
    asked = Question("q", "easy", "test", "One?", "1", ("It is one. #### 1",))
    shown = describe_prompts(letters(True), QuestionSet((), (), (asked,), tuple(EXAMPLES)), questions, 8)
    lines = shown.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "easy, 0-shot, plain, with BOS: 23 tokens",
        "easy, 1-shot, plain, with BOS: 65 tokens",
        "easy, a gold solution after it: 19 tokens",
    ]
    assert lines[1].startswith("  0:'<bos>' ") and "more" not in lines[1] and lines[1].endswith("':'")
    assert "... 41 more ..." in lines[3]
    assert lines[5].endswith("1:'<eos>'")


def test_prompts_that_leave_too_little_room_are_counted_before_the_run():
    check_lengths([[1] * 10, [1] * 20], 12, 32)
    said = (
        "2 of 3 prompts are too long: the longest has 30 tokens, with rl.max_new_tokens = 12 that is 42; accepted: 32, "
        "the model's context.*lower rl.max_new_tokens to 2"
    )
    with pytest.raises(UserError, match=said):
        check_lengths([[1] * 10, [1] * 21, [1] * 30], 12, 32, "rl.max_new_tokens")
    with pytest.raises(UserError, match="evaluate.shots., leave long questions out"):
        check_lengths([[1] * 40], 12, 32)


def test_texts_must_come_back_from_their_ids():
    check_round_trip(letters(True), ["How many?\n\nNaïve ½ √2", ""])
    words = Tokenizer(models.WordLevel({"?": 0, "one": 1}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UserError, match="'twoone' becomes '[?]one'.*does its tokenizer_config.json name the class"):
        check_round_trip(PreTrainedTokenizerFast(tokenizer_object=words), ["one one", "one two one"])
