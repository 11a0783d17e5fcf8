"""A bundle is the same bytes every time, refused when a byte changed, and serves where nothing else is installed."""

import base64
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

import numpy as np
import pytest

from mlops_kit.deployment.bundles.bundle import BundleError, build_bundle, bundle_digest, check_bundle
from mlops_kit.deployment.bundles.signing import private_key, public_key, sign_bundle, verify_bundle
from mlops_kit.deployment.releases.probing import SAME

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
    one, other = read_all(built / "bundle"), read_all(tmp_path / "elsewhere")
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
    import pandas as pd

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    golden = json.loads((PACKAGE / "golden.json").read_text())
    loaded = mlflow.pyfunc.load_model(str(built / "bundle/model"))
    rows = pd.DataFrame(golden["rows"])
    columns = json.loads((PACKAGE / "signature.json").read_text())["inputs"]
    kinds = {"long": "int64", "double": "float64", "string": object}
    rows = pd.DataFrame({one["name"]: pd.Series(rows[one["name"]], dtype=kinds[one["type"]]) for one in columns})
    assert np.allclose(loaded.predict(rows).to_numpy(), golden["expected"], rtol=0, atol=SAME)


@pytest.mark.slow
def test_the_image_serves_with_nothing_but_its_own_environment(built, tmp_path):
    """What its Dockerfile does, without Docker: the lock with hashes, the wheel, and its command, on loopback."""
    bundle, python = built / "bundle", tmp_path / "venv/bin/python"
    uv = [str(Path(sys.executable).parent / "uv")]
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, tmp_path / "venv"], check=True)
    install = [*uv, "pip", "install", "-q", "--python", python]
    subprocess.run([*install, "--require-hashes", "-r", bundle / "environment/requirements.txt"], check=True)
    subprocess.run([*install, "--no-deps", *bundle.glob("environment/*.whl")], check=True)
    again = (
        "import sys, pathlib, mlops_kit.deployment.bundles.wheel as w; print(w.build_wheel(pathlib.Path(sys.argv[1])))"
    )
    made = subprocess.run([python, "-c", again, tmp_path], cwd=tmp_path, capture_output=True, text=True, check=True)
    (wheel,) = bundle.glob("environment/*.whl")
    assert Path(made.stdout.strip()).read_bytes() == wheel.read_bytes(), "an installed kit packs another wheel"
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
        assert np.allclose([[*row.values()] for row in told], golden["expected"], rtol=0, atol=SAME)
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_the_dockerfile_passes_its_linter(built):
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, built / "bundle/Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    text = (built / "bundle/Dockerfile").read_text()
    assert "USER 1000" in text and "--no-deps --require-hashes" in text


def test_the_library_of_the_signature_accepts_and_refuses_what_we_do(bundle):
    """Our own reading of a signature is that of OpenSSF model signing, in both directions."""
    from model_signing.verifying import Config

    def theirs() -> None:
        checker = Config().use_elliptic_key_verifier(public_key=bundle / "trusted.pub")
        checker.verify(bundle / "bundle", bundle / "bundle.sig")

    theirs()
    flip(bundle / "bundle/model/model.txt")
    with pytest.raises(ValueError, match=r"model/model\.txt"):
        theirs()
    with pytest.raises(BundleError, match=r"model/model\.txt was changed after it was signed"):
        verify_bundle(bundle / "bundle", bundle / "bundle.sig", bundle / "trusted.pub")


def test_a_signature_of_which_a_byte_changed_vouches_for_nothing(bundle):
    said = json.loads((bundle / "bundle.sig").read_text())
    for field in ("payload", "sig"):
        spoiled = json.loads(json.dumps(said))
        part = spoiled["dsseEnvelope"] if field == "payload" else spoiled["dsseEnvelope"]["signatures"][0]
        content = bytearray(base64.b64decode(part[field]))
        content[-9] ^= 1
        part[field] = base64.b64encode(content).decode()
        (bundle / "bundle.sig").write_text(json.dumps(spoiled))
        with pytest.raises(BundleError, match="was made with another key, or changed"):
            verify(bundle)


KEEP = """
import sys
from pathlib import Path
from mlops_kit.deployment.package import keep_bundle
from mlops_kit.deployment.bundles.signing import private_key
home, bundle = map(Path, sys.argv[1:])
print("ready", flush=True)
print(keep_bundle(home, bundle, private_key(Path.cwd(), "dev")))
"""


def test_a_bundle_is_kept_whole_or_not_at_all_whenever_the_process_is_killed(built, tmp_path):
    """The next command sweeps what the killed one has left, and ends where it would have ended."""
    (tmp_path / "settings.ini").write_text("[dev]\n")
    home, command = tmp_path / "home", [sys.executable, "-c", KEEP, tmp_path / "home", built / "bundle"]
    kept, seen = home / "bundles" / bundle_digest(built / "bundle"), set()
    for milliseconds in (1, 5, 20, 60, 150, 400, 700, 900):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        time.sleep(milliseconds / 1000)
        process.kill()
        process.communicate()
        seen |= {file.name for file in home.glob("bundles/*")}
        if kept.exists():
            check_bundle(kept / "bundle")
            assert (kept / "bundle.sig").exists()
            shutil.rmtree(kept)
    assert seen >= {".draft"}, "no process was killed while it wrote"
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(kept) and [*home.glob("bundles/*")] == [kept]
    trusted = tmp_path / "trusted.pub"
    trusted.write_bytes(public_key(private_key(tmp_path, "dev")))
    verify_bundle(kept / "bundle", kept / "bundle.sig", trusted)


def test_two_processes_that_keep_the_same_bundle_make_one(built, tmp_path):
    (tmp_path / "settings.ini").write_text("[dev]\n")
    command = [sys.executable, "-c", KEEP, tmp_path / "home", built / "bundle"]
    both = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=60)[0].splitlines()[-1] for process in both]
    assert [process.returncode for process in both] == [0, 0] and len({*told}) == 1
    assert [str(file) for file in (tmp_path / "home/bundles").iterdir()] == told[:1]


@pytest.mark.slow
def test_a_package_that_changed_since_it_was_registered_is_not_released(tmp_path, monkeypatch):
    """The cache of the registry is as trustworthy as any folder: not at all."""
    from mlops_kit.deployment.package import fetch_bundle
    from mlops_kit.tracking import register_package

    monkeypatch.setenv("MLOPS_KIT_HOME", str(tmp_path / "dev"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := f"sqlite:///{tmp_path}/mlflow.db")
    assert register_package(PACKAGE) == "1"
    fetch = [ROOT, tmp_path / "dev", "dev", uri, "flights"]
    kept = fetch_bundle(*fetch, "challenger")
    assert fetch_bundle(*fetch, "1") == kept and check_bundle(kept / "bundle")["version"] == "1"
    cached = next((tmp_path / "dev/registry").iterdir())
    flip(cached / "model.txt")
    with pytest.raises(BundleError, match="not the one that was registered") as error:
        fetch_bundle(*fetch, "1")
    assert str(cached) in str(error.value)
    shutil.rmtree(cached)  # As the error says
    assert fetch_bundle(*fetch, "1") == kept and [*kept.parent.iterdir()] == [kept]
