"""What would be new, or left over, without anybody's having said so."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from hf_init._architecture import Address, Target, addresses_after, has_same_head, own_tensors
from hf_init._change import ChangePlan
from hf_init._checkpoint import is_floating
from hf_init._errors import option
from hf_init._globs import closest_glob
from hf_init._plan import NO_PLACE, Plan, TensorPlan, format_shape, matches_glob, sources_of
from hf_init._prepare.checks import PlanInputs, Problem, packed_problem
from hf_init._prepare.leftover import shortest_globs
from hf_init._prepare.renamed import NameRule, Renaming, apply_rules, find_renaming, unwrapping
from hf_init._roles import matches
from hf_init._tensors import Shape, Status, TensorSpec
from hf_init._text import join_names

ADAPTER = re.compile(
    r"(^|\.)((delo|glo|gralo|hi|lo|randlo|tinylo|vblo)ra_\w+|(hada|lokr|trainable_tokens|p?vera_lambda)_\w+|b?oft_\w*[Rs]"
    r"|hra_u|ia3_l|c3a_kernel|miss_block|(fourier|wave)ft_spectrum|road_(alpha|theta)|shira_weight|poly_(lora_[AB]|router)"
    r"|adaption_(prompt|gate)|modules_to_save\.\w+|original_module)(\.|$)"
)
"""Names that PEFT gives to what isn't merged; ``original_module`` is what was trained no more."""


