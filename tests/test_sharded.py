"""Where a model is divided among processes: the same rows train, the same bytes stand still, the same is said."""

from __future__ import annotations

import json
import re
import shutil
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import guide_ranks
import pytest
import sharded_ranks
import torch
import torch.distributed as dist
import transformers
from every_function import MODELS, outcomes
from test_guides import BLOCK
from token_bases import ROWS, tokenizer
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from warm_process import WarmProcess

import hf_init
from hf_init import HfInitError
from hf_init.cli import main
from hf_init.finetune import freeze, parameter_groups, plan_against, train_only_new

TABLES = {"model.embed_tokens.weight", "lm_head.weight"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Llama with eight new tokens, its head tied and untied; and one with a tokenizer."""
    folder = tmp_path_factory.mktemp("sharded")
    small_llama(ROWS, False).save_pretrained(folder / "words-base")
    tokenizer().save_pretrained(folder / "words-base")
    hf_init.extend(folder / "words-base", folder / "words", add_tokens=[" photon"])
    for name, tied in {"tied": True, "untied": False}.items():
        small_llama(96, tied).save_pretrained(folder / f"{name}-base")
        tables = ["*embed_tokens*"] if tied else ["*embed_tokens*", "lm_head*"]
        keep = dict.fromkeys(tables, "leading")
        hf_init.extend(folder / f"{name}-base", folder / name, keep=keep, config={"vocab_size": 104})
    return folder


def small_llama(rows, tied, **ids):
    config = transformers.LlamaConfig(
        vocab_size=rows, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied, **ids,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def launched():
    """What runs a script's ``main`` in several processes."""
    modules = "sharded_ranks, guide_ranks, deepspeed" if find_spec("deepspeed") else "sharded_ranks, guide_ranks"
    process = WarmProcess(f"import {modules}", OMP_NUM_THREADS="1")

    def launch(ranks, script, *arguments, **options):
        call = f"import sys, {script}; {script}.main(*sys.argv[1:])"
        done = process.run(call, *arguments, ranks=ranks, **options)
        assert done.returncode == 0, done.stderr[-10_000:]

    yield launch
    process.close()


@pytest.fixture(scope="module")
def several(launched, bases, tmp_path_factory):
    """What each of so many processes saw, which do their work once."""

    @cache
    def seen(size):
        out = tmp_path_factory.mktemp("ranks")
        launched(size, "sharded_ranks", bases, out)
        return [json.loads((out / f"rank-{n}.json").read_text(encoding="utf-8")) for n in range(size)]

    return seen


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request, several):
    return several(request.param)


@pytest.fixture(scope="module")
def alone(bases):
    """What one process makes of a run, once."""
    return cache(partial(sharded_ranks.trained, bases))


@pytest.mark.slow
@pytest.mark.parametrize("run", sharded_ranks.RUNS)
def test_under_fsdp2_the_new_rows_train_as_in_one_process(ranks, alone, run):
    """Made before or after the model is divided; accumulated, clipped, with decay, on shards of different sizes."""
    for seen in (rank[run] for rank in ranks):
        assert_trained_alike(seen, ranks[0][run], alone(run), run)
        assert seen["elements"] == alone(run)["elements"]


@pytest.mark.slow
@pytest.mark.parametrize("run", sharded_ranks.ZERO3_RUNS)
def test_under_zero3_the_new_rows_train_as_in_one_process(ranks, alone, run):
    one = alone(run.replace("zero3", "before"))
    for seen in (rank[run] for rank in zero3(ranks)):
        assert_trained_alike(seen, ranks[0][run], one, run)
        # Each process has as much as the others of every state; what the last ones lack is padding.
        assert 0 <= sum(seen["elements"]) * len(ranks) - sum(one["elements"]) < len(ranks) * len(one["elements"])


def zero3(ranks):
    assert "head zero3" in ranks[0], "deepspeed isn't installed: pip install -e '.[dist]'"
    return ranks


def assert_trained_alike(seen, first, one, run):
    assert seen["names"] and seen["changed"] == {name: [*range(96, 104)] for name in TABLES}
    assert seen["digests"] == first["digests"]
    near = 1e-6 if "float32" in run else 1e-3  # the model's own passes are in bfloat16
    torch.testing.assert_close(torch.tensor(seen["new rows"]), torch.tensor(one["new rows"]), atol=near, rtol=0)


@pytest.mark.slow
def test_one_process_proves_a_whole_model_without_the_others(ranks):
    assert [rank["alone"] for rank in ranks] == [True, *[None] * (len(ranks) - 1)]


@pytest.mark.slow
def test_several_processes_extend_once_and_fail_alike(ranks):
    assert {rank["extended"] for rank in ranks} == {ranks[0]["extended"]} and "proved" in ranks[0]["extended"]
    assert {rank["refused"] for rank in ranks} == {ranks[0]["refused"]} and "num_lables" in ranks[0]["refused"]


