"""Growth: layers by an index map; what closes a new block is seen on the class, and the function that holds is said."""

from __future__ import annotations

from hf_init._growth.layer_spec import LayersLike as LayersLike
from hf_init._growth.layers_change import LayersChange as LayersChange