@dataclass(frozen=True)
class PlanDraft(PlanInputs):
    """A plan before it is checked, with what it was made from."""

    change_plans: tuple[ChangePlan, ...]
    plan: Plan

    @cached_property
    def allowed(self) -> tuple[str, ...] | None:
        """Return the globs of all that may be new; None where there is no such list."""
        lists = [change.allowed for change in self.change_plans if change.allowed is not None]
        return tuple(glob for globs in lists for glob in globs) if lists else None

    @cached_property
    def specs(self) -> Mapping[str, TensorSpec]:
        return {tensor.name: tensor for tensor in self.target.layout.tensors}

    @cached_property
    def new(self) -> tuple[TensorPlan, ...]:
        """Return the new tensors that no change wants to be, and that a source was not given up for."""
        wanted = {name for change in self.change_plans for name in (*change.new, *change.keep)}
        wanted |= {name for name, source in sources_of(self.target.source, self.target.layout).items() if source}
        new = (tensor for tensor in self.plan.tensors if tensor.status is Status.NEW and not tensor.left_out)
        return tuple(tensor for tensor in new if tensor.name not in wanted)

    @cached_property
    def named(self) -> frozenset[str]:
        """Return what rules say is new: those that name tensors, and nothing that is pretrained."""
        new = {tensor.name for tensor in self.plan.tensors if tensor.new}
        named = (
            {spec.name for spec in self.specs.values() if rule.matches(spec)}
            for rule in self.recipe.rules
            if rule.name is not None
        )
        return frozenset[str]().union(*(names for names in named if names <= new))

    @cached_property
    def leftover(self) -> Mapping[str, Shape]:
        """Return the shapes of what the target has no place for, and nobody gave up."""
        entries = self.target.base.source.entries
        return {tensor.name: entries[tensor.name].shape for tensor in self.plan.unused if tensor.reason == NO_PLACE}

    @cached_property
    def foreign(self) -> Problem | None:
        """Return the problem that the names are of an adapter that isn't merged, or of weights packed in some way."""
        adapter = [name for name in self.leftover if ADAPTER.search(name)]
        if adapter:
            return Problem(
                f"{self.target.base.name} holds {len(adapter)} tensors of an adapter that isn't merged: "
                f"{join_names(adapter)}",
                "Merge it with PEFT's merge_and_unload, save, and extend that folder",
            )
        entries = self.target.base.source.entries
        whole = [name for name in self.leftover if not is_floating(entries[name].dtype) and entries[name].shape]
        addresses = [self.specs[tensor.name].address for tensor in self.new] if whole else []
        lacking = {self.own_tensors[each].rpartition(".")[0] for each in addresses if each in self.own_tensors} - {""}
        packed = [name for name in whole if name.rpartition(".")[0] in lacking]
        said = f"{len(packed)} tensors stand where weights are lacking"
        return packed_problem(self.target, packed, said) if packed else None

    @cached_property
    def renaming(self) -> Renaming:
        """Return what is left over and new under another name; the head of another task is nobody's other name."""
        target, lacking = self.target, {tensor.name: tensor.shape for tensor in self.new}
        if self.foreign is not None:
            return Renaming()
        carried = {tensor.name: tensor.shape for tensor in self.plan.tensors if tensor.status is Status.CARRIED}
        ignored = set(carried)
        if carried and not any(self.specs[name].address in self.own_tensors for name in lacking):
            carried = {}  # nothing is lacking that they could be
        if not lacking or not (self.leftover or carried):
            return Renaming()
        own = target.own if self.leftover else None
        alike = own is not None and has_same_head(target.cls, own.cls.__name__)
        unwrapped = tuple(unwrapping(self.leftover))
        bare = {apply_rules(name, unwrapped): name for name in self.leftover}
        parts = {bare[name]: part for name, part in _parts_by_own(own, bare).items()} if own else {}
        spare = {name: shape for name, shape in self.leftover.items() if alike or parts.get(name) != "head"} | carried
        placed = [t.name for t in target.source if t.name not in {*self.leftover, *ignored} and not t.second]
        words = (
            3 if own and "backbone" in _parts_by_own(own, placed).values() else 2
        )  # all of it goes elsewhere, or none
        common = {name: words for name, part in parts.items() if part == "backbone"}
        found = find_renaming(spare, lacking, placed, common=common, rows=alike)
        # The loader converts names as well: a few of the rules may do, and give places to more than all of them.
        tries = (found.rules[:many] for many in range(1, len(found.rules) + 1))
        best = max(
            (self._renamed_by(rules, spare, placed) for rules in tries), key=lambda r: len(r.pairs), default=found
        )
        return best if best.pairs else Renaming(found.pairs)

    def _renamed_by(self, rules: Sequence[NameRule], spare: Collection[str], placed: Collection[str]) -> Renaming:
        """Return what rules give a place to by the loader; nothing where they move others, or two to one place."""
        before, after = (addresses_after(self.target, each) for each in ((), rules))
        new = {self.specs[tensor.name].address[0]: tensor.name for tensor in self.new}
        pairs = {old: new[after[old][0]] for old in spare if after[old][0] in new}
        moved = any(after[name] != before[name] for name in placed)
        return Renaming() if moved or len({after[old] for old in pairs}) < len(pairs) else Renaming(pairs, tuple(rules))

    @cached_property
    def missing(self) -> tuple[TensorPlan, ...]:
        """Return new tensors that the checkpoint's own class and config have, and that nobody said are new."""
        unsaid: list[TensorPlan] = []
        for tensor in self.new if self.allowed is None else ():  # else the list says it of all, see `unlisted`
            spec = self.specs[tensor.name]
            counts = spec.role == "buffer" and not is_floating(spec.dtype)
            again = counts or matches(spec.role, "norm.num_batches_tracked")  # never trained: the class makes it again
            if not again and tensor.name not in self.named and tensor.name not in self.renaming.pairs.values():
                unsaid.append(tensor)
        return tuple(t for t in unsaid if self.specs[t.name].address in self.own_tensors) if unsaid else ()

    @cached_property
    def own_tensors(self) -> Mapping[Address, str]:
        """Return what the checkpoint's own class and config have, by its address in the target."""
        return own_tensors(self.target)

    def with_closest(self, tensor: TensorPlan) -> str:
        """Return a missing tensor with what is left over and most like it: of its shape first, then by name."""
        same = [name for name, shape in self.leftover.items() if shape == tensor.shape]
        near = difflib.get_close_matches(tensor.name, same or list(self.leftover), n=1, cutoff=0.0 if same else 0.6)
        own = self.own_tensors[self.specs[tensor.name].address]
        said = [format_shape(tensor.shape)]
        if own.split(".")[-2:] != tensor.name.split(".")[-2:]:
            said.append(f"in its files {own}")
        said += [f"closest: {name}" for name in near]
        return f"{tensor.name} ({'; '.join(said)})"

    @cached_property
    def keeps(self) -> bool:
        """Return whether anything of the checkpoint would be kept."""
        return any(tensor.kept or tensor.source for tensor in self.plan.tensors)

    @cached_property
    def is_strange(self) -> bool:
        """Return whether nothing of the checkpoint would be kept, unasked."""
        return not (self.keep or self.keeps or self.renaming.pairs or self.foreign)


def unlisted(draft: PlanDraft) -> Iterator[Problem]:
    """Yield a problem if something is new, wholly or in part, that no glob of the list names."""
    allowed = draft.allowed
    if allowed is None:
        return
    new = [draft.specs[tensor.name] for tensor in draft.plan.tensors if tensor.new and tensor.name in draft.specs]
    names = [spec.name for spec in new if not any(matches_glob(spec, glob) for glob in allowed)]
    if names:
        idle = [glob for glob in allowed if not any(matches_glob(spec, glob) for spec in new)]
        fitting = [spec.name for spec in new]
        hints = ", ".join(f"{glob!r}{closest_glob(glob, fitting)}" for glob in idle)
        hint = f"; nothing new is named by {hints}" if idle else ""
        yield Problem(
            f"{draft.plan.architecture}: {len(names)} tensors would be new, wholly or in part, and "
            f"{option('allow_new')} doesn't name them: {', '.join(names)}{hint}"
        )


def foreign_tensors(draft: PlanDraft) -> Iterator[Problem]:
    """Yield a problem if the checkpoint isn't a plain model's; what else its names lack or have follows from that."""
    if draft.foreign is not None:
        yield draft.foreign


