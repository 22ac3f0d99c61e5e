"""Hub models come before any job, only what inference needs of them, and with one clear line if they cannot."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from images.contract.config import ExperimentConfig, parse_config
from images.contract.job import ENV_HF_HUB_CACHE, MODELS_MOUNT, ExitCode, Interrupted, ModelUnavailable
from runner.hub import models
from runner.hub.hub_cache import (
    HubModel,
    is_whole,
    mounts,
    repository_folder,
    share_with_group,
    unreadable,
    wanted_files,
)
from runner.hub.models import prefetch
from runner.launchers.host_files import environment, seen_of_the_host
from tests.runner.hub.hub import Hub, serve

ROOT = Path(__file__).resolve().parents[3]
MODEL = "company/llama"
DRAFTER = "company/llama-eagle"
SECRET = "hf_never-to-be-seen"
WEIGHTS = 3_000_000
SHARDS = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache of a user who has no token."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(models, "_PAUSE_S", 0.05)
    return tmp_path / "hf" / "hub"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        yield running


def small_model() -> dict[str, bytes]:
    index = json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}).encode()
    texts = {"config.json": b"{}", "tokenizer.json": b"{ }", "model.safetensors.index.json": index}
    return {**texts, SHARDS[0]: os.urandom(1000), SHARDS[1]: os.urandom(WEIGHTS)}


def config(model: str = MODEL, **more: object) -> ExperimentConfig:
    return parse_config({"model": model, **more})


def get(cache: Path, *configs: ExperimentConfig, stopped: Callable[[], bool] = lambda: False) -> list[str]:
    lines: list[str] = []
    prefetch(configs or [config()], lines.append, cache=cache, stopped=stopped, reserve_bytes=0)
    return lines


def snapshot(cache: Path) -> Path:
    return repository_folder(cache, MODEL) / "snapshots" / ("a" * 40)


def contents(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in snapshot(cache).iterdir()}


def unfinished(cache: Path) -> list[Path]:
    return list(cache.rglob("*.incomplete"))


def test_what_inference_needs_is_downloaded_once_and_never_asked_for_again(hub: Hub, cache: Path) -> None:
    files = small_model()
    useless = ("pytorch_model.bin", "model.gguf", "original/consolidated.00.pth", "onnx/model.onnx", "README.md")
    hub.add(MODEL, {**files, **dict.fromkeys(useless, b"x" * 10)})

    lines = get(cache, config(), config(batch_size=2), config("builtin:tiny-llama"), config(backend="stub"))

    assert contents(cache) == files
    assert hub.sent == sum(map(len, files.values()))
    assert len(lines) == 2
    assert "downloading 3.0 MB in 4 files" in lines[0], "the index was read before, to know the shards"
    asked = len(hub.requests)
    assert get(cache) == []
    assert len(hub.requests) == asked, "it is whole, so nobody is asked"


def test_the_models_code_comes_only_where_it_is_trusted(hub: Hub, cache: Path) -> None:
    settings = json.dumps({"auto_map": {"AutoModel": "modeling_own.Own"}}).encode()
    hub.add(MODEL, {**small_model(), "config.json": settings, "modeling_own.py": b"pass"})
    get(cache)
    assert "modeling_own.py" not in contents(cache)
    get(cache, config(), config(trust_remote_code=True))
    assert "modeling_own.py" in contents(cache)


@pytest.mark.parametrize("model", [MODEL, "builtin:tiny-llama"])
def test_a_model_that_drafts_comes_along_though_it_has_no_tokenizer(hub: Hub, cache: Path, model: str) -> None:
    hub.add(MODEL, small_model())
    hub.add(DRAFTER, {"config.json": b"{}", "model.safetensors": b"x"})
    drafting = config(model, backend="vllm", vllm={"speculative": {"method": "eagle", "model": DRAFTER}})
    get(cache, drafting)
    asked = len(hub.requests)
    assert (get(cache, drafting), len(hub.requests)) == ([], asked), "both are whole"
    seen = {Path(one.target).parent.name for one in seen_of_the_host(drafting, cache, cache, uid=os.getuid())}
    names = [DRAFTER] if model != MODEL else [DRAFTER, MODEL]
    assert seen >= {f"models--{name.replace('/', '--')}" for name in names}
    assert environment(drafting)[ENV_HF_HUB_CACHE] == MODELS_MOUNT


def test_another_revision_is_another_download_and_both_stay(hub: Hub, cache: Path) -> None:
    hub.add(MODEL, small_model()).branches["v2"] = "b" * 40
    get(cache)
    sent = hub.sent
    get(cache, config(model_revision="v2"))
    assert hub.sent == sent, "the same contents are not downloaded again"
    for revision in (None, "v2", "b" * 40):
        assert is_whole(HubModel(MODEL, revision), cache)


def test_a_connection_cut_in_mid_file_is_taken_up_where_it_was(hub: Hub, cache: Path) -> None:
    files = {**small_model(), SHARDS[1]: os.urandom(30_000_000)}  # the client writes 10 MiB at a time
    hub.add(MODEL, files)
    hub.cut_after, hub.cuts = 25_000_000, 1
    get(cache)
    assert contents(cache) == files
    assert hub.fetched(SHARDS[1])[1].endswith(f"bytes={20 * 2**20}-")


def test_a_download_that_the_client_gives_up_is_begun_again_and_the_user_is_told(hub: Hub, cache: Path) -> None:
    files = small_model()
    hub.add(MODEL, files)
    hub.cut_after, hub.cuts = WEIGHTS // 2, 6  # the client tries six times without getting anything
    lines = get(cache)
    assert any("trying again (2 of 5)" in line for line in lines), lines
    assert contents(cache) == files


@pytest.mark.parametrize("end", ["asked to stop", "killed"])
def test_a_download_that_ends_early_ends_at_once_and_keeps_what_is_whole(hub: Hub, cache: Path, end: str) -> None:
    files = small_model()
    hub.add(MODEL, files)
    hub.rate = WEIGHTS / 60

    if end == "killed":
        program = f"""
