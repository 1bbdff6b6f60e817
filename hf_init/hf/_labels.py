"""The labels of a head: their names and number, and trained rows that must not come to stand under another name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_init._errors import PlanError
from hf_init.hf._config import label_values
from hf_init.hf._wish import Base, Scene, Terms, Wish


@dataclass(frozen=True)
class Labels(Wish):
    """The labels asked for; without any, those of the base stay."""

    names: Sequence[str] | None = None
    number: Any = None

    WORDS = ("labels", "num_labels")

    @classmethod
    def of(cls, base: Base, words: Mapping[str, Any]) -> Labels:
        return cls(words.get("labels"), words.get("num_labels"))

    def values(self) -> Mapping[str, Any]:
        return label_values(self.names, self.number)

    def terms(self, scene: Scene) -> Terms:
        _refuse_relabelled(scene)
        return Terms()


def _refuse_relabelled(scene: Scene) -> None:
    """Trained rows must not come to stand under another label's name."""
    before, after = _labels(scene.base.config), dict(getattr(scene.model.config, "id2label", None) or {})
    if scene.explicit or before is None or len(before) != len(after) or before == after:
        return
    held = {tensor.address for tensor in scene.source}
    prefix = scene.model.base_model_prefix + "."
    head = [
        t.name
        for t in scene.layout.tensors
        if t.address in held and not t.parameter.startswith(prefix) and len(after) in t.shape
    ]
    if head and not all(name == f"LABEL_{k}" for k, name in before.items()):
        raise PlanError(
            f"the checkpoint's head ({', '.join(head)}) was trained for the labels {list(before.values())}, "
            f"not {list(after.values())}: its rows would stand under other names. Keep the order of the labels, or "
            "say what is kept: keep={GLOB: 'none'} makes the head new"
        )


def _labels(config: Mapping[str, Any]) -> dict[int, str] | None:
    names = config.get("id2label")
    return {int(k): str(v) for k, v in names.items()} if isinstance(names, dict) else None