@pytest.mark.slow
@pytest.mark.parametrize("name", sharded_ranks.LOADS)
def test_a_divided_load_holds_the_bytes_of_a_whole_one(bases, ranks, name):
    """By FSDP2, tensor parallelism and ZeRO-3, whatever the ranks' random states, each comparing its own part."""
    alone = sharded_ranks.opened(bases, name, None)
    for kind in ("fsdp", "tp", "zero3") if f"{name} tp" in zero3(ranks)[0] else ("fsdp", "zero3"):
        for seen in (rank[f"{name} {kind}"] for rank in ranks):
            assert seen["digests"] == alone["digests"] and seen["undrawn"] and not seen["restored"]
            assert seen["divided"] == 1 or (kind == "tp" and seen["divided"] > 0.5)
            assert seen["compared"] < alone["compared"]
        assert sum(rank[f"{name} {kind}"]["compared"] for rank in ranks) >= alone["compared"]


@pytest.mark.slow
def test_what_the_ranks_leave_in_pieces_is_read_by_one_process(bases, ranks):
    run, shards = ranks[0]["pieces"]
    moved = hf_init.drift(bases / "untied", run, frozen="kept")
    assert moved.ok and {t.name for t in moved.tensors if t.origin == "new" and t.change.elements} == TABLES
    assert hf_init.diff(bases / "untied", shards).identical


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fsdp", "zero3"])
def test_every_function_gives_a_result_or_a_refusal_on_every_rank(ranks, kind):
    for seen in (rank[f"every {kind}"] for rank in zero3(ranks)):
        assert not {name: said for name, said in seen.items() if said.startswith("FAULT")}
        assert seen.keys() == ranks[0][f"every {kind}"].keys()
    assert {"parameter_groups", "train_only_new", "plan_against", "FinetuneCallback"} <= {
        name for name, said in ranks[0][f"every {kind}"].items() if said == "a result"
    }


@pytest.mark.slow
def test_one_flipped_bit_on_one_rank_is_the_same_error_on_all(ranks):
    assert len({rank["flipped"]["error"] for rank in ranks}) == 1
    assert "model.layers.1.mlp.up_proj.weight: not what it was at row" in ranks[0]["flipped"]["error"]


@pytest.mark.slow
def test_a_manifest_of_a_divided_model_has_the_digests_of_the_whole(bases, ranks, tmp_path):
    alone = sharded_ranks.recorded(bases, tmp_path / "manifest")
    assert list(alone) == ["score.weight"] and all(rank["recorded"] == alone for rank in ranks)


@pytest.fixture
def one_rank(tmp_path):
    """A process group of this process alone: what is divided is divided into one part."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("before", [True, False])
def test_a_divided_model_is_frozen_trained_saved_and_proved(one_rank, bases, before):
    model = sharded_ranks.loaded(bases, "tied")
    old = sharded_ranks.state_of(model)
    frozen = train_only_new(model) if before else None
    fully_shard(model, mesh=one_rank)
    frozen = frozen or train_only_new(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=1e-2))
    sharded_ranks.train(model, optimizer, frozen, 2)
    now = sharded_ranks.state_of(model)
    assert {name for name in old if not torch.equal(old[name], now[name])} == TABLES
    model.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()})
    assert not frozen.verify() and not frozen.new_parts.parts[0][1].full_tensor().any()
    state = model.state_dict()
    for tensor in state.values():
        tensor.to_local().fill_(3)  # where the model has it, as distributed checkpoints are read
    model.load_state_dict(state)
    assert (frozen.new_parts.parts[0][1].full_tensor() == 3).all()


def test_new_rows_need_somebody_to_average_their_gradients(one_rank, bases):
    model = sharded_ranks.loaded(bases, "untied")
    train_only_new(model)
    fully_shard(model.model.embed_tokens, mesh=one_rank)
    with pytest.raises(HfInitError, match=r"embed_tokens.*call fully_shard\(model\) after its parts"):
        model(input_ids=torch.tensor([[1, 97]]))


def test_a_check_of_a_divided_model_is_refused(one_rank, bases):
    model = fully_shard(sharded_ranks.loaded(bases, "tied"), mesh=one_rank)
    with pytest.raises(HfInitError, match=r"divided among ranks .*; check it before that"):
        hf_init.check(model, {"input_ids": torch.tensor([[1, 2]])})


def test_a_plan_is_made_from_a_divided_model_and_its_base(one_rank, bases):
    model = fully_shard(sharded_ranks.loaded(bases, "untied"), mesh=one_rank)
    assert plan_against(model, bases / "untied-base").counts == hf_init.Plan.load(bases / "untied").counts


@pytest.mark.slow
def test_under_zero3_one_process_loads_what_it_loads_without(several):
    """In the dtype of DeepSpeed's config, which transformers takes whatever is asked for: so another one is refused."""
    (seen,) = several(1)  # not in this process: what DeepSpeed replaces when it is imported isn't put back
    for divided, whole in (seen[name] for name in sharded_ranks.LOADS):
        assert divided["digests"] == whole["digests"] and divided["undrawn"] and not divided["restored"]
    assert re.search(r"every parameter is torch\.float32.*leave it out", seen["refused"])
    assert seen["dtypes"] == [["torch.bfloat16", "bfloat16"]] * 3


