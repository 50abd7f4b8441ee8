"""Seconds of a whole GRPO step, ours against TRL's GRPOTrainer: same job, same run.

A step is: sample 32 prompts (40 to 150 tokens) x 16 completions of up to 64 tokens, reward, advantages, gradient, clip,
AdamW. The reward is the share of even token ids: cheap, and no group is without variance, so that neither side has a
group to leave out. Both take micro batches of 64 completions, and the fastest of their steps counts. On a GPU both
train fp32 weights with autocast to bfloat16; ours samples from a copy in bfloat16, TRL under autocast.
"""

from __future__ import annotations

import copy
import os
import tempfile

import torch
from datasets import Dataset
from measuring import (
    EOS,
    ON_GPU,
    SIZES,
    VOCAB,
    clock,
    make_model,
    make_prompts,
    make_tokenizer,
    matmul_peak,
    report,
    weights,
)
from transformers import Olmo2ForCausalLM, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from excursions.models.processes import Processes
from excursions.rollout.sampler import sample_seed
from excursions.rollout.torch_engine import TorchEngine
from excursions.rollout.transformers_engine import TransformersEngine
from excursions.training.grpo import Group, rl_gradients

N_PROMPTS, N_SAMPLES, NEW_TOKENS, MICRO_BATCH = 32, 16, 64, 64
STEPS = 4 if ON_GPU else 2
LEARNING_RATE, MAX_GRAD_NORM = 1e-4, 1.0


def main() -> None:
    prompts = make_prompts(N_PROMPTS, 40, 150)
    rows = []
    for size in SIZES:
        model = make_model(size)
        # ours before and after, so that a machine that is getting busier favours neither
        ours = [our_seconds(copy.deepcopy(model), prompts)]
        theirs = trl_seconds(copy.deepcopy(model), prompts)
        ours.append(our_seconds(copy.deepcopy(model), prompts))
        rollout, update = min(ours, key=sum)
        n_tokens = N_PROMPTS * N_SAMPLES * NEW_TOKENS
        rows.append(
            {
                "job": f"GRPO step, {size}, {N_PROMPTS} x {N_SAMPLES} x {NEW_TOKENS}, s",
                "peer_name": "TRL GRPOTrainer",
                "ours": rollout + update,
                "peer": theirs,
                "ratio": theirs / (rollout + update),
                "floor": n_tokens * 8 * weights(model) / matmul_peak(),
                "of it": f"rollout {rollout:.2f}, update {update:.2f}",
            }
        )
    report(rows)


def reward(token_ids: list[int]) -> float:
    return sum(token % 2 == 0 for token in token_ids) / len(token_ids)


def our_seconds(
    model: Olmo2ForCausalLM, prompts: list[list[int]], samples: int = N_SAMPLES, new_tokens: int = NEW_TOKENS
) -> tuple[float, float]:
    """Seconds of the fastest step: of the rollout with its rewards, and of the update."""
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if ON_GPU else "no"
    processes = Processes()
    if ON_GPU:
        engine = TransformersEngine(copy.deepcopy(model).bfloat16(), make_tokenizer(), max_batch_tokens=2**17)
    else:
        engine = TorchEngine(model, EOS, VOCAB)
    model = processes.place(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    times = []
    for step in range(STEPS):
        start = clock()
        engine.load_weights(model)
        seeds = [[sample_seed(0, step, str(p), g) for g in range(samples)] for p in range(len(prompts))]
        found = engine.generate(prompts, seeds, max_new_tokens=new_tokens, temperature=1.0)
        groups = [
            Group(prompt, completions, [reward(completion.token_ids) for completion in completions])
            for prompt, completions in zip(prompts, found, strict=True)
        ]
        sampled = clock()
        rl_gradients(model, groups, temperature=1.0, micro_batch=MICRO_BATCH, vocab_size=VOCAB, processes=processes)
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        times.append((sampled - start, clock() - sampled))
    return min(times, key=sum)


class StepTimer(TrainerCallback):
    """Seconds of each optimizer step, the generation of its completions included."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self.start = clock()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.times.append(clock() - self.start)


def trl_seconds(model: Olmo2ForCausalLM, prompts: list[list[int]]) -> float:
    """Seconds of the fastest of GRPOTrainer's steps, with its default settings otherwise."""
    timer = StepTimer()
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda completion_ids, **_: [reward(ids) for ids in completion_ids],
            args=GRPOConfig(
                output_dir=folder,
                use_cpu=not ON_GPU,
                bf16=ON_GPU,
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
            processing_class=make_tokenizer(),
            callbacks=[timer],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return min(timer.times)


if __name__ == "__main__":
    main()
