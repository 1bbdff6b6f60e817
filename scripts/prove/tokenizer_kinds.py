"""Tokenizers of every kind, as transformers 4.57 and 5 write them, get tokens and are read by both: the same ids.

Version 4.57 trains and saves each kind; version 5 loads and saves each again; hf_init extends both folders. Both
versions and the tokenizers library then read base and result. Exits 1 where a text without a new token gets other ids
than in the base under the same reader, where two readers that agree on the base don't agree on the result, or where one
reads the result no more. A base that a reader can't load is passed over: the readers of each folder are printed.

    python scripts/prove/tokenizer_kinds.py [--texts 500] [--folder DIR]
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BESIDE = ROOT / ".cache" / "transformers4"
PACKAGES = ("transformers==4.57.*", "tokenizers<0.23", "huggingface-hub<1", "sentencepiece", "protobuf")
WORDS, SPECIAL = [" photoelectron", " hepatocyte"], ["<|tool|>", "<e1>"]
SENTENCES = ("the photoelectron, (photoelectron) a hepatocyte <|tool|> end", "<e1>x photoelectron")
MODULES = [
    "argparse",
    "asyncio",
    "collections",
    "csv",
    "datetime",
    "decimal",
    "difflib",
    "email.message",
    "fractions",
    "functools",
    "http.client",
    "io",
    "json",
    "logging",
    "os",
    "pathlib",
    "pickle",
    "pydoc",
    "random",
    "re",
    "shutil",
    "socket",
    "statistics",
    "string",
    "subprocess",
    "tarfile",
    "textwrap",
    "threading",
    "unittest",
    "zipfile",
]
OLD_SPECIAL = "the </s> end, </s>x [SEP] end, [SEP]x <|endoftext|> end, <|endoftext|>x"
"""Of the bases' own: where versions read these otherwise, they don't agree on running text with any control token."""
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def texts(most: int) -> list[str]:
    """Return docstrings of the standard library, none with a new token."""
    modules = map(importlib.import_module, MODULES)
    docs = (inspect.getdoc(value) for module in modules for value in vars(module).values() if callable(value))
    return [*[*dict.fromkeys(doc for doc in docs if doc)][:most], OLD_SPECIAL]


def made(folder: Path, corpus: Sequence[str]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the kinds by name, each to be made by the version of transformers that runs."""
    import sentencepiece
    import transformers as t
    from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer

    quiet: dict[str, Any] = {"show_progress": False}
    byte_level = ByteLevelBPETokenizer()
    byte_level.train_from_iterator(corpus, 600, special_tokens=[*SPECIALS, "<|endoftext|>"], **quiet)
    pieces = BertWordPieceTokenizer()
    pieces.train_from_iterator(corpus, 600, special_tokens=BERT, **quiet)
    byte_level.save_model(str(folder))
    (folder / "words").mkdir()
    pieces.save_model(str(folder / "words"))
    (folder / "corpus.txt").write_text("\n".join(" ".join(text.split()) for text in corpus))
    for kind in ("bpe", "unigram"):
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "corpus.txt"), model_prefix=str(folder / kind), vocab_size=500, model_type=kind,
            byte_fallback=kind == "bpe", max_sentence_length=10**6, minloglevel=2,
        )  # fmt: skip
    files = (str(folder / "vocab.json"), str(folder / "merges.txt"))
    vocabulary, bpe, unigram = (str(folder / name) for name in ("words/vocab.txt", "bpe.model", "unigram.model"))
    for name in ("GPT2", "Roberta", "Bart", "Qwen2"):
        yield name, lambda name=name: getattr(t, f"{name}TokenizerFast")(*files)
    named: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": ["<mask>"]}
    yield "plain", lambda: t.PreTrainedTokenizerFast(tokenizer_object=byte_level._tokenizer, **named)
    yield "GPTNeoX", lambda: t.GPTNeoXTokenizerFast(tokenizer_object=byte_level._tokenizer)
    for name in ("Bert", "Electra", "MPNet", "DistilBert"):
        yield name, lambda name=name: getattr(t, f"{name}TokenizerFast")(vocabulary)
    yield "Bert in Python", lambda: t.BertTokenizer(vocabulary)
    for name in ("Llama", "Gemma"):
        yield name, lambda name=name: getattr(t, f"{name}TokenizerFast")(bpe)
    yield "Llama, not legacy", lambda: t.LlamaTokenizerFast(bpe, legacy=False)
    yield "Llama in Python", lambda: t.LlamaTokenizer(bpe, legacy=False)
    for name in ("XLMRoberta", "MBart50", "Albert", "DebertaV2", "Camembert", "Pegasus", "Nllb", "T5"):
        yield name, lambda name=name: getattr(t, f"{name}TokenizerFast")(unigram)


