"""Bad recipes, labels, config values and other options: one clear message, exit 2, nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from refusals import HEAD, refusal

import hf_init
from hf_init import HfInitError


@pytest.fixture
def refused(tiny, tmp_path, capsys) -> Callable[..., str]:
    """The message with which a tiny BERT isn't extended with these options."""

    def run(*argv: object) -> str:
        return refusal(tmp_path, capsys, "extend", tiny("bert"), tmp_path / "out", *HEAD, *argv)

    return run


# Usage.


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["extendd", "a"], "unknown command 'extendd' (did you mean 'extend'?); see `hf-init --help`"),
        (["--quiet", "plann"], "unknown command 'plann' (did you mean 'plan'?); see `hf-init --help`"),
        (["extend", "a"], "BASE or OUT is missing beside a: give a folder or a hub id, or all parts"),
        (
            ["plan", "a", "--labelz", "x"],
            "unrecognized arguments: --labelz x (did you mean '--labels'?)\nusage: hf-init plan",
        ),
        (["plan", "a", "--lab", "x"], "unrecognized arguments: --lab x"),
        (["verify", "a", "--recipe", "x"], "\nusage: hf-init verify OUT [options]; `hf-init verify --help` lists them"),
        (["diff", "a"], "arguments are required: B\nusage: hf-init diff A B [options]; "),
        (["schemes", "norml"], "unknown scheme 'norml' (did you mean 'normal'?)"),
    ],
)
def test_bad_usage(tmp_path, capsys, argv, words):
    assert words in refusal(tmp_path, capsys, *argv)


# Recipes.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules: [", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("seed: 2024-13-45", "not valid YAML"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
        ("rules: [{name: 'classifier.*', scheme: null}]", "rule 1 (name: classifier.*): it has no scheme"),
        ("rules: {name: x, scheme: zeros}", "rules must be a list of rules"),
        ("- a\n- b", "a recipe is a mapping with rules, default and seed"),
        ("seed: 1\nseed: 2", "key given twice: 'seed'"),
        ("seed: -1", "seed must be a whole number"),
        ("seed: 1.5", "seed must be a whole number"),
        ("defaults: zeros", "unknown key in a recipe: 'defaults' (did you mean 'default'?)"),
        ("default: zeross", "unknown scheme 'zeross' (did you mean 'zeros'?)"),
        ("default: error", "no rule covers classifier.weight, classifier.bias"),
        ("rules: [{name: 'classifier.*', schem: zeros}]", "'schem' (did you mean 'scheme'?)"),
        ("rules: [{name: 'classifier.*'}]", "rule 1 (name: classifier.*): it has no scheme"),
        ("rules: [{scheme: zeros}]", "needs at least one condition"),
        ("rules: [{name: '[classifier.*', scheme: zeros}]", "bad glob '[classifier.*': '[' without ']'"),
        ("rules: [{role: biass, scheme: zeros}]", "no such role: 'biass'"),
        ("rules: [{name: 'classifier.*', scheme: {normal: {stdd: 1}}}]", "no setting 'stdd' (did you mean 'std'?)"),
        ("rules: [{name: 'classifier.*', scheme: {normal: {std: abc}}}]", "std is 'abc', expected a finite number"),
        ("rules: [{name: 'classifier.*', scheme: {normal: {std: -0.1}}}]", "std is -0.1, expected a finite number"),
        ("rules: [{name: 'classifier.*', scheme: {normal: {std: .nan}}}]", "std is nan, expected a finite number"),
        ("rules: [{name: 'classifier.*', scheme: {constant: {val: .inf}}}]", "val is inf, expected a finite number"),
        ("rules: [{name: 'classifier.weight', scheme: {sparse: {sparsity: 1.5}}}]", "sparsity is 1.5, expected a numb"),
        ("rules: [{name: 'classifier.*', scheme: orthogonal}]", "orthogonal can't fill 'classifier.bias' of shape"),
        ("rules: [{name: 'classifierr.*', scheme: zeros}]", "matches no tensor (did you mean 'classifier."),
        ("rules: [{module: Conv9d, scheme: zeros}]", "matches no tensor; what is new: classifier"),
        ("rules: [{name: 'bert.*', scheme: zeros}]", "matches only pretrained tensors"),
        ("rules: [{role: embedding, scheme: zeros}]", "matches only pretrained tensors"),
    ],
)
def test_a_bad_recipe(refused, tmp_path, text, words):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    message = refused("--num-labels", "3", "--recipe", path)
    assert words in message.replace("classifier.bias, classifier.weight", "classifier.weight, classifier.bias")


