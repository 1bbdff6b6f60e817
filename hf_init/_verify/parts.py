"""A proof divided among machines: which tensors are whose, and the reports of all parts as the report of the whole."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from hf_init._checkpoint import Checkpoint, dtype_bits, is_count, is_json_list, is_json_object, read_object
from hf_init._errors import CheckpointError, PlanError, option
from hf_init._paths import user_path
from hf_init._plan import MANIFEST_NAME, TensorPlan
from hf_init._tensors import num_elements
from hf_init._text import join_names
from hf_init._verify.report import ProofPart, VerifyReport

PartReport: TypeAlias = "VerifyReport | str | os.PathLike[str]"

_SUMS = ("bytes_compared", "bytes_digested", "bytes_linked", "bytes_cloned")


def part_numbers(part: str) -> tuple[int, int]:
    """Return which part of how many a text names.

    Raises:
        PlanError: it isn't K/N with K from 1 to N.

    Example:
        >>> part_numbers("2/4")
        (2, 4)
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", str(part), re.ASCII)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise PlanError(f"{option('part')}: expected K/N, such as 1/4 for the first of four, not {part!r}")
    return int(found[1]), int(found[2])


def share_of(tensors: Sequence[TensorPlan], number: int, of: int) -> list[TensorPlan]:
    """Return the tensors of a part: neighbours in the manifest, about as many bytes in each part."""
    sizes = [num_elements(tensor.shape) * dtype_bits(tensor.dtype) if tensor.stored else 0 for tensor in tensors]
    total, before, mine = max(sum(sizes), 1), 0, []
    for tensor, size in zip(tensors, sizes, strict=True):
        if min((2 * before + size) * of // (2 * total), of - 1) == number - 1:  # where its middle lies
            mine.append(tensor)
        before += size
    return mine


def result_identity(out: Path, result: Checkpoint) -> str:
    """Return the SHA-256, in hex, over a result's manifest and headers: that parts are of one result."""
    return hashlib.sha256((out / MANIFEST_NAME).read_bytes() + result.fingerprint().encode()).hexdigest()


def merge_reports(reports: Sequence[PartReport], identity: str) -> VerifyReport:
    """Return the report of the whole, with its verdict, from those of all parts.

    Args:
        reports: of ``verify(..., part="K/N")``, or JSON files of them. identity: of the result.

    Raises:
        CheckpointError: a part is missing or there twice, is of another result or another way to verify, or is no such
            report.
    """
    read = [each if isinstance(each, VerifyReport) else _read_report(user_path(each)) for each in reports]
    by_number: dict[int, VerifyReport] = {}
    faults: list[str] = []
    for given, report in zip(reports, read, strict=True):
        name = "a report" if isinstance(given, VerifyReport) else str(given)
        if report.part is None:
            faults.append(f"{name} is of the whole, not of a part")
        elif report.part.result != identity:
            faults.append(f"{name} is of another result, or of this one before it was changed")
        elif report.part.number in by_number:
            faults.append(f"part {report.part.number} is there twice")
        else:
            by_number[report.part.number] = report
    faults += _disagreements([report.part for report in by_number.values() if report.part is not None])
    if faults:
        raise CheckpointError(
            f"the reports can't be put together: {'; '.join(faults)}. Give the report of every part once, each from "
            f"{option('part', 'K/N')} of this very result"
        )
    ordered = [by_number[number] for number in sorted(by_number)]
    return VerifyReport(
        counts=ordered[0].counts,
        differences=tuple(difference for report in ordered for difference in report.differences),
        notes=tuple(dict.fromkeys(note for report in ordered for note in report.notes)),
        base=next((report.base for report in ordered if report.base is not None), None),
        complete=all(report.complete for report in ordered),
        bytes_compared=sum(report.bytes_compared for report in ordered),
        bytes_digested=sum(report.bytes_digested for report in ordered),
        bytes_linked=sum(report.bytes_linked for report in ordered),
        bytes_cloned=sum(report.bytes_cloned for report in ordered),
    )


def _disagreements(parts: Sequence[ProofPart]) -> Iterator[str]:
    totals, ways = Counter(part.of for part in parts), {part.recomputed for part in parts}
    if len(totals) > 1:
        yield f"they are parts of {join_names(sorted(map(str, totals)))}"
        return
    of = next(iter(totals), 1)
    if missing := sorted({*range(1, of + 1)} - {part.number for part in parts}):
        yield f"missing: part{'s' * (len(missing) > 1)} {join_names([*map(str, missing)])} of {of}"
    if len(ways) > 1:
        yield f"some were made with {option('recompute')} and others without"


def _read_report(path: Path) -> VerifyReport:
    document = read_object(path)
    counts, differences, notes, part = (document.get(key) for key in ("counts", "differences", "notes", "part"))
    base = document.get("base")
    if (
        document.get("schema") == VerifyReport.schema
        and is_json_object(counts)
        and is_json_list(differences)
        and is_json_list(notes)
        and all(is_json_object(each) and "name" in each and "reason" in each for each in differences)
        and all(is_count(document.get(name)) for name in _SUMS)
        and isinstance(base, str | None)
        and document.get("ok") is (not differences)
    ):
        proof = None
        if is_json_object(part):
            number, of = part_numbers(f"{part.get('number')}/{part.get('of')}")
            proof = ProofPart(number, of, str(part.get("result")), part.get("recomputed") is True)
        return VerifyReport(
            counts={str(status): number for status, number in counts.items() if is_count(number)},
            differences=tuple(dict(each) for each in differences if is_json_object(each)),
            notes=tuple(map(str, notes)),
            base=base,
            complete=document.get("complete") is True,
            part=proof,
            **{name: document[name] for name in _SUMS},
        )
    raise CheckpointError(f"{path} is no report of verify: make it by `hf-init verify OUT --part K/N --json > FILE`")
