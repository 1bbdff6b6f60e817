"""``scripts/same_results.py`` sees every kind of difference, lets pass what is named, and tries every scheme."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_init import schemes

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import same_results

    return same_results


@pytest.fixture
def roots(tmp_path):
    """Results of two checkouts that are the same."""
    for side in ("old", "new"):
        out = tmp_path / side / "head" / "out"
        out.mkdir(parents=True)
        (tmp_path / side / "tokens").mkdir()
        (tmp_path / side / "tokens" / "plan.txt").write_text("1 kept")
        (out / "model.safetensors").write_bytes(bytes(3_000_000))
        write(out / "hf_init.json", base={"path": str(out)}, version=1, plan={"tensors": [{"shape": [2, 3]}]})
        write(out / "config.json", _name_or_path=str(out), labels=["a"])
    return tmp_path / "old", tmp_path / "new"


def write(path, **values):
    path.write_text(json.dumps(values))


def changed(path, **values):
    write(path, **{**json.loads(path.read_text()), **values})


def flip(path, at=2_500_000):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


CHANGES = {
    "a bit": (lambda new: flip(new / "head/out/model.safetensors"), "out/model.safetensors: first at byte 2500000"),
    "the end": (
        lambda new: (new / "head/out/model.safetensors").write_bytes(bytes(2_999_999)),
        "out/model.safetensors: first at byte 2999999",
    ),
    "a manifest's value": (
        lambda new: changed(new / "head/out/hf_init.json", plan={"tensors": [{"shape": [2, 4]}]}),
        "out/hf_init.json: plan.tensors.0.shape.1: 3 became 4",
    ),
    "a type": (
        lambda new: changed(new / "head/out/hf_init.json", version=True),
        "out/hf_init.json: version: 1 became true",
    ),
    "a key": (
        lambda new: changed(new / "head/out/hf_init.json", claim="exact"),
        'out/hf_init.json: claim: absent became "exact"',
    ),
    "a list": (
        lambda new: changed(new / "head/out/config.json", labels=[]),
        'out/config.json: labels: ["a"] became []',
    ),
    "the layout of JSON": (
        lambda new: (new / "head/out/config.json").write_text((new / "head/out/config.json").read_text() + "\n"),
        "out/config.json: first at byte",
    ),
    "a text": (lambda new: (new / "tokens/plan.txt").write_text("2 kept"), "plan.txt: first at byte 0"),
    "a file more": (lambda new: (new / "head/out/more.py").write_text(""), "out/more.py: only in NEW"),
    "a file less": (lambda new: (new / "head/out/config.json").unlink(), "out/config.json: only in OLD"),
    "a job less": (lambda new: (new / "tokens/plan.txt").unlink(), "plan.txt: only in OLD"),
    "a failure": (lambda new: (new / "tokens/failed.txt").write_text("No: why"), "failed.txt: only in NEW: No: why"),
}


def test_the_same_is_the_same(script, roots, capsys):
    assert script.compare(*roots) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["head: same", "tokens: same"] and said[2].startswith("the same: 2 jobs, 4 files, 3,000,")


@pytest.mark.parametrize("name", CHANGES)
def test_a_difference_is_told(script, roots, capsys, name):
    change, told = CHANGES[name]
    change(roots[1])
    assert script.compare(*roots) == 1
    said = capsys.readouterr().out
    assert f": differs: {told}" in said
    assert said.splitlines()[-1] == "not the same: 1 of 2 jobs"


def test_a_job_that_fails_in_both_is_no_result(script, roots):
    for root in roots:
        (root / "tokens" / "failed.txt").write_text("No: why")
    assert script.compare(*roots) == 1


def test_nothing_is_not_the_same(script, tmp_path):
    for side in ("old", "new"):
        (tmp_path / side).mkdir()
    assert script.compare(tmp_path / "old", tmp_path / "new") == 1


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("a bit", "head"),
        ("a bit", "*.safetensors"),
        ("a bit", "head/out/model.safetensors"),
        ("a manifest's value", "plan.tensors.*.shape.*"),
        ("a key", "claim"),
        ("a key", "hf_init.json:claim"),
        ("a list", "config.json:labels"),
        ("a list", "head/out/config.json:labels"),
        ("a text", "plan.txt"),
        ("a failure", "tokens"),
    ],
)
def test_what_is_named_is_on_purpose(script, roots, capsys, name, pattern):
    CHANGES[name][0](roots[1])
    assert script.compare(*roots, ["more.py", pattern]) == 0
    said = capsys.readouterr().out
    assert f"changed on purpose: {pattern}: 1 differences" in said and "on purpose: more.py: 0" in said


@pytest.mark.parametrize(("name", "pattern"), [("a key", "version"), ("a list", "labels"), ("a bit", "tokens")])
def test_what_is_named_hides_nothing_else(script, roots, name, pattern):
    CHANGES[name][0](roots[1])
    assert script.compare(*roots, [pattern]) == 1


@pytest.mark.parametrize("argv", [[], ["nowhere", "."], [".", ".", "--keep", "."]])
def test_bad_usage(script, argv, monkeypatch):
    monkeypatch.chdir(SCRIPTS.parent)
    with pytest.raises(SystemExit, match="2"):
        script.main(argv)


@pytest.fixture
def jobs(script):
    import _same_jobs

    return _same_jobs


def test_every_scheme_is_tried(jobs):
    assert {*jobs.SETTINGS, *jobs.ROWS, *jobs.GROWTH, *jobs.OTHER_SCHEMES} == schemes.REGISTRY.keys()


def test_an_option_that_is_refused_is_given_its_new_name(jobs, monkeypatch):
    monkeypatch.setattr(jobs, "RENAMED", {"old": "new", "kept": "gone"})

    def verb(base, *, new, kept):
        return base, new, kept

    assert jobs.call(verb, "base", old=1, kept=2) == ("base", 1, 2)
    with pytest.raises(TypeError, match="other"):
        jobs.call(verb, "base", other=1)
