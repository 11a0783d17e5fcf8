"""A bundle is the same bytes every time, refused when a byte changed, and serves where nothing else is installed."""

import hashlib
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from mlops_kit.deployment.bundle import BundleError, build_bundle, bundle_digest, check_bundle
from mlops_kit.deployment.signing import private_key, public_key, sign_bundle, verify_bundle

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "samples/package"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A bundle, its signature, and the key that is trusted."""
    folder = tmp_path_factory.mktemp("built")
    build_bundle(PACKAGE, folder / "bundle", "flights", "7")
    key = private_key(ROOT, "dev")
    sign_bundle(folder / "bundle", folder / "bundle.sig", key)
    (folder / "trusted.pub").write_bytes(public_key(key))
    return folder


@pytest.fixture
def bundle(built, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(built, tmp_path / "copy")
    return tmp_path / "copy"


def verify(folder: Path) -> None:
    check_bundle(folder / "bundle")
    verify_bundle(folder / "bundle", folder / "bundle.sig", folder / "trusted.pub")


def read_all(place: Path) -> dict[str, tuple[bytes, int]]:
    files = [file for file in place.rglob("*") if file.is_file()]
    return {str(file.relative_to(place)): (file.read_bytes(), file.stat().st_mode) for file in files}


def test_the_same_package_gives_the_same_bytes(built, tmp_path):
    """Whenever, wherever and under whatever umask it is built."""
    before = os.umask(0o077)
    try:
        build_bundle(PACKAGE, tmp_path / "elsewhere", "flights", "7")
    finally:
        os.umask(before)
    one, other = (
        {
            str(file.relative_to(place)): (file.read_bytes(), file.stat().st_mode)
            for file in place.rglob("*")
            if file.is_file()
        }
        for place in (built / "bundle", tmp_path / "elsewhere")
    )
    assert one == other and bundle_digest(tmp_path / "elsewhere") == bundle_digest(built / "bundle")
    verify(built)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_one_byte_changed_in_any_file_is_found_and_named(built, bundle):
    names = json.loads((built / "bundle/manifest.json").read_text())["files"]
    assert {
        "model/model.txt",
        "model/card.md",
        "environment/requirements.txt",
        "score.py",
        "Dockerfile",
    } <= names.keys()
    for name in names:
        whole = (bundle / "bundle" / name).read_bytes()
        flip(bundle / "bundle" / name)
        with pytest.raises(BundleError, match=name.replace("+", ".")):
            check_bundle(bundle / "bundle")
        (bundle / "bundle" / name).write_bytes(whole)
    verify(bundle)


def test_a_changed_manifest_needs_the_key(bundle):
    """Whoever changes a file and its checksum still has no signature for them."""
    file = bundle / "bundle/model/model.json"
    file.write_text(file.read_text().replace('"threshold"', '"threshold" '))
    manifest = json.loads((bundle / "bundle/manifest.json").read_text())
    content = file.read_bytes()
    manifest["files"]["model/model.json"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (bundle / "bundle/manifest.json").write_text(json.dumps(manifest, indent=1))
    check_bundle(bundle / "bundle")
    with pytest.raises(BundleError, match=r"model\.json|manifest\.json"):
        verify(bundle)


@pytest.mark.parametrize("damage", ["missing", "foreign", "link"])
def test_what_does_not_belong_or_is_gone_is_named(bundle, damage):
    place = bundle / "bundle/model"
    if damage == "missing":
        (place / "golden.json").unlink()
    elif damage == "foreign":
        (place / "extra.py").write_text("import os")
    else:
        (place / "card.md").unlink()
        (place / "card.md").symlink_to("/etc/hostname")
    with pytest.raises(BundleError, match={"missing": "golden.json", "foreign": "extra.py", "link": "card.md"}[damage]):
        check_bundle(bundle / "bundle")


def test_another_key_and_no_signature_are_refused(bundle, tmp_path, monkeypatch):
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    theirs = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    sign_bundle(bundle / "bundle", bundle / "bundle.sig", theirs)
    with pytest.raises(BundleError, match=r"key|signature"):
        verify(bundle)
    (bundle / "bundle.sig").unlink()
    with pytest.raises(BundleError, match=r"signature|signed"):
        verify(bundle)


def test_a_pickle_under_any_name_is_not_packaged(tmp_path):
    """Neither by its name nor by its content; settings may allow it."""
    for number, name in enumerate(("model.pkl", "weights.bin")):
        package = tmp_path / f"package{number}"
        shutil.copytree(PACKAGE, package)
        (package / name).write_bytes(pickle.dumps({"a": [1, 2, 3]}))
        build = tmp_path / f"bundle{number}"
        with pytest.raises(BundleError, match=name):
            build_bundle(package, build, "flights", "7")
            check_bundle(build)


@pytest.mark.slow
def test_mlflow_loads_the_model_without_a_right_to_open_pickles(built, monkeypatch):
    import mlflow
    import numpy as np
    import pandas as pd

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    golden = json.loads((PACKAGE / "golden.json").read_text())
    loaded = mlflow.pyfunc.load_model(str(built / "bundle/model"))
    rows = pd.DataFrame(golden["rows"])
    columns = json.loads((PACKAGE / "signature.json").read_text())["inputs"]
    kinds = {"long": "int64", "double": "float64", "string": object}
    rows = pd.DataFrame({one["name"]: pd.Series(rows[one["name"]], dtype=kinds[one["type"]]) for one in columns})
    assert np.array_equal(loaded.predict(rows).to_numpy(), np.array(golden["expected"]))


@pytest.mark.slow
def test_the_image_serves_with_nothing_but_its_own_environment(built, tmp_path):
    """What its Dockerfile does, without Docker: the lock with hashes, the wheel, and its command, on loopback."""
    bundle, python = built / "bundle", tmp_path / "venv/bin/python"
    uv = [str(Path(sys.executable).parent / "uv")]
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, tmp_path / "venv"], check=True)
    install = [*uv, "pip", "install", "-q", "--python", python]
    subprocess.run([*install, "--require-hashes", "-r", bundle / "environment/requirements.txt"], check=True)
    subprocess.run([*install, "--no-deps", *bundle.glob("environment/*.whl")], check=True)
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    lines = [line for line in (bundle / "Dockerfile").read_text().splitlines() if line.lstrip().startswith("CMD [")]
    check, serve = ([str(python), *json.loads(line.strip().removeprefix("CMD "))[1:]] for line in lines)
    own = {
        "PATH": "/usr/bin:/bin",
        "BUNDLE": str(bundle),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "TMPDIR": str(tmp_path),
    }
    own |= {"MLOPS_ENDPOINT_KEY": "a key for this test"}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(serve, cwd=tmp_path, env=own, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 60
        while subprocess.run(check, cwd=tmp_path, env=own, capture_output=True).returncode:
            assert process.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.2)
        golden = json.loads((PACKAGE / "golden.json").read_text())
        headers = {"content-type": "application/json", "authorization": "Bearer a key for this test"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/score", json.dumps(golden["rows"]).encode(), headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            told = json.load(answer)["predictions"]
        assert [[*row.values()] for row in told] == golden["expected"]
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_the_dockerfile_passes_its_linter(built):
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, built / "bundle/Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    text = (built / "bundle/Dockerfile").read_text()
    assert "USER 1000" in text and "--require-hashes" in text
