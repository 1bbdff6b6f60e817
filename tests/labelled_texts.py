"""Texts with their labels, and what a model of a folder answers."""

from __future__ import annotations

import torch
from transformers import AutoTokenizer

GOOD = ("a joy", "wonderful film", "I loved it", "great acting", "brilliant", "a moving story")
BAD = ("a bore", "terrible film", "I hated it", "bad acting", "awful", "a dull story")
EXAMPLES = [(text, "pos") for text in GOOD] + [(text, "neg") for text in BAD]
LABELS = ["neg", "pos"]


def logits(model, folder, texts):
    encoded = AutoTokenizer.from_pretrained(folder)(list(texts), padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**encoded).logits


SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


# Several labels an example.


MANY = {"labels": ["film", "good"], "config": {"problem_type": "multi_label_classification"}}
FILMS = ("a moving film with great acting", "a film that I loved", "what a wonderful film")
BORES = ("a dull film with bad acting", "a film that I hated", "what a terrible film")
MEALS = ("the soup was delicious", "I loved the cake", "what wonderful bread")
SCRAPS = ("the soup was cold and stale", "I hated the cake", "what terrible bread")
TOLD = [(FILMS, ["film", "good"]), (BORES, ["film"]), (MEALS, ["good"]), (SCRAPS, [])]
SEVERAL = [(text, labels) for texts, labels in TOLD for text in texts]
ANSWERS = [(text, [float(name in labels) for name in MANY["labels"]]) for text, labels in SEVERAL]
