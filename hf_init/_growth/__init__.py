"""Growth: layers by an index map, positions, images, widths; what function holds is said and can be shown."""

from __future__ import annotations

from hf_init._growth.attention_change import AttentionChange as AttentionChange
from hf_init._growth.experts_change import ExpertsChange as ExpertsChange
from hf_init._growth.given_change import GivenChange as GivenChange
from hf_init._growth.hidden_change import HiddenChange as HiddenChange
from hf_init._growth.image_change import ImageChange as ImageChange
from hf_init._growth.layers_change import LayersChange as LayersChange
from hf_init._growth.positions_change import PositionsChange as PositionsChange
from hf_init._growth.upcycle import UpcycleChange as UpcycleChange
from hf_init._growth.upcycle import experts_of as experts_of
from hf_init._growth.width_change import WidthChange as WidthChange
