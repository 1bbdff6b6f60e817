"""Recipes: every spelling gives the same rule, first match wins, and nothing is silent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_init import schemes
from hf_init._errors import RecipeError
from hf_init._plan.recipe import Recipe, Rule, parse_rules
from hf_init._plan.recipe_text import parse_scheme
from hf_init._tensors import Geometry, TensorSpec

WEIGHT = TensorSpec(
    "classifier.weight", (3, 8), "float32", "classifier.weight", ("Linear", "Module"), "linear.weight", Geometry(8, 3)
)
BIAS = TensorSpec("classifier.bias", (3,), "float32", "classifier.bias", ("Linear", "Module"), "linear.bias")
KEPT = TensorSpec("bert.pooler.weight", (8, 8), "float32", "bert.pooler.weight", ("Linear", "Module"), "linear.weight")


@pytest.mark.parametrize(
    "spelling",
    [
        "normal(std=0.02)",
        " normal( std = 0.02 ) ",
        {"normal": {"std": 0.02}},
        schemes.Normal(std=0.02),
    ],
)
def test_every_spelling_of_a_scheme_is_the_same_scheme(spelling):
    assert parse_scheme(spelling) == schemes.Normal(std=0.02)


def test_a_bare_word_is_a_setting():
    assert parse_scheme("kaiming_normal(nonlinearity=relu)") == schemes.KaimingNormal(nonlinearity="relu")


def test_first_matching_rule_wins_and_default_serves_the_rest():
    recipe = Recipe([Rule("ones", name="*.weight"), Rule("zeros", module="Linear")], default="error")
    chosen = recipe.assign([WEIGHT, BIAS])
    assert {name: str(choice.scheme) for name, choice in chosen.items()} == {WEIGHT.name: "ones", BIAS.name: "zeros"}
    assert "rule 2" in chosen[BIAS.name].why


def test_conditions_of_one_rule_must_all_hold():
    rule = Rule("zeros", name="classifier.*", role="linear.bias")
    assert rule.matches(BIAS) and not rule.matches(WEIGHT)


def test_a_role_prefix_and_a_base_class_match():
    assert Rule("zeros", role="linear").matches(WEIGHT)
    assert Rule("zeros", module="Module").matches(WEIGHT)
    assert not Rule("zeros", module="Lin").matches(WEIGHT)


def test_a_name_in_memory_matches_too():
    fused = TensorSpec("experts.0.w1.weight", (4, 4), "float32", "mlp.experts.gate_up_proj")
    assert Rule("zeros", name="*.gate_up_proj").matches(fused) and Rule("zeros", name="*.w1.*").matches(fused)


def test_round_trips():
    recipe = Recipe(
        [Rule("normal(std=0.02)", name="classifier.*"), Rule("zeros", module="LSTM"), Rule("ones", role="norm.weight")],
        default="error",
        seed=7,
    )
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert hash(Recipe.from_dict(recipe.to_dict())) == hash(recipe)


def test_yaml_round_trip(tmp_path):
    recipe = Recipe([Rule("xavier_uniform(gain=0.5)", name="*")], default="zeros", seed=3)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.load(path) == recipe


def test_rules_of_the_command_line_come_first():
    recipe = Recipe([Rule("ones", name="*")]).with_rules_first(parse_rules(["*.bias=zeros"]), seed=9)
    assert str(recipe.assign([BIAS])[BIAS.name].scheme) == "zeros" and recipe.seed == 9


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
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict(recipe)


@pytest.mark.parametrize("text", ["rules: [", "seed: 1\nseed: 2\n", "- a\n- b\n", "\x00"])
def test_a_broken_file_is_named(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        Recipe.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match="can't be read"):
        Recipe.load(tmp_path / "none.yaml")


@pytest.mark.parametrize("text", ["classifier", "=zeros", "x=", ""])
def test_a_malformed_init_option_is_named(text):
    with pytest.raises(RecipeError, match="expected 'GLOB=SCHEME'"):
        parse_rules([text])


def test_a_dead_rule_is_refused_with_the_closest_name():
    with pytest.raises(RecipeError, match=r"rule 1 .*matches no tensor \(did you mean 'classifier.weight'\?\)"):
        Recipe([Rule("zeros", name="clasifier.weight"), Rule("zeros", name="*")]).assign([WEIGHT, BIAS])


def test_a_rule_for_pretrained_tensors_alone_is_refused():
    with pytest.raises(RecipeError, match=r"matches only pretrained tensors.*bert\.pooler\.weight"):
        Recipe([Rule("zeros", name="bert.*")]).assign([WEIGHT], [KEPT])


def test_all_offenders_are_named_at_once():
    recipe = Recipe([Rule("zeros", name="bert.*"), Rule("zeros", name="nothing")], default="error")
    with pytest.raises(RecipeError) as caught:
        recipe.assign([WEIGHT, BIAS], [KEPT])
    for part in ("rule 1", "rule 2", WEIGHT.name, BIAS.name):
        assert part in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_a_scheme_or_one_clear_error(text):
    try:
        found = parse_scheme(text)
    except RecipeError as error:
        assert str(error)
    else:
        assert parse_scheme(str(found)) == found


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_data_is_a_recipe_or_one_clear_error(data):
    try:
        recipe = Recipe.from_dict(data)
    except RecipeError as error:
        assert str(error)
    else:
        assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_two_rules_that_contradict_each_other_are_refused():
    with pytest.raises(RecipeError, match=r"rules 1 and 3 contradict each other: name='a\.\*' is zeros and ones"):
        Recipe([Rule("zeros", name="a.*"), Rule("ones", name="b"), Rule("ones", name="a.*")])
    same = [Rule("zeros", name="a.*"), Rule("zeros", name="a.*")]
    assert len(Recipe(same).rules) == 2


def test_a_rule_of_the_command_line_may_overrule_the_recipe_s():
    recipe = Recipe([Rule("ones", name="*.bias")]).with_rules_first(parse_rules(["*.bias=zeros"]))
    assert str(recipe.assign([BIAS])[BIAS.name].scheme) == "zeros"
