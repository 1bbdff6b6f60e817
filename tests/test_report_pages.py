"""The page of a report: whole, safe, the same twice; and what is refused."""

from __future__ import annotations

import json
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reported_results import SCHEME, normal, planned, put, result, saved, text_of

import hf_init
from hf_init import HfInitError, Plan, schemes

NASTY = "<script>alert(1)</script>&\"'$x_1$"


# --- pages ---


def grown(folder: Path, nasty: str = "") -> Path:
    """A small result with every status, its names and words hostile if asked."""
    role, rows = f"linear.weight{nasty}", {"start": [0, 0], "stop": [20, 16]}
    embedding = {
        "name": f"embedding{nasty}", "status": "resized", "shape": [30, 16], "dtype": "float32",
        "kept": [{"region": rows, "source": "embedding", "source_region": rows}], "role": "embedding.token",
        "new": [{"region": {"start": [20, 0], "stop": [30, 16]}, "scheme": SCHEME.to_json(), "why": nasty}],
    }  # fmt: skip
    tied = {
        "name": f"tied{nasty}",
        "status": "tied",
        "shape": [30, 16],
        "dtype": "float32",
        "tied_to": embedding["name"],
    }
    entries = [
        planned(f"h.0.w{nasty}", (64, 64), role=role),
        planned(f"h.1.w{nasty}", (64, 64), SCHEME, role, nasty),
        planned(f"gate{nasty}", (8,), schemes.Zeros()),
        embedding,
        tied,
    ]
    values = (normal(seed=1), normal(seed=2), np.zeros(8, np.float32), normal((30, 16), seed=3))
    tensors = {entry["name"]: each for entry, each in zip(entries[:4], values, strict=True)}
    return result(folder, tensors, entries, nasty)


