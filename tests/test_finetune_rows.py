"""Of a tensor that grew, the new rows train and nothing else moves: exactly, under anything, saved plainly."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from finetuned import copied, moved, take_steps, words
from safetensors.torch import load_file
from torch import nn
from torch.utils.checkpoint import checkpoint

import hf_init
from hf_init import HfInitError
from hf_init.finetune import Watch, check_optimizer, freeze, parameter_groups, train_only_new

LLAMA = transformers.LlamaForCausalLM
EMBEDDING = "model.embed_tokens.weight"
NEW = list(range(96, 104))
OPTIMIZERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups),
    "adamw, fused": lambda groups: torch.optim.AdamW(groups, fused=True),
    "sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9, nesterov=True),
    "adafactor": lambda groups: transformers.Adafactor(groups, relative_step=False),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, momentum=0.9),
}


def grown(tiny, **options):
    """Llama with eight new tokens, its head tied."""
    keep, config = {"*embed_tokens*": "leading", **options.pop("keep", {})}, {"vocab_size": 104, **options}
    return hf_init.from_pretrained(LLAMA, tiny("llama"), keep=keep, config=config)


def tokens():
    ids = torch.randint(0, 104, (2, 12))
    return {"input_ids": ids, "labels": ids}


def moved_rows(model, before, name=EMBEDDING):
    differs = model.state_dict()[name] != before[name]
    return differs.reshape(len(differs), -1).any(1).nonzero().flatten().tolist()


@pytest.mark.slow
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_only_the_new_rows_move(tiny, optimizer, autocast):
    model = grown(tiny)
    before, frozen = copied(model), train_only_new(model)
    made = OPTIMIZERS[optimizer](parameter_groups(model, lr=1e-2, weight_decay=0.1))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), Watch(frozen, every=2, optimizer=made) as watch:
        for _ in range(4):
            model(**tokens()).loss.backward()  # accumulated
            take_steps(model, made, tokens, 1)
            watch.end_step()
    assert moved(model, before) == {EMBEDDING, "lm_head.weight"}
    assert moved_rows(model, before) == moved_rows(model, before, "lm_head.weight") == NEW


def test_the_gradient_is_that_of_plain_training(tiny):
    """Embedding and tied head together, and the same step of SGD."""
    plain, apart = grown(tiny), grown(tiny)
    train_only_new(apart)
    batch = tokens()
    for model in (plain, apart):
        model.eval()
        model(**batch).loss.backward()
    (parameter,) = [p for p in apart.parameters() if p.requires_grad]
    assert torch.equal(parameter.grad, plain.model.embed_tokens.weight.grad[96:])
    assert apart.model.embed_tokens.weight.grad is None


def test_the_new_rows_share_the_tensor_s_memory_and_optimizer_states_are_their_size(tiny):
    model = grown(tiny)
    train_only_new(model)
    (parameter,) = [p for p in model.parameters() if p.requires_grad]
    weight = model.model.embed_tokens.weight
    assert parameter.data_ptr() == weight[96:].data_ptr() and weight is model.lm_head.weight
    optimizer = torch.optim.AdamW([parameter])
    take_steps(model, optimizer, tokens, 1)
    assert {tuple(state.shape) for state in optimizer.state[parameter].values()} == {(8, 32), ()}


def test_a_plain_decoupled_mask_would_have_moved_them(tiny):
    """What this is for: a mask of the gradient leaves the decay."""
    model = grown(tiny)
    before = copied(model)
    weight = model.model.embed_tokens.weight
    weight.register_hook(lambda grad: torch.cat((torch.zeros_like(grad[:96]), grad[96:])))
    take_steps(model, torch.optim.AdamW([weight], weight_decay=0.1), tokens, 1)
    assert len(moved_rows(model, before)) > 8


# Saving, loading, resuming.


def test_names_and_shapes_are_plain_all_the_time(tiny, tmp_path):
    model, plain = grown(tiny), grown(tiny)
    frozen = train_only_new(model)
    take_steps(model, torch.optim.AdamW(parameter_groups(model, lr=1e-2)), tokens, 2)
    assert list(model.state_dict()) == list(plain.state_dict())
    model.save_pretrained(tmp_path)
    plain.load_state_dict(model.state_dict())
    loaded = LLAMA.from_pretrained(tmp_path)
    assert not moved(loaded, model.state_dict()) and not moved(plain, model.state_dict())
    base, saved = (load_file(folder / "model.safetensors") for folder in (tiny("llama"), tmp_path))
    assert set(base) == set(saved) and torch.equal(saved[EMBEDDING][:96], base[EMBEDDING])
    frozen.thaw()
    assert not moved(model, saved | {"lm_head.weight": saved[EMBEDDING]})
    assert list(dict(model.named_parameters())) == list(dict(plain.named_parameters()))
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "assign"), [(None, False), (None, True), (torch.float64, False)])
def test_training_resumes_where_it_stopped(tiny, dtype, assign):
    """Weights by a plain state dict and an optimizer's own state; also where the rows have memory of their own."""

    def start():
        model = grown(tiny)
        train_only_new(model, dtype=dtype)
        model.eval()
        return model, torch.optim.AdamW(parameter_groups(model, lr=1e-2))

    def step(model, optimizer, seed):
        torch.manual_seed(seed)
        model(**tokens()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    straight_on, through = start()
    for seed in range(4):
        if seed == 2:
            state = copied(straight_on), copy.deepcopy(through.state_dict())
        step(straight_on, through, seed)
    again, optimizer = start()
    again.load_state_dict(state[0], assign=assign)
    optimizer.load_state_dict(state[1])
    for seed in (2, 3):
        step(again, optimizer, seed)
    difference = again.state_dict()[EMBEDDING] - straight_on.state_dict()[EMBEDDING]
    assert float(difference.abs().max()) <= (0 if dtype is None else 1e-6)


def test_rows_in_float32_beside_a_bfloat16_tensor_add_up_small_steps(tiny):
    """A step of 1e-5 is nothing to a bfloat16 value of .02; a hundred of them are 1e-3."""
    ends = {}
    for dtype in (None, torch.bfloat16):
        model = grown(tiny, dtype=torch.bfloat16)
        before, frozen = copied(model), train_only_new(model, dtype=dtype)
        optimizer = torch.optim.SGD(parameter_groups(model, lr=1e-5, weight_decay=0))
        for _ in range(100):
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
            optimizer.step()
        frozen.raise_if_moved()
        model.state_dict()
        assert model.model.embed_tokens.weight.dtype == torch.bfloat16
        ends[dtype] = float((model.state_dict()[EMBEDDING].float() - before[EMBEDDING].float())[96:].mean())
    assert ends[None] == pytest.approx(-1e-3, rel=0.1)
    assert -5e-4 < ends[torch.bfloat16] <= 0


def test_a_new_head_in_bfloat16_trains_in_float32_and_is_saved_in_its_own(tiny, tmp_path):
    """A step of 1e-6 is nothing to most bfloat16 values; a new layer and a head add four hundred of them up."""
    cls, apart = transformers.BertForSequenceClassification, {}
    options = {"num_labels": 3, "config": {"num_hidden_layers": 3}, "dtype": torch.bfloat16}
    for dtype in (None, torch.bfloat16):
        model = hf_init.from_pretrained(cls, tiny("bert"), **options)
        before, frozen = copied(model), train_only_new(model, dtype=dtype)
        optimizer = torch.optim.SGD(parameter_groups(model, lr=1e-6, weight_decay=0))
        model(**words()).loss.backward()
        grads = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
        assert {grad.dtype for grad in grads} == {dtype or torch.float32}
        assert Watch(frozen, optimizer=optimizer).norms()["norm/new"] > 0 and frozen.num_trainable[0] == sum(
            grad.numel() for grad in grads
        )
        for _ in range(400):
            for grad in grads:
                grad.fill_(1.0)
            optimizer.step()
        frozen.raise_if_moved()
        model.save_pretrained(tmp_path)
        saved = load_file(tmp_path / "model.safetensors")
        apart[dtype] = float((saved["classifier.weight"].float() - before["classifier.weight"].float()).mean())
        assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    assert apart[None] == pytest.approx(-4e-4, rel=0.1) and -2e-4 < apart[torch.bfloat16] <= 0
    frozen = train_only_new(model := hf_init.from_pretrained(cls, tiny("bert"), **options))
    assert (
        "trained: bert.encoder.layer.2.attention.self.query.weight, " in str(frozen)
        and not model.classifier.weight.requires_grad
    )
    frozen.thaw(frozen.names[:1])
    assert frozen.new_parts and not model.classifier.weight.requires_grad
    frozen.thaw()
    assert not frozen.new_parts and all(parameter.requires_grad for parameter in model.parameters())


# Moving, copying, other passes.


def test_a_model_that_is_moved_or_copied_still_trains_its_rows(tiny):
    model = grown(tiny)
    frozen = train_only_new(model)
    model.double()
    before = copied(model)
    take_steps(model, torch.optim.SGD(parameter_groups(model, lr=1.0, weight_decay=0)), tokens, 1)
    assert moved_rows(model, before) == NEW and not frozen.verify().ok  # another dtype is a move
    twin = copy.deepcopy(model)
    before = copied(model)
    take_steps(twin, torch.optim.SGD([p for p in twin.parameters() if p.requires_grad], lr=1.0), tokens, 2)
    assert moved_rows(twin, before) == NEW and not moved(model, before)


@pytest.mark.slow
def test_checkpointed_activations_give_the_same_gradient(tiny):
    gradients = []
    for some in (False, True):
        model = grown(tiny, keep={"*mlp*": "leading"}, intermediate_size=96, num_hidden_layers=3)
        train_only_new(model, dtype=torch.float64)
        if some:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        model.train()
        torch.manual_seed(0)
        model(**tokens()).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert len(gradients[0]) == 7 + 9
    assert all(torch.equal(grad, gradients[1][name]) for name, grad in gradients[0].items())


def test_parts_of_a_model_may_run_alone_and_an_interrupted_pass_leaves_nothing(tiny):
    model = grown(tiny)
    train_only_new(model)
    (parameter,) = [p for p in model.parameters() if p.requires_grad]
    model.model.embed_tokens(torch.tensor([100])).sum().backward()
    assert parameter.grad.abs().sum(1).nonzero().flatten().tolist() == [4]
    with pytest.raises(IndexError):
        model(input_ids=torch.tensor([[1, 200]]))
    assert "weight" not in vars(model.model.embed_tokens)
    with torch.no_grad():
        assert not model(**tokens()).logits.requires_grad
    assert checkpoint(model.model.embed_tokens, torch.tensor([100]), use_reentrant=False).requires_grad
    assert model.generate(torch.tensor([[1, 5]]), max_new_tokens=2, do_sample=False).shape == (1, 4)


# Regions of other kinds.


@pytest.mark.slow
def test_columns_and_middles_have_memory_of_their_own_and_are_as_exact(tiny, tmp_path):
    """A wider feed-forward: rows of two tensors, columns of a third; and labels between kept ones."""
    model = grown(tiny, keep={"*mlp*": "leading"}, intermediate_size=96)
    before, frozen = copied(model), train_only_new(model)
    take_steps(model, torch.optim.AdamW(parameter_groups(model, lr=1e-2, weight_decay=0.1), fused=True), tokens, 3)
    model.save_pretrained(tmp_path)
    frozen.raise_if_moved()
    saved = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(saved[name][:, :64], before[name][:, :64])
    assert (saved[name][:, 64:] != before[name][:, 64:]).all()


def test_rows_between_kept_ones(tiny, tmp_path):
    cls = transformers.BertForSequenceClassification
    hf_init.extend(tiny("bert"), tmp_path / "three", cls, num_labels=3)
    keep = {"classifier.*": [None, 0, None, 1, 2, None]}
    model = hf_init.from_pretrained(cls, tmp_path / "three", keep=keep, num_labels=6)
    before, frozen = copied(model), train_only_new(model)
    assert "classifier.weight[" in str(frozen)
    take_steps(model, torch.optim.SGD(parameter_groups(model, lr=0.1), momentum=0.9), words, 2)
    frozen.raise_if_moved()
    assert moved(model, before) == {"classifier.weight", "classifier.bias"}
    for name in ("classifier.weight", "classifier.bias"):
        assert moved_rows(model, before, name) == [0, 2, 5]


# What freezing does with a tensor that is new in part, said.


def test_a_resized_tensor_needs_a_word(tiny):
    model = grown(tiny)
    with pytest.raises(HfInitError, match=r"embed_tokens.weight: kept in part, new in part. Say what trains"):
        freeze(model)
    with pytest.raises(HfInitError, match=r"resized is 'rows', expected one of 'new', 'whole', 'none'"):
        freeze(model, resized="rows")
    whole = freeze(model, resized="whole")
    assert EMBEDDING not in whole.names and model.lm_head.weight.requires_grad
    none = freeze(model, resized="none")
    assert EMBEDDING in none.names and not any(p.requires_grad for p in model.parameters())
    train_only_new(model)
    with pytest.raises(HfInitError, match="trained apart already"):
        train_only_new(model)


def test_a_kept_row_that_moves_is_named_and_a_new_one_is_not(tiny):
    model = grown(tiny)
    frozen = train_only_new(model)
    model.model.embed_tokens.weight.data[100] += 1
    frozen.raise_if_moved()
    model.model.embed_tokens.weight.data[5, 2] = 7
    with pytest.raises(HfInitError, match=r"embed_tokens.* at row 5, index \[5, 2\] \(1 row changed\): seen 7.0"):
        frozen.raise_if_moved()


def test_an_optimizer_from_before_lacks_the_rows(tiny):
    model = grown(tiny)
    early = torch.optim.AdamW(model.parameters())
    frozen = train_only_new(model)
    with pytest.raises(HfInitError, match=r"(?s)holds what is frozen: model.e.*lacks what is to train: hf_init_new"):
        check_optimizer(early, model)
    with pytest.raises(HfInitError, match="lacks what is to train"):
        Watch(frozen, optimizer=torch.optim.AdamW([nn.Parameter(torch.zeros(2))]))


def test_norms_tell_the_new_from_the_pretrained(tiny):
    model = grown(tiny)
    frozen = train_only_new(model)
    model(**tokens()).loss.backward()
    norms = Watch(frozen).norms()
    weight = model.model.embed_tokens.weight.detach()
    assert norms["norm/new"] == pytest.approx(float(weight[96:].norm()))
    everything = torch.cat(
        [p.detach().flatten() for n, p in model.named_parameters() if not n.startswith("hf_init_new")]
    )
    assert norms["norm/new"] ** 2 + norms["norm/pretrained"] ** 2 == pytest.approx(float(everything.norm()) ** 2)
    assert norms["grad_norm/new"] > 0 and norms["grad_norm/pretrained"] == 0
    frozen.thaw()
    model(**tokens()).loss.backward()
    assert Watch(frozen).norms()["grad_norm/pretrained"] > 0


@pytest.mark.slow
def test_smollm2_with_new_tokens(smollm2):
    """bfloat16, tied, 49,152 rows kept: one step of AdamW moves the fifty new ones."""
    keep = {"*embed_tokens*": "leading"}
    model = hf_init.from_pretrained(LLAMA, smollm2, keep=keep, config={"vocab_size": 49202}, layers="0-1")
    before, frozen = model.model.embed_tokens.weight.detach().clone(), train_only_new(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=1e-2))
    ids = torch.arange(49100, 49202)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    frozen.raise_if_moved()
    differs = (model.lm_head.weight != before).any(1).nonzero().flatten().tolist()
    assert differs == list(range(49152, 49202))
