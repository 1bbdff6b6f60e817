"""The main job on real checkpoints: memory and disk make the same bytes, and plain transformers takes the result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

import hf_init
from hf_init._checkpoint.checkpoint import Checkpoint
from hf_init._tensors import Status

MINILM_HEADS = {
    "BertForSequenceClassification": {"num_labels": 3},
    "BertForTokenClassification": {"num_labels": 5},
    "BertForQuestionAnswering": {},
    "BertForMultipleChoice": {},
    "BertForMaskedLM": {},
    "BertForNextSentencePrediction": {},
}
SMOLLM2_HEADS = {
    "LlamaForSequenceClassification": {"num_labels": 3},
    "LlamaForTokenClassification": {"num_labels": 5},
}
UNUSED = {
    "BertForTokenClassification": {"pooler.dense.weight", "pooler.dense.bias"},
    "BertForQuestionAnswering": {"pooler.dense.weight", "pooler.dense.bias"},
    "BertForMaskedLM": {"pooler.dense.weight", "pooler.dense.bias"},
}
CASES = [("minilm", head) for head in MINILM_HEADS] + [("smollm2", head) for head in SMOLLM2_HEADS]


@pytest.fixture(params=CASES, ids=[head for _, head in CASES])
def case(request):
    base, head = request.param
    return request.getfixturevalue(base), head, {**MINILM_HEADS, **SMOLLM2_HEADS}[head]


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_every_head(case, tmp_path):
    base, head, options = case
    cls = getattr(transformers, head)
    out = tmp_path / "out"
    report = hf_init.extend(base, out, cls, seed=5, **options)
    assert report.ok and not report.differences

    plan = hf_init.Plan.load(out)
    source = Checkpoint.open(base)
    placed = {copy.source for tensor in plan.tensors for copy in tensor.kept}
    assert {unused.name for unused in plan.unused} == UNUSED.get(head, set())
    assert placed | {unused.name for unused in plan.unused} == set(source.entries)

    model, info = cls.from_pretrained(out, output_loading_info=True)
    assert not any(info.values()), info
    files = load_file(out / "model.safetensors")
    for tensor in plan.tensors:
        if tensor.status is Status.KEPT:
            assert bytes_of(files[tensor.name]) == source.raw(tensor.source).tobytes(), tensor.name

    memory = hf_init.from_pretrained(cls, base, seed=5, **options)
    assert memory.init_plan == plan
    mine, theirs = memory.state_dict(), model.state_dict()
    assert list(mine) == list(theirs)
    assert [name for name in mine if bytes_of(mine[name]) != bytes_of(theirs[name])] == []
    assert memory.init_report.bytes_proved == sum(source.entries[name].nbytes for name in placed) - ignored(
        plan, source
    )

    again = tmp_path / "again"
    memory.save_pretrained(again)
    saved = load_file(again / "model.safetensors")
    assert set(saved) == {t.name for t in plan.stored if t.role != "ignored"}
    assert [name for name in saved if bytes_of(saved[name]) != bytes_of(files[name])] == []
    assert json.loads((out / "config.json").read_text()) == json.loads((again / "config.json").read_text())


def ignored(plan, source) -> int:
    return sum(source.entries[tensor.source].nbytes for tensor in plan.tensors if tensor.role == "ignored")


def test_verify_and_recompute_and_one_flipped_bit(minilm, tmp_path):
    out = tmp_path / "out"
    hf_init.extend(minilm, out, "BertForSequenceClassification", num_labels=3)
    assert hf_init.verify(out).ok and hf_init.verify(out, base=minilm, recompute=True).ok
    source = Checkpoint.open(out)
    entry = source.entries["bert.encoder.layer.3.output.dense.weight"]
    path = out / entry.shard
    data = bytearray(path.read_bytes())
    data[entry.start + 4 * (1536 * 7 + 11)] ^= 1
    path.write_bytes(data)
    report = hf_init.verify(out)
    assert not report.ok
    (difference,) = report.differences
    assert difference["name"] == entry.name and difference["index"] == [7, 11]
    with pytest.raises(hf_init.HfInitError, match=r"bert\.encoder\.layer\.3\.output\.dense\.weight"):
        report.raise_if_failed()


def test_plain_transformers_without_hf_init(minilm, tmp_path):
    out = tmp_path / "out"
    hf_init.extend(minilm, out, "AutoModelForSequenceClassification", labels=["neg", "neu", "pos"])
    program = (
        "import sys; sys.modules['hf_init'] = None\n"
        "import torch\n"
        "from transformers import AutoModelForSequenceClassification as M, AutoTokenizer as T\n"
        f"m, i = M.from_pretrained({str(out)!r}, output_loading_info=True)\n"
        f"t = T.from_pretrained({str(out)!r})\n"
        "assert not any(i.values()), i\n"
        "assert m.config.id2label == {0: 'neg', 1: 'neu', 2: 'pos'}\n"
        "assert m(**t('fine', return_tensors='pt')).logits.shape == (1, 3)\n"
        "print('loaded')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("loaded")


def test_every_other_file_is_carried_over(minilm, tmp_path):
    out = tmp_path / "out"
    hf_init.extend(minilm, out, "BertForQuestionAnswering")
    names = {str(path.relative_to(minilm)) for path in minilm.rglob("*") if path.is_file()}
    for name in names - {"config.json", "model.safetensors"}:
        assert (out / name).read_bytes() == (minilm / name).read_bytes()
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert written == names | {"hf_init.json"}


def test_the_source_is_never_written_to(minilm, tmp_path):
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in Path(minilm).rglob("*")}
    hf_init.extend(minilm, tmp_path / "out", "BertForMaskedLM")
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in Path(minilm).rglob("*")} == before


def test_the_final_dtype_is_the_checkpoints(smollm2):
    model = hf_init.from_pretrained(transformers.LlamaForTokenClassification, smollm2, num_labels=2)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}


def test_another_dtype_in_memory_is_the_one_exact_cast(smollm2):
    plain = transformers.LlamaModel.from_pretrained(smollm2, dtype=torch.float32)
    model = hf_init.from_pretrained(
        transformers.LlamaForTokenClassification, smollm2, num_labels=2, dtype=torch.float32
    )
    assert len(model.init_report.cast) == len(plain.state_dict())
    for name, tensor in plain.state_dict().items():
        assert bytes_of(tensor) == bytes_of(model.state_dict()[f"model.{name}"]), name
