"""Seconds of a whole GRPO step, ours against TRL's GRPOTrainer: same job, same run, one thread.

A step is: sample 32 prompts (40 to 150 tokens) x 16 completions of up to 64 tokens, reward, advantages,
gradient, clip, AdamW. The model is nano-sized with random weights. The reward is the share of even token
ids: cheap, and no group is without variance, so that neither side has a group to leave out. Both take micro
batches of 64 completions, and of their two steps the faster counts.
"""

from __future__ import annotations

import copy
import random
import tempfile
import time

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Olmo2Config,
    Olmo2ForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer

from excursions.rollout.sampler import sample_seed
from excursions.rollout.torch_engine import TorchEngine
from excursions.training.grpo import Group, rl_gradients

N_PROMPTS, N_SAMPLES, NEW_TOKENS, MICRO_BATCH = 32, 16, 64, 64
VOCAB, PAD, EOS = 600, 0, 1
STEPS = 2
LEARNING_RATE, MAX_GRAD_NORM = 1e-4, 1.0


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Olmo2Config(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
    )
    model = Olmo2ForCausalLM(config)
    draw = random.Random(0)
    prompts = [[draw.randrange(2, VOCAB) for _ in range(draw.randint(40, 150))] for _ in range(N_PROMPTS)]

    print(f"GRPO step: {N_PROMPTS} prompts x {N_SAMPLES} completions of up to {NEW_TOKENS} tokens, one thread")
    ours = our_seconds(copy.deepcopy(model), prompts)
    theirs = trl_seconds(copy.deepcopy(model), prompts)
    print(f"excursions        {sum(ours):6.1f} s a step (rollout {ours[0]:.1f}, update {ours[1]:.1f})")
    print(f"trl GRPOTrainer   {theirs:6.1f} s a step")
    print(f"ratio             {theirs / sum(ours):6.1f}")


def reward(token_ids: list[int]) -> float:
    return sum(token % 2 == 0 for token in token_ids) / len(token_ids)


def our_seconds(model: Olmo2ForCausalLM, prompts: list[list[int]]) -> tuple[float, float]:
    """CPU seconds of the fastest step: of the rollout with its rewards, and of the update.

    With one thread, CPU seconds are the seconds of an idle machine.
    """
    engine = TorchEngine(model, EOS, VOCAB)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    times = []
    for step in range(STEPS):
        start = time.process_time()
        engine.load_weights(model)
        seeds = [[sample_seed(0, step, str(p), g) for g in range(N_SAMPLES)] for p in range(len(prompts))]
        found = engine.generate(prompts, seeds, max_new_tokens=NEW_TOKENS, temperature=1.0)
        groups = [
            Group(prompt, completions, [reward(completion.token_ids) for completion in completions])
            for prompt, completions in zip(prompts, found, strict=True)
        ]
        sampled = time.process_time()
        rl_gradients(model, groups, temperature=1.0, micro_batch=MICRO_BATCH, vocab_size=VOCAB)
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        times.append((sampled - start, time.process_time() - sampled))
    return min(times, key=sum)


class StepTimer(TrainerCallback):
    """CPU seconds of each optimizer step, the generation of its completions included."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self.start = time.process_time()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.times.append(time.process_time() - self.start)


def trl_seconds(model: Olmo2ForCausalLM, prompts: list[list[int]]) -> float:
    """CPU seconds of the fastest of GRPOTrainer's steps, with its default settings otherwise."""
    vocabulary = {"<pad>": PAD, "<eos>": EOS} | {f"w{i}": i for i in range(2, VOCAB)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="w2"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    timer = StepTimer()
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda completion_ids, **_: [reward(ids) for ids in completion_ids],
            args=GRPOConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                logging_strategy="no",
                max_steps=STEPS,
                num_generations=N_SAMPLES,
                max_completion_length=NEW_TOKENS,
                per_device_train_batch_size=MICRO_BATCH,
                gradient_accumulation_steps=N_PROMPTS * N_SAMPLES // MICRO_BATCH,
                learning_rate=LEARNING_RATE,
                max_grad_norm=MAX_GRAD_NORM,
            ),
            train_dataset=Dataset.from_dict({"prompt": [" ".join(f"w{i}" for i in prompt) for prompt in prompts]}),
            processing_class=tokenizer,
            callbacks=[timer],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return min(timer.times)


if __name__ == "__main__":
    main()