def test_a_recipe_that_is_not_there(refused, tmp_path):
    for name in (tmp_path / "none.yaml", "visoin"):
        message = refused("--recipe", name)
        assert f"recipe '{name}': there is no such file" in message and "known recipes are auto, classic" in message
    assert "(did you mean 'vision'?)" in message
    assert "can't be read (Is a directory)" in refused("--recipe", tmp_path)


def test_a_recipe_that_is_no_text(refused, tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not valid YAML" in refused("--recipe", tmp_path / "recipe.yaml")


def test_every_dead_rule_is_named_at_once(refused, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("rules: [{name: x, scheme: zeros}, {name: y, scheme: zeros}, {name: 'class*', scheme: zeros}]")
    message = refused("--recipe", path)
    assert "rule 1 (name='x')" in message and "rule 2 (name='y')" in message and "rule 3" not in message


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("classifier.weight", "expected 'GLOB=SCHEME'"),
        ("=zeros", "expected 'GLOB=SCHEME'"),
        ("classifier.weight=", "expected 'GLOB=SCHEME'"),
        ("classifier.weight=normal(0.02)", "every setting by its name"),
        ("classifier.weight=normal(std=0.02", "expected a name or 'name(setting=value)'"),
        ("classifier.weight=normal(std=__import__('os'))", "isn't a number or a word"),
        ("classifier.weight=normal(std=1, std=2)", "a setting is given twice"),
        ("classifier.weight=normal(std=-1)", "std is -1, expected a finite number of at least 0"),
        ("classifier.weight=constant(val=nan)", "val is 'nan', expected a finite number"),
        ("classifier.weight=sparse(sparsity=2)", "expected a number from 0 to 1"),
        ("classifier.bias=orthogonal", "orthogonal can't fill 'classifier.bias'"),
        ("[=zeros", "bad glob '['"),
        ("x=zeros", "matches no tensor"),
        ("bert.*=zeros", "matches only pretrained tensors"),
    ],
)
def test_a_bad_rule_on_the_command_line(refused, rule, words):
    assert words in refused("--rules", rule)


# Labels.


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--labels", ""), "labels: expected a list of names"),
        (("--labels", "a,,b"), "labels: expected a list of names"),
        (("--labels", "a,b, a"), "labels: named twice: a"),
        (("--labels", "a,b", "--label-counts", "a=1,b=0"), "hf-init: --label-counts: no example of 'b'"),
        (("--num-labels", "0"), "num-labels: expected a whole number of at least 1, not 0"),
        (("--num-labels", "-2"), "--num-labels: expected a whole number of at least 1, not -2"),
        (("--num-labels", "99999999999"), "--num-labels: 99999999999 are more than 10000000; a config names each"),
        (("--num-labels", "two"), "--num-labels: expected a whole number, not 'two'"),
        (("--num-labels", "2", "--labels", "a,b"), "--labels (['a', 'b']) and --num-labels (2): give one of the two"),
        (("--config", "num_labels=2", "--labels", "a,b"), "give one of the two"),
        (("--config", "num_labels=0"), "num-labels: expected a whole number of at least 1, not 0"),
        (("--config", "num_labels=2", "--num-labels", "3"), "given twice: num_labels (2 and 3)"),
    ],
)
def test_bad_labels(refused, argv, words):
    assert words in refused(*argv)


@pytest.mark.parametrize("labels", ["ab", [], ["a", 1], [" "], ["a", "a"]])
def test_bad_labels_in_python(tiny, labels):
    with pytest.raises(HfInitError, match="labels"):
        hf_init.plan(tiny("bert"), HEAD[1], labels=labels)


