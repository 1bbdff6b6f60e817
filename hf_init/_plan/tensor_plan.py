"""What becomes of one tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hf_init import schemes
from hf_init._tensors import Box, Context, Copy, Geometry, Region, Shape, Slot, Status, region_from_json
from hf_init.schemes import Scheme


@dataclass(frozen=True)
class Fill:
    """A new region, the scheme that fills it, and why that scheme."""

    region: Region
    scheme: Scheme
    why: str = ""

    def to_json(self) -> dict[str, Any]:
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
        """Every new region with its scheme, in order."""
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
    def left_out(self) -> bool:
        """Whether the user's own code or the library is to make it: it isn't in the result's files."""
        return any(isinstance(fill.scheme, schemes.Skip) for fill in self.new)

    def to_json(self) -> dict[str, Any]:
        entry: dict[str, Any] = {
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
            entry["kept"] = [_copy_to_json(copy) for copy in self.kept]
        if self.new:
            entry["new"] = [fill.to_json() for fill in self.new]
        if self.geometry is not None:
            entry["geometry"] = self.geometry.to_json()
        return entry

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> TensorPlan:
        shape = tuple(entry["shape"])
        status = Status(entry["status"])
        geometry = entry.get("geometry")
        return cls(
            name=entry["name"],
            status=status,
            shape=shape,
            dtype=entry["dtype"],
            kept=_kept_from_json(entry, status, shape),
            new=tuple(_fill_from_json(fill, shape) for fill in entry.get("new", ())),
            source=entry.get("source"),
            tied_to=entry.get("tied_to"),
            parameter=entry.get("parameter", entry["name"]),
            role=entry.get("role", "parameter"),
            geometry=None if geometry is None else Geometry.from_json(geometry),
        )


def is_whole(shape: Shape) -> Region:
    """All of a tensor."""
    return Box.whole(shape)


def _copy_to_json(copy: Copy) -> dict[str, Any]:
    return {"region": copy.region.to_json(), "source": copy.source, "source_region": copy.source_region.to_json()}


def _kept_from_json(entry: Mapping[str, Any], status: Status, shape: Shape) -> tuple[Copy, ...]:
    if status is Status.KEPT:
        return (Copy(is_whole(shape), entry["source"], is_whole(shape)),)
    return tuple(
        Copy(region_from_json(copy["region"], shape), copy["source"], region_from_json(copy["source_region"], shape))
        for copy in entry.get("kept", ())
    )


def _fill_from_json(fill: Mapping[str, Any], shape: Shape) -> Fill:
    return Fill(region_from_json(fill["region"], shape), schemes.from_json(fill["scheme"]), fill.get("why", ""))