from images.contract.config import parse_config
from runner.hub.models import prefetch
prefetch([parse_config({{"model": "{MODEL}"}})], print)
"""
        runner = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.DEVNULL)
        wait_until(lambda: hub.sent > WEIGHTS / 20)
        runner.send_signal(signal.SIGKILL)
        runner.wait()
    else:
        with pytest.raises(Interrupted, match="run again to go on") as caught:
            get(cache, stopped=lambda: hub.sent > WEIGHTS / 20)
        assert caught.value.exit_code == ExitCode.INTERRUPTED

    wait_until(lambda: not unfinished(cache), within_s=3)
    assert {"config.json", "tokenizer.json", SHARDS[0]} <= contents(cache).keys()
    assert not is_whole(HubModel(MODEL), cache)
    hub.rate, before = None, len(hub.requests)
    get(cache)
    assert contents(cache) == files
    again = [one for one in hub.requests[before:] if one.startswith("GET") and "/resolve/" in one]
    assert [one.rpartition("/")[2] for one in again] == [SHARDS[1]]


def test_two_runners_share_one_download(hub: Hub, cache: Path) -> None:
    files = small_model()
    hub.add(MODEL, files)
    hub.rate = WEIGHTS * 1.0
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(get, cache) for _ in range(2)]:
            done.result()
    assert contents(cache) == files
    assert len(hub.fetched(SHARDS[1])) == 1
    assert unfinished(cache) == []


def test_progress_is_lines_or_a_bar_on_a_terminal(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_NOTE_EVERY_S", 0.1)
    hub.add(MODEL, {**small_model(), SHARDS[1]: os.urandom(30_000_000)})
    hub.rate = 30_000_000
    lines = get(cache)
    between = [line for line in lines if " MB/s, " in line]
    assert between, lines
    assert "of 30.0 MB (" in between[0]

    shutil.rmtree(cache)
    screen = io.StringIO()
    shown: list[str] = []
    prefetch([config()], shown.append, cache=cache, console=Console(file=screen, force_terminal=True, width=100))
    assert "/30.0 MB" in screen.getvalue()
    assert len(shown) == 2


def test_a_disk_without_room_is_told_with_both_numbers_before_anything_comes(hub: Hub, cache: Path) -> None:
    hub.add(MODEL, small_model())
    with pytest.raises(ModelUnavailable) as caught:
        prefetch([config()], print, cache=cache, reserve_bytes=10**18)
    assert "needs 3.0 MB more in" in caught.value.message
    assert "GB are free there" in caught.value.message
    assert "HF_HOME" in caught.value.advice
    assert hub.fetched(SHARDS[1]) == []


@pytest.mark.skipif(os.getuid() != 0, reason="mounts a small file system")
def test_a_disk_that_fills_up_meanwhile_is_told_as_such(hub: Hub, cache: Path) -> None:
    hub.add(MODEL, small_model())
    hub.rate = WEIGHTS / 2
    cache.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", cache], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("this machine lets nobody mount")
    try:
        filler = threading.Thread(target=fill, args=(cache, lambda: hub.sent > 100_000))
        filler.start()
        with pytest.raises(ModelUnavailable, match="became full while"):
            get(cache)
        filler.join()
        assert unfinished(cache) == []
    finally:
        subprocess.run(["umount", cache], check=True)


def fill(folder: Path, begin: Callable[[], bool]) -> None:
    wait_until(begin)
    with (folder / "filler").open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"x" * 65536)
        except OSError:
            return


@pytest.mark.parametrize(
    ("model", "setting", "says"),
    [
        ("company/nothing", {}, "the hub has no model company/nothing"),
        ("not a name", {}, "'not a name' is not a name"),
        ("runner", {}, "There is a folder of that name here: write ./runner"),
        (MODEL, {"model_revision": "v9"}, "has no revision v9"),
        (
            "company/gated",
            {},
            "is gated, and there is no token. Accept its licence at https://huggingface.co/company/g",
        ),
        ("company/gguf", {}, "has no weights as safetensors"),
    ],
)
def test_a_model_that_cannot_be_had_is_one_line_with_what_to_do(
    hub: Hub, cache: Path, model: str, setting: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    hub.add(MODEL, small_model())
    hub.add("company/gated", small_model(), token="hf_right")
    hub.add("company/gguf", {"model.gguf": b"x"})
    assert says in failure(cache, config(model, **setting))


def test_tokens_open_gated_models_or_are_refused_and_are_never_said(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(MODEL, small_model(), token="hf_right")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert "is gated, and the account of this token has no access" in failure(cache)
    assert f"Bearer {SECRET}" in hub.tokens
    hub.valid_tokens = {"hf_right"}
    assert "the hub does not accept the token" in failure(cache)
    monkeypatch.setenv("HF_TOKEN", f"two {SECRET}")  # the client would quote it
    assert "the hub does not accept the token" in failure(cache)

    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert "hf_right" not in "".join(get(cache))
    assert is_whole(HubModel(MODEL), cache)
    held = [path.read_bytes() for path in cache.parent.rglob("*") if path.is_file()]
    assert not any(b"hf_right" in data or SECRET.encode() in data for data in held)


def test_a_hub_that_cannot_be_reached_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(models, "_TRIES", 2)
    assert "the hub (127.0.0.1) cannot be reached" in failure(cache)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE forbids to get it" in failure(cache)


def test_a_connection_that_always_breaks_is_given_up_and_keeps_whole_files(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_TRIES", 1)
    hub.add(MODEL, small_model())
    hub.cut_after, hub.cuts = WEIGHTS // 2, 99
    line = failure(cache)
    assert f"the download of {MODEL} broke off" in line
    assert "files that are whole are kept" in line
    assert {"config.json", "tokenizer.json", SHARDS[0]} <= contents(cache).keys()


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written (Not a directory)" in failure(tmp_path / "file" / "hub")


def failure(cache: Path, asked: ExperimentConfig | None = None) -> str:
    """The one line of a download that fails; it holds nothing secret."""
    with pytest.raises(ModelUnavailable) as caught:
        get(cache, asked or config())
    line = str(caught.value)
    assert caught.value.exit_code == ExitCode.MODEL_UNAVAILABLE
    assert caught.value.advice
    assert "\n" not in line
    assert SECRET not in line
    return line


@pytest.mark.parametrize("gone", ["config.json", "tokenizer.json", "model.safetensors.index.json", *SHARDS])
def test_a_cached_model_that_misses_a_file_is_not_taken_for_whole(hub: Hub, cache: Path, gone: str) -> None:
    hub.add(MODEL, small_model())
    get(cache)
    assert is_whole(HubModel(MODEL), cache)
    (snapshot(cache) / gone).unlink()
    assert not is_whole(HubModel(MODEL), cache)


@pytest.mark.parametrize(
    ("files", "weights"),
    [
        (["model.safetensors", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"], ["model.safetensors"]),
        (["model.safetensors", "model.fp16.safetensors", "consolidated.safetensors"], ["model.safetensors"]),
        (["pytorch_model.bin", "training_args.bin", "optimizer.bin", "rust_model.ot"], ["pytorch_model.bin"]),
        (["gptq_model-4bit-128g.safetensors", "pytorch_model.bin"], ["gptq_model-4bit-128g.safetensors"]),
        (["consolidated.safetensors", "params.json", "tekken.json"], ["consolidated.safetensors"]),
        (["model.safetensors.index.json", *SHARDS, "consolidated.safetensors", "mtp.safetensors"], SHARDS),
        (["gguf/model.safetensors", "model.gguf"], []),
    ],
)
def test_weights_are_chosen_in_one_format(files: list[str], weights: list[str]) -> None:
    wanted = wanted_files({*files, "config.json"}, lambda _: set(SHARDS), with_code=False)
    assert {name for name in wanted if not name.endswith(".json")} == set(weights)
    assert "config.json" in wanted


def test_a_container_sees_one_model_and_what_its_links_lead_to(hub: Hub, cache: Path, tmp_path: Path) -> None:
    """Newer clients keep large files once for all models, outside of the model's own folder."""
    hub.add(MODEL, small_model())
    get(cache)
    weights = (snapshot(cache) / SHARDS[1]).resolve()
    store = cache / "blobs" / "ab" / "abcdef"
    store.parent.mkdir(parents=True)
    weights.rename(store)
    weights.symlink_to("../../blobs/ab/abcdef")

    seen = mounts(MODEL, cache, "/models")

    assert seen.pop("/models/blobs/ab/abcdef") == store
    assert {target: source.name for target, source in seen.items()} == {
        f"/models/models--company--llama/{part}": part for part in ("refs", "blobs", "snapshots")
    }


@pytest.mark.skipif(os.getuid() != 0, reason="only root's containers run as another user")
def test_what_root_owns_is_shared_with_roots_group_and_what_others_own_is_not(tmp_path: Path) -> None:
    for name, owner in (("ours", 0), ("theirs", 4321)):
        (tmp_path / name).mkdir(mode=0o700)
        (tmp_path / name / "file").touch(mode=0o600)
        for path in (tmp_path / name, tmp_path / name / "file"):
            os.chown(path, owner, owner)
    share_with_group([tmp_path / "ours", tmp_path / "theirs"])
    assert unreadable([tmp_path / "ours"], uid=12345) is None
    assert unreadable([tmp_path / "theirs"], uid=12345) == tmp_path / "theirs"
    assert (tmp_path / "ours" / "file").stat().st_mode & 0o777 == 0o640


def wait_until(true: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
