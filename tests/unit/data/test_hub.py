"""Pulling and pushing with the real clients, against servers on loopback that also misbehave."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub.utils import http_backoff
from recordings import make_recording, metadata, save

from mtmarl import build, config, train
from mtmarl import vault as cli
from mtmarl.data import card, hub, publish
from mtmarl.data import vault as v
from mtmarl.errors import UserError
from tests.hub_server import running

ROOT = Path(__file__).parents[3]
# Of huggingface_hub's own client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")

REPO, BUCKET = "lab/toys", "toys"
TOY = "lbf/toy/replay"
QUIET = {"say": lambda line: None}


def contents(root):
    """What is published: all files of vaults and references, and the manifest."""
    files = [p for p in root.rglob("*") if p.is_file() and ".locks" not in p.parts]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(files)}


def vault_files(root):
    return {k: content for k, content in contents(root).items() if ".vlt/" in k or "references/" in k}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(hub, "PAUSES", (0.01,) * 5)
    monkeypatch.setattr(hub, "CHUNK", 1000)
    monkeypatch.setattr(hub, "PIECE", 1000)
    monkeypatch.setitem(http_backoff.__kwdefaults__, "base_wait_time", 0.01)


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """Three vaults of two tasks, with references and a manifest."""
    root = tmp_path_factory.mktemp("origin")
    save(root, 1, steps=400)
    save(root, 2, quality="good")
    save(root, 3, "rware/toy")
    v.write_reference(root, "lbf/toy", {"reference": 2.0, "random": 0.5})
    v.write_reference(root, "rware/toy", {"reference": 1.0, "random": 0.0})
    v.update_manifest(root)
    return root


class Place:
    """A hub with the files of `origin` at `address`; `server` has the plan of faults by path and counts reads."""

    def __init__(self, address, server, put, prefix):
        self.address, self.server, self.put, self.prefix = address, server, put, prefix

    def plan(self, relative, *faults):
        self.server.plan[self.prefix + relative] = list(faults)

    @property
    def streams(self):
        """One request for all of a file, instead of one per chunk."""
        return self.address.startswith("hf:")

    def fail_after(self, relative, chunks, status):
        before = [("cut", chunks * hub.CHUNK)] if self.streams else [None] * chunks
        self.plan(relative, *before, status)

    def reads(self, relative):
        return self.server.requests[self.prefix + relative]


@pytest.fixture
def huggingface(origin, monkeypatch):
    with running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.create(REPO, contents(origin))

        def put(relative, content):
            server.commit(REPO, "main", {**server.files(REPO)[1], relative: content})

        yield Place(f"hf://datasets/{REPO}@main", server, put, "")


@pytest.fixture(scope="session")
def s3_server():
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield "{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(origin, s3_server, monkeypatch):
    import boto3

    for key, value in {"ID": "test", "SECRET": "test"}.items():
        monkeypatch.setenv(f"AWS_{'ACCESS_KEY_ID' if key == 'ID' else 'SECRET_ACCESS_KEY'}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=f"http://{s3_server}")
    client.create_bucket(Bucket=BUCKET)
    put = lambda relative, content: client.put_object(Bucket=BUCKET, Key=f"sets/{relative}", Body=content)
    for relative, content in contents(origin).items():
        put(relative, content)
    with running(s3_server) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", relay.url)
        yield Place(f"s3://{BUCKET}/sets", relay, put, f"{BUCKET}/sets/")
    for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=entry["Key"])
    client.delete_bucket(Bucket=BUCKET)
    client.close()


@pytest.fixture(params=["huggingface", "s3"])
def place(request):
    return request.getfixturevalue(request.param)


def largest(root, name=TOY):
    files = json.loads((root / v.MANIFEST).read_text())["vaults"][name]["files"]
    return max(files, key=lambda f: files[f]["size"])


# -------------------------------------------------------------------------------------------------- pull


def test_all_or_some_arrive_as_they_are(place, origin, tmp_path):
    said = []
    assert hub.pull(place.address, tmp_path / "some", ["lbf/toy/good"], say=said.append) == ["lbf/toy/good"]
    assert v.verify(tmp_path / "some") == ["lbf/toy/good"]
    assert v.read_references(tmp_path / "some") == {"lbf/toy": {"reference": 2.0, "random": 0.5}}
    pinned = said[-1].removeprefix("from ")
    assert len(hub.pull(pinned, tmp_path / "all", **QUIET)) == 3
    assert vault_files(tmp_path / "all") == vault_files(origin)
    assert v.verify(tmp_path / "all") == ["lbf/toy/good", TOY, "rware/toy/replay"]
    assert json.loads((tmp_path / "all/manifest.json").read_text())["vaults"][TOY]["source"] == pinned
    assert not [p for p in (tmp_path / "all").rglob(".*") if p.name != ".locks"], "nothing temporary is left"


def test_what_is_there_is_not_fetched_again(place, origin, tmp_path):
    hub.pull(place.address, tmp_path, **QUIET)
    reads, said = place.reads(largest(origin)), []
    hub.pull(place.address, tmp_path, say=said.append)
    assert place.reads(largest(origin)) == reads and sum("already there" in line for line in said) == 3


@pytest.mark.parametrize("cuts", [[("cut", 500)], [("cut", 0), ("cut", 999), ("cut", 10)]])
def test_a_cut_connection_goes_on_where_it_was(place, origin, tmp_path, cuts):
    file = largest(origin)
    place.plan(file, *cuts)
    hub.pull(place.address, tmp_path, [TOY], **QUIET)
    assert v.verify(tmp_path) == [TOY] and not place.server.plan[place.prefix + file]
    size = (origin / file).stat().st_size
    assert place.reads(file) <= -(-size // hub.CHUNK) + len(cuts) + 1, "only the cut requests are repeated"


def test_an_interrupted_pull_is_continued(place, origin, tmp_path, monkeypatch):
    file = largest(origin)
    size = (origin / file).stat().st_size
    assert size > 5 * hub.CHUNK
    monkeypatch.setattr(hub, "PAUSES", ())  # the first failure ends it
    place.fail_after(file, 3, 418)
    with pytest.raises(UserError, match="418|Unable|teapot|unknown"):
        hub.pull(place.address, tmp_path, [TOY], **QUIET)
    assert not v.vault_path(tmp_path, "lbf/toy", "replay").exists()
    (part,) = [p for p in tmp_path.rglob(Path(file).name) if p.stat().st_size == 3 * hub.CHUNK]
    place.plan(file)
    before, reads = place.server.body, place.reads(file)
    hub.pull(place.address, tmp_path, [TOY], **QUIET)
    assert v.verify(tmp_path) == [TOY] and not part.exists()
    assert place.reads(file) - reads == (1 if place.streams else -(-size // hub.CHUNK) - 3)
    others = sum((origin / f).stat().st_size for f in vault_files(origin) if f != file)
    assert size - 3 * hub.CHUNK <= place.server.body - before <= size - 3 * hub.CHUNK + others


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_recovers(huggingface, origin, tmp_path, status):
    huggingface.plan(largest(origin), status, status)
    huggingface.plan(f"revision {REPO}", status)
    hub.pull(huggingface.address, tmp_path, [TOY], **QUIET)
    assert v.verify(tmp_path) == [TOY] and not huggingface.server.plan[largest(origin)]


def test_a_store_that_recovers(s3, origin, tmp_path):
    s3.plan(largest(origin), 503, 500)
    hub.pull(s3.address, tmp_path, [TOY], **QUIET)
    assert v.verify(tmp_path) == [TOY] and not s3.server.plan[s3.prefix + largest(origin)]


def flipped(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    "spoil, words",
    [
        (flipped, "not the file that the manifest names"),
        (lambda content: b"<html>404: no such bucket</html>" * 500, "not the file that the manifest names"),
        (lambda content: content[: len(content) // 2], "ends after|not satisfiable|InvalidRange|range|416"),
    ],
)
def test_wrong_foreign_and_truncated_files_are_refused(place, origin, tmp_path, spoil, words):
    """… and the previous good copy stays."""
    save(tmp_path, 9)
    (entry,) = json.loads(v.update_manifest(tmp_path).read_text())["vaults"].values()
    v.record(tmp_path, {TOY: {**entry, "source": place.address}}, print)
    before = vault_files(tmp_path)
    file = largest(origin)
    place.put(file, spoil((origin / file).read_bytes()))
    with pytest.raises(UserError, match=words) as error:
        hub.pull(place.address, tmp_path, [TOY], **QUIET)
    assert file in str(error.value) and "\n" not in str(error.value)
    after = vault_files(tmp_path)
    assert {k: after[k] for k in before} == before and v.verify(tmp_path) == [TOY]
    place.put(file, (origin / file).read_bytes())
    hub.pull(place.address, tmp_path, [TOY], **QUIET)
    assert {k: c for k, c in vault_files(tmp_path).items() if TOY.replace("toy/", "toy.vlt/") in k} == {
        k: c for k, c in vault_files(origin).items() if "lbf/toy.vlt/replay" in k
    }


def test_what_an_older_version_left_is_not_mixed_in(place, origin, tmp_path):
    """A rest with the right name and the wrong content is thrown away, not completed."""
    file = largest(origin)
    place.fail_after(file, 1, 404)
    with pytest.raises(UserError):
        hub.pull(place.address, tmp_path, [TOY], **QUIET)
    (rest,) = [p for p in tmp_path.rglob(Path(file).name) if p.stat().st_size]
    rest.write_bytes(bytes(700))
    place.plan(file)
    hub.pull(place.address, tmp_path, [TOY], **QUIET)
    assert v.verify(tmp_path) == [TOY]


@pytest.mark.parametrize(
    "address, words",
    [
        ("hf://datasets/lab/none@main", "not found"),
        (f"hf://datasets/{REPO}@v9", "not found"),
        (f"hf://datasets/{REPO}/other", "manifest.json: not found"),
        ("hf://lab/toys", "is written hf://datasets/ORG/NAME"),
        ("hf://datasets/lab/toys@main#md5=12", "sha256="),
        (f"hf://datasets/{REPO}#sha256=000000000000", "the data there have changed"),
        ("nonsense://x", "nonsense"),
        ("https://me:secret@host/x", "no passwords"),
        ("", "no hub"),
    ],
)
def test_bad_addresses(huggingface, tmp_path, address, words):
    with pytest.raises(UserError, match=words) as error:
        hub.pull(address, tmp_path / "root", **QUIET)
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


@pytest.mark.parametrize("address", [f"s3://{BUCKET}/none", "s3://no-such-bucket/x"])
def test_bad_stores(s3, tmp_path, address):
    with pytest.raises(UserError, match="not found"):
        hub.pull(address, tmp_path, **QUIET)


def test_a_file_that_is_gone(place, origin, tmp_path):
    place.plan(largest(origin), 404)
    with pytest.raises(UserError, match="not found") as error:
        hub.pull(place.address, tmp_path, [TOY], **QUIET)
    assert largest(origin) in str(error.value)


def test_names_that_are_not_there(huggingface, tmp_path):
    with pytest.raises(UserError, match=r"no vault 'lbf/none'; there are lbf/toy/good"):
        hub.pull(huggingface.address, tmp_path, ["lbf/none"], **QUIET)


@pytest.mark.parametrize(
    "content",
    [
        b"<html>not found</html>",
        b'{"schema_version": 1}',
        b'{"schema_version": 99, "vaults": {}}',
        b'{"schema_version": 1, "vaults": {"lbf/toy/x": {"task": "lbf/toy", "files": {"lbf/toy.vlt/x/metadata.json": '
        b'{"size": 1, "sha256": "Z"}}}}}',
    ],
)
def test_a_foreign_manifest_is_refused(huggingface, tmp_path, content):
    huggingface.put(v.MANIFEST, content)
    with pytest.raises(UserError, match="damaged|newer"):
        hub.pull(huggingface.address, tmp_path, **QUIET)


@pytest.mark.parametrize(
    "place_of",
    [
        "../../evil",
        "/etc/evil",
        "lbf/toy.vlt/replay/../../../evil",
        "a\\..\\evil",
        "lbf/toy.vlt/replay/" + "a/" * 2000 + "b",
    ],
)
@pytest.mark.parametrize("kind", ["vaults", "references"])
def test_no_file_is_written_outside_the_root(huggingface, origin, tmp_path, place_of, kind):
    manifest = json.loads((origin / v.MANIFEST).read_text())
    files = manifest["references"] if kind == "references" else manifest["vaults"][TOY]["files"]
    files[place_of] = next(iter(files.values()))
    huggingface.put(v.MANIFEST, json.dumps(manifest).encode())
    with pytest.raises(UserError, match="damaged"):
        hub.pull(huggingface.address, tmp_path / "root", **QUIET)
    assert not list(tmp_path.rglob("*evil*"))


def test_an_older_revision_stays_what_it_was(huggingface, origin, tmp_path):
    old = huggingface.server.files(REPO)[0]
    other = tmp_path / "other"
    save(other, 7)
    publish.push(huggingface.address, other, replace=True, **QUIET)
    hub.pull(f"hf://datasets/{REPO}@{old}", tmp_path / "old", [TOY], **QUIET)
    hub.pull(huggingface.address, tmp_path / "new", [TOY], **QUIET)
    files = {
        k: {f: c for f, c in vault_files(tmp_path / k).items() if ".vlt" in f}
        for k in ("old", "new", "other")
    }
    assert files["new"] == files["other"]
    assert files["old"] == {k: c for k, c in vault_files(origin).items() if "lbf/toy.vlt/replay" in k}


def test_a_plain_web_server_without_ranges(origin, tmp_path, monkeypatch):
    pytest.importorskip("aiohttp")
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Silent(SimpleHTTPRequestHandler):
        log_message = lambda self, *_: None

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(origin)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        assert len(hub.pull(address, tmp_path / "x", **QUIET)) == 3
        assert vault_files(tmp_path / "x") == vault_files(origin)
        with pytest.raises(UserError, match="can only be read"):
            publish.push(address, origin, **QUIET)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# --------------------------------------------------------------------------------------- several, no room


PULL = "import sys; from mtmarl import vault; sys.exit(vault.main(sys.argv[1:]))"


def start_pull(place, root, first=""):
    """Another process that pulls the toy; `first`: what it does before."""
    command = [sys.executable, "-c", first + PULL, "pull", TOY, "--hub", place.address, "--root", str(root)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_two_pullers_share(huggingface, origin, tmp_path):
    huggingface.server.pause.clear()
    pullers = [start_pull(huggingface, tmp_path) for _ in range(2)]
    while huggingface.server.waiting < 2:  # both want the manifest
        time.sleep(0.01)
    huggingface.server.pause.set()
    out = [p.communicate(timeout=60)[0] for p in pullers]
    assert [p.returncode for p in pullers] == [0, 0], out
    assert sorted(("pulled" in o, "already there" in o) for o in out) == [(False, True), (True, False)], out
    assert huggingface.reads(largest(origin)) == 1 and v.verify(tmp_path) == [TOY]


def test_a_puller_waits_for_another(huggingface, origin, tmp_path):
    said = []
    with v.locked(tmp_path, TOY):
        other = threading.Thread(
            target=hub.pull, args=(huggingface.address, tmp_path, [TOY]), kwargs={"say": said.append}
        )
        other.start()
        while not said:
            time.sleep(0.01)
        assert "waiting" in said[0] and huggingface.reads(largest(origin)) == 0
    other.join()
    assert v.verify(tmp_path) == [TOY]


def test_too_little_room_is_said_before_anything_is_fetched(huggingface, origin, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="MB to fetch, 0.0 MB free"):
        hub.pull(huggingface.address, tmp_path, **QUIET)
    assert huggingface.reads(largest(origin)) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files by a Unix call")
def test_a_full_disk_loses_nothing(huggingface, origin, tmp_path):
    """The operating system refuses to let files grow, as on a full disk; the next pull goes on."""
    half = (origin / largest(origin)).stat().st_size // 2
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({half}, {half})); "
    process = start_pull(huggingface, tmp_path, limit)
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 2 and "make room" in out and "Traceback" not in out, out
    assert not v.vault_path(tmp_path, "lbf/toy", "replay").exists()
    hub.pull(huggingface.address, tmp_path, [TOY], **QUIET)
    assert v.verify(tmp_path) == [TOY]


# ----------------------------------------------------------------------------------------- what is local


def test_a_vault_of_ones_own_is_not_overwritten(huggingface, tmp_path):
    path, own = save(tmp_path, 9)
    v.update_manifest(tmp_path)
    with pytest.raises(UserError, match="was not pulled from a hub"):
        hub.pull(huggingface.address, tmp_path, [TOY], **QUIET)
    np.testing.assert_array_equal(v.read_vault(path).recording.obs, own.obs)
    hub.pull(huggingface.address, tmp_path, [TOY], replace=True, **QUIET)
    assert v.verify(tmp_path) == [TOY] and not np.array_equal(v.read_vault(path).recording.obs, own.obs)


def test_a_damaged_copy_is_restored(huggingface, origin, tmp_path):
    hub.pull(huggingface.address, tmp_path, [TOY], **QUIET)
    file = tmp_path / largest(origin)
    file.write_bytes(flipped(file.read_bytes()))
    with pytest.raises(UserError):
        v.verify(tmp_path)
    hub.pull(huggingface.address, tmp_path, [TOY], **QUIET)
    assert v.verify(tmp_path) == [TOY]


def test_collecting_again_makes_a_pulled_vault_ones_own(huggingface, tmp_path):
    hub.pull(huggingface.address, tmp_path, [TOY], **QUIET)
    v.update_manifest(tmp_path)
    assert "source" in v.read_manifest(tmp_path)["vaults"][TOY]
    save(tmp_path, 9)
    with pytest.raises(UserError, match="was not pulled from a hub"):
        hub.pull(huggingface.address, tmp_path, [TOY], **QUIET)
    v.update_manifest(tmp_path)
    assert "source" not in v.read_manifest(tmp_path)["vaults"][TOY]


def test_reference_figures_of_ones_own_stay(huggingface, tmp_path):
    v.write_reference(tmp_path, "lbf/toy", {"reference": 7.0, "random": 0.0})
    said = []
    hub.pull(huggingface.address, tmp_path, [TOY], say=said.append)
    assert v.read_references(tmp_path)["lbf/toy"]["reference"] == 7.0
    assert any("kept" in line for line in said) and v.verify(tmp_path) == [TOY]


def test_a_folder_that_cannot_be_written(huggingface, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another folder"):
        hub.pull(huggingface.address, tmp_path / "file", **QUIET)


# -------------------------------------------------------------------------------------------------- push


@pytest.fixture(params=["regular", "lfs", "s3", "folder"])
def target(request, tmp_path, monkeypatch):
    """An empty place to publish at: (address, what lies there)."""
    if request.param == "s3":
        place = request.getfixturevalue("s3")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{request.getfixturevalue('s3_server')}")

        def there():
            import boto3

            client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
            found = client.list_objects_v2(Bucket=BUCKET, Prefix="new/").get("Contents", [])
            out = {
                e["Key"].removeprefix("new/"): client.get_object(Bucket=BUCKET, Key=e["Key"])["Body"].read()
                for e in found
            }
            client.close()
            return out

        yield f"{place.address.removesuffix('sets')}new", there
    elif request.param == "folder":
        yield str(tmp_path / "shared"), lambda: contents(tmp_path / "shared")
    else:
        with running() as server:
            monkeypatch.setenv("HF_ENDPOINT", server.url)
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
            server.lfs_from = 1000 if request.param == "lfs" else 10**9
            server.create(REPO)
            yield f"hf://datasets/{REPO}", lambda: server.files(REPO)[1]


def test_pushed_and_pulled_is_the_same(target, origin, tmp_path):
    address, there = target
    draw = lambda name, figures: b"PNG of " + name.encode()
    pinned = publish.push(address, origin, ["lbf"], draw=draw, license="cc-by-4.0", **QUIET)
    pinned = publish.push(address, origin, ["rware/toy"], **QUIET)
    assert len(hub.pull(pinned, tmp_path / "back", **QUIET)) == 3
    assert vault_files(tmp_path / "back") == vault_files(origin)
    published = there()
    assert str(origin).encode() not in b"".join(published.values()), (
        "no path of this machine may be published"
    )
    assert published[f"figures/{TOY}.png"] == b"PNG of lbf/toy/replay"
    text = published["README.md"].decode()
    for part in (
        "license: cc-by-4.0",
        f"| `{TOY}` | 400 |",
        "| `rware/toy/replay` |",
        "expert",
        "figures/lbf/toy/replay.png",
    ):
        assert part in text, part
    assert text.count(card.BEGIN) == 1


def test_a_changed_vault_needs_a_word(target, origin, tmp_path):
    address, there = target
    publish.push(address, origin, [TOY], **QUIET)
    before = there()
    save(tmp_path / "other", 8)
    with pytest.raises(UserError, match="--replace"):
        publish.push(address, tmp_path / "other", **QUIET)
    assert there() == before
    publish.push(address, tmp_path / "other", replace=True, **QUIET)
    now = {k for k in there() if ".vlt/" in k}
    assert now == {k for k in contents(tmp_path / "other") if ".vlt/" in k}, "what the old one had is gone"
    hub.pull(address, tmp_path / "back", [TOY], **QUIET)
    assert v.verify(tmp_path / "back") == [TOY]


def test_a_card_keeps_what_its_owner_wrote(huggingface, origin):
    huggingface.put("README.md", b"# Ours\n\nWhy we made it.\n")
    for name in (TOY, "rware"):
        publish.push(huggingface.address, origin, [name], **QUIET)
    text = huggingface.server.files(REPO)[1]["README.md"].decode()
    assert (
        text.startswith("# Ours\n\nWhy we made it.\n") and text.count(card.BEGIN) == text.count(card.END) == 1
    )
    assert "rware/toy/replay" in text


def test_somebody_elses_push_is_not_undone(huggingface, origin, monkeypatch):
    real = publish.describe

    def meanwhile(*args):
        huggingface.put("note.txt", b"somebody else")
        return real(*args)

    monkeypatch.setattr(publish, "describe", meanwhile)
    with pytest.raises(UserError, match="412"):
        publish.push(huggingface.address, origin, [TOY], **QUIET)
    assert huggingface.server.files(REPO)[1]["note.txt"] == b"somebody else"


def test_pushes_to_one_folder_do_not_undo_each_other(origin, tmp_path):
    """One that waits for the other, and a vault that is collected into the folder meanwhile."""
    shared, names = tmp_path / "shared", ["rware/toy/replay", TOY]

    def meanwhile(name, figures):
        other = threading.Thread(target=publish.push, args=(str(shared), origin, names[:1]), kwargs=QUIET)
        other.start()
        save(shared, 5, "lbf/own")
        path = v.vault_path(shared, "lbf/own", "replay")
        v.record(shared, {"lbf/own/replay": v.manifest_entry(shared, path)}, lambda line: None)
        started.append(other)
        return b"PNG"

    started: list[threading.Thread] = []
    publish.push(str(shared), origin, names[1:], draw=meanwhile, **QUIET)
    started[0].join()
    assert set(v.read_manifest(shared)["vaults"]) == {*names, "lbf/own/replay"}
    assert len(v.verify(shared)) == 3
    assert all(name in (shared / "README.md").read_text() for name in names)


def test_a_data_set_is_made_on_request(huggingface, origin, tmp_path):
    address = "hf://datasets/lab/fresh"
    with pytest.raises(UserError, match="not found"):
        publish.push(address, origin, [TOY], **QUIET)
    publish.push(address, origin, [TOY], create=True, **QUIET)
    assert hub.pull(address, tmp_path, **QUIET) == [TOY]


def test_the_observation_is_described_feature_by_feature(tmp_path):
    recording = make_recording(features=36)._replace()
    v.write_vault(
        tmp_path / "lbf/8x8-2p-2f.vlt/replay", recording, {**metadata("lbf/8x8-2p-2f"), "obs_scale": 0.5}
    )
    publish.push(str(tmp_path / "shared"), tmp_path, **QUIET)
    text = (tmp_path / "shared/README.md").read_text()
    assert "| 0 | food 0: row / 16 | 0.5 |" in text and "| 35 | other agent 4: level / 8 | 0.5 |" in text


@pytest.mark.parametrize(
    "address, words",
    [
        (f"hf://datasets/{REPO}@{'0' * 40}", "not found|commit cannot change"),
        (f"hf://datasets/{REPO}#sha256=" + "0" * 12, "without it"),
    ],
)
def test_what_cannot_be_pushed_to(huggingface, origin, address, words):
    with pytest.raises(UserError, match=words):
        publish.push(address, origin, **QUIET)


# -------------------------------------------------------------------------- one bad vault among good ones


def test_linked_folders_are_published_whole(origin, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(origin, root)
    data = v.vault_path(root, "lbf/toy", "replay") / "d"
    data.rename(tmp_path / "scratch")
    data.symlink_to(tmp_path / "scratch")
    publish.push(str(tmp_path / "shared"), root, **QUIET)
    hub.pull(str(tmp_path / "shared"), tmp_path / "back", **QUIET)
    assert vault_files(tmp_path / "back") == vault_files(origin)
    (tmp_path / "scratch").rename(tmp_path / "gone")
    with pytest.raises(UserError, match="nothing"):
        publish.push(str(tmp_path / "other"), root, [TOY], **QUIET)
    assert not (tmp_path / "other" / v.MANIFEST).exists()


def test_bad_vaults_do_not_keep_the_others_from_being_pushed(origin, tmp_path):
    root, shared, said = tmp_path / "root", tmp_path / "shared", []
    shutil.copytree(origin, root)
    foreign = root / "lbf/another.vlt/Good"
    foreign.mkdir(parents=True)
    (foreign / v.METADATA).write_text('{"version": 1.2}')
    damaged = v.vault_path(root, "lbf/toy", "good") / "manifest.ocdbt"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="2 of 4 vaults not pushed: lbf/another/Good, lbf/toy/good"):
        publish.push(str(shared), root, say=said.append)
    assert v.verify(shared) == [TOY, "rware/toy/replay"]
    for name in ("lbf/another/Good", "lbf/toy/good"):
        assert any(line.startswith(f"{name}: not pushed: ") for line in said)
    damaged.write_bytes(whole)
    shutil.rmtree(foreign)
    publish.push(str(shared), root, **QUIET)
    assert len(v.verify(shared)) == 3


def test_bad_vaults_do_not_keep_the_others_from_being_pulled(huggingface, origin, tmp_path):
    file = largest(origin)
    huggingface.put(file, flipped((origin / file).read_bytes()))
    said = []
    with pytest.raises(UserError, match=f"1 of 3 vaults not pulled: {TOY}"):
        hub.pull(huggingface.address, tmp_path, say=said.append)
    assert v.verify(tmp_path) == ["lbf/toy/good", "rware/toy/replay"]
    assert any(line.startswith(f"{TOY}: not pulled: ") and file in line for line in said)
    huggingface.put(file, (origin / file).read_bytes())
    assert len(hub.pull(huggingface.address, tmp_path, **QUIET)) == 3 and len(v.verify(tmp_path)) == 3


def test_a_vault_that_cannot_be_opened_is_not_taken(huggingface, origin, tmp_path):
    """As one that was published without its data: each file is what the manifest says, but they are no vault."""
    manifest = json.loads((origin / v.MANIFEST).read_text())
    files = manifest["vaults"][TOY]["files"]
    manifest["vaults"][TOY]["files"] = {k: of for k, of in files.items() if "/d/" not in k}
    huggingface.put(v.MANIFEST, json.dumps(manifest).encode())
    with pytest.raises(UserError, match="cannot be read.*not taken") as error:
        hub.pull(huggingface.address, tmp_path, [TOY], **QUIET)
    assert "\n" not in str(error.value)
    assert not [p for p in tmp_path.rglob("*") if "replay" in p.name and ".locks" not in p.parts]


def test_what_killed_pulls_left_is_removed(huggingface, origin, tmp_path):
    left = tmp_path / "lbf/toy.vlt/.replay.pull-000000000000/d"
    for _ in range(2):  # Where the vault is pulled, and where it is there.
        left.mkdir(parents=True)
        hub.pull(huggingface.address, tmp_path, [TOY], **QUIET)
        assert not left.parent.exists() and v.verify(tmp_path) == [TOY]


# --------------------------------------------------------------------------------------- servers, addresses


@pytest.mark.parametrize("scheme", ["hf", "http"])
def test_a_stalled_server_is_given_up(tmp_path, monkeypatch, scheme):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(hub, "STALL", 0.2)
    monkeypatch.setattr(hub, "PAUSES", ())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", url)
        began = time.monotonic()
        with pytest.raises(UserError) as error:
            hub.pull(f"hf://datasets/{REPO}" if scheme == "hf" else url, tmp_path, **QUIET)
    assert time.monotonic() - began < 20 and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["lbf/toy/x\x1b[31m", "lbf/toy/x\n", "lbf/8\uff18/replay", "lbf/a:b/replay"])
def test_names_from_a_hub_are_no_terminal_codes(huggingface, origin, tmp_path, capsys, name):
    manifest = json.loads((origin / v.MANIFEST).read_text())
    manifest["vaults"][name] = manifest["vaults"][TOY]
    huggingface.put(v.MANIFEST, json.dumps(manifest).encode())
    for command in (["ls"], ["pull", "--root", str(tmp_path / "x")]):
        assert cli.main([*command, "--hub", huggingface.address]) == 2
        out, err = capsys.readouterr()
        assert len(err.splitlines()) == 1 and (out + err).replace("\n", "").replace("…", "").isascii()
        assert "\x1b" not in out + err


@pytest.mark.parametrize("key", ["hub.url", "tasks.hub"])
@pytest.mark.parametrize(
    "address", ["https://me:secret@host/x", "https://host/x?sig=secret", "s3://a:secret/@b"]
)
def test_credentials_are_not_recorded(tmp_path, capsys, key, address):
    run = tmp_path / "run"
    assert train.main(["+algo=mt_oryx", "+tasks=micro", f"{key}={address}", f"run_dir={run}"]) == 2
    err = capsys.readouterr().err
    assert key in err and "secret" not in err and not run.exists()
    for command in (["ls"], ["pull"], ["push"]):
        assert cli.main([*command, "--hub", address]) == 2
        assert "secret" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "x"])
def test_limits_of_archives_are_numbers(value, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["convert", "x", "--max-gigabytes", value])
    assert stop.value.code == 2 and "no number of gigabytes" in capsys.readouterr().err


def test_command_line(huggingface, origin, tmp_path, capsys, monkeypatch):
    root = ["--root", str(tmp_path / "x")]
    assert cli.main(["ls", "--hub", huggingface.address]) == 0
    out = capsys.readouterr().out
    assert TOY in out and f"hf://datasets/{REPO}@{huggingface.server.files(REPO)[0]}" in out
    assert cli.main(["pull", TOY, "--hub", huggingface.address, *root]) == 0
    assert cli.main(["verify", *root]) == 0
    monkeypatch.setenv("MTMARL_VAULTS", str(tmp_path / "empty"))
    assert cli.main(["push", "--hub", huggingface.address, "--root", str(origin), "lbf/toy/good"]) == 0
    assert "mtmarl.vault pull --hub" in capsys.readouterr().out
    assert huggingface.server.files(REPO)[1]["figures/lbf/toy/good.png"].startswith(b"\x89PNG")
    assert cli.main(["pull", "lbf/none", "--hub", huggingface.address, *root]) == 2
    assert cli.main(["pull", "lbf_5", *root]) == 2
    assert "give --hub" in capsys.readouterr().err
    elsewhere = tmp_path / "nothing"
    assert cli.main(["pull", "lbf_test", "--hub", huggingface.address, "--root", str(elsewhere)]) == 2
    assert "lists no training task" in capsys.readouterr().err and not elsewhere.exists()


def test_a_task_set_says_where_its_vaults_are(huggingface, tmp_path, monkeypatch, capsys):
    """… unless `hub.url` says otherwise."""
    configs = tmp_path / "configs"
    shutil.copytree(config.config_dir(), configs)
    (configs / "tasks/toys.yaml").write_text(f"train: [lbf/toy, rware/toy]\nhub: {huggingface.address}\n")
    monkeypatch.setattr("mtmarl.config.files.config_dir", lambda: configs)
    cfg = config.compose(["+algo=mt_oryx", "+tasks=toys"], "train")
    assert (cfg.tasks.hub, cfg.hub.url, cfg.data.download) == (huggingface.address, None, False)
    other = config.compose(
        ["+algo=mt_oryx", "+tasks=toys", "hub.url=hf://datasets/a/b@v1#sha256=0123456789ab"], "train"
    )
    assert other.hub.url == "hf://datasets/a/b@v1#sha256=0123456789ab"
    assert cli.main(["pull", "toys", "--root", str(tmp_path / "x")]) == 0
    assert v.verify(tmp_path / "x") == [TOY, "rware/toy/replay"]
    assert cli.main(["pull", "toys", "--quality", "best", "--root", str(tmp_path / "x")]) == 2
    assert "no vault 'lbf/toy/best'" in capsys.readouterr().err
    assert build.find_vaults(replace(cfg, data=replace(cfg.data, vault_dir=str(tmp_path / "x"))), ["lbf/toy"])
    asked = replace(cfg, data=replace(cfg.data, vault_dir=str(tmp_path / "y"), download=True), quiet=True)
    assert build.find_vaults(asked, ["lbf/toy"]) == [v.vault_path(tmp_path / "y", "lbf/toy", "replay")]


def test_a_silent_hugging_face_server_is_given_up():
    from huggingface_hub.utils import get_session

    hub.huggingface_api()
    assert get_session().timeout.read == hub.STALL


def test_a_damaged_description_is_left_out_of_the_card():
    from mtmarl.data.card import card

    entry = {"steps": 3, "episodes": 1, "returns": {"mean": 1.0, "min": 1.0, "max": 1.0}}
    whole = card({"lbf/a/replay": entry}, "title")
    for damaged in (1, [], {}, {"layout": 3}, {"expert": 1, "coverage": []}, None):
        assert card({"lbf/a/replay": {**entry, "description": damaged}}, "title") == whole
