"""Pretraining tokens per second, and the share of the matmul peak its arithmetic reaches: nano's model, one thread.

A token costs 6 operations per weight that is multiplied (all but the input embedding), and attention 12 x layers x
width x tokens of context / 2 more. The peer is the same loop with transformers' own loss and nothing compiled.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from measuring import interleaved, matmul_peak, report, weights

from excursions import params
from excursions.data.source import open_source
from excursions.models.model import build_model
from excursions.training.optimizers import adamw
from excursions.training.pretrain import loss_function

ROUNDS = 6


def main() -> None:
    torch.set_num_threads(1)
    scale = params.load(Path(__file__).parents[1] / "params.yaml").scale("nano")
    source = open_source(scale)
    tokenizer, stream = source.tokenizer(), source.stream()
    model = build_model(scale.model, tokenizer, seed=0)
    optimizer = adamw(model, 1e-3, scale.pretrain.betas, scale.pretrain.weight_decay)
    compiled = loss_function(scale.pretrain.compile)

    def step(loss) -> None:
        loss(model, torch.from_numpy(stream.next_batch())).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    started = time.perf_counter()
    step(compiled)
    compiling = time.perf_counter() - started
    jobs = {
        "ours": lambda: step(compiled),
        "peer": lambda: step(lambda model, ids_bt: model(input_ids=ids_bt, labels=ids_bt.long(), use_cache=False).loss),
    }
    found = interleaved(jobs, ROUNDS)
    tokens = scale.pretrain.batch_size * scale.model.context
    attention = 12 * scale.model.layers * scale.model.hidden_size * scale.model.context / 2
    floor = tokens * (6 * weights(model) + attention) / matmul_peak()
    report(
        [
            {
                "job": f"pretraining, nano, {scale.pretrain.batch_size} x {scale.model.context}, tokens/s",
                "peer_name": "transformers loss, eager",
                "ours": tokens / found["ours"],
                "peer": tokens / found["peer"],
                "ratio": found["peer"] / found["ours"],
                "floor": tokens / floor,
                "of it": f"{floor / found['ours']:.2f} of the peak; first step {compiling:.0f} s",
            }
        ]
    )


if __name__ == "__main__":
    main()
