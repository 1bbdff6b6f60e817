"""Rows of new tokens that are read as their pieces are and said where texts say them; two tokenizers, compared."""

from __future__ import annotations

from hf_init._distill.occurrences import Occurrence as Occurrence
from hf_init._distill.occurrences import ReadTexts as ReadTexts
from hf_init._distill.occurrences import places_behind as places_behind
from hf_init._distill.occurrences import read_texts as read_texts
from hf_init._distill.occurrences import spans as spans
from hf_init._distill.reading import layer_like as layer_like
from hf_init._distill.said import says_in_turn as says_in_turn
from hf_init._distill.texts import GivenTexts as GivenTexts
from hf_init._distill.texts import paragraphs_of as paragraphs_of
from hf_init._distill.values import distilled_values as distilled_values
from hf_init._distill.values import reading_base as reading_base
