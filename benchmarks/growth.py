"""How the seconds of a GRPO step grow with the number of rollouts, the context and the size of the model.

16 prompts of 40 to 80 tokens; 16 rollouts of 64 tokens and 1M parameters where nothing else is said. `floor` is what
the products with the weights take at the machine's matmul peak: 2 operations a weight and token to sample, 6 to update.
"""

from __future__ import annotations

from grpo_step import our_seconds
from measuring import make_model, make_prompts, matmul_peak, report, weights

N_PROMPTS = 16


def main() -> None:
    rows = []
    peak = matmul_peak()
    settings = [("rollouts", n, n, 64, "1M") for n in (8, 16, 64)]
    settings += [("context", n, 16, n - 80, "1M") for n in (128, 320, 1024)]
    settings += [("parameters", size, 16, 64, size) for size in ("0.6M", "1M", "4M")]
    for axis, value, samples, new_tokens, size in settings:
        model = make_model(size, context=80 + new_tokens)
        rollout, update = our_seconds(model, make_prompts(N_PROMPTS, 40, 80), samples, new_tokens)
        floor = N_PROMPTS * samples * new_tokens * 8 * weights(model) / peak
        rows.append({"axis": axis, "value": value, "rollout": rollout, "update": update, "floor": floor})
    report(rows)


if __name__ == "__main__":
    main()