def tensor_parallel(model, mesh):
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(distribute_tensor(layer.weight.detach(), mesh, [Shard(0)]))
    return model


def under_fsdp1(model, mesh):
    how = {"sharding_strategy": ShardingStrategy.NO_SHARD, "device_id": torch.device("cpu")}
    return FullyShardedDataParallel(model, process_group=mesh.get_group(), **how)


@pytest.mark.slow
@pytest.mark.parametrize("make", [tensor_parallel, under_fsdp1])
def test_every_function_gives_a_result_or_a_refusal(one_rank, bases, tmp_path, make):
    seen = outcomes(
        lambda: make(sharded_ranks.loaded(bases, "untied"), one_rank),
        bases / "untied",
        bases / "untied",
        tmp_path,
        MODELS,
    )
    assert not {name: said for name, said in seen.items() if said.startswith("FAULT")}


@pytest.mark.parametrize("verb", [freeze, train_only_new])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (tensor_parallel, "up_proj.weight: divided by tensor parallelism.*peft_arguments"),
        (under_fsdp1, "FSDP1.*fsdp_version: 2"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(one_rank, bases, make, said, verb):
    model = make(sharded_ranks.loaded(bases, "tied"), one_rank)
    with pytest.raises(HfInitError, match=f"(?s){said}"):
        verb(model, bases / "tied")


# The scripts of a guide, as people start them.


@pytest.fixture(scope="module")
def guide(launched, smollm2, tmp_path_factory):
    """The folder in which two processes have run what the guide to fine-tuning shows."""
    folder = tmp_path_factory.mktemp("guide")
    small_llama(49152, True, bos_token_id=1, eos_token_id=2, pad_token_id=2).save_pretrained(folder / "base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(smollm2 / name, folder / "base" / name)
    hf_init.extend(folder / "base", folder / "with-tokens", special_tokens=["<tool>"])
    page = Path(hf_init.__file__).with_name("finetune") / "README.md"
    for kind, body in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind in ("py", "yaml"):
            (folder / body[2:].partition("\n")[0]).write_text(body, encoding="utf-8")
    launched(2, "guide_ranks", cwd=folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("run", ["run-fsdp2", "run-sharded/checkpoint-4", *guide_ranks.RUNS])
def test_what_a_guide_s_script_trains_is_proved_from_its_files(guide, run, tmp_path):
    """One new row has moved, under its plain name; a kept byte that is another one is found."""
    if "zero3" in run:
        assert find_spec("deepspeed"), "deepspeed isn't installed: pip install -e '.[dist]'"
    report = hf_init.drift(guide / "with-tokens", guide / run, frozen="kept")
    assert report.ok and {each.name for each in report.tensors if each.status == "new"} <= TABLES
    if (weights := guide / run / "model.safetensors").exists():
        damaged = bytearray(weights.read_bytes())
        damaged[-1] ^= 1
        shutil.copytree(guide / run, tmp_path / "damaged", ignore=shutil.ignore_patterns("checkpoint-*"))
        (tmp_path / "damaged" / weights.name).write_bytes(damaged)
        assert main(["drift", str(guide / "with-tokens"), str(tmp_path / "damaged"), "--frozen", "kept"]) == 1


@pytest.mark.slow
def test_what_two_processes_train_beside_4_bits_is_proved_from_the_adapter(guide):
    assert find_spec("bitsandbytes"), "bitsandbytes isn't installed: pip install -e '.[dist]'"
    report = hf_init.drift(guide / "with-tokens", guide / "run-qlora", frozen="kept")
    assert report.ok and report.proof
    (rows,) = [each for each in report.tensors if each.status == "new"]
    assert rows.change.elements == 32


@pytest.mark.slow
@pytest.mark.parametrize("run", [run for run in guide_ranks.RUNS if "resumed" not in run])
def test_a_divided_trainer_resumes_where_it_stopped(guide, run):
    straight, resumed = (guide / name / "checkpoint-4" for name in (run, f"{run}-resumed"))
    report = hf_init.drift(straight, resumed)  # which reads pieces, too
    assert {each.status for each in report.tensors} == {"unchanged", "untrained"}
