from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tools.metrics import download as downloads
from tools.metrics.weights import (
    KNOWN,
    MissingWeights,
    WeightsOptions,
    find_weights,
    parse_given,
)

CONTENT = bytes(range(256)) * 5000  # 1.28 MB: two blocks
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Network:
    """Servers that hold files and may break off; counts requests. Stands where urllib would."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, int]] = []
        self.breaks_after: int | None = None
        self.ranges = True

    def open(self, url: str, start: int) -> Any:
        self.requests.append((url, start))
        if url not in self.files:
            raise OSError("HTTP Error 404: Not Found")
        start = start if self.ranges else 0
        body = self.files[url][start:]
        length = len(body)
        if self.breaks_after is not None:
            body = body[: self.breaks_after]
        response = io.BytesIO(body)
        response.status = 206 if start else 200  # type: ignore[attr-defined]
        response.headers = {"Content-Length": str(length)}  # type: ignore[attr-defined]
        return response


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    """Every request ends here, and the known I3D file is a small one."""
    servers = Network()
    monkeypatch.setattr(downloads, "open_url", servers.open)
    small = dataclasses.replace(
        KNOWN["i3d"], size=len(CONTENT), sha256=DIGEST, urls=("first://i3d", "second://i3d")
    )
    monkeypatch.setitem(KNOWN, "i3d", small)
    for name in KNOWN:
        monkeypatch.delenv(f"ENDORA_WEIGHTS_{name.upper()}", raising=False)
    return servers


def written(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_order_is_given_then_environment_then_cache(
    tmp_path: Path, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = written(tmp_path / "cache" / KNOWN["i3d"].file)
    variable, given = written(tmp_path / "variable.pt"), written(tmp_path / "given.pt")
    options = WeightsOptions(cache=tmp_path / "cache")
    assert find_weights("i3d", options, "FVD").path == cached
    monkeypatch.setenv("ENDORA_WEIGHTS_I3D", str(variable))
    assert find_weights("i3d", options, "FVD").path == variable
    options = dataclasses.replace(options, given={"i3d": given}, allow_download=True)
    found = find_weights("i3d", options, "FVD")
    assert found.path == given
    assert found.verified
    assert found.provenance() == {
        "file": "given.pt",
        "sha256": DIGEST,
        "verified": True,
        "source": KNOWN["i3d"].source,
        "licence": KNOWN["i3d"].licence,
    }
    assert network.requests == []


def test_nothing_is_asked_of_the_network_without_leave(tmp_path: Path, network: Network) -> None:
    network.files["first://i3d"] = CONTENT
    with pytest.raises(MissingWeights) as caught:
        find_weights("i3d", WeightsOptions(cache=tmp_path / "cache"), "FVD")
    assert network.requests == []
    assert not (tmp_path / "cache").exists()
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        f"FVD needs the I3D weights i3d_torchscript.pt (1,280,000 bytes, sha256 {DIGEST[:8]}...)",
        "--weights i3d=PATH",
        "ENDORA_WEIGHTS_I3D",
        str(tmp_path / "cache"),
        "--allow-download",
        "--extractor untrained",
        "licence",
    ):
        assert part in message


def test_a_named_file_that_is_not_there_is_no_reason_to_look_elsewhere(
    tmp_path: Path, network: Network
) -> None:
    written(tmp_path / "cache" / KNOWN["i3d"].file)
    options = WeightsOptions(tmp_path / "cache", {"i3d": tmp_path / "typo.pt"}, allow_download=True)
    with pytest.raises(MissingWeights, match=r"--weights i3d=.*typo\.pt: there is no such file"):
        find_weights("i3d", options, "FVD")
    assert network.requests == []


def test_a_file_with_a_wrong_checksum_is_refused_unless_trusted(
    tmp_path: Path, network: Network
) -> None:
    other = written(tmp_path / "other.pt", b"something else")
    digest = hashlib.sha256(b"something else").hexdigest()
    options = WeightsOptions(tmp_path, {"i3d": other})
    with pytest.raises(ValueError, match=f"{digest}, expected {DIGEST}.*--trust-weights"):
        find_weights("i3d", options, "FVD")
    found = find_weights("i3d", dataclasses.replace(options, trust=True), "FVD")
    assert not found.verified
    assert found.sha256 == digest


def test_a_file_without_a_published_checksum_needs_trust(tmp_path: Path, network: Network) -> None:
    file = written(tmp_path / "c3d.pt")
    options = WeightsOptions(tmp_path, {"c3d": file})
    with pytest.raises(ValueError, match=f"no SHA-256 is published.*{DIGEST}"):
        find_weights("c3d", options, "video IS")
    assert not find_weights("c3d", dataclasses.replace(options, trust=True), "video IS").verified
    with pytest.raises(ValueError, match="--trust-weights"):
        find_weights("c3d", WeightsOptions(tmp_path / "cache", allow_download=True), "video IS")
    assert network.requests == []


def test_a_download_arrives_whole_under_its_name(tmp_path: Path, network: Network) -> None:
    network.files["second://i3d"] = CONTENT
    options = WeightsOptions(tmp_path / "cache", allow_download=True)
    found = find_weights("i3d", options, "FVD")
    assert found.verified
    assert found.path.read_bytes() == CONTENT
    assert [path.name for path in found.path.parent.iterdir()] == [KNOWN["i3d"].file]
    assert network.requests == [("first://i3d", 0), ("second://i3d", 0)]
    find_weights("i3d", options, "FVD")
    assert len(network.requests) == 2  # the second time it is there


def test_an_interrupted_download_goes_on(tmp_path: Path, network: Network) -> None:
    network.files["first://i3d"] = CONTENT
    network.breaks_after = 1_000_000
    options = WeightsOptions(tmp_path / "cache", allow_download=True)
    with pytest.raises(MissingWeights, match="broke off after 1,000,000 of 1,280,000 bytes"):
        find_weights("i3d", options, "FVD")
    assert not (tmp_path / "cache" / KNOWN["i3d"].file).exists()
    network.requests.clear()
    network.breaks_after = None
    assert find_weights("i3d", options, "FVD").path.read_bytes() == CONTENT
    assert network.requests == [("first://i3d", 1_000_000)]


def test_a_server_that_cannot_go_on_starts_anew(tmp_path: Path, network: Network) -> None:
    network.files["first://i3d"] = CONTENT
    network.ranges = False
    written(tmp_path / (KNOWN["i3d"].file + ".partial"), b"x" * 1000)
    found = find_weights("i3d", WeightsOptions(tmp_path, allow_download=True), "FVD")
    assert found.path.read_bytes() == CONTENT


def test_a_download_of_something_else_is_thrown_away(tmp_path: Path, network: Network) -> None:
    network.files["first://i3d"] = b"<html>try again later</html>".ljust(len(CONTENT))
    options = WeightsOptions(tmp_path / "cache", allow_download=True)
    with pytest.raises(MissingWeights, match=r"first://i3d: sent another file.*404"):
        find_weights("i3d", options, "FVD")
    assert not (tmp_path / "cache" / KNOWN["i3d"].file).exists()
    network.files["first://i3d"] = CONTENT
    assert find_weights("i3d", options, "FVD").verified


def test_a_trusted_download_of_unknown_size_is_taken(tmp_path: Path, network: Network) -> None:
    network.files[KNOWN["c3d"].urls[0]] = CONTENT
    options = WeightsOptions(tmp_path, allow_download=True, trust=True)
    found = find_weights("c3d", options, "video IS")
    assert found.path.read_bytes() == CONTENT
    assert (found.verified, found.sha256) == (False, DIGEST)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, network: Network) -> None:
    (tmp_path / "file").write_text("")
    options = WeightsOptions(tmp_path / "file" / "cache", allow_download=True)
    with pytest.raises(OSError, match=r"cannot write .*file/cache"):
        find_weights("i3d", options, "FVD")


def test_the_opener_asks_for_the_rest_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def urlopen(request: Any, timeout: float) -> Any:
        asked.append((request.full_url, request.get_header("Range"), timeout))
        return SimpleNamespace()

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    downloads.open_url("https://example.org/file", 0)
    downloads.open_url("https://example.org/file", 7)
    assert [(url, header) for url, header, _ in asked] == [
        ("https://example.org/file", None),
        ("https://example.org/file", "bytes=7-"),
    ]
    assert all(timeout > 0 for *_, timeout in asked)


def test_given_files_are_read_from_the_command_line() -> None:
    assert parse_given(["i3d=a=b.pt", "vjepa-probe=~/p"]) == {
        "i3d": Path("a=b.pt"),
        "vjepa-probe": Path(os.path.expanduser("~/p")),
    }
    for wrong in ("i3d", "i3d=", "i4d=x.pt"):
        with pytest.raises(ValueError, match=f"--weights {wrong}: NAME=PATH with a NAME of i3d"):
            parse_given([wrong])


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_file_says_where_it_comes_from(name: str) -> None:
    known = KNOWN[name]
    assert known.urls
    assert all(url.startswith("https://") for url in known.urls)
    assert known.source
    assert known.licence
    assert known.sha256 is None or len(bytes.fromhex(known.sha256)) == 32
