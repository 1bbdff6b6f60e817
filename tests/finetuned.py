"""A model with a new head and a new layer, steps of its training, and what moved."""

from __future__ import annotations

import torch
import transformers

GROWN = {"num_labels": 3, "config": {"num_hidden_layers": 3}}
CLASSIFIER = transformers.BertForSequenceClassification


def words(vocabulary=96):
    return {"input_ids": torch.randint(0, vocabulary, (4, 12)), "labels": torch.tensor([0, 1, 2, 0])}


def take_steps(model, optimizer, batch=words, steps=5):
    model.train()
    for _ in range(steps):
        model(**batch()).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def new_names(plan):
    return {tensor.parameter for tensor in plan.tensors if tensor.status == "new"}


def copied(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def moved(model, before):
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
