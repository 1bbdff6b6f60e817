"""What a plan says of old inputs: one claim, which a change, a value of the config or a rule weakens."""

from __future__ import annotations

import re

import pytest

import hf_init

CLASSIFIER = "BertForSequenceClassification"


@pytest.mark.parametrize(
    ("base", "target", "options", "claim"),
    [
        ("bert", None, {}, "exact"),
        ("bert", CLASSIFIER, {}, "exact"),
        ("bert", "BertForMaskedLM", {"drop": ["pooler.*"]}, "exact"),
        ("sentiment", "BertModel", {"drop": ["classifier.*"]}, "exact"),
        ("sentiment", None, {"rename_labels": {"neg": "bad"}}, "exact"),
        ("sentiment", None, {"labels": ["pos", "neg", "neu"]}, "exact to rounding"),
        ("sentiment", None, {"labels": ["neg", "neu", "pos", "odd"]}, "exact to rounding"),
        ("sentiment", None, {"labels": ["neg", "pos"]}, "none, because labels go: neu"),
        ("sentiment", None, {"labels": ["a", "b"], "labels_keep": "none"}, "none, because labels go: neg, neu, pos"),
        ("llama", None, {"config": {"rms_norm_eps": 1e-3}}, "none, because rms_norm_eps changes from 1e-06 to 0.001"),
        ("llama", None, {"config": {"attention_dropout": 0.5, "use_cache": False}}, "exact"),
        ("llama", None, {"config": {"hidden_act": "relu"}}, "none, because hidden_act changes from 'silu' to 'relu'"),
    ],
)
def test_a_plan_says_what_holds_of_old_inputs(bases, base, target, options, claim):
    plan = hf_init.plan(bases(base), target, **options)
    assert re.fullmatch(claim, plan.claim), plan.claim
    assert plan.to_json()["claim"] == plan.claim and f"old inputs: {plan.claim}" in str(plan)
