"""Public suites: a few lines of params.yaml make checkpoints of any architecture and form ready to start from."""

import copy
import fnmatch
import gzip
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import distributed_work
import huggingface_hub
import pytest
import torch
import yaml
from hub_project import write_params
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    PreTrainedTokenizerFast,
)

from excursions import cli, params, tree
from excursions.arguments import suite_checkpoints
from excursions.models.model import count_parameters, load_model, load_weights, save_weights, weight_files
from excursions.models.processes import Processes
from excursions.models.scoring import completion_logprobs
from excursions.models.suites import checkpoint_folder, prepare_suite
from excursions.params import PublicSuite, Revision, UserError
from excursions.results import tables as results
from excursions.study.one_run import train_run
from excursions.study.run import Run, parameters, status
from excursions.training.optimizers import adamw
from excursions.training.sft import Example, completion_loss

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
LORA = params.Lora(2, 4)
CHAT = params.Style(chat=True, instruction="Say #### 5.")
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
SENTENCES = ["the cat sat on the mat .", "two apples and three apples are five apples .", "#### 5"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def tokenizer():
    """As Pythia's: an end token, no padding token, fewer tokens than the model has rows."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(SENTENCES, vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>")


def tiny(architecture: str, seed: int = 0):
    torch.manual_seed(seed)
    shape = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 4, "max_position_embeddings": 2048, "initializer_range": 0.2}  # fmt: skip
    if architecture == "gpt_neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(**shape)).eval()
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2)).eval()
    return Olmo2ForCausalLM(Olmo2Config(**shape)).eval()


@pytest.fixture(scope="module")
def published(tokenizer, tmp_path_factory):
    """Two revisions of a tiny GPTNeoX model in the form of a public suite: <folder>/<revision>."""
    folder = tmp_path_factory.mktemp("published") / "tiny-neox"
    for seed, revision in enumerate(("step1000", "step3000")):
        tiny("gpt_neox", seed).save_pretrained(folder / revision)
        tokenizer.save_pretrained(folder / revision)
    return folder


@pytest.fixture
def folder(published, tmp_path) -> Path:
    """A copy of one revision, to be damaged."""
    return Path(shutil.copytree(published / "step1000", tmp_path / "step1000"))


def study_with(model: str | Path) -> params.Study:
    study = params.load(ROOT / "params.yaml")
    checkpoints = {"p01": Revision("step1000", 2_000), "p02": Revision("step3000", 6_000)}
    return replace(study, suites={**study.suites, "tiny": PublicSuite(str(model), 300_000, checkpoints)})


# --- the form of a suite -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["absolute", "relative"])
def test_a_local_suite_is_ready_to_start_from(published, tmp_path, path):
    root = tmp_path / "project"
    root.mkdir()
    study = study_with(published if path == "absolute" else "../tiny-neox")
    if path == "relative":
        shutil.copytree(published, tmp_path / "tiny-neox")
    folders = prepare_suite(study, "paper", "tiny", ["p02"], root)
    assert list(folders) == ["p02"] and checkpoint_folder(root, "paper", "tiny", "p02") == folders["p02"]
    models = {name: load_model(checkpoint_folder(root, "paper", "tiny", name))[0] for name in ("p01", "p02")}
    for name, seed in (("p01", 0), ("p02", 1)):
        saved = tiny("gpt_neox", seed).state_dict()
        assert all(torch.equal(value, saved[key]) for key, value in models[name].state_dict().items())

    about = results.load_suite(root, "paper", "tiny")
    assert about["tokens"] == {"p01": 2_000, "p02": 6_000} and about["total_tokens"] == 300_000
    assert about["parameters"] == count_parameters(models["p01"])
    assert about["revisions"] == {"p01": "step1000", "p02": "step3000"}
    assert not Path(about["model"]).is_absolute()
    home = root / "checkpoints" / "paper" / "tiny"
    assert [file.name for file in home.iterdir()] == ["suite.json"]  # the weights stay where they are


def test_suite_json_is_the_same_whichever_checkpoint_is_wanted_and_is_kept(published, tmp_path):
    file = tmp_path / "checkpoints" / "paper" / "tiny" / "suite.json"
    study = study_with(published)
    prepare_suite(study, "paper", "tiny", ["p01"], tmp_path)
    text, written = file.read_bytes(), file.stat().st_mtime_ns
    prepare_suite(study, "paper", "tiny", ["p02"], tmp_path)
    assert file.read_bytes() == text and file.stat().st_mtime_ns == written
    more = replace(study, suites={"tiny": replace(study.suites["tiny"], total_tokens=400_000)})
    prepare_suite(more, "paper", "tiny", ["p02"], tmp_path)
    assert results.load_suite(tmp_path, "paper", "tiny")["total_tokens"] == 400_000


def test_a_folder_of_checkpoints_goes_before_what_suite_json_says(published, tmp_path):
    prepare_suite(study_with(published), "paper", "tiny", ["p01"], tmp_path)
    own = tmp_path / "checkpoints" / "paper" / "tiny" / "p02"
    own.mkdir()
    assert checkpoint_folder(tmp_path, "paper", "tiny", "p02") == own
    assert checkpoint_folder(tmp_path, "paper", "tiny", "p40") == own.with_name("p40")
    assert checkpoint_folder(tmp_path, "paper", "other", "p02") == tmp_path / "checkpoints" / "paper" / "other" / "p02"


def test_names_that_are_not_there_are_told_with_those_that_are(published, tmp_path):
    study = study_with(published)
    with pytest.raises(UserError, match=r"no suite .* 'tinny'; accepted: .*pythia-1b.*, tiny\. Did you mean 'tiny'"):
        prepare_suite(study, "paper", "tinny", ["p01"], tmp_path)
    with pytest.raises(UserError, match="no checkpoint of suite tiny 'p03'; accepted: p01, p02"):
        prepare_suite(study, "paper", "tiny", ["p03"], tmp_path)
    with pytest.raises(UserError, match="no suite of paper 'tinny'; accepted: main, .*tiny"):
        suite_checkpoints(study, "paper", "tinny", tmp_path)
    assert suite_checkpoints(study, "paper", "tiny", tmp_path) == ("p01", "p02")
    assert suite_checkpoints(study, "paper", "main", tmp_path) == study.scale("paper").pretrain.save

    gone = replace(study, suites={"tiny": replace(study.suites["tiny"], checkpoints={"p05": Revision("step7", 1)})})
    with pytest.raises(UserError, match="has no folder step7, .* found: step1000, step3000"):
        prepare_suite(gone, "paper", "tiny", ["p05"], tmp_path)
    with pytest.raises(UserError, match="does not exist; accepted: a hub name such as"):
        prepare_suite(study_with("./nowhere"), "paper", "tiny", ["p01"], tmp_path)
    own = tmp_path / "checkpoints" / "nano" / "tiny"
    own.mkdir(parents=True)
    (own / "suite.json").write_text('{"parameters": 1, "tokens": {"p08": 1}, "total_tokens": 1}')
    with pytest.raises(UserError, match="a suite of our own pretraining; give"):
        prepare_suite(study, "nano", "tiny", ["p01"], tmp_path)
    assert suite_checkpoints(study_with(published), "nano", "main", tmp_path) == study.scale("nano").pretrain.save


def test_suites_of_params_yaml_count_their_tokens_right():
    """A step of Pythia and of OLMo 2 1B is 2,097,152 tokens; names are rounded percents of the whole."""
    suites = params.load(ROOT / "params.yaml").public_suites
    assert "pythia-1b" in suites
    for suite in suites.values():
        for name, each in suite.checkpoints.items():
            step = int(each.revision.split("step")[1].split("-")[0])
            assert each.tokens == step * 2_097_152
            assert params.percent(name) == round(100 * each.tokens / suite.total_tokens)
            if "-tokens" in each.revision:  # OLMo's names hold billions of tokens, rounded up
                assert each.revision.endswith(f"-tokens{-(-each.tokens // 10**9)}B")


# --- the hub -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(published, tmp_path, monkeypatch) -> Path:
    """The cache of the hub's client with revision step1000 of someone/tiny-neox in it, and no network."""
    store = tmp_path / "hub"
    home = store / "models--someone--tiny-neox"
    shutil.copytree(published / "step1000", home / "snapshots" / COMMIT)
    (home / "refs").mkdir()
    (home / "refs" / "step1000").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(store))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return home


