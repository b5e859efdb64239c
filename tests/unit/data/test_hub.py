"""Pulling and pushing with the real clients, against servers on loopback that also misbehave."""

import functools
import inspect
import json
import resource
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub.utils import _http, close_session
from recordings import make_recording, metadata, save

from mtmarl import config, train
from mtmarl import vault as cli
from mtmarl.data import card, hub, publish, stores
from mtmarl.data import vault as v
from mtmarl.data.sources import find_vaults
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
    """No pauses between attempts: neither ours nor those of huggingface_hub."""
    monkeypatch.setattr(stores, "PAUSES", (0.0,) * 3)
    for call in (_http.http_backoff, _http.http_stream_backoff):
        monkeypatch.setitem(inspect.unwrap(call).__kwdefaults__, "base_wait_time", 0.0)


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

    def reads(self, relative):
        return self.server.requests[self.prefix + relative]


@pytest.fixture(scope="module")
def huggingface_server():
    with running() as server:
        yield server


@pytest.fixture
def huggingface(origin, huggingface_server, monkeypatch):
    server = huggingface_server
    server.reset()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.create(REPO, contents(origin))

    def put(relative, content):
        server.commit(REPO, "main", {**server.files(REPO)[1], relative: content})

    yield Place(f"hf://datasets/{REPO}@main", server, put, "")


@pytest.fixture(scope="module")
def s3_server(origin):
    """A relay to an S3 server with the files of `origin`, and a client of the latter."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    import boto3
    import botocore.loaders

    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    address = "{}:{}".format(*server.get_host_and_port())
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=f"http://{address}", **keys)
    client.create_bucket(Bucket=BUCKET)
    for relative, content in contents(origin).items():
        client.put_object(Bucket=BUCKET, Key=f"sets/{relative}", Body=content)
    # Each session of the client reads the same large descriptions of its interface.
    original, loader = botocore.loaders.JSONFileLoader.load_file, botocore.loaders.JSONFileLoader()
    read = functools.cache(lambda *args: original(loader, *args))
    with running(address) as relay, pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.loaders.JSONFileLoader, "load_file", lambda self, *args: read(*args))
        yield relay, client
    client.close()
    server.stop()


@pytest.fixture
def s3(origin, s3_server, monkeypatch):
    relay, client = s3_server
    relay.reset()
    for key, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": relay.url,
    }.items():
        monkeypatch.setenv(key, value)
    changed = set()

    def put(relative, content):
        changed.add(relative)
        client.put_object(Bucket=BUCKET, Key=f"sets/{relative}", Body=content)

    yield Place(f"s3://{BUCKET}/sets", relay, put, f"{BUCKET}/sets/")
    for relative in changed:
        put(relative, (origin / relative).read_bytes())


# What s3fs makes of the same faults matters only when `data/` or that client changes: an S3 server in Python takes half
# a second per test. Every run of the tests pulls from and pushes to it in those below that name it.
@pytest.fixture(params=["huggingface", pytest.param("s3", marks=pytest.mark.slow)])
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
    assert place.reads(file) <= len(cuts) + 1, "only the cut requests are repeated"


def test_an_interrupted_pull_is_continued(place, origin, tmp_path):
    """What arrived whole is not fetched again; a rest of a file is."""
    *whole, file = v.read_manifest(origin)["vaults"][TOY]["files"]
    place.plan(file, ("cut", 500), *[418] * 9)
    with pytest.raises(UserError, match="418|Unable|teapot|unknown"):
        hub.pull(place.address, tmp_path, [TOY], workers=1, **QUIET)
    assert not v.vault_path(tmp_path, "lbf/toy", "replay").exists()
    (part,) = [p for p in tmp_path.rglob(".*.pull-*") if p.is_dir()]
    (part / Path(file).name).write_bytes(b"rest")
    place.plan(file)
    reads = {f: place.reads(f) for f in (*whole, file)}
    hub.pull(place.address, tmp_path, [TOY], **QUIET)
    assert v.verify(tmp_path) == [TOY] and not part.exists()
    assert {f: place.reads(f) for f in reads} == reads | {file: reads[file] + 1}


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
        (lambda content: b"<html>404: no such bucket</html>" * 500, "more than the [0-9,]+ bytes"),
        (lambda content: content[: len(content) // 2], "not the file that the manifest names"),
        (lambda content: content * 2, "more than the [0-9,]+ bytes"),
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
    place.plan(file, *[404] * 9)
    with pytest.raises(UserError):
        hub.pull(place.address, tmp_path, [TOY], **QUIET)
    (part,) = [p for p in tmp_path.rglob(".*.pull-*") if p.is_dir()]
    rest = part / (Path(file).name if Path(file).parent.name == "replay" else f"d/{Path(file).name}")
    rest.parent.mkdir(exist_ok=True)
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
        ("https://me:secret@host/x", "holds a password"),
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
    place.plan(largest(origin), *[404] * 9)
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


def test_two_pullers_share(huggingface, origin, tmp_path):
    said = [], []
    huggingface.server.pause.clear()
    with ThreadPoolExecutor(2) as pool:
        pullers = [pool.submit(hub.pull, huggingface.address, tmp_path, [TOY], say=of.append) for of in said]
        while huggingface.server.waiting < 2:  # both want the manifest
            time.sleep(0.01)
        huggingface.server.pause.set()
        assert [p.result(60) for p in pullers] == [[TOY], [TOY]]
    out = ["\n".join(lines) for lines in said]
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


@pytest.fixture
def small_disk(origin):
    """The operating system refuses to let files grow, as on a full disk: `limit(bytes)`, None for none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_nothing(place, origin, tmp_path, small_disk):
    """The next pull goes on."""
    small_disk((origin / largest(origin)).stat().st_size // 2)
    with pytest.raises(UserError, match="File too large") as error:
        hub.pull(place.address, tmp_path, [TOY], **QUIET)
    small_disk(None)
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)
    assert not v.vault_path(tmp_path, "lbf/toy", "replay").exists()
    hub.pull(place.address, tmp_path, [TOY], **QUIET)
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
    with pytest.raises(UserError, match="File exists|Not a directory"):
        hub.pull(huggingface.address, tmp_path / "file", **QUIET)