def renamed_tensors(draft: PlanDraft) -> Iterator[Problem]:
    """Yield a problem if the checkpoint holds under other names what would be new."""
    found = draft.renaming
    if not found.pairs:
        return
    pairs = [f"{old} -> {new}" for old, new in found.pairs.items()]
    wrappers = [f"{word} is what {by} puts into names" for word, by in found.wrappers.items()]
    rules = dict(found.rules) if found.rules else {"REGEX": "REPLACEMENT"}
    way_out = f"If they are the same tensors, say so: {option('key_mapping', rules)}"
    if draft.keeps and not wrappers:
        way_out += f"; if they are others, say that they go: {option('drop', _drop_globs(draft, found.pairs))}"
    yield Problem(
        f"{draft.plan.architecture}: the checkpoint holds {len(pairs)} tensors that have no place under their names, "
        f"while tensors of the same shapes would be new under others: {'; '.join([join_names(pairs), *wrappers])}",
        way_out,
    )


def missing_tensors(draft: PlanDraft) -> Iterator[Problem]:
    """Yield a problem if the checkpoint lacks what its own class has, and it would be drawn."""
    if draft.foreign or draft.is_strange or not draft.missing:
        return
    own, spare = draft.target.own, [name for name in draft.leftover if name not in draft.renaming.pairs]
    is_of = f"says that it is a {own.cls.__name__}, and lacks" if own else "lacks"
    left = [f"{name} ({format_shape(draft.leftover[name])})" for name in spare]
    others = [name for tensor in draft.plan.tensors if not tensor.new for name in (tensor.name, tensor.parameter)]
    renamed = draft.renaming.pairs.values()
    new = shortest_globs([t.name for t in draft.plan.tensors if t.new and t.name not in renamed], others)
    yield Problem(
        f"{draft.plan.architecture}: the checkpoint {is_of} {len(draft.missing)} of its tensors, which would start "
        f"anew: {join_names([draft.with_closest(tensor) for tensor in draft.missing])}. "
        + (f"Left over in the checkpoint: {join_names(left)}" if left else "Nothing in the checkpoint is left over"),
        f"Give a checkpoint that is whole, or the names that it has for them: "
        f"{option('key_mapping', {'REGEX': 'REPLACEMENT'})}; or say all that is new: {option('allow_new', new)}",
    )


def leftover_tensors(draft: PlanDraft) -> Iterator[Problem]:
    """Yield a problem if the target has no place for what the checkpoint holds."""
    spare = [name for name in draft.leftover if name not in draft.renaming.pairs]
    if draft.foreign or draft.is_strange or not spare:
        return
    shapes = [f"{name} ({format_shape(draft.leftover[name])})" for name in spare]
    yield Problem(
        f"{draft.plan.architecture} has no place for {len(spare)} tensors of the checkpoint: {join_names(shapes)}",
        f"Give a class that has them, or say that they go: {option('drop', _drop_globs(draft, spare))}",
    )


def strange_base(draft: PlanDraft) -> Iterator[Problem]:
    """Yield a problem if nothing of the checkpoint would be kept: it is another architecture's."""
    plan, base = draft.plan, draft.target.base
    if draft.is_strange:
        names, known = sorted(base.source.entries), {tensor.name for tensor in plan.tensors}
        begins = [name.removesuffix(names[0]) for name in known if name.endswith(f".{names[0]}")]
        whole = sorted(begin for begin in begins if known.issuperset(begin + name for name in names))
        why = "they belong to different models; give the class and the config of the checkpoint's own architecture, or "
        part = f"all of it is there under {join_names(whole)}: say which of them it is for, "
        yield Problem(
            f"nothing of {base.name} ({join_names(names)}) has a place in {plan.architecture} with this config "
            f"({join_names([tensor.name for tensor in plan.tensors])}): "
            + (f"{part}base={{{whole[0]!r}: FOLDER}}, or --tower" if whole else f"{why}of one that contains it")
        )


PLAN_CHECKS = (unlisted, foreign_tensors, renamed_tensors, missing_tensors, leftover_tensors, strange_base)


def _drop_globs(draft: PlanDraft, names: Collection[str]) -> list[str]:
    return shortest_globs(names, (name for name in draft.target.base.source.entries if name not in names))


def outside_backbone(own: Target, names: Iterable[str]) -> dict[str, bool]:
    """Return which of a checkpoint's tensors its own class has, and whether each lies outside the backbone."""
    addresses, prefix = own.addresses.of(list(names)), own.model.base_model_prefix + "."
    known = {tensor.address for tensor in own.whole_layout.tensors}
    return {name: not str(at[0]).startswith(prefix) for name, at in addresses.items() if at in known}


def _parts_by_own(own: Target, names: Iterable[str]) -> dict[str, str]:
    """Return where a checkpoint's own class has those of its tensors that it has: in the backbone, or in a head."""
    prefix = own.model.base_model_prefix + "."
    bare = not any(tensor.parameter.startswith(prefix) for tensor in own.whole_layout.tensors)
    outside = outside_backbone(own, names).items()
    return {name: "head" if is_outside and not bare else "backbone" for name, is_outside in outside}
