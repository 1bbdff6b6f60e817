"""The labels of a head: their names, the rows that follow them, and how often each occurs. Pure."""

from __future__ import annotations

from hf_init._labels._axes import Axis as Axis
from hf_init._labels._axes import axes as axes
from hf_init._labels._axes import correspondence as correspondence
from hf_init._labels._counts import NO_OBJECT as NO_OBJECT
from hf_init._labels._counts import by_row as by_row
from hf_init._labels._counts import numbers as numbers
from hf_init._labels._names import Names as Names
from hf_init._labels._names import generic as generic
from hf_init._labels._names import listed as listed
from hf_init._labels._names import numbered as numbered
from hf_init._labels._names import read as read
from hf_init._labels._names import renamed as renamed
from hf_init._labels._names import tagged as tagged
from hf_init._labels._names import unpaired as unpaired
from hf_init._labels._rows import MODES as MODES
from hf_init._labels._rows import Index as Index
from hf_init._labels._rows import follow as follow
from hf_init._labels._rows import said as said