def test_a_hub_suite_works_offline_from_the_cache(cache, tmp_path):
    study = study_with("someone/tiny-neox")
    folders = prepare_suite(study, "paper", "tiny", ["p01"], tmp_path)
    assert folders["p01"] == cache / "snapshots" / COMMIT == checkpoint_folder(tmp_path, "paper", "tiny", "p01")
    assert results.load_suite(tmp_path, "paper", "tiny")["model"] == "someone/tiny-neox"
    with pytest.raises(UserError, match="revision step3000, could not be downloaded.*hf download someone/tiny-neox"):
        prepare_suite(study, "paper", "tiny", ["p02"], tmp_path)
    with pytest.raises(UserError, match="revision step3000, could not be downloaded"):
        checkpoint_folder(tmp_path, "paper", "tiny", "p02")


@pytest.mark.parametrize("form", ["safetensors", "both", "pytorch"])
def test_only_what_is_needed_is_downloaded_and_only_once(published, tmp_path, monkeypatch, form):
    repository = {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
        "training_args.bin",
        "flax.msgpack",
    }
    repository |= {"onnx/config.json", "optimizer.bin"}
    repository |= {"model.safetensors"} if form != "pytorch" else set()
    repository |= {"pytorch_model.bin"} if form != "safetensors" else set()
    here = tmp_path / "snapshot"
    fetched = []

    def download(model, *, revision, allow_patterns, local_files_only):
        assert (model, revision) == ("someone/tiny-neox", "step1000")
        wanted = {f for f in repository if any(fnmatch.fnmatch(f, pattern) for pattern in allow_patterns)}
        here.mkdir(exist_ok=True)
        missing = {f for f in wanted if not (here / f).is_file()}
        if missing and local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not all of it is here")
        for name in sorted(missing):
            fetched.append(name)
            if name == "pytorch_model.bin":
                torch.save(load_file(published / "step1000" / "model.safetensors"), here / name)
            else:
                shutil.copy(published / "step1000" / name, here / name)
        return str(here)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    (folder,) = prepare_suite(study_with("someone/tiny-neox"), "paper", "tiny", ["p01"], tmp_path).values()
    weights = "pytorch_model.bin" if form == "pytorch" else "model.safetensors"
    assert sorted(fetched) == sorted(["config.json", "tokenizer.json", "tokenizer_config.json", weights])
    assert count_parameters(load_model(folder)[0]) == count_parameters(tiny("gpt_neox"))
    fetched.clear()
    (here / "tokenizer.json").unlink()  # as after an interrupted download
    checkpoint_folder(tmp_path, "paper", "tiny", "p01")
    checkpoint_folder(tmp_path, "paper", "tiny", "p01")
    assert fetched == ["tokenizer.json"]


