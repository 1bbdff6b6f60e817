"""The nouns: frozen values that every other module speaks in. No I/O, no torch."""

from __future__ import annotations

from hf_init._tensors.regions import Box as Box
from hf_init._tensors.regions import Region as Region
from hf_init._tensors.regions import RegionJson as RegionJson
from hf_init._tensors.regions import Rows as Rows
from hf_init._tensors.regions import Shape as Shape
from hf_init._tensors.regions import num_elements as num_elements
from hf_init._tensors.regions import region_from_json as region_from_json
from hf_init._tensors.regions import subtract_boxes as subtract_boxes
from hf_init._tensors.specs import Context as Context
from hf_init._tensors.specs import Copy as Copy
from hf_init._tensors.specs import Geometry as Geometry
from hf_init._tensors.specs import GeometryJson as GeometryJson
from hf_init._tensors.specs import Layout as Layout
from hf_init._tensors.specs import Slot as Slot
from hf_init._tensors.specs import SourceTensor as SourceTensor
from hf_init._tensors.specs import Status as Status
from hf_init._tensors.specs import TensorSpec as TensorSpec
from hf_init._tensors.specs import Tie as Tie
from hf_init._tensors.specs import key_of as key_of
