"""A vocabulary for a domain: finds the words of a text that are worth a token, adds them, and shows what it changes.

A word is worth a token if it is often and the tokenizer cuts it into several: adding it saves one token less than its
pieces, every time. Half of the passages serve to find words, the other half to count what they save. The text is
that of the given files, or what comes with Python: the language reference and the standard library's docstrings.

    python scripts/evidence/domain_vocabulary.py BASE OUT [--text FILE ...] [--words 500] [--scheme SCHEME]
"""

from __future__ import annotations

import argparse
import ast
import collections
import importlib
import re
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import hf_init
from hf_init._probe.probe import probe_vocabulary
from hf_init._vocabulary.tokenizer import load_tokenizer

WORD = re.compile(r" [^\W\d_]{3,}")
"""A word behind a space, which belongs to it: as byte-level and SentencePiece tokenizers have it."""


def python_documentation() -> list[str]:
    """Return the language reference that comes with Python, a text a topic, and its modules' docstrings."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return [*(topics[name] for name in sorted(topics)), *(text for file in library for text in docstrings(file))]


def docstrings(file: Path) -> list[str]:
    """Return every docstring of a module that is longer than a line, without running it."""
    nodes = ast.walk(ast.parse(file.read_bytes()))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) for node in nodes if isinstance(node, kinds)]
    return [text for text in texts if text and "\n" in text]


def worth_a_token(texts: Iterable[str], tokenizer: Any, most: int, least: int = 3) -> list[tuple[str, int]]:
    """Return the words that save the most tokens, with how many: those that occur at least ``least`` times."""
    often = collections.Counter(word for text in texts for word in WORD.findall(text))
    saved = {
        word: count * (len(tokenizer.encode(word, add_special_tokens=False)) - 1)
        for word, count in often.items()
        if count >= least
    }
    best = sorted(saved.items(), key=lambda item: (-item[1], item[0]))
    return [(word, tokens) for word, tokens in best[:most] if tokens > 0]


def tokens_in(texts: Sequence[str], tokenizer: Any) -> int:
    return sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)


def paragraphs(texts: Iterable[str]) -> list[str]:
    return [part for text in texts for part in text.split("\n\n") if len(part) > 80]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("base")
    parser.add_argument("out")
    parser.add_argument("--text", nargs="*", type=Path, help="text files; default: what comes with Python")
    parser.add_argument("--words", type=int, default=500)
    parser.add_argument("--probed", type=int, default=40, help="paragraphs that the probe reads")
    parser.add_argument("--scheme", help="of the new rows; default: chosen by the side and the kind of token")
    args = parser.parse_args()
    texts = [file.read_text(encoding="utf-8") for file in args.text] if args.text else python_documentation()
    parts = paragraphs(texts)
    before = load_tokenizer(Path(args.base))
    words = worth_a_token(parts[::2], before, args.words)
    print(f"{len(words)} words of {sum(map(len, parts[::2]))} characters are worth a token; the first:")
    for word, saved in words[:10]:
        print(f"  {word!r:20} {saved:6} tokens, now {before.tokenize(word)}")
    options = {} if args.scheme is None else {"row_scheme": args.scheme}
    print(hf_init.extend(args.base, args.out, add_tokens=[word for word, _ in words], existing="skip", **options))
    rest = parts[1::2]
    old, new = tokens_in(rest, before), tokens_in(rest, load_tokenizer(Path(args.out)))
    print(f"on the other half of the text: {old} tokens before, {new} after: {1 - new / old:.1%} saved")
    print(probe_vocabulary(args.base, args.out, rest[:: max(1, len(rest) // args.probed)][: args.probed]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