# --- folders of any form -------------------------------------------------------------------------------------------


def in_form(folder: Path, form: str) -> Path:
    """The checkpoint's weights as one file or shards, of safetensors or of PyTorch's own format."""
    state = load_file(folder / "model.safetensors")
    if form == "model.safetensors":
        return folder
    (folder / "model.safetensors").unlink()
    save, stem = (save_file, "model") if "safetensors" in form else (torch.save, "pytorch_model")
    if form == "pytorch_model.bin":
        old = {f"gpt_neox.layers.{i}.attention.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool) for i in range(2)}
        torch.save(state | old, folder / form)  # with buffers that old versions saved
        return folder
    parts, index = [sorted(state)[::2], sorted(state)[1::2]], {}
    for number, names in enumerate(parts, start=1):
        name = f"{stem}-0000{number}-of-00002.{form.split('.')[1]}"
        save({key: state[key].clone() for key in names}, folder / name)
        index |= dict.fromkeys(names, name)
    (folder / form).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


FORMS = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"]


@pytest.mark.parametrize("form", FORMS)
def test_weights_load_from_every_form_and_each_file_of_them_is_named(folder, form):
    saved = tiny("gpt_neox").state_dict()
    loaded = load_model(in_form(folder, form))[0].state_dict()
    assert saved.keys() == loaded.keys() and all(torch.equal(saved[key], loaded[key]) for key in saved)
    files = weight_files(folder)
    assert files[0].name == form and [file.name for file in files[-2:]] == ["tokenizer.json", "config.json"]
    assert len(files) == (5 if "index" in form else 3)
    for file in files[1:] if "index" in form else files:  # without its index a sharded checkpoint has no weights at all
        text = file.read_bytes()
        file.unlink()
        missing = "model.safetensors" if file.name == form else file.name
        with pytest.raises(UserError, match=f"has no file {missing}"):
            load_model(folder)
        file.write_bytes(text)


def test_files_of_our_own_checkpoints_are_the_three_they_always_were():
    names = [file.name for file in weight_files(ROOT / "checkpoints" / "nano" / "main" / "p88")]
    assert names == ["model.safetensors", "tokenizer.json", "config.json"]


@pytest.mark.parametrize("form", FORMS)
def test_damage_is_told(folder, form):
    in_form(folder, form)
    for file in weight_files(folder):
        text = file.read_bytes()
        file.write_bytes(text[: len(text) // 2])
        with pytest.raises(UserError, match="damaged") as error:
            load_model(folder)
        assert str(folder) in str(error.value) and "\n" not in str(error.value)
        file.write_bytes(text)
    load_model(folder)


def edit(file: Path, **changes) -> None:
    about = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in (about | changes).items() if value is not None}))


