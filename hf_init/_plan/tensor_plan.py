"""What becomes of one tensor."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn, TypedDict

from typing_extensions import assert_never

from hf_init import schemes
from hf_init._errors import RecipeError
from hf_init._tensors import (
    Context,
    Copy,
    Geometry,
    GeometryJson,
    Region,
    RegionJson,
    Shape,
    Slot,
    Status,
    region_from_json,
)
from hf_init.schemes import Scheme


class FillJson(TypedDict):
    """A new region in a manifest."""

    region: RegionJson
    scheme: Mapping[str, object]
    why: str


class CopyJson(TypedDict):
    """A kept region in a manifest."""

    region: RegionJson
    source: str
    source_region: RegionJson


class _NamedTensorJson(TypedDict):
    name: str
    status: str
    shape: list[int]
    dtype: str


class TensorJson(_NamedTensorJson, total=False):
    """A tensor in a manifest; ``kept`` is of resized tensors only."""

    role: str
    parameter: str
    source: str
    tied_to: str
    kept: list[CopyJson]
    new: list[FillJson]
    geometry: GeometryJson


@dataclass(frozen=True)
class UnknownScheme(Scheme):
    """A scheme in a manifest that this version can't use: it is kept as it was written, and draws nothing.

    Attributes:
        written: its name and settings, as JSON.
        reason: why it can't be used.
    """

    written: str
    reason: str

    def __post_init__(self) -> None:
        """Check nothing: the settings are another version's."""

    def check(self, slot: Slot) -> NoReturn:
        raise RecipeError(f"{slot.name}: {self.reason}")

    def to_json(self) -> dict[str, object]:
        return json.loads(self.written)

    def __str__(self) -> str:
        return self.written


@dataclass(frozen=True)
class Fill:
    """A new region, the scheme that fills it, and why that scheme."""

    region: Region
    scheme: Scheme
    why: str = ""

    def to_json(self) -> FillJson:
        return {"region": self.region.to_json(), "scheme": self.scheme.to_json(), "why": self.why}


@dataclass(frozen=True)
class TensorPlan:
    """What becomes of one target tensor.

    Attributes:
        name: on disk. A tied tensor is in the model only.
        status: kept, resized, new or tied.
        shape, dtype: on disk in the result.
        kept: regions that come from the source, byte for byte.
        new: regions to fill.
        source: of a kept tensor, its name in the source; of a tied one, a source tensor that must hold the same bytes.
        tied_to: of a tied tensor, the tensor that it is.
        parameter, role: as in ``TensorSpec``.
        geometry: as in ``TensorSpec``, where something is new.
    """

    name: str
    status: Status
    shape: Shape
    dtype: str
    kept: tuple[Copy, ...] = ()
    new: tuple[Fill, ...] = ()
    source: str | None = None
    tied_to: str | None = None
    parameter: str = ""
    role: str = "parameter"
    geometry: Geometry | None = None

    def slots(self, seed: int, context: Context | None = None) -> Iterator[tuple[Scheme, Slot]]:
        """Yield every new region with its scheme, in order."""
        for fill in self.new:
            yield (
                fill.scheme,
                Slot(
                    name=self.name,
                    region=fill.region,
                    whole=self.shape,
                    dtype=self.dtype,
                    seed=seed,
                    parameter=self.parameter,
                    role=self.role,
                    geometry=self.geometry,
                    context=context,
                ),
            )

    @property
    def needs_model(self) -> bool:
        """Return whether a scheme of the tensor asks the architecture, of which there is one for all threads."""
        return any(fill.scheme.needs_model for fill in self.new)

    @property
    def left_out(self) -> bool:
        """Return whether the user's own code or the library is to make it: it isn't in the result's files."""
        return self.status is Status.NEW and any(isinstance(fill.scheme, schemes.Skip) for fill in self.new)

    @property
    def stored(self) -> bool:
        """Return whether the result's files hold it: it is neither tied nor left out."""
        return self.status is not Status.TIED and not self.left_out

    def to_json(self) -> TensorJson:
        entry: TensorJson = {
            "name": self.name,
            "status": self.status.value,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "role": self.role,
        }
        if self.parameter != self.name:
            entry["parameter"] = self.parameter
        if self.source is not None:
            entry["source"] = self.source
        if self.tied_to is not None:
            entry["tied_to"] = self.tied_to
        if self.status is Status.RESIZED:
            entry["kept"] = [
                {"region": copy.region.to_json(), "source": copy.source, "source_region": copy.source_region.to_json()}
                for copy in self.kept
            ]
        if self.new:
            entry["new"] = [fill.to_json() for fill in self.new]
        if self.geometry is not None:
            entry["geometry"] = self.geometry.to_json()
        return entry

    @classmethod
    def from_json(cls, entry: TensorJson) -> TensorPlan:
        """Return the entry that ``to_json`` wrote, in which ``entry_faults`` finds nothing wrong."""
        shape, status = tuple(entry["shape"]), Status(entry["status"])
        geometry = entry.get("geometry")
        return cls(
            name=entry["name"],
            status=status,
            shape=shape,
            dtype=entry["dtype"],
            kept=tuple(_copies_from_json(entry, status, shape)),
            new=tuple(
                Fill(region_from_json(fill["region"], shape), _scheme_from_json(fill["scheme"]), fill.get("why", ""))
                for fill in entry.get("new") or ()
            ),
            source=entry.get("source"),
            tied_to=entry.get("tied_to"),
            parameter=entry.get("parameter", entry["name"]),
            role=entry.get("role", "parameter"),
            geometry=None if geometry is None else Geometry.from_json(geometry),
        )


def _copies_from_json(entry: TensorJson, status: Status, shape: Shape) -> Iterator[Copy]:
    match status:
        case Status.KEPT | Status.CARRIED:
            yield Copy.whole(entry.get("source", ""), shape)
        case Status.RESIZED:
            for copy in entry.get("kept", ()):
                region = region_from_json(copy["region"], shape)
                yield Copy(region, copy["source"], region_from_json(copy["source_region"], shape))
        case Status.NEW | Status.TIED:
            return
        case _:
            assert_never(status)


def _scheme_from_json(data: Mapping[str, object]) -> Scheme:
    """Return the scheme of a manifest; what verifies bytes needs none, so one that is unknown isn't refused here."""
    try:
        return schemes.from_json(data)
    except RecipeError as error:
        return UnknownScheme(json.dumps(data), str(error))
