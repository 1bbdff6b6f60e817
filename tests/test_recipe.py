"""Recipes: every spelling gives the same rule, first match wins, and nothing is silent."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hf_init
from hf_init import HfInitError, Recipe, Rule, schemes


@pytest.fixture
def chosen(bases):
    """Makes a plan of BERT with a new head: the scheme and the reason of each tensor of the head."""

    def choose(recipe, **options):
        plan = hf_init.plan(bases("bert"), "BertForSequenceClassification", num_labels=3, recipe=recipe, **options)
        fills = {name.removeprefix("classifier."): plan[name].new[0] for name in HEAD}
        return {name: (str(fill.scheme), fill.why) for name, fill in fills.items()}

    return choose


HEAD = "classifier.weight", "classifier.bias"


@pytest.mark.parametrize(
    ("spelling", "scheme"),
    [
        ("normal(std=0.02)", schemes.Normal(std=0.02)),
        (" normal( std = 0.02 ) ", schemes.Normal(std=0.02)),
        ({"normal": {"std": 0.02}}, schemes.Normal(std=0.02)),
        (schemes.Normal(std=0.02), schemes.Normal(std=0.02)),
        ("kaiming_normal(nonlinearity=relu)", schemes.KaimingNormal(nonlinearity="relu")),  # a bare word
    ],
)
def test_every_spelling_of_a_scheme_is_the_same_scheme(spelling, scheme):
    assert Rule(spelling, name="*").scheme == scheme


@pytest.mark.parametrize(
    ("rules", "weight", "bias"),
    [
        ([Rule("ones", name="*.weight"), Rule("zeros", module="Linear")], "ones", "zeros"),  # the first that matches
        ([Rule("zeros", role="linear")], "zeros", "zeros"),  # a role's first words
        ([Rule("zeros", module="Module")], "zeros", "zeros"),  # a base class
        ([Rule("zeros", name="classifier.*", role="linear.bias")], "constant(val=0.5)", "zeros"),  # all conditions
        ([Rule("zeros", module="Lin", optional=True)], "constant(val=0.5)", "constant(val=0.5)"),  # no part of a name
    ],
)
def test_the_first_rule_whose_conditions_all_hold_serves_and_the_default_the_rest(chosen, rules, weight, bias):
    found = chosen(Recipe(rules, default="constant(val=0.5)"))
    assert {name: scheme for name, (scheme, _) in found.items()} == {"weight": weight, "bias": bias}
    assert len(rules) == 1 or "rule 2" in found["bias"][1]


@pytest.mark.parametrize("name", ["*.gate_up_proj", "*.experts.4.w1.*"])
def test_a_name_in_memory_matches_too(bases, name):
    recipe = Recipe([Rule("zeros", name=name), Rule("normal(std=0.5)", name="*")])
    options = {"keep": {"*.gate.weight": "leading"}, "config": {"num_local_experts": 6}}
    plan = hf_init.plan(bases("mixtral"), recipe=recipe, **options)
    assert str(plan["model.layers.0.block_sparse_moe.experts.4.w1.weight"].new[0].scheme) == "zeros"


def test_round_trips(tmp_path):
    rules = [Rule("normal(std=0.02)", name="a.*"), Rule("zeros", module="LSTM"), Rule("ones", role="norm.weight")]
    recipe = Recipe(rules, default="error", seed=7)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert hash(Recipe.from_dict(recipe.to_dict())) == hash(recipe)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.load(tmp_path / "recipe.yaml") == recipe


def test_rules_of_the_command_line_come_first(chosen):
    recipe = Recipe([Rule("ones", name="*"), Rule("ones", name="*.bias", optional=True)])
    assert chosen(recipe, rules=["*.bias=zeros"])["bias"][0] == "zeros"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"rule": []}, r"unknown key in a recipe: 'rule' \(did you mean 'rules'\?\)"),
        ({"rules": [{"name": "*", "shceme": "zeros"}]}, r"rule 1 .*'shceme' \(did you mean 'scheme'\?\)"),
        ({"rules": [{"name": "*"}]}, "has no scheme"),
        ({"rules": [{"scheme": "zeros"}]}, "at least one condition"),
        ({"rules": ["zeros"]}, "expected a mapping"),
        ({"rules": "zeros"}, "must be a list"),
        ({"rules": [{"name": "a[b", "scheme": "zeros"}]}, r"bad glob 'a\[b'"),
        ({"rules": [{"name": "", "scheme": "zeros"}]}, "non-empty string"),
        ({"rules": [{"role": "lineer", "scheme": "zeros"}]}, "no such role: 'lineer'"),
        ({"rules": [{"name": "*", "scheme": "xavier_unifrom"}]}, "xavier_uniform"),
        ({"rules": [{"name": "*", "scheme": {"normal": {"sdt": 0.02}}}]}, "std"),
        ({"rules": [{"name": "*", "scheme": {"normal": {"std": -1}}}]}, "std"),
        ({"rules": [{"name": "*", "scheme": {"normal": {"std": float("nan")}}}]}, "std"),
        ({"rules": [{"name": "*", "scheme": {"sparse": {"sparsity": 1.5}}}]}, "sparsity"),
        ({"rules": [{"name": "*", "scheme": {"normal": 0.02}}]}, "must be a mapping"),
        ({"rules": [{"name": "*", "scheme": {"normal": {}, "zeros": {}}}]}, "one key"),
        ({"rules": [{"name": "*", "scheme": "normal(0.02)"}]}, "every setting by its name"),
        ({"rules": [{"name": "*", "scheme": "normal(std="}]}, "expected a name"),
        ({"rules": [{"name": "*", "scheme": "normal(std=1+1)"}]}, "isn't a number or a word"),
        ({"default": "nothing"}, "default: "),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"seed": 1.5}, "seed must be a whole number"),
    ],
)
def test_a_mistake_is_named(recipe, message):
    with pytest.raises(HfInitError, match=message):
        Recipe.from_dict(recipe)


@pytest.mark.parametrize("text", ["rules: [", "seed: 1\nseed: 2\n", "- a\n- b\n", "\x00"])
def test_a_broken_file_is_named(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(HfInitError, match=r"recipe\.yaml"):
        Recipe.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(HfInitError, match="can't be read"):
        Recipe.load(tmp_path / "none.yaml")


def test_a_file_that_can_t_be_read_is_named(tmp_path):
    path = tmp_path / "recipe.yaml"
    for text in ("rules: [", "seed: 1\nseed: 2\n", "- a\n- b\n", "\x00"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(HfInitError, match=r"recipe\.yaml"):
            Recipe.load(path)
    with pytest.raises(HfInitError, match="can't be read"):
        Recipe.load(tmp_path / "none.yaml")


POOLER = Rule("zeros", name="bert.pooler.*")


@pytest.mark.parametrize(
    ("recipe", "rules", "messages"),
    [
        *(({}, [text], ["expected 'GLOB=SCHEME'"]) for text in ("classifier", "=zeros", "x=", "")),
        (
            Recipe([Rule("zeros", name="clasifier.weight"), Rule("zeros", name="*")]), [],
            [r"rule 1 .*matches no tensor \(did you mean 'classifier.weight'\?\)"],
        ),
        (Recipe([POOLER], default="zeros"), [], [r"matches only pretrained tensors.*bert\.pooler\."]),
        (Recipe([POOLER, Rule("zeros", name="nothing")], default="error"), [], ["rule 1", "rule 2", *HEAD]),
    ],
)  # fmt: skip
def test_a_rule_that_says_nothing_is_refused_and_all_are_named_at_once(chosen, recipe, rules, messages):
    for message in messages:
        with pytest.raises(HfInitError, match=message):
            chosen(recipe, rules=rules)


def test_two_rules_that_contradict_each_other_are_refused():
    with pytest.raises(HfInitError, match=r"rules 1 and 3 contradict each other: name='a\.\*' is zeros and ones"):
        Recipe([Rule("zeros", name="a.*"), Rule("ones", name="b"), Rule("ones", name="a.*")])
    same = [Rule("zeros", name="a.*"), Rule("zeros", name="a.*")]
    assert len(Recipe(same).rules) == 2


@given(st.text(max_size=40))
def test_any_text_is_a_scheme_or_one_clear_error(text):
    try:
        found = Rule(text, name="*").scheme
    except HfInitError as error:
        assert str(error)
    else:
        assert Rule(str(found), name="*").scheme == found


ANYTHING = st.none() | st.booleans() | st.floats() | st.text()


@settings(max_examples=30)
@given(st.recursive(ANYTHING, lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=12))
def test_any_data_is_a_recipe_or_one_clear_error(data):
    try:
        recipe = Recipe.from_dict(data)
    except HfInitError as error:
        assert str(error)
    else:
        assert Recipe.from_dict(recipe.to_dict()) == recipe
