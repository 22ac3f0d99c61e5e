"""The hub models of this host: which of a model's files inference needs, whether they are here, and who sees them.

Jobs have no network and no token. Whatever they read is in the hub's own cache folder, the one that every other
tool of the user fills, so a model that is here already is not downloaded again.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import constants

from images.contract.config import TINY_LLAMA, ExperimentConfig

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHARD = re.compile(r".*-\d+-of-\d+\..+")
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_BIN = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_NOT_WEIGHTS = {"training_args.bin", "optimizer.bin", "scheduler.bin"}
# Configuration, tokenizers and chat templates; everything else in a repository is weights, code or for people.
_TEXTS = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".spm", ".bpe", ".vocab")
_TEMPLATES = "additional_chat_templates/"
_TOKENIZERS = ("tokenizer", "vocab", "tekken", "spiece", "sentencepiece")
# What jobs see of a repository. Not `trees`, a list of all its files: with it, engines call a folder without the
# files that nobody needs incomplete.
_PARTS = ("refs", "blobs", "snapshots")


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model as the hub names it.

    Attributes:
        revision: branch, tag or commit; None is the default branch.
        with_code: whether the model's own Python files are wanted, too.
        is_drafter: it drafts tokens for another model, by whose tokenizer it may go.
    """

    name: str
    revision: str | None = None
    with_code: bool = False
    is_drafter: bool = False


def hub_cache() -> Path:
    """Where this user's tools keep hub models: HF_HUB_CACHE, HF_HOME/hub, or ~/.cache/huggingface/hub."""
    return Path(constants.HF_HUB_CACHE).absolute()


def hub_models(configs: Iterable[ExperimentConfig]) -> list[HubModel]:
    """Each model and revision that jobs read from the hub once, in the order in which they first appear."""
    found: dict[tuple[str, str | None], HubModel] = {}
    for model in (model for config in configs for model in _named(config)):
        key = (model.name, model.revision)
        known = found.get(key, model)
        found[key] = replace(
            known,
            with_code=known.with_code or model.with_code,
            is_drafter=known.is_drafter and model.is_drafter,
        )
    return list(found.values())


def _named(config: ExperimentConfig) -> Iterator[HubModel]:
    """The model and what drafts for it, of those that come from the hub."""
    if config.backend == "stub":
        return
    if config.model != TINY_LLAMA and config.model_path is None:
        yield HubModel(config.model, config.model_revision, config.trust_remote_code)
    if config.drafter not in (None, TINY_LLAMA) and config.drafter_path is None:
        revision = config.pytorch.assistant_model_revision if config.pytorch else None
        yield HubModel(str(config.drafter), revision, config.trust_remote_code, is_drafter=True)


def repository_folder(cache: Path, name: str) -> Path:
    """The model's own folder in a hub cache; it holds every revision that is there."""
    return cache / str(constants.REPO_ID_SEPARATOR).join(("models", *name.split("/")))


def is_whole(model: HubModel, cache: Path) -> bool:
    """Whether everything that inference needs is in the cache; nobody is asked.

    The hub's list of files is not at hand, so this goes by what belongs together: configuration, tokenizer, all
    shards that the weights' index names, and the code that the configuration names. Our own downloads bring the
    weights last.
    """
    snapshot = _snapshot(model, cache)
    if snapshot is None:
        return False
    names = {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()}
    if not names & {"config.json", "params.json"}:
        return False
    if not model.is_drafter and not any(_is_tokenizer(name) for name in names):
        return False
    try:
        weights = weight_files(names, lambda index: indexed_files(snapshot / index))
        code = _own_code(snapshot / "config.json") if model.with_code else set()
    except (OSError, ValueError):
        return False
    if any(_SHARD.fullmatch(name) for name in weights) and weight_index(names) is None:
        return False  # nobody knows which shards there should be
    return bool(weights) and weights | code <= names


def wanted_files(names: Set[str], read_index: Callable[[str], set[str]], with_code: bool) -> set[str]:
    """The files of a repository that inference needs: never the same weights in two formats.

    Args:
        read_index: the files that an index of shards names.
    """
    top = {name for name in names if "/" not in name}
    wanted = {name for name in top if name.endswith(_TEXTS) and not name.endswith(".index.json")}
    wanted |= {name for name in names if name.startswith(_TEMPLATES) and name.endswith(".jinja")}
    if with_code:
        wanted |= {name for name in names if name.endswith(".py")}
    index = weight_index(names)
    return wanted | weight_files(names, read_index) | ({index} if index else set())


