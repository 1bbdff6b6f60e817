"""The target: a class, a config and a dtype; its model on meta, its addresses, ties and layout, each made once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from hf_init._architecture.classes import check_misfit, class_of, concrete
from hf_init._architecture.config import (
    check_extra_files,
    check_quantized,
    check_retyped,
    check_same_weights,
    check_unknown,
    config_of,
    copy_config,
    drop_quantization,
    dtype_of,
    nested_configs,
)
from hf_init._architecture.constructed import construct, in_kept_dtypes
from hf_init._architecture.constructor_faults import UNBUILDABLE, check_not_lazy, constructor_fault
from hf_init._architecture.layout import layout_of, stored_tensors
from hf_init._architecture.library import (
    Address,
    Addresses,
    build_on_meta,
    ignored_on_load,
    is_the_librarys,
    load_on_meta,
    names_after,
    not_saved,
)
from hf_init._architecture.moved_blocks import NOWHERE, BlockMap, place_names
from hf_init._architecture.packed import PackedPlaces
from hf_init._architecture.ties import held_apart, stored_under, untie
from hf_init._architecture.tower_addresses import base_addresses
from hf_init._checkpoint import BaseCheckpoint, Checkpoint
from hf_init._errors import HfInitError
from hf_init._tensors import Layout, Shape, SourceTensor
from hf_init._text import fits_glob

if TYPE_CHECKING:
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

NamedClass: TypeAlias = "type[_BaseAutoModelClass] | str | None"
"""What names a class without being it: ``AutoModelFor*``, a name; None: the checkpoint's own."""
Architecture: TypeAlias = "type[PreTrainedModel] | NamedClass"
Origin: TypeAlias = "tuple[str, Target, bool]"

NOT_ON_META = ("device_map", "max_memory", "key_mapping", "distributed_config")
IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")