# -------------------------------------------------------------------------------------------------- push


@pytest.fixture(params=["regular", "lfs", "s3", "folder"])
def target(request, tmp_path, monkeypatch):
    """An empty place to publish at: (address, what lies there)."""
    if request.param == "folder":
        return str(tmp_path / "shared"), lambda: contents(tmp_path / "shared")
    if request.param == "s3":
        request.getfixturevalue("s3")
        relay, client = request.getfixturevalue("s3_server")
        monkeypatch.setenv("AWS_ENDPOINT_URL", client.meta.endpoint_url)
        folder = f"{tmp_path.name}/"

        def there():
            found = client.list_objects_v2(Bucket=BUCKET, Prefix=folder).get("Contents", [])
            read = lambda key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            return {e["Key"].removeprefix(folder): read(e["Key"]) for e in found}

        return f"s3://{BUCKET}/{tmp_path.name}", there
    server = request.getfixturevalue("huggingface_server")
    server.reset()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    server.lfs_from = 1000 if request.param == "lfs" else 10**9
    server.create(REPO)
    return f"hf://datasets/{REPO}", lambda: server.files(REPO)[1]


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


def test_a_commit_whose_answer_is_lost_is_found(huggingface, origin, tmp_path):
    save(tmp_path, 8)
    huggingface.plan(f"commit {REPO}", 504)
    pinned = publish.push(huggingface.address, tmp_path, replace=True, **QUIET)
    assert huggingface.reads(f"commit {REPO}") == 1, "not made twice"
    assert pinned == f"hf://datasets/{REPO}@{huggingface.server.files(REPO)[0]}"
    assert hub.pull(pinned, tmp_path / "back", [TOY], **QUIET) == [TOY]


