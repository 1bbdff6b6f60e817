"""The fixed set of results of same_results.py, made by the checkout on the path through its public names alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers as t
from _same_bases import SIZE, VISION
from torch import nn

import hf_init
from hf_init import schemes

RENAMED: dict[str, str] = {}
"""Old option name to new. The jobs below say the old one; a checkout that refuses it gets the new one."""

# Every scheme that fills a whole tensor, with settings that aren't its defaults, and the layer that it fills.
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("zeros", "ones", "eye", "model", "declared", "auto", "skip", "etf")},
    **{name: {} for name in ("lecun_uniform", "lecun_normal", "small_xavier")},
    "constant": {"val": 0.3},
    "uniform": {"a": -1.0, "b": 0.5},
    "normal": {"mean": 0.5, "std": 0.02},
    "trunc_normal": {"std": 0.02},
    "trunc_normal_absolute": {"std": 2.0, "a": -1.0, "b": 2.0},
    "xavier_uniform": {"gain": "relu"},
    "xavier_normal": {"gain": 0.5},
    "kaiming_uniform": {"a": 0.1, "mode": "fan_out"},
    "kaiming_normal": {"nonlinearity": "gelu"},
    "variance_scaling": {"scale": 2.0, "mode": "fan_avg", "distribution": "uniform"},
    "orthogonal": {"gain": 0.5},
    "sparse": {"sparsity": 0.25},
    "scaled_residual": {"layers": 12},
    "delta_orthogonal": {"gain": 0.5},
    "dirac": {"groups": 2},
    "embedding": {"padding": 2},
    "lstm_bias": {"forget": 2.0},
    "gru_bias": {"update": 0.5},
    "log_prior": {"counts": [3, 1, 4, 1, 5, 9]},
}
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "delta_orthogonal": lambda: nn.Conv1d(4, 8, 3),
    "dirac": lambda: nn.Conv1d(4, 8, 3),
    "embedding": lambda: nn.Embedding(6, 8),
    "lstm_bias": lambda: nn.LSTM(4, 5),
    "gru_bias": lambda: nn.GRU(4, 5),
}
LEAVES = {"lstm_bias": "bias_*", "gru_bias": "bias_*", "log_prior": "bias", "skip": "*"}
# Every scheme that makes rows of a table; ``rows.npy`` and ``donor`` are among the bases.
ROWS: dict[str, dict[str, Any]] = {
    "mean": {"noise": 0.1},
    "gaussian": {"scale": 0.5},
    "subtokens": {"weights": "exp_first", "norm": "median"},
    "description": {"weights": "characters"},
    "copy": {"token": "a"},
    "interpolate": {"t": 0.25, "way": "slerp", "tokens": ["a", "b"]},
    "from_file": {"path": "rows.npy"},
    "omp": {"donor": "donor", "k": 3},
}
OTHER_SCHEMES = ("from_tensor", "matched_normal", "fitted", "distilled")  # have a job of their own
# Every scheme that computes from tensors of the base: a base, and growth that asks for it.
GROWTH: dict[str, tuple[str, dict[str, Any]]] = {
    "near_identity": ("bert", {"layers": "0,new,1"}),
    "resample": ("vit", {"image_size": 24}),
    "pi_resize": ("vit", {"patch_size": 4}),
    "mix_channels": ("vit", {"num_channels": 6, "channels": "repeat"}),
    "mean_of_groups": ("tied", {"kv_heads": 1}),
    "repeat": ("tied", {"layers": "0,new,1", "new_layers": "copy"}),
}

GOOD = ("good film", "a moving story", "great acting", "it was great", "good story", "photon light")
BAD = ("bad film", "a dull story", "awful acting", "it was awful", "bad news", "red stone")
EXAMPLES = [(text, "good") for text in GOOD] + [(text, "bad") for text in BAD]
TOPIC = {"kind": "sequence-classification", "labels": ["news", "sport", "arts"], "recipe": "classic"}
ENTITIES = {"kind": "token-classification", "labels": ["O", "B-PER", "I-PER"]}
DISTILLED = ["a photonic chip", "the photonic crystal is photonic"]
TOKENS = [" photonic", {"token": "<tool>", "description": "a light of stone"}]


class Zoo(t.BertPreTrainedModel):
    """A layer for every scheme that fills a whole tensor."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.bert = t.BertModel(config)
        self.zoo = nn.ModuleDict({name: LAYERS.get(name, lambda: nn.Linear(8, 6))() for name in SETTINGS})
        self.post_init()


