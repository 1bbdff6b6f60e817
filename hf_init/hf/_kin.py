"""Whether two classes have the same head, as their names tell."""

from __future__ import annotations

import re


def kin(cls: type, name: str) -> bool:
    """Whether a class has the head of the class of this name: it is that class, one made of it, or for the same task.

    Example:
        >>> from transformers import BertForSequenceClassification as Bert
        >>> kin(Bert, "BertForSequenceClassification"), kin(Bert, "OtherForSequenceClassification")
        (True, True)
        >>> kin(Bert, "BertForTokenClassification"), kin(Bert, "BertModel")
        (False, False)
    """
    names = {base.__name__ for base in cls.__mro__}
    return name in names or (_task(name) != "" and _task(name) in map(_task, names))


def _task(name: str) -> str:
    """``SequenceClassification`` of ``BertForSequenceClassification``; empty where the name speaks of none."""
    found = re.search(r"For([A-Z]\w*)$", name)
    return found[1] if found else ""