def test_a_checkpoint_that_does_not_fit_is_refused(folder, capfd):
    def said() -> str:
        with pytest.raises(UserError) as error:
            load_model(folder)
        assert "LOAD REPORT" not in capfd.readouterr().err
        return str(error.value)

    edit(folder / "config.json", num_hidden_layers=3)
    assert "does not fit its config.json: it lacks gpt_neox.layers.2.attention.dense.bias and 11 more" in said()
    edit(folder / "config.json", num_hidden_layers=1)
    assert "does not fit its config.json: it has gpt_neox.layers.1.attention.dense.bias and 11 more besides" in said()
    edit(folder / "config.json", num_hidden_layers=2, intermediate_size=96)
    assert "has gpt_neox.layers.0.mlp.dense_4h_to_h.weight and 5 more reshaped" in said()
    edit(folder / "config.json", intermediate_size=64, model_type="none_such")
    assert "none_such" in said()
    with pytest.raises(UserError, match="config.json describes no language model.*none_such"):
        study = study_with(folder.parent)
        prepare_suite(study, "paper", "tiny", ["p01"], folder.parent)


def test_a_tokenizer_that_does_not_fit_is_refused(folder, tokenizer):
    torch.manual_seed(0)
    shape = tiny("gpt_neox").config.to_dict() | {"vocab_size": len(tokenizer) - 1}
    GPTNeoXForCausalLM(GPTNeoXConfig(**shape)).save_pretrained(folder)
    with pytest.raises(UserError, match=f"has {len(tokenizer)} tokens, but the model's embedding only"):
        load_model(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer).save_pretrained(folder)
    with pytest.raises(UserError, match="no end token.*eos_token in its tokenizer_config.json"):
        load_model(folder)


# --- other architectures -------------------------------------------------------------------------------------------

ARCHITECTURES = ["gpt_neox", "llama", "olmo2"]