# Config values.


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("hidden_size", "--config 'hidden_size': expected KEY=VALUE"),
        ("=3", "--config '=3': expected KEY=VALUE"),
        ("hidden_size=", "--config 'hidden_size=': expected KEY=VALUE"),
        ("hiden_size=3", "take no 'hiden_size' (did you mean 'hidden_size'?)"),
        ("hidden_size=banana", "expected int, got str (value: 'banana')"),
        ("initializer_range=NaN", "expected float, got str (value: 'NaN')"),
        ("hidden_size=33", "BertForSequenceClassification can't be built with this config"),
        ("hidden_act=nosuch", "BertForSequenceClassification can't be built with this config"),
        ("text_config.vocab_size=3", "BertConfig has no field 'text_config'"),
        ("hidden_size.x=3", "int has no field 'x'"),
        ("to_dict=3", "'to_dict': no config value"),
        ("_name_or_path=x", "'_name_or_path': no config value"),
        ("trust_remote_code=true", "'trust_remote_code': no config value"),
        ("revision=main", "config: revision: no value of a config but an option"),
        ("quantization_config={}", "quantization_config: extend the unquantized base"),
        ("dtype=float16", "dtype: the bytes of a checkpoint are kept as they are"),
        ("device_map=auto", "device_map: the bytes of a checkpoint are kept as they are"),
        ("seed=3", "take no 'seed'"),
        ("base=x", "take no 'base'"),
    ],
)
def test_a_bad_config_value(refused, value, words):
    assert words in refused("--config", value)


def test_a_config_value_given_twice(refused):
    message = refused("--config", "hidden_act=relu", "--config", "hidden_act=gelu")
    assert "--config hidden_act: given twice, as 'relu' and as 'gelu'" in message


@pytest.mark.parametrize("options", [{"dtype": "float16"}, {"torch_dtype": "float16"}, {"device_map": "auto"}])
def test_what_only_loading_into_memory_has_is_refused_by_extend(tiny, tmp_path, options):
    with pytest.raises(HfInitError, match=f"extend takes no '{next(iter(options))}'"):
        hf_init.extend(tiny("bert"), tmp_path / "out", HEAD[1], **options)
    assert not list(tmp_path.iterdir())


def test_unknown_words_are_refused_in_python_too(tiny):
    with pytest.raises(HfInitError, match=r"plan takes no 'recipee' \(did you mean 'recipe'\?\)"):
        hf_init.plan(tiny("bert"), HEAD[1], recipee=None)
    with pytest.raises(HfInitError, match=r"verify takes no 'everythin' \(did you mean 'everything'\?\)"):
        hf_init.verify(tiny("bert"), everythin=True)
    with pytest.raises(HfInitError, match=r"take no 'labls' \(did you mean 'labels'\?\)"):
        hf_init.from_pretrained(transformers.BertForSequenceClassification, tiny("bert"), labls=["a", "b"])


def test_errors_speak_the_caller_s_language(tiny, refused):
    """An option is an argument in Python and has its dashes on the command line."""
    message = refused("--config", "vocab_size=100")
    assert "Say which elements are kept: --keep GLOB=leading keeps each" in message and "keep={" not in message
    with pytest.raises(HfInitError, match=r"kept: keep={GLOB: 'leading'} keeps each"):
        hf_init.plan(tiny("bert"), HEAD[1], config={"vocab_size": 100})
    message = refused("--labels", "a,b,c", "--num-labels", "3")
    assert "--labels (['a', 'b', 'c']) and --num-labels (3): give one of the two" in message