ZOO = {
    "seed": 5,
    "rules": [
        {"name": f"zoo.{name}.{LEAVES.get(name, 'weight')}", "scheme": {name: settings}}
        for name, settings in SETTINGS.items()
    ],
    "default": "auto",
}


class Classifier(hf_init.InitMixin, t.BertForSequenceClassification):
    """Carries its recipe."""

    init_recipe = hf_init.Recipe([hf_init.Rule(schemes.Normal(std=0.02), name="classifier.weight")], default="auto")


@dataclass(frozen=True)
class Job:
    """One result: written folder to folder, or loaded into memory and saved.

    Attributes:
        base: a folder, or several by their prefixes; None: the class is made of a config, ``words["config"]``.
        words: what ``plan``, ``extend`` and ``from_pretrained`` take. files: what ``extend`` alone takes.
    """

    base: Any
    cls: Any = None
    words: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    memory: bool = False


def jobs(at: Callable[[str], str]) -> dict[str, Job]:
    """Return all jobs by name, in an order in which each may start from results of those before."""
    return {**heads(at), **tokens(at), **several_heads(at), **architectures(at), **in_memory(at), **real(at)}


def heads(at: Callable[[str], str]) -> dict[str, Job]:
    bert, trained, classifier = at("bert"), at("classifier"), "BertForSequenceClassification"
    of_labels: dict[str, dict[str, Any]] = {
        "reordered": {
            "labels": ["pos", "mixed", "neg", "neutral"],
            "label_counts": {"pos": 4, "mixed": 1, "neg": 2, "neutral": 9},
        },
        "renamed": {"rename_labels": {"neg": "bad"}, "labels": ["pos", "bad"]},
        "leading": {"num_labels": 5, "labels_keep": "leading", "recipe": "transformer"},
        "none": {
            "labels": ["a", "b"],
            "labels_keep": "none",
            "recipe": {"rules": [{"name": "*.weight", "scheme": "etf"}], "seed": 3},
        },
    }
    fitted: dict[str, dict[str, Any]] = {
        method: {"head": method} for method in ("ridge", "class_means", "lda", "logistic")
    }
    vision: dict[str, Any] = {"labels": ["cat", "dog"], "recipe": "vision", "drop": ["pooler.*"]}
    tags: dict[str, Any] = {"num_labels": 3, "recipe": "vision", "drop": ["lm_head.*"]}
    return {
        "head of BERT": Job(bert, classifier, {"labels": ["a", "b", "c"]}, {"digest": True, "rename": False}),
        "head of Llama": Job(at("untied"), "LlamaForTokenClassification", tags),
        "head of ViT": Job(at("vit"), t.AutoModelForImageClassification, vision),
        "head of Wav2Vec2": Job(at("wav2vec2"), t.AutoModelForAudioClassification, {"num_labels": 4, "seed": 9}),
        **{f"labels {name}": Job(trained, None, words) for name, words in of_labels.items()},
        "regression": Job(
            bert, classifier, {"num_labels": 1, "config": {"problem_type": "regression"}, "target_mean": 2.5}
        ),
        **{
            f"fitted {name}": Job(bert, classifier, {"labels": ["bad", "good"], "examples": EXAMPLES, **words})
            for name, words in fitted.items()
        },
        "verbalizer": Job(
            at("tied"), "LlamaForSequenceClassification", {"labels": [" good", " bad"], "head": "verbalizer"}
        ),
        "fitted beside": Job(
            at("fitted ridge"),
            None,
            {
                "labels": ["good", "film", "bad"],
                "head": "logistic",
                "examples": [*EXAMPLES, ("the film", "film"), ("film", "film"), ("a film", "film")],
            },
        ),
    }


