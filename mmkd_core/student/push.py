"""An exported folder goes to the Hugging Face hub: checked first, private unless said otherwise, nothing beside it.

What is sent is a copy in which the student calls itself by its name on the hub, where open_clip looks for its tokenizer
and for the configuration of a BERT. The only module that sends anything; ``plugins.downloads`` fetches.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmkd_core.contract import LicenseInfo
from mmkd_core.errors import ReleaseError
from mmkd_core.files import sha256_of
from mmkd_core.plugins.licences import forbids, is_known
from mmkd_core.student.export import FACTS, SCHEMA, SUMS, write_sums
from mmkd_core.student.forms import FORMS, OPEN_CLIP

CARD = "README.md"
KEPT = (".gitattributes",)
"""What the hub puts into every repository."""


@dataclass(frozen=True)
class Upload:
    """What would be sent.

    Attributes:
        repo: name on the hub, such as ``me/my-student``.
        private: whether only its owner sees it.
        files: name to bytes.
        license: what binds the student.
        title: of the model card.
        load: the line that loads it from the hub.
    """

    repo: str
    private: bool
    files: dict[str, int]
    license: LicenseInfo
    title: str
    load: str


def finished(folder: Path) -> Mapping[str, Any]:
    """The facts of an exported folder, after every file was checked against ``SHA256SUMS``.

    Raises:
        ReleaseError: it is no such folder, its parity was not checked, or a file is missing, changed or not listed.
    """
    again = "Write it again with `mmkd export open-clip DIR`"
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        what = f"this is no finished export: it has no {FACTS} and {SUMS} that can be read"
        raise ReleaseError(what, where=str(folder), next=again) from error
    if facts.get("schema") != SCHEMA or not facts.get("parity") or facts.get("form") not in FORMS:
        raise ReleaseError("it was not compared with its student", where=str(folder / FACTS), next=again)
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {SUMS}
    problems = {
        "missing": sorted(set(listed) - there),
        f"not in {SUMS}": sorted(there - set(listed)),
        "changed": sorted(name for name in there & set(listed) if sha256_of(folder / name) != listed[name]),
    }
    for problem, names in problems.items():
        if names:
            raise ReleaseError(f"{names[0]} is {problem}", where=str(folder), next=again)
    if CARD not in listed:
        raise ReleaseError("it has no model card", where=str(folder), next=again)
    return facts


def planned(folder: Path, repo: str, *, public: bool = False, accepted: bool = False) -> Upload:
    """What a push would send; reaches no network.

    Args:
        public: for everybody to see.
        accepted: go on although the licence is not known, or forbids what is derived from the teachers.

    Raises:
        ReleaseError: the folder is not finished, the name cannot be one, or the licence stands against it.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
        valid = "/" in repo
    except HFValidationError:
        valid = False
    if not valid:
        what = f"{repo!r} cannot be the name of a repository"
        raise ReleaseError(what, next="Name it OWNER/NAME: letters, digits, -, _ and .")
    facts = finished(folder)
    if "license" not in facts:
        what = f"{FACTS} says nothing of a licence"
        raise ReleaseError(what, where=str(folder), next="Write it again with `mmkd export`")
    license = LicenseInfo(**facts["license"])
    against = "" if is_known(license) else "the licence of what it learnt from is not known"
    if is_known(license) and "derivatives" in forbids(license):
        against = f"{license.weights} does not allow to pass on what was derived from it"
    if against and not accepted:
        sources = [name for name, terms in facts.get("licenses", {}).items() if _stands_against(LicenseInfo(**terms))]
        named = f" ({', '.join(sources)})" if sources else ""
        advice = "Ask the owners; with their word, or for yourself, add --accept-license"
        raise ReleaseError(f"{against}{named}", where=str(folder), next=advice)
    with _as_sent(folder, facts, repo) as copy:
        files = {path.name: path.stat().st_size for path in sorted(copy.iterdir())}
    title = next((line[2:] for line in (folder / CARD).read_text().splitlines() if line.startswith("# ")), folder.name)
    return Upload(repo, not public, files, license, title, FORMS[facts["form"]].hub.format(repo))


def push(folder: Path, upload: Upload) -> str:
    """Send what was planned; returns the address of the commit.

    Raises:
        ReleaseError: offline, no token, the repository is public though that was not asked for or holds other files,
            or the hub refuses.
    """
    from huggingface_hub import HfApi, constants, get_token

    if constants.is_offline_mode():
        raise ReleaseError("HF_HUB_OFFLINE forbids to send anything", next="Unset it, or look with --dry-run")
    token = get_token()
    if not token:
        raise ReleaseError("there is no token of the hub here", next="Run `hf auth login`, or set HF_TOKEN")
    api, repo = HfApi(token=token), upload.repo
    try:
        api.create_repo(repo, private=upload.private, exist_ok=True)
        if upload.private and not api.repo_info(repo).private:
            what, advice = "the repository is there already, and public", "Add --public, or choose another name"
            raise ReleaseError(what, where=repo, next=advice)
        others = sorted(set(api.list_repo_files(repo)) - set(upload.files) - set(KEPT))
        if others:
            what = f"the repository holds other files, which would lie beside the student: {', '.join(others[:5])}"
            raise ReleaseError(what, where=repo, next="Delete them there, or choose another name")
        with _as_sent(folder, finished(folder), repo) as copy:
            message = f"{upload.title}, by mmkd push"
            return str(api.upload_folder(repo_id=repo, folder_path=copy, commit_message=message).commit_url)
    except ReleaseError:
        raise
    except Exception as error:  # the hub client raises its own, httpx's and the system's errors
        reason = str(error).strip().partition("\n")[0]
        what = f"the hub did not take it: {type(error).__name__}: {reason}"
        raise ReleaseError(what, where=repo, next="Check connection, name and rights of the token") from error


def _stands_against(terms: LicenseInfo) -> bool:
    return not is_known(terms) or "derivatives" in forbids(terms)


@contextmanager
def _as_sent(folder: Path, facts: Mapping[str, Any], repo: str) -> Iterator[Path]:
    """A copy of the folder that names itself ``repo``; large files are linked where the disk can."""
    with TemporaryDirectory(dir=folder.absolute().parent, prefix=f".{folder.name}.", suffix=".push") as made:
        copy, edited = Path(made), {CARD, FACTS, SUMS, "open_clip_config.json"}
        for path in folder.iterdir():
            if path.name in edited:
                shutil.copyfile(path, copy / path.name)
                continue
            try:
                os.link(path, copy / path.name)
            except OSError:
                shutil.copyfile(path, copy / path.name)
        load = FORMS[facts["form"]].hub.format(repo)
        if here := facts.get("load"):
            text = (copy / CARD).read_text(encoding="utf-8").replace(here, load)
            (copy / CARD).write_text(text, encoding="utf-8")
        whole = json.dumps({**facts, "load": load}, indent=2, sort_keys=True)
        (copy / FACTS).write_text(whole + "\n", encoding="utf-8")
        if facts["form"] == OPEN_CLIP.name:
            _names_repo(copy / "open_clip_config.json", repo)
        write_sums(copy)
        yield copy


def _names_repo(path: Path, repo: str) -> None:
    """open_clip takes the tokenizer, and the configuration of a BERT, from where these two keys say."""
    config = json.loads(path.read_text(encoding="utf-8"))
    text = config["model_cfg"]["text_cfg"]
    text |= {key: repo for key in ("hf_tokenizer_name", "hf_model_name") if key in text}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