class Page(HTMLParser):
    """What a page is made of, and what is wrong with it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.elements: Counter[str] = Counter()
        self.text = ""
        self.feed(text)
        self.close()
        self.faults += [f"<{name}> is never closed" for name in self.open]
        self.faults += [f"the id {name} occurs twice" for name, many in self.ids.items() if many > 1]
        self.faults += [f"{link} leads nowhere" for link in self.links if link[0] == "#" and link[1:] not in self.ids]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        if tag not in ("img", "link", "meta", "source", "wbr"):
            self.open.append(tag)
        for key, value in attrs:
            self._attribute(tag, key, value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        for key, value in attrs:
            self._attribute(tag, key, value or "")

    def _attribute(self, tag: str, key: str, value: str) -> None:
        if key == "id":
            self.ids[value] += 1
        if key in ("href", "src", "srcset"):
            self.links.append(value)
            self.faults += [] if value.startswith(("#", "data:")) else [f"{tag} needs {value}"]
        if key.startswith("on") or "http" in value or "url(" in value:
            self.faults.append(f"{tag} has {key}={value}")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes something else")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("<p>", "never closed"),
        ("<b><i></b></i>", "closes something else"),
        ('<a href="https://example.org"></a>', "needs https"),
        ('<img src="x.png"/>', "needs x.png"),
        ('<p onclick="x()"></p>', "onclick"),
        ('<p id="a"></p><p id="a"></p>', "occurs twice"),
        ('<a href="#b"></a>', "leads nowhere"),
    ],
)
def test_the_checker_of_pages_finds_faults(text, fault):
    assert fault in " ".join(Page(text).faults)


def test_a_page_is_whole_safe_and_needs_nothing_else(tmp_path):
    text = text_of(grown(tmp_path / "out", NASTY), tmp_path / "page.html")
    page = Page(text)
    assert page.faults == [] and page.elements["script"] == 0 and "<script" not in text
    assert "http" not in text.replace(NASTY, "") and "@import" not in text and "url(" not in text
    assert page.elements["img"] == 3
    for words in (f"Model{NASTY}", f"h.1.w{NASTY}", f"base{NASTY}", f"no place{NASTY}", f"linear.weight{NASTY}"):
        assert words in page.text


def test_a_page_says_what_there_is_to_say(tmp_path):
    page = Page(text_of(grown(tmp_path / "out"), tmp_path / "page.html"))
    for words in ("Model", "with seed 0", "1 resized", "1 unused", "rows 20 to 29 of 30", "normal(std=0.02)"):
        assert words in page.text
    assert "Nothing looks wrong" in page.text and "expected: normal, mean 0, std 0.02" in page.text
    assert "No pretrained tensor has the role linear.weight" not in page.text.split("gate")[0]


def test_warnings_lead_to_their_tensor_and_many_are_folded(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_init._report.survey.PICTURES", 1)
    values = {f"w{at}": put(normal(), (9, 9), 2.0) for at in range(30)}
    entries = [planned(name, (64, 64), SCHEME) for name in values]
    page = Page(text_of(result(tmp_path / "out", values, entries), tmp_path / "a.html"))
    assert page.faults == [] and "#new-0" in page.links and "Nothing looks wrong" not in page.text
    assert "2 lies 100 standard deviations" in page.text
    assert "extreme value (30)" in page.text and "29 more" in page.text


def test_a_plain_checkpoint_has_statistics_and_warnings(tmp_path):
    layers = {f"h.{at}.w": normal(seed=at) for at in range(4)}
    odd: dict[str, Any] = {"h.4.w": normal(std=0.5), "big": np.zeros((3, 0), np.float32), "step": np.array(7)}
    odd |= {"mask": np.array([True]), "c": np.zeros(2, np.complex64), NASTY: normal((16,))}
    page = Page(text_of(saved(tmp_path / "plain", layers | odd), tmp_path / "page.html"))
    assert page.faults == [] and page.elements["script"] == 0
    for words in (NASTY, "without a manifest", "h.4.w: its standard deviation", "h.*.w (5)"):
        assert words in page.text
    assert f"{normal(seed=2).std(dtype=np.float64):.4g}" in page.text


def test_what_has_no_values_has_a_page(tmp_path):
    entries = [planned("w", (0, 4), SCHEME), planned("left", (64, 64), schemes.Skip())]
    folder = result(tmp_path / "out", {"w": np.zeros((0, 4), np.float32)}, entries)
    page = Page(text_of(folder, tmp_path / "page.html"))
    assert page.faults == [] and page.elements["img"] == 0
    with pytest.raises(HfInitError, match="no new values to draw"):
        hf_init.report(folder, tmp_path / "page.png")


def test_a_real_result_is_healthy(tiny, tmp_path):
    hf_init.extend(tiny("bert"), tmp_path / "out", "BertForSequenceClassification", labels=["a", "b", "c"])
    page = Page(text_of(tmp_path / "out", tmp_path / "page.html"))
    assert page.faults == [] and "Nothing looks wrong" in page.text and "classifier.weight" in page.text


def test_a_png_is_a_png(tmp_path):
    plain = saved(tmp_path / "plain", {"w": normal(), "v": normal((9,))})
    for folder in (grown(tmp_path / "out", NASTY + "\u540d\n"), plain):
        data = hf_init.report(folder, tmp_path / f"{folder.name}.png").read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")
        width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
        assert width > 400 and height > 100


def test_a_report_is_the_same_twice_and_leaves_matplotlib_alone(tmp_path, monkeypatch):
    import matplotlib

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # to import it is an error now

    def settings():  # but the backend, which asking for would choose
        return {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}

    folder = grown(tmp_path / "out")
    with matplotlib.rc_context({"text.usetex": True, "axes.grid": True, "figure.facecolor": "red"}):
        before = settings()
        names = ("a.html", "b.html", "a.png", "b.png")
        texts = [hf_init.report(folder, tmp_path / name).read_bytes() for name in names]
        assert settings() == before
    assert texts[0] == texts[1] and texts[2] == texts[3]


# --- refusals ---


def test_a_file_that_is_there_is_not_replaced_and_the_page_goes_to_the_current_folder(tmp_path, monkeypatch):
    folder, out = grown(tmp_path / "out"), tmp_path / "page.html"
    out.write_text("mine")
    with pytest.raises(HfInitError, match="exists and isn't replaced"):
        hf_init.report(folder, out)
    assert out.read_text() == "mine"
    monkeypatch.chdir(tmp_path)
    assert hf_init.report(folder) == Path("hf_init-report.html")
    assert Path("hf_init-report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "page.html", "hf_init-report.html"}, "nothing else"


@pytest.mark.parametrize(
    ("name", "words"),
    [("page.pdf", "is an .html or a .png"), ("no/page.html", "is not a folder"), ("d.html", "a folder|exists")],
)
def test_a_place_that_can_not_be_is_refused(tmp_path, name, words):
    (tmp_path / "d.html").mkdir()
    with pytest.raises(HfInitError, match=words):
        hf_init.report(grown(tmp_path / "out"), tmp_path / name)


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(HfInitError, match=r"pip install 'hf_init\[plot\]'"):
        hf_init.report(grown(tmp_path / "out"), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: plan.pop("architecture"), "architecture"),
        (lambda plan: plan["tensors"][1]["new"][0].update(scheme={"name": "nothing"}), "nothing"),
        (lambda plan: plan["tensors"][1].update(geometry={"fan": 3}), "geometry"),
        (lambda plan: plan["tensors"][1].update(geometry=7), "geometry"),
        (lambda plan: plan.update(unused_why=[]), "unused_why"),
    ],
)
def test_a_manifest_that_can_not_be_read_is_refused(tmp_path, change, message):
    folder = grown(tmp_path / "out")
    data = json.loads((folder / "hf_init.json").read_text(encoding="utf-8"))
    change(data["plan"])
    (folder / "hf_init.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(HfInitError, match=message):
        hf_init.report(folder, tmp_path / "page.html")


def test_a_manifest_of_other_files_and_no_checkpoint_are_refused(tmp_path):
    folder = saved(grown(tmp_path / "out"), {"h.0.w": normal((3, 3))})
    with pytest.raises(HfInitError, match=r"(?s)h.0.w.*'h.1.w' is in the manifest, but in no file"):
        hf_init.report(folder, tmp_path / "page.html")
    with pytest.raises(HfInitError, match="nothing"):
        hf_init.report(tmp_path / "nothing", tmp_path / "page.html")


def test_plans_and_reports_show_as_tables_in_a_notebook(tmp_path):
    folder = grown(tmp_path / "out", NASTY)
    other = saved(tmp_path / "other", {NASTY: normal()})
    for shown in (Plan.load(folder), hf_init.verify(folder, base=other), hf_init.diff(folder, other)):
        page = Page(shown._repr_html_())
        assert page.faults == [] and page.elements["script"] == 0
        assert page.elements["table"] >= 2 and NASTY in page.text
    entries = [planned(f"w{at}", (1,), SCHEME) for at in range(503)]
    long = Plan.from_json({"architecture": "Model", "seed": 0, "tensors": entries, "unused": []})
    assert "and 3 more" in long._repr_html_()