def test_without_a_padding_token_the_end_token_is_learned(folder):
    model, tokenizer = load_model(folder)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    encoded = tokenizer(SENTENCES).input_ids
    examples = [Example(ids[:3], [*ids[3:], tokenizer.eos_token_id]) for ids in encoded]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(30):
        completion_loss(model, examples, tokenizer.pad_token_id).backward()
        optimizer.step()
        optimizer.zero_grad()
    for ids in encoded:
        with torch.no_grad():
            greedy_t = model(input_ids=torch.tensor([ids])).logits[0].argmax(-1)
        assert greedy_t[2:].tolist() == [*ids[3:], tokenizer.eos_token_id]


def tied(model):
    model.config.tie_word_embeddings = True
    model.tie_weights()
    return model


def test_weights_tied_to_the_embedding_are_kept_for_the_runs_that_start_from_them(tmp_path):
    model, other = (tied(tiny("llama", seed)) for seed in range(2))
    save_weights(tmp_path / "trained.safetensors", model, "this run")
    assert load_weights(tmp_path / "trained.safetensors", other, "this run")
    assert other.lm_head.weight is other.model.embed_tokens.weight
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_model_that_does_not_say_how_long_a_context_is_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    BloomForCausalLM(BloomConfig(vocab_size=config["vocab_size"], hidden_size=16, n_layer=1, n_head=2)).save_pretrained(
        folder
    )
    with pytest.raises(UserError, match="does not say how many tokens BloomForCausalLM may read.*max_position_emb"):
        load_model(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    assert load_model(folder)[0].config.max_position_embeddings == 64


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("pad_id", [0, 7])
def test_sft_loss_is_that_of_each_example_alone(architecture, pad_id):
    model = tiny(architecture)
    examples = [Example([5, 6, 7], [8, 9, 0]), Example([11], [12, 13, 14, 15, 0]), Example([3, 4, 5, 6, 7], [0])]
    together = completion_loss(model, examples, pad_id)
    alone = [completion_loss(model, [e], pad_id) * len(e.completion_ids) for e in examples]
    torch.testing.assert_close(together, sum(alone) / 9, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_grpo_scores_other_architectures_as_a_full_forward_does(architecture):
    model = tiny(architecture)
    prompts = [[5, 6, 7, 8, 9], [10, 11]]
    completions = [[[12, 13, 14], [15]], [[16, 17, 18, 19, 20, 21, 22], [23, 24], [25, 26, 27, 0]]]
    how = {"temperature": 0.8, "vocab_size": 287}
    logp_bt, _, mask_bt = completion_logprobs(model, prompts, completions, **how)
    total = torch.tensor(0.0)
    row = 0
    for prompt, group in zip(prompts, completions, strict=True):
        for ids in group:
            logits_tv = model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1, :287] / 0.8
            plain_t = logits_tv.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).squeeze(1)
            torch.testing.assert_close(logp_bt[row, : len(ids)], plain_t, atol=1e-5, rtol=0)
            assert mask_bt[row].sum() == len(ids)
            total = total + plain_t.sum()
            row += 1
    weights = [p for p in model.parameters() if p.requires_grad]
    for ours, plain in zip(
        torch.autograd.grad(logp_bt.sum(), weights), torch.autograd.grad(total, weights), strict=True
    ):
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_alone_are_trained_and_merged_they_are_the_model(architecture):
    start, processes = tiny(architecture), Processes()
    model = processes.place(tiny(architecture), LORA, seed=3)
    first = {name: p.detach().clone() for name, p in model.named_parameters()}
    plain = processes.plain(model).state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in start.state_dict().items()), "it begins as it was"
    optimizer = adamw(model, 1e-2, (0.9, 0.99), 0.0)
    for _ in range(3):
        completion_loss(model, [Example([5, 6, 7], [8, 9, 0])], 0).backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, first[name])}
    assert moved and all("lora_" in name for name in moved)
    merged = processes.plain(model)
    changed = {name for name, value in merged.state_dict().items() if not torch.equal(value, start.state_dict()[name])}
    assert changed and not any("embed" in name or "norm" in name or "head" in name for name in changed)
    asked = ([[5, 6, 7]], [[[8, 9, 0], [10, 11]]])
    with torch.no_grad():
        ours, theirs = (completion_logprobs(each, *asked)[0] for each in (model.eval(), merged))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    again = dict(Processes().place(tiny(architecture), LORA, seed=3).named_parameters())
    assert all(torch.equal(p, again[name]) for name, p in first.items()), "adapters come from the run's seed"