def test_a_full_disk_leaves_a_folder_as_it_was(origin, tmp_path, small_disk, capsys, monkeypatch):
    """All is written before anything is moved: no vault is listed without its card."""
    shared = tmp_path / "shared"
    publish.push(str(shared), origin, ["lbf/toy/good"], **QUIET)
    (shared / "README.md").write_text((shared / "README.md").read_text() + "Ours. " * 30_000)
    before = contents(shared)
    monkeypatch.setattr(cli, "_draw", lambda name, figures: b"\x89PNG")
    small_disk(100_000)
    assert cli.main(["push", TOY, "--hub", str(shared), "--root", str(origin)]) == 2
    small_disk(None)
    error = capsys.readouterr().err
    assert error.startswith(f"error: {shared / 'README.md'}: File too large") and error.count("\n") == 1
    assert contents(shared) == before
    publish.push(str(shared), origin, [TOY], **QUIET)
    assert len(v.verify(shared)) == 2


@pytest.mark.parametrize("direction", ["pull", "push"])
def test_a_fault_of_the_hub_does_not_hide_bad_vaults(huggingface, origin, tmp_path, direction):
    said, bad = [], "lbf/toy/good"
    if direction == "pull":
        file = largest(origin, bad)
        huggingface.put(file, flipped((origin / file).read_bytes()))
        huggingface.plan(largest(origin), *[500] * 99)
        use = lambda: hub.pull(huggingface.address, tmp_path, say=said.append)
    else:
        shutil.copytree(origin, tmp_path / "root")
        (v.vault_path(tmp_path / "root", "lbf/toy", "good") / v.METADATA).write_text("{}")
        huggingface.plan(f"revision {REPO}", *[500] * 99)
        use = lambda: publish.push(huggingface.address, tmp_path / "root", replace=True, say=said.append)
    with pytest.raises(UserError, match="500"):
        use()
    assert any(line.startswith(f"{bad}: not {direction}ed: ") for line in said)


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
    with pytest.raises(UserError, match="broken link"):
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
        reference = tmp_path / "references/lbf/.toy.json.pull-000000000000"
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text("{")
        hub.pull(huggingface.address, tmp_path, [TOY], **QUIET)
        assert not left.parent.exists() and not reference.exists() and v.verify(tmp_path) == [TOY]


# --------------------------------------------------------------------------------------- servers, addresses


@pytest.mark.parametrize("scheme", ["hf", "http"])
def test_a_stalled_server_is_given_up(tmp_path, monkeypatch, scheme):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(stores, "STALL", 0.2)
    monkeypatch.setattr(stores, "PAUSES", ())
    close_session()
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
    monkeypatch.setattr(cli, "_draw", lambda name, figures: b"\x89PNG")
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
    assert find_vaults(replace(cfg, data=replace(cfg.data, vault_dir=str(tmp_path / "x"))), ["lbf/toy"])
    asked = replace(cfg, data=replace(cfg.data, vault_dir=str(tmp_path / "y"), download=True), quiet=True)
    assert find_vaults(asked, ["lbf/toy"]) == [v.vault_path(tmp_path / "y", "lbf/toy", "replay")]


def test_a_silent_hugging_face_server_is_given_up(monkeypatch):
    """Also by sessions that the client opens anew after an error, and by those that the user makes."""
    factory, made = _http._GLOBAL_CLIENT_FACTORY, []

    def own():
        made.append(_http.default_client_factory())
        return made[-1]

    try:
        _http.set_client_factory(own)
        stores.huggingface_api()
        stores.huggingface_api()
        for count in (1, 2):
            assert _http.get_session().timeout.read == stores.STALL and len(made) == count
            close_session()
    finally:
        _http.set_client_factory(factory)


def test_a_damaged_description_is_left_out_of_the_card():
    from mtmarl.data.card import card

    entry = {"steps": 3, "episodes": 1, "returns": {"mean": 1.0, "min": 1.0, "max": 1.0}}
    whole = card({"lbf/a/replay": entry}, "title")
    empty = {"expert": None, "layout": [], "dims": {}, "histogram": {"counts": [0], "edges": [0, 1]}}
    for damaged in (
        1,
        [],
        {},
        {"layout": 3},
        {"expert": 1, "coverage": []},
        None,
        {"coverage": [[0, 1]], **empty},
    ):
        assert card({"lbf/a/replay": {**entry, "description": damaged}}, "title") == whole