def tokens(at: Callable[[str], str]) -> dict[str, Job]:
    tied, untied = at("tied"), at("untied")
    places = {"path": at("rows.npy"), "donor": at("donor")}
    row_schemes: dict[str, Any] = {
        name: {name: {key: places.get(key, value) for key, value in settings.items()}}
        for name, settings in ROWS.items()
    } | {"from_tensor": schemes.FromTensor(values=torch.linspace(-1, 1, 2 * SIZE["hidden_size"]).reshape(2, -1))}
    new = {name: TOKENS for name in row_schemes} | {"description": TOKENS[1:], "omp": ["ight", "reat"]}
    return {
        "tokens tied": Job(tied, None, {"add_tokens": TOKENS, "special_tokens": ["<end>"], "pad_to_multiple_of": 8}),
        "tokens untied": Job(untied, None, {"add_tokens": TOKENS, "guarantee": "distribution", "seed": 4}),
        "tokens to learn": Job(untied, None, {"add_tokens": TOKENS, "guarantee": "learning"}),
        "tokens again": Job(at("tokens tied"), None, {"add_tokens": ["stonelight"], "reinit_rows": [5, 7]}),
        "tokens of shards": Job(at("shards"), None, {"add_tokens": TOKENS}),
        "tokens shrunk": Job(untied, None, {"add_tokens": TOKENS, "allow_shrink": True}),
        "tokens and labels": Job(tied, "LlamaForSequenceClassification", {"add_tokens": TOKENS, "num_labels": 2}),
        "tokenizer": Job(untied, None, {"tokenizer": at("other-tokenizer"), "allow_shrink": True}),
        **{
            f"rows {name}": Job(tied, None, {"add_tokens": new[name], "row_scheme": scheme})
            for name, scheme in row_schemes.items()
        },
        "rows distilled": Job(
            untied,
            None,
            {"add_tokens": TOKENS[:1], "row_scheme": "distilled(steps=2, before=3, after=2)", "texts": DISTILLED},
        ),
        "rows of each side": Job(
            untied, None, {"add_tokens": TOKENS[:1], "input_rows": "gaussian", "output_rows": "mean"}
        ),
    }


def several_heads(at: Callable[[str], str]) -> dict[str, Job]:
    added = {"topic": TOPIC, "entities": ENTITIES, "meaning": "similarity"}
    return {
        "heads added": Job(at("bert"), None, {"add_heads": added}),
        "heads named": Job(at("classifier"), None, {"name_head": "mood", "add_heads": {"entities": ENTITIES}}),
        "heads taken": Job(
            at("heads added"), None, {"take_heads": {"mood": at("classifier"), "more": (at("heads added"), "topic")}}
        ),
        "heads renamed": Job(at("heads taken"), None, {"remove_heads": ["topic"], "rename_heads": {"more": "topic"}}),
        "heads exported": Job(at("heads renamed"), None, {"export_head": "mood"}),
        "heads of a language model": Job(at("tied"), None, {"name_head": "lm", "add_heads": {"reward": "reward"}}),
    }


def architectures(at: Callable[[str], str]) -> dict[str, Job]:
    bert, position = at("bert"), "embeddings.position_embeddings.weight"
    towers = {"vision_tower.": at("clip"), "language_model.": at("untied")}
    text = t.AutoConfig.from_pretrained(at("untied"))
    whole = t.LlavaConfig(vision_config=t.CLIPVisionConfig(**VISION), text_config=text, image_token_index=95)
    rows = [*range(0, 64, 2), *[None] * 16, *range(1, 64, 2)]
    kept: dict[str, Any] = {
        "leading": (80, "leading"),
        "none": (80, "none"),
        "rows": (80, rows),
        "columns": (64, {"dim": 1, "index": [*range(31, -1, -1)]}),
        "boxes": (80, {"boxes": [[[[16, 80], [0, 32]], [[0, 64], [0, 32]]]]}),
    }
    longer = {"config": {"max_position_embeddings": 80}, "keep": {position: "leading"}}
    values = torch.linspace(-1, 1, 16 * SIZE["hidden_size"]).reshape(16, -1)
    further = {"matched": schemes.MatchedNormal(scale=0.5), "given": schemes.FromTensor(values=values)}
    return {
        "schemes": Job(bert, Zoo, {"recipe": ZOO}),
        "layers of GPT-2": Job(at("gpt2"), None, {"config": {"n_layer": 4}, "recipe": "auto"}),
        "experts of Mixtral": Job(
            at("mixtral"), None, {"config": {"num_hidden_layers": 3}}, {"max_shard_size": "60KB"}
        ),
        "experts of Qwen": Job(
            at("qwen-moe"), None, {"config": {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}}
        ),
        "head of Mixtral": Job(at("mixtral"), "MixtralForTokenClassification", {"num_labels": 2, "drop": "lm_head.*"}),
        "head of shards": Job(at("shards"), "LlamaForSequenceClassification", {"num_labels": 2}, {"link": "hard"}),
        **{f"growth {name}": Job(at(base), None, words) for name, (base, words) in GROWTH.items()},
        "towers": Job(towers, t.LlavaForConditionalGeneration, {"config": whole, "recipe": "auto"}, {"digest": True}),
        **{
            f"keep {name}": Job(bert, None, {"config": {"max_position_embeddings": rows}, "keep": {position: how}})
            for name, (rows, how) in kept.items()
        },
        **{
            f"places {name}": Job(
                bert, None, {**longer, "recipe": hf_init.Recipe([hf_init.Rule(scheme, name=position)])}
            )
            for name, scheme in further.items()
        },
    }