# Other options.


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--keep", "classifier.*"), "--keep 'classifier.*': expected GLOB=HOW"),
        (("--keep", "=leading"), "--keep '=leading': expected GLOB=HOW"),
        (("--keep", "*=leadin"), "unknown correspondence for '*': 'leadin'; known: 'leading', 'none'"),
        (("--keep", "nosuch=leading"), "'nosuch' names no tensor that the checkpoint and the target share"),
        (("--keep", "bert.encoder.layer.1=none"), "'bert.encoder.layer.1' (did you mean 'bert.encoder.layer.1.*'?)"),
        (("--rules", "classifier=zeros"), "matches no tensor (did you mean 'classifier.*'?)"),
        (("--rules", "pooler.dense.weight=zeros"), "matches no tensor (did you mean '*.pooler.dense.weight'?)"),
        (("--drop", "encoder.layer.1"), "is named by 'encoder.layer.1' (did you mean 'encoder.layer.1.*'?)"),
        (("--allow-new", "classifier,x"), "named by 'classifier' (did you mean 'classifier.*'?), 'x'"),
        (("--allow-new", "clasifier.*"), "named by 'clasifier.*' (did you mean 'classifier.*'?)"),
        (
            ("--key-mapping", "(a=b"),
            "--key-mapping '(a=b': this is no regular expression with its replacement: missing )",
        ),
        (("--key-mapping", r"a=\2"), "invalid group reference 2"),
        (("--keep", "a=none", "--keep", "a=leading"), "--keep a: given twice"),
        (("--seed", "-1"), "seed must be a whole number from 0 to 2**64 - 1, not -1"),
        (("--seed", str(2**64)), "seed must be a whole number from 0 to 2**64 - 1"),
        (("--seed", "one"), "--seed: expected a whole number, not 'one'"),
        (("--seed", "1.5"), "--seed: expected a whole number, not '1.5'"),
        (("--max-shard-size", "big"), "--max-shard-size: expected a size such as '5GB' or '500MiB', not 'big'"),
        (("--max-shard-size", "5"), "not '5'"),
        (("--max-shard-size", "-5GB"), "not '-5GB'"),
        (("--max-shard-size", "0GB"), "not '0GB'"),
        (("--max-shard-size", "nanGB"), "not 'nanGB'"),
        (("--max-shard-size", "5 Gb b"), "not '5 Gb b'"),
    ],
)
def test_a_bad_option(refused, argv, words):
    assert words in refused(*(f"{argv[0]}={argv[1]}", *argv[2:]))


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "", "1 TB"])
def test_a_bad_shard_size_in_python(tiny, tmp_path, size):
    with pytest.raises(HfInitError, match="max_shard_size: expected a size"):
        hf_init.extend(tiny("bert"), tmp_path / "out", HEAD[1], max_shard_size=size)


def test_shard_sizes_that_are_right(tiny, tmp_path):
    for k, size in enumerate(["20KB", "20 kb", "19.5KiB", 20_000]):
        out = tmp_path / str(k)
        hf_init.extend(tiny("bert"), out, HEAD[1], max_shard_size=size)
        assert len(list(Path(out).glob("model-*.safetensors"))) > 2


# Values of nested configs.


def test_a_dotted_key_reaches_into_a_mapping(tiny, tmp_path):
    out = tmp_path / "out"
    values = {"rope_parameters.rope_theta": 5000.0}
    hf_init.extend(tiny("llama"), out, "LlamaForTokenClassification", config=values)
    assert json.loads((out / "config.json").read_text())["rope_parameters"]["rope_theta"] == 5000.0


def test_a_dotted_key_reaches_into_a_nested_config(bases, tmp_path):
    base = bases("two towers of one model")
    hf_init.extend(base, tmp_path / "out", config={"text_config.eos_token_id": 50})
    assert json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]["eos_token_id"] == 50
    for values, message in [
        ({"text_config.vocab_siz": 50}, r"CLIPTextConfig has no field 'vocab_siz' \(did you mean 'vocab_size'\?\)"),
        ({"text_config.vocab_size": "many"}, "expected int"),
    ]:
        with pytest.raises(HfInitError, match=message):
            hf_init.plan(base, config=values)


def test_a_config_object_stays_the_callers_own(tiny):
    config = transformers.BertConfig.from_pretrained(tiny("bert"))
    plan = hf_init.plan(tiny("bert"), HEAD[1], config=config, labels=["a", "b", "c"])
    assert plan["classifier.weight"].shape == (3, 32) and config.num_labels == 2