def test_a_suite_says_how_it_is_asked_and_what_of_it_is_trained(published):
    study = study_with(published)
    asked = replace(study.suites["tiny"], style=CHAT, lora=LORA)
    own = params.OwnSuite(("p02",), ("rl",), (0,), {"rl": {"kl": 0.1}}, "tiny")
    study = replace(study, suites={**study.suites, "tiny": asked, "own": own})
    for suite in ("tiny", "own"):
        scale = study.scale("paper", suite)
        assert scale.questions.style == CHAT and scale.lora == LORA
        assert parameters(Run("paper", suite, "p02", "rl", 0), scale)["lora"] == {"rank": 2, "alpha": 4}
        assert "lora" not in parameters(Run("paper", suite, "p02", "base", 0), scale), "base trains nothing"
    for suite in ("main", "pythia-1b"):
        scale = study.scale("paper", suite)
        assert scale == study.scale("paper") and scale.lora is None and scale.questions.style is None


def test_a_suite_is_asked_by_its_template_trained_by_adapters_and_saved_whole(
    hub_project, hub_scale, published, tokenizer, tmp_path, capsys
):
    root, revision = tmp_path / "project", tmp_path / "chatty" / "step1000"
    shutil.copytree(published / "step1000", revision)
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = TEMPLATE
    chatty.save_pretrained(revision)
    about = replace(study_with(tmp_path / "chatty").suites["tiny"], style=CHAT, lora=LORA)
    about = replace(about, checkpoints={"p01": Revision("step1000", 2_000)})
    few = replace(hub_scale, engine=replace(hub_scale.engine, name="transformers"), rl=replace(
        hub_scale.rl, steps=5, questions_per_step=1, rollouts=2, max_new_tokens=4
    ))  # fmt: skip
    root.mkdir()
    write_params(root, few)
    raw = yaml.safe_load((root / "params.yaml").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump(raw | {"suites": {"tiny": asdict(about)}}))
    study = params.load(root / "params.yaml")
    prepare_suite(study, "paper", "tiny", ["p01"], root)
    scale = study.scale("paper", "tiny")
    for recipe in ("sft", "rl"):
        train_run(Run("paper", "tiny", "p01", recipe, 0), scale, root, Processes(), keep_model=True)

    warned = capsys.readouterr().err
    (revision / "chat_template.jinja").write_text(TEMPLATE.replace("<assistant>", "<bot>"))
    assert status(Run("paper", "tiny", "p01", "sft", 0), scale, root) == "to compute"
    train_run(Run("paper", "tiny", "p01", "base", 0), scale, root, Processes())
    with gzip.open(Run("paper", "tiny", "p01", "base", 0).folder(root) / "samples.jsonl.gz", "rt") as lines:
        assert all(json.loads(line)["prompt"].endswith("<bot>") for line in lines)
    (revision / "chat_template.jinja").write_text(TEMPLATE)
    assert "tiny p01 rl seed-0: WARNING: In the first 5 steps" in warned and "mark no final answer" in warned
    assert "sft seed-0: WARNING" not in warned
    for recipe in ("sft", "rl"):
        folder = Run("paper", "tiny", "p01", recipe, 0).folder(root)
        with gzip.open(folder / "samples.jsonl.gz", "rt") as lines:
            prompts = [json.loads(line)["prompt"] for line in lines]
        assert all(p.startswith("<user>") and p.endswith("Say #### 5.\n<assistant>") for p in prompts)
        assert json.loads((folder / "run.json").read_text())["parameters"]["lora"] == {"rank": 2, "alpha": 4}
    before = load_model(revision)[0].state_dict()
    moved = {}
    for recipe in ("sft", "rl"):
        trained = tree.trained_folder(root, "paper", "tiny", "p01", recipe, 0)
        after = load_model(trained)[0].state_dict()
        moved[recipe] = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved["sft"] and all(name.endswith("weight") and "layers." in name for name in moved["sft"])
    assert not moved["rl"], "without a signal the weights are those it began with"
    command = ["evaluate", "--root", str(root), "--model", str(trained), "--benchmark", "gsm8k", "--questions", "1"]
    assert cli.main([*command, "--samples", "1", "--threads", "1"]) == 0
    card = (trained / "README.md").read_text()
    assert "# RL from p01, seed 0" in card and "after training" in card and str(trained.relative_to(root)) in card
    where = ["sample", "--root", str(root), "--scale", "paper", "--suite", "tiny", "--checkpoint", "p01", "-n", "1"]
    assert cli.main([*where, "--recipe", "rl"]) == 0
    capsys.readouterr()
    for wrong, said in (
        ("rl/seed-1", "Did you mean 'seed-0'?"),
        ("rll", "Did you mean 'rl'"),
        ("parallel", "keep-model"),
    ):
        assert cli.main([*where, "--recipe", wrong]) == 2
        assert said in capsys.readouterr().err