def in_memory(at: Callable[[str], str]) -> dict[str, Job]:
    classifier = t.BertForSequenceClassification
    made: dict[str, tuple[str | None, Any, dict[str, Any]]] = {
        "mixin": (at("bert"), Classifier, {"num_labels": 3, "config": {"num_hidden_layers": 3}}),
        "mixin of a config": (None, Classifier, {"config": t.BertConfig(vocab_size=40, **SIZE)}),
        "head": (at("bert"), classifier, {"labels": ["a", "b"], "recipe": "classic", "dtype": "bfloat16"}),
        "fitted": (at("bert"), classifier, {"labels": ["bad", "good"], "head": "ridge", "examples": EXAMPLES}),
        "tokens": (at("tied"), t.AutoModelForCausalLM, {"add_tokens": TOKENS}),
        "experts": (at("mixtral"), t.AutoModelForCausalLM, {"config": {"num_hidden_layers": 3}}),
        "heads": (at("heads added"), hf_init.MultiHead, {"add_heads": {"value": "value"}}),
    }
    return {f"memory, {name}": Job(base, cls, words, memory=True) for name, (base, cls, words) in made.items()}


def real(at: Callable[[str], str]) -> dict[str, Job]:
    """Return the jobs on real checkpoints, those of them that were fetched before."""
    found = {
        "MiniLM": Job(
            at("all-MiniLM-L6-v2"), "BertForSequenceClassification", {"labels": ["a", "b"], "recipe": "auto"}
        ),
        "SmolLM2": Job(at("SmolLM2-135M-Instruct"), None, {"add_tokens": [" photoelectron", "<tool>"]}),
    }
    return {name: job for name, job in found.items() if Path(job.base).is_dir()}


def call(function: Callable[..., Any], *given: Any, **words: Any) -> Any:
    """Call with the old names of options, and with the new name of each that is refused."""
    try:
        return function(*given, **words)
    except (TypeError, hf_init.HfInitError) as error:
        renamed = {RENAMED.get(name, name) if name in str(error) else name: value for name, value in words.items()}
        if renamed.keys() == words.keys():
            raise
    return call(function, *given, **renamed)


def run(job: Job, folder: Path) -> None:
    out, plan = folder / "out", None
    if job.base is None:
        job.cls(**job.words).save_pretrained(out)
    elif job.memory:
        own = issubclass(job.cls, hf_init.InitMixin)
        load = job.cls.from_pretrained if own else hf_init.from_pretrained
        model = call(load, *([] if own else [job.cls]), job.base, **job.words)
        model.save_pretrained(out)
        plan = model.init_plan
    else:
        plan = call(hf_init.plan, job.base, job.cls, **job.words)
        call(hf_init.extend, job.base, out, job.cls, **job.words, **job.files)
    if plan is not None:
        (folder / "plan.json").write_text(json.dumps(plan.to_json(), indent=1), encoding="utf-8")
        (folder / "plan.txt").write_text(str(plan), encoding="utf-8")


FAILURES = (
    hf_init.HfInitError,
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def main(checkout: Path, root: Path, *bases: Path) -> None:
    """Make every result below ``root``; a job that fails leaves ``failed.txt``."""
    if checkout.resolve() not in Path(hf_init.__file__).resolve().parents:
        sys.exit(f"hf_init comes from {hf_init.__file__}, not from {checkout}")
    torch.set_num_threads(1)
    t.utils.logging.disable_progress_bar()
    t.utils.logging.set_verbosity_error()

    def at(name: str) -> str:
        return next((str(base / name) for base in bases if (base / name).exists()), str(root / name / "out"))

    for name, job in jobs(at).items():
        (root / name).mkdir(parents=True)
        torch.manual_seed(0)
        try:
            run(job, root / name)
        except FAILURES as error:
            (root / name / "failed.txt").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