def weight_index(names: Set[str]) -> str | None:
    """The index of the shards that would be loaded; None if there is none."""
    index = _SAFETENSORS[1] if _ending(names, ".safetensors") else _BIN[1]
    return index if index in names else None


def weight_files(names: Set[str], read_index: Callable[[str], set[str]]) -> set[str]:
    """Weights in the top folder: safetensors if there are any, else PyTorch's own; empty: neither."""
    safetensors, index = _ending(names, ".safetensors"), weight_index(names)
    single, files = (_SAFETENSORS[0], safetensors) if safetensors else (_BIN[0], _ending(names, ".bin") - _NOT_WEIGHTS)
    if index is not None:
        return read_index(index) | ({single} & files)
    if single in files:
        return {single}
    # Mistral's own format stands beside the usual one.
    return {name for name in files if not name.startswith("consolidated")} or files


def indexed_files(index: Path) -> set[str]:
    """The shards that an index names.

    Raises:
        OSError: it is not there.
        ValueError: it is no index.
    """
    document = json.loads(index.read_bytes())
    weights = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weights, dict):
        raise ValueError(f"{index.name} holds no weight_map")
    return {str(name) for name in weights.values()}


def mounts(name: str, cache: Path, inside: str) -> dict[str, Path]:
    """What of this one model a container has to see so that `inside` is a hub cache for it.

    Other models stay out, and so does the user's token, which lies beside the cache.

    Returns:
        path in the container -> file or folder on this host; for links that lead out of the model's folder (the
        hub's store of blobs that models share), what they lead to.
    """
    folder = repository_folder(cache, name)
    base = f"{inside}/{folder.name}"
    seen = {f"{base}/{part}": (folder / part).resolve() for part in _PARTS if (folder / part).is_dir()}
    for target, source in list(seen.items()):
        for link in (path for path in source.rglob("*") if path.is_symlink()):
            place = os.path.normpath(Path(target) / link.relative_to(source).parent / link.readlink())
            if not any(place.startswith(f"{known}/") for known in seen) and link.is_file():
                seen[place] = link.resolve()
    return seen


def unreadable(paths: Iterable[Path], uid: int) -> Path | None:
    """The first of these, or of what is below them, that a container's user cannot read; None if it can read all.

    Args:
        uid: of the container's user, whose only group is 0.
    """
    for path in _with_contents(paths):
        status = path.stat() if path.exists() else None
        if status is not None and not _may_read(status, uid):
            return path
    return None


def share_with_group(paths: Iterable[Path]) -> None:
    """Let root's own group read what root owns there: containers of root's run as another user of that group.

    Files of other users and groups stay as they are.
    """
    for path in _with_contents(paths):
        status = path.lstat()
        if not stat.S_ISLNK(status.st_mode) and (status.st_uid, status.st_gid) == (0, 0):
            wanted = status.st_mode | (0o050 if stat.S_ISDIR(status.st_mode) else 0o040)
            if wanted != status.st_mode:
                path.chmod(stat.S_IMODE(wanted))


def _snapshot(model: HubModel, cache: Path) -> Path | None:
    """The folder of the model's files at its revision; None if that revision is not known here."""
    folder = repository_folder(cache, model.name)
    commit = model.revision or constants.DEFAULT_REVISION
    if not _COMMIT.fullmatch(commit):
        try:
            commit = (folder / "refs" / commit).read_text().strip()
        except OSError:
            return None
    snapshot = folder / "snapshots" / commit
    return snapshot if commit and snapshot.is_dir() else None


def _is_tokenizer(name: str) -> bool:
    return name.startswith(_TOKENIZERS) or name.endswith(".tiktoken")


def _own_code(config: Path) -> set[str]:
    """Modules of this repository that its configuration names; those of others stand behind a --."""
    document = json.loads(config.read_bytes())
    named = (document.get("auto_map") if isinstance(document, dict) else None) or {}
    values = [value for entry in named.values() for value in (entry if isinstance(entry, list) else [entry])]
    return {f"{value.split('.')[0]}.py" for value in values if isinstance(value, str) and "--" not in value}


def _ending(names: Set[str], suffix: str) -> set[str]:
    return {name for name in names if name.endswith(suffix) and "/" not in name}


def _with_contents(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        yield path
        yield from path.rglob("*")


def _may_read(status: os.stat_result, uid: int) -> bool:
    needed = 0o5 if stat.S_ISDIR(status.st_mode) else 0o4
    shift = 6 if status.st_uid == uid else 3 if status.st_gid == 0 else 0
    return (status.st_mode >> shift) & needed == needed