def test_a_public_suite_is_trained_and_measured_like_our_own(
    hub_project, hub_scale, published, tmp_path, monkeypatch, capsys
):
    """`hub_project` holds the questions; SFT by the command that a user types, RL with rewards that are not all 0."""
    scale = replace(hub_scale, engine=replace(hub_scale.engine, name="transformers"))
    root = tmp_path / "project"
    root.mkdir()
    write_params(root, scale)
    raw = yaml.safe_load((root / "params.yaml").read_text())
    borrowing = {"checkpoints_of": "tiny", "checkpoints": ["p02"], "recipes": ["sft"], "seeds": [0]}
    raw["suites"] = {"tiny": asdict(study_with(published).suites["tiny"]), "mine": borrowing}
    (root / "params.yaml").write_text(yaml.safe_dump(raw))
    command = ["train", "--root", str(root), "--scale", "paper", "--suite", "tiny", "--recipe", "sft"]
    assert cli.main([*command, "--checkpoint", "p02"]) == 0
    borrowed = ["--root", str(root), "--scale", "paper", "--suite", "mine"]
    assert cli.main(["plan", *borrowed, "--measure"]) == 0
    assert "sft: the first step took" in capsys.readouterr().out
    assert cli.main(["train", *borrowed]) == 0
    of_both = [results.load_outcomes(root, "paper", suite)[["step", "correct"]] for suite in ("tiny", "mine")]
    assert of_both[0].equals(of_both[1])
    monkeypatch.setattr("excursions.training.rl.grade_completions", distributed_work.grade_by_text)
    train_run(Run("paper", "tiny", "p02", "rl", 0), scale, root, Processes())

    outcomes, general = results.load_outcomes(root, "paper", "tiny"), results.load_general(root, "paper", "tiny")
    assert set(outcomes.recipe) == set(general.recipe) == {"sft", "rl"}
    assert set(outcomes.tokens) == set(general.tokens) == {6_000}
    log = results.load_training(root, "paper", "tiny")
    sft, rl = (log[log.recipe == recipe].sort_values("step") for recipe in ("sft", "rl"))
    assert sft.sft_loss.iloc[-1] < sft.sft_loss.iloc[0]
    assert (rl.grad_norm > 0).all() and (rl["sampling/sampling_logp_difference/max"] < 1e-4).all()

    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    assert cli.main(["notebook", "suite", "--root", str(root), "--scale", "paper", "-p", "suite=tiny"]) == 0
    for file in ("figures/paper/suite_tiny.svg", "figures/paper/suite_tiny.png", "reports/paper/suite_tiny.html"):
        assert (root / file).stat().st_size > 1000, file
