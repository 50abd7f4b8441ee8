"""THE place where questions become token ids: training, evaluation and notebooks ask a model in the same way.

A plain prompt is text in the form of `questions.prompt`, with the BOS token where the tokenizer by itself adds one. A
chat prompt is the tokenizer's own template: worked examples are earlier turns, and the template writes all special
tokens. What follows a prompt is the completion: after a plain prompt it begins with a space, in a chat it does not.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from excursions.data.loading import examples_for
from excursions.data.questions import Question, QuestionSet, build_prompt
from excursions.params import Questions, Style, UserError

PLAIN = Style()
SHOWN = 12  # tokens at each end of a prompt that is shown


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    examples: Sequence[Question],
    questions: Questions,
    style: Style | None = None,
) -> list[int]:
    """Token ids of the prompt of a question after worked examples. style: None = that of `questions`.

    Raises UserError for a style that the tokenizer has not.
    """
    style = style or questions.style or PLAIN
    if style.chat:
        return _chat_ids(tokenizer, text, examples, style)
    prompt = build_prompt(text, examples, questions)
    if style.instruction:
        prompt = style.instruction + questions.separator + prompt
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    return [*([tokenizer.bos_token_id] if begins_with_bos(tokenizer, style) else []), *ids]


def completion_ids(
    tokenizer: PreTrainedTokenizerBase, solution: str, questions: Questions, style: Style | None = None
) -> list[int]:
    """Token ids of a solution as a model should continue its prompt, with the end token."""
    style = style or questions.style or PLAIN
    ids = tokenizer(solution if style.chat else " " + solution, add_special_tokens=False).input_ids
    return [*ids, tokenizer.eos_token_id]


def begins_with_bos(tokenizer: PreTrainedTokenizerBase, style: Style = PLAIN) -> bool:
    """Whether a plain prompt begins with the BOS token: as `style` says, or else by the tokenizer's own rule."""
    if style.bos is None:
        return tokenizer.bos_token_id is not None and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
    if style.bos and tokenizer.bos_token_id is None:
        raise UserError("style.bos is true, but the tokenizer has no BOS token; accepted: false or null.")
    return style.bos


def _chat_ids(tokenizer: PreTrainedTokenizerBase, text: str, examples: Sequence[Question], style: Style) -> list[int]:
    if not tokenizer.chat_template:
        raise UserError("style.chat is true, but the tokenizer has no chat template; accepted: chat: false.")
    end = f"\n\n{style.instruction}" if style.instruction else ""
    turns = []
    for example in examples:
        turns.append({"role": "user", "content": example.text + end})
        turns.append({"role": "assistant", "content": example.solutions[0]})
    turns.append({"role": "user", "content": text + end})
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return tokenizer(prompt, add_special_tokens=False).input_ids


# --- Looking at prompts, and at their lengths ---


def describe_prompts(
    tokenizer: PreTrainedTokenizerBase, found: QuestionSet, questions: Questions, shots: int, style: Style | None = None
) -> str:
    """One prompt of each kind (benchmark, 0-shot and few-shot), token by token at its ends, for a reader to check."""
    style, lines = style or questions.style or PLAIN, []
    for benchmark in dict.fromkeys(q.benchmark for q in found.test):
        asked = next(q for q in found.test if q.benchmark == benchmark)
        examples = examples_for(asked, found.examples)
        for number in dict.fromkeys((0, min(shots, len(examples)))):
            ids = prompt_ids(tokenizer, asked.text, examples[:number], questions, style)
            kind = "chat template" if style.chat else f"plain{', with BOS' * begins_with_bos(tokenizer, style)}"
            lines.append(f"{benchmark}, {number}-shot, {kind}: {len(ids)} tokens")
            lines.append(_tokens(tokenizer, ids))
        ids = completion_ids(tokenizer, asked.solutions[0], questions, style)
        lines.append(f"{benchmark}, a gold solution after it: {len(ids)} tokens")
        lines.append(_tokens(tokenizer, ids))
    return "\n".join(lines)


def _tokens(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    shown = [f"{i}:{tokenizer.decode([i])!r}" for i in ids]
    if len(shown) > 2 * SHOWN:
        shown = [*shown[:SHOWN], f"... {len(shown) - 2 * SHOWN} more ...", *shown[-SHOWN:]]
    return "  " + " ".join(shown)


def check_lengths(
    prompts: Sequence[Sequence[int]], max_new_tokens: int, context: int, key: str = "max_new_tokens"
) -> None:
    """Raises UserError if a prompt and its completion exceed the model's context: to be asked before a run, for all its
    prompts. key: the key of params.yaml that says max_new_tokens."""
    lengths = [len(prompt) for prompt in prompts]
    long = sum(length + max_new_tokens > context for length in lengths)
    if long:
        room = context - max(lengths)
        lower = f"lower {key} to {room}, or " if room > 0 else ""
        raise UserError(
            f"{long} of {len(lengths)} prompts are too long: the longest has {max(lengths)} tokens, with {key} = "
            f"{max_new_tokens} that is {max(lengths) + max_new_tokens}; accepted: {context}, the model's context. "
            f"Use fewer worked examples (evaluate.shots), {lower}leave long questions out."
        )


def check_round_trip(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> None:
    """Encodes and decodes texts once. Raises UserError for the first whose letters, digits or signs do not come back
    (case and white space may change): the tokenizer is not the one of these texts, or not read as it was written."""
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        back = tokenizer.decode(ids)
        sent, found = ("".join(t.split()).casefold() for t in (text, back))
        if sent != found:
            at = next(
                (i for i, (a, b) in enumerate(zip(sent, found, strict=False)) if a != b), min(len(sent), len(found))
            )
            raise UserError(
                f"the tokenizer does not give back what it encodes: {sent[at : at + 40]!r} becomes "
                f"{found[at : at + 40]!r}. Accepted: a tokenizer whose vocabulary covers the questions. Is it the one "
                "of this model, and does its tokenizer_config.json name the class it was saved with?"
            )