@dataclass(frozen=True)
class Target:
    """What a base is extended into, and where the base's tensors go in it.

    Attributes:
        config: the target's own copy.
        dtype: of what is new, and of the model in memory.
        model_args, model_kwargs: what the class's constructor takes besides its config.
        load_options: options that only the loading into memory has.
        drop: globs of the base's tensors that the user gives up.
        blocks: of each stack whose blocks aren't the base's in their order, by its name in memory.
        copies: the names on disk that a tensor of the base has here, where it isn't known by its own.
    """

    base: BaseCheckpoint
    cls: type[PreTrainedModel]
    config: PreTrainedConfig
    dtype: torch.dtype
    model_args: tuple[object, ...] = ()
    model_kwargs: Mapping[str, object] = field(default_factory=dict)
    load_options: Mapping[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    blocks: Mapping[str, BlockMap] = field(default_factory=dict)
    copies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        base: BaseCheckpoint,
        architecture: Architecture = None,
        config: PreTrainedConfig | None = None,
        *,
        values: Mapping[str, object],
        changed: Mapping[str, object],
        model_kwargs: Mapping[str, object] = MappingProxyType({}),
        options: Iterable[str] = (),
        trust: bool | None = None,
        dtype: object = None,
    ) -> Target:
        """Return the target of a class and a config.

        Args:
            architecture: a class, the name of one, or None for the checkpoint's own.
            config: an object to copy, instead of the checkpoint's own config.
            values: of the config; what has no field there is for the class's constructor.
            changed: values of the config that changes set.
            model_kwargs: what the class's constructor takes besides its config.
            options: names that a value may have been meant for.
            trust: whether code that the checkpoint brings may run.

        Raises:
            CheckpointError, PlanError: each with what was seen and what to do.
        """
        folder, raw = base.folder, base.config
        model_class = class_of(architecture, raw, folder, trust)
        if config is not None:
            check_same_weights(config, raw)
            own, rest = copy_config(config, changed), dict(values)
        else:
            own, rest = config_of(model_class, folder, raw, {**values, **changed}, trust)
            drop_quantization(own)  # the base's own, of which the headers know better
        check_quantized(own)
        check_extra_files(own, folder)
        model_class = concrete(model_class, own, folder, trust)
        check_misfit(model_class, own)
        check_retyped(values.get("model_type"), own)
        rest = {**rest, **model_kwargs}
        check_unknown(model_class, own, rest, options)
        return cls(base, model_class, own, dtype_of(dtype, own, base.source), model_kwargs=rest)

    @cached_property
    def model(self) -> PreTrainedModel:
        """Return the model without values: on meta."""
        return self._built[0]

    @property
    def is_bare(self) -> bool:
        """Return whether the model is as its constructor made it, so that a checkpoint can be loaded into it."""
        return self._built[1] is not None

    @cached_property
    def frozen(self) -> frozenset[str]:
        """Return the parameters that a class of the user's freezes in its constructor: the loader thaws them."""
        if is_the_librarys(self.cls):
            return frozenset()
        model = self.model if self.is_bare else construct(self.cls, self.config, *self.model_args, **self.model_kwargs)
        return frozenset(name for name, parameter in model.named_parameters() if not parameter.requires_grad)

    @cached_property
    def addresses(self) -> Addresses:
        """Return where the loader puts tensors of the names that the base has; an option may rename them."""
        mapping = self.load_options.get("key_mapping")  # renames what the base holds, not what is written
        own = not (mapping or self.base.source.parts)
        return self.plain_addresses if own else base_addresses(self.model, self.base.source, mapping)

    @cached_property
    def whole_layout(self) -> Layout:
        """Return every tensor of the model, with what ``save_pretrained`` leaves out."""
        return layout_of(self.model, self.plain_addresses)

    @cached_property
    def layout(self) -> Layout:
        """Return what the files will hold: without what ``save_pretrained`` leaves out, unless the base holds it."""
        unsaved, held = not_saved(self.model), {tensor.address for tensor in self.source}
        tensors = tuple(t for t in self.whole_layout.tensors if t.parameter not in unsaved or t.address in held)
        return self.packed.put_into(replace(self.whole_layout, tensors=tensors), self.addressed)

    @cached_property
    def packed(self) -> PackedPlaces:
        """Return where the base's packed weights belong; nowhere where it has none."""
        return PackedPlaces.find(self.whole_layout, self.base, {tensor.name for tensor in self.dropped})

    @cached_property
    def addressed(self) -> tuple[SourceTensor, ...]:
        """Return all of the base's tensors, each with the address that the target's loader gives it."""
        entries = self.base.source.entries
        drops = [re.compile(pattern) for pattern in ignored_on_load(self.model)]
        places = {tensor.address for tensor in self.whole_layout.tensors}  # a class may list what it has itself

        def is_ignored(address: Address) -> bool:
            unplaced = address not in places and not address[0].startswith(NOWHERE)
            return unplaced and any(drop.search(address[0]) for drop in drops)

        return tuple(
            SourceTensor(name, entries[name].shape, entries[name].dtype, address, is_ignored(address))
            for name, address in place_names(list(entries), self.blocks, self.copies, self.addresses)
        )

    @cached_property
    def source(self) -> tuple[SourceTensor, ...]:
        """Return the base's tensors but for those that go, and those that it has under a second name."""
        gone = {tensor.name for tensor in self.dropped}
        tensors = tuple(tensor for tensor in self.addressed if tensor.name not in gone)
        return (*tensors, *self._second_names(tensors))

    @cached_property
    def dropped(self) -> tuple[SourceTensor, ...]:
        """Return what the user gives up of the base, by name or by the change that was asked for."""
        return tuple(
            tensor
            for tensor in self.addressed
            if tensor.address[0].startswith(NOWHERE) or any(self.names(glob, tensor.name) for glob in self.drop)
        )

    def names(self, glob: str, name: str) -> bool:
        """Return whether a glob is for a tensor of the base, by its name here or in its file."""
        return fits_glob(name, glob) or fits_glob(self.base.source.entries[name].key, glob)

    @cached_property
    def origins(self) -> tuple[Origin, ...]:
        """Return the own class of each checkpoint of the base, where it or its family is known.

        With the prefix of the checkpoint's names, where the base is of several, and with whether the config names the
        class: else it is the base model of the family.
        """
        parts = self.base.source.parts or (("", self.base.source),)
        return tuple(origin for prefix, part in parts if (origin := self._origin(prefix, part)) is not None)

    @property
    def own(self) -> Target | None:
        """Return the target that is the checkpoint's own class with its own config; None where that can't be had."""
        origin = self.origins[0] if self.origins and not self.base.source.parts else None
        return origin[1] if origin is not None and origin[2] else None

    @cached_property
    def base_config(self) -> PreTrainedConfig | None:
        """Return the base's own config as this version makes it; None where it is another model type's, or can't be."""
        raw = self.base.config
        if raw.get("model_type") not in {each.model_type for each in nested_configs(self.config)}:
            return None
        trusted = None if is_the_librarys(type(self.config)) else True  # its code runs already
        try:
            config, _ = config_of(self.cls, self.base.folder, raw, {}, trusted)
        except HfInitError:
            return None
        drop_quantization(config)
        return config

    def build(self) -> PreTrainedModel:
        """Build another model on meta.

        Raises:
            PlanError: the class can't be built with this config.
        """
        return self._build(self._names)[0]

    def saved_names(self) -> tuple[str, ...]:
        """Return what the files of a model are called that nothing was loaded into."""
        model = construct(self.cls, self.config, *self.model_args, **self.model_kwargs)
        return tuple(stored_tensors(model)[0])

    def rebuilt(self, config: PreTrainedConfig) -> PreTrainedModel:
        """Build the model on meta under another config, for its shapes: what a load would rename is left as it is."""
        return replace(self, config=config)._build(())[0]

    def load_on_meta(self, tensors: Mapping[str, tuple[Shape, str]], **options: object) -> Any:
        """Return what the library's loader gives for tensors of these names, shapes and dtypes, on meta."""
        empty = {
            name: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
            for name, (shape, dtype) in tensors.items()
        }
        options |= {key: value for key, value in self.load_options.items() if key not in NOT_ON_META}
        options |= {"dtype": self.dtype, **self.model_kwargs}
        return load_on_meta(self.cls, self.config, empty, self.model_args, **options)

    def _origin(self, prefix: str, part: Checkpoint) -> Origin | None:
        base = BaseCheckpoint.of_part(part) if self.base.source.parts else self.base
        cls = next((cls for cls in self.cls.__mro__ if cls.__name__ == base.class_name), None)
        for known, own_class in ((True, cls), (False, AutoModel)):
            try:
                own = Target.of(base, own_class, values={}, changed={})
                if own_class is self.cls:
                    own = replace(own, model_args=self.model_args, model_kwargs=self.model_kwargs)
                _ = own.model  # built now: a class that can't be built has nothing to tell
                return prefix, own, known
            except HfInitError:
                continue
        return None

    @cached_property
    def _built(self) -> tuple[PreTrainedModel, Addresses | None, Mapping[str, str]]:
        return self._build(self._names)

    @property
    def _names(self) -> list[str]:
        """Return the names of the base's tensors, here and there."""
        return [*self.base.source.entries, *(name for places in self.copies.values() for name in places)]

    @property
    def untied(self) -> Mapping[str, str]:
        """Return the names in memory that the config ties and that are tensors of their own here, with the other's."""
        return self._built[2]

    @cached_property
    def plain_addresses(self) -> Addresses:
        """Return where the loader puts tensors of the names that the model itself has on disk."""
        return self._built[1] or Addresses(self.model)

    def _build(self, names: Sequence[str]) -> tuple[PreTrainedModel, Addresses | None, Mapping[str, str]]:
        """Build the model, by its constructor unless an option asks for the loader; with its addresses if it is bare.

        And with the names that are tied by the config, and not by these files.

        Args:
            names: of the tensors that it will be loaded from.
        """
        mapping, source = self.load_options.get("key_mapping"), self.base.source
        try:
            built, renamed = None, names_after(mapping, names)
            if not self.model_args and "use_kernels" not in self.load_options:
                asked = {key: self.load_options[key] for key in IMPLEMENTATIONS if key in self.load_options}
                built = build_on_meta(self.cls, self.config, renamed, self.dtype, **asked, **self.model_kwargs)
            if built is None:
                entries = zip(names_after(mapping, source.entries), source.entries.values(), strict=True)
                tensors = {name: (entry.shape, entry.dtype) for name, entry in entries}
                built = in_kept_dtypes(self.load_on_meta(tensors), self.dtype), None
            check_not_lazy(built[0])
        except (*UNBUILDABLE, OSError) as error:
            raise constructor_fault(self.cls, error) from error
        model, addresses = built
        own = addresses if not (mapping or source.parts) else None
        of_base = own or base_addresses(model, source, mapping)
        taken = [name for name in names if not any(self.names(glob, name) for glob in self.drop)]
        apart = held_apart(model, of_base, source, taken)
        untie(model, apart)
        return model, addresses, apart

    def _second_names(self, source: tuple[SourceTensor, ...]) -> Iterator[SourceTensor]:
        """Yield what the base's own class ties: stored under one name, and under another that the target has.

        Its own model is built only where a tensor lacks a source and has the shape of one, or where ties are undone.
        """
        held = {tensor.address for tensor in source}
        lacking = {tensor.shape for tensor in self.whole_layout.tensors if tensor.address not in held}
        by_name = {tensor.name: tensor for tensor in source}
        ties = [getattr(config, "tie_word_embeddings", False) for config in (self.config, self.base_config)]
        asked = not lacking.isdisjoint(tensor.shape for tensor in source) or (lacking and ties == [False, True])
        for prefix, own, known in self.origins if asked else ():
            names = [name for name in own.base.source.entries if prefix + name in by_name]
            second = stored_under(own.whole_layout, own.addresses, names) if known else ()
            stored = {prefix + name: prefix + other for name, other in second}
            addresses = self.addresses.of(list(stored))
            for name, other in stored.items():
                if addresses[name] not in held:
                    yield replace(by_name[other], address=addresses[name], second=True)
