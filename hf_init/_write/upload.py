"""A verified result goes to the hub in one commit, and is compared with what is there then."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_init._checkpoint import UNREACHABLE
from hf_init._errors import CheckpointError, PlanError, ProofError, option
from hf_init._text import join_names, one_line


def check_upload(repository: str, token: str | bool | None = None) -> None:
    """Raise PlanError unless somebody may write to the hub, and a repository can have that name."""
    given = option("push_to_hub", repository)
    try:
        validate_repo_id(repository)
        HfApi(token=token).whoami()
    except HFValidationError as error:
        raise PlanError(f"{given}: {one_line(error)}; give NAME or OWNER/NAME") from None
    except UNREACHABLE as error:
        raise PlanError(
            f"{given}: the hub can't be asked who you are: {one_line(error)}. `hf auth login` first"
        ) from error


def upload(folder: Path, repository: str, token: str | bool | None = None) -> str:
    """Upload a folder in one commit, and return where it is, once the hub's own digests are those of the files here.

    Weights that the repository has under other names go in the same commit: transformers would read them first.

    Raises:
        CheckpointError: the hub can't be reached, or refuses. The folder is complete.
        ProofError: the hub has other bytes.
    """
    api = HfApi(token=token)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    try:
        name = api.create_repo(repository, exist_ok=True).repo_id
        stale = [path for path in api.list_repo_files(name) if path not in files and ".safetensors" in path]
        additions = [CommitOperationAdd(path, file) for path, file in files.items()]
        operations = [*(CommitOperationDelete(path) for path in stale), *additions]
        commit = api.create_commit(name, operations, commit_message="Extended with hf_init")
        seen = api.verify_repo_checksums(name, revision=commit.oid, local_dir=folder)
    except UNREACHABLE as error:
        raise CheckpointError(
            f"{folder} is complete and verified, and it isn't at {repository}: {one_line(error)}. Upload it later: "
            f"`hf upload {repository} {folder} .`"
        ) from error
    if wrong := [*(each["path"] for each in seen.mismatches), *seen.extra_paths]:
        raise ProofError(
            f"{join_names(wrong)}: what {repository} has at commit {commit.oid} isn't what is in {folder}, which is "
            f"verified. Upload it again: `hf upload {repository} {folder} .`"
        )
    return f"uploaded to {name} at commit {commit.oid}: {seen.checked_count} files have the digests of those here"
