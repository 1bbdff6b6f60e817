"""New tokens: the tokenizer, and every row, config field and file that follows it."""

from __future__ import annotations

from hf_init._vocabulary.config_fields import config_leaves as config_leaves
from hf_init._vocabulary.in_text import split_words as split_words
from hf_init._vocabulary.request import read_token_file as read_token_file
from hf_init._vocabulary.rows import format_ids as format_ids
from hf_init._vocabulary.texts import TEXTS as TEXTS
from hf_init._vocabulary.token_change import TokenChange as TokenChange
from hf_init._vocabulary.tokenizer import TokenSplitter as TokenSplitter
from hf_init._vocabulary.tokenizer import ids_of as ids_of
from hf_init._vocabulary.tokenizer import load_tokenizer as load_tokenizer