def make(folder: Path, corpus: Sequence[str]) -> None:
    """Save every kind, by the version that runs."""
    (folder / "training").mkdir()
    for name, build in made(folder / "training", corpus):
        build().save_pretrained(str(folder / f"4 {name}"))


def ids(folder: Path, corpus: Sequence[str]) -> list[list[int]]:
    """Return the ids of texts as the version that runs reads a folder."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    return [tokenizer(text).input_ids for text in corpus]


def read(folder: Path, corpus: Sequence[str]) -> dict[str, object]:
    """Return the ids of texts for every folder, or why one can't be read."""
    import transformers

    transformers.logging.set_verbosity_error()
    outcome: dict[str, object] = {}
    for path in sorted(folder.glob("[45] *")):
        try:
            outcome[path.name] = ids(path, corpus)
        except Exception as error:  # whatever a version raises for files that it doesn't know
            outcome[path.name] = f"{type(error).__name__}: {error}"
    return outcome


def older(role: str, folder: Path, most: int) -> Any:
    """Run a role of this script under transformers 4.57, which is installed beside the environment."""
    if not BESIDE.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--target", str(BESIDE), *PACKAGES], check=True)
    command = [sys.executable, __file__, "--role", role, "--folder", str(folder), "--texts", str(most)]
    environment = {**os.environ, "PYTHONPATH": str(BESIDE), "HF_HUB_OFFLINE": "1"}
    return json.loads(subprocess.run(command, check=True, env=environment, capture_output=True).stdout or "null")


def extend(folder: Path) -> None:
    """Save each kind by this version, too, and extend both: each with a model of one small table."""
    import transformers

    import hf_init

    for path in sorted(folder.glob("4 *")):
        try:
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(path))
        except Exception as error:  # whatever the library raises for what it wrote itself in version 4
            print(f"{path.name}: version 5 can't read it: {error}")
            continue
        rows = max(tokenizer.get_vocab().values()) + 1
        config = transformers.LlamaConfig(
            vocab_size=rows, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        )
        newer = folder / path.name.replace("4", "5", 1)
        tokenizer.save_pretrained(str(newer))
        for base in (path, newer):
            transformers.LlamaModel(config).save_pretrained(base)
            hf_init.extend(base, f"{base}, extended", add_tokens=WORDS, special_tokens=SPECIAL)


def backend_ids(folder: Path, corpus: Sequence[str]) -> dict[str, object]:
    """Return the ids of texts by the tokenizers library alone, for the folders that have its file."""
    from tokenizers import Tokenizer

    outcome: dict[str, object] = {}
    for path in sorted(folder.glob("[45] *")):
        if (path / "tokenizer.json").is_file():
            tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
            tokenizer.no_truncation()
            tokenizer.no_padding()
            outcome[path.name] = [tokenizer.encode(text).ids for text in corpus]
    return outcome


def faults(readers: Mapping[str, Mapping[str, Any]], plain: int) -> Iterator[str]:
    """Yield what is wrong: ``plain`` texts come first, without a new token."""
    for name in sorted({name for found in readers.values() for name in found if not name.endswith(", extended")}):
        after = f"{name}, extended"
        able = {reader: found for reader, found in readers.items() if isinstance(found.get(name), list)}
        for reader, found in able.items():
            if not isinstance(found.get(after), list):
                if any(after in other for other in readers.values()):
                    yield f"{name}: {reader} can't read the result: {found.get(after)}"
            elif differ := sum(a != b for a, b in zip(found[name][:plain], found[after][:plain], strict=True)):
                yield f"{name}: {reader} reads {differ} of {plain} texts otherwise than in the base"
        read_alike = [found for found in able.values() if found[name] == next(iter(able.values()))[name]]
        if any(found.get(after) != read_alike[0].get(after) for found in read_alike):
            yield f"{name}: readers that agree on the base don't on the result"


def main() -> int:
    """Make, extend, read, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--role", choices=("make", "read"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    corpus = texts(args.texts)
    if args.role == "make":
        make(args.folder, corpus)
        return 0
    if args.role == "read":
        print(json.dumps(read(args.folder, [*corpus, *SENTENCES])))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        older("make", folder, args.texts)
        sys.path.append(str(BESIDE))  # version 5 needs sentencepiece for tokenizers in Python; all else is its own
        extend(folder)
        everything = [*corpus, *SENTENCES]
        readers = {"4.57": older("read", folder, args.texts), "5": read(folder, everything)}
        readers["tokenizers"] = backend_ids(folder, everything)
    for name in sorted(readers["5"]):
        known = {reader: found.get(name) for reader, found in readers.items()}
        print(f"{name}: {', '.join(r for r, each in known.items() if isinstance(each, list))}")
    problems = [*faults(readers, len(corpus))]
    print("\n".join(problems) or f"{len(readers['5'])} folders, {len(corpus)} texts: the same ids")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
