import contextlib
import hashlib
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from plasticity_lightning.data import DataNotFoundError
from plasticity_lightning.data.catalogue import CIFAR10, CIFAR100, FASHION_MNIST, MNIST, NMNIST
from plasticity_lightning.data.sources import Layout, RemoteFile, Source, cache_folder, data_roots, download, locate
from plasticity_lightning.errors import UserError
from tests.data.real_formats import write_idx_set


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(tmp_path / "served")))
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", tmp_path / "served"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def remote(base, content, name="data.bin", mirrors=("",)):
    return RemoteFile(name, hashlib.md5(content).hexdigest(), tuple(f"{base}{m}/{name}" for m in mirrors))


def source_of(*files):
    layout = Layout("plain", {file.name: (file.name,) for file in files})
    return Source("Thing", ("thing",), (layout,), "buy it.", remote=files, download_folder="thing")


@pytest.mark.parametrize("sub", ["", "mnist", "MNIST", "MNIST/raw", "Mnist/Raw"])
@pytest.mark.parametrize("compress", [True, False])
def test_mnist_is_found_in_the_usual_layouts(folder, sub, compress):
    write_idx_set(folder / sub, compress=compress)
    found = locate(MNIST, folder, allow_download=False)
    assert set(found.paths) == {"train_images", "train_labels", "test_images", "test_labels"}
    assert {path.parent for path in found.paths.values()} == {folder / sub}


@pytest.mark.parametrize("sub", ["fashion-mnist", "FashionMNIST/raw", "fashion_mnist"])
def test_fashion_mnist_is_not_taken_from_the_folder_of_mnist(folder, sub):
    write_idx_set(folder / "mnist")
    with pytest.raises(DataNotFoundError, match="dataset-fashion-mnist"):
        locate(FASHION_MNIST, folder, allow_download=False)
    write_idx_set(folder / sub)
    assert locate(FASHION_MNIST, folder, allow_download=False).paths["train_images"].parent == folder / sub


def test_roots_are_searched_in_the_documented_order(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PLASTICITY_DATA", str(tmp_path / "env"))
    places = [folder, tmp_path / "env", tmp_path / "xdg" / "plasticity_lightning", tmp_path / "system"]
    assert data_roots(folder) == places
    assert cache_folder() == places[2]
    for place in reversed(places):  # each new copy is nearer the front than those before
        write_idx_set(place / "mnist")
        assert locate(MNIST, folder, allow_download=False).paths["test_labels"].parent == place / "mnist"


def test_lossless_cifar_is_preferred_to_jpegs(folder):
    (folder / "cifar10").mkdir()
    (folder / "cifar10" / "cifar10-jpeg.zip").touch()
    assert locate(CIFAR10, folder, allow_download=False).layout == "jpeg_zip"
    (folder / "cifar-10-python.tar.gz").touch()
    assert locate(CIFAR10, folder, allow_download=False).layout == "archive"


def test_the_error_lists_places_and_incomplete_copies_and_is_both_kinds_of_error(folder):
    write_idx_set(folder / "mnist")
    (folder / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataNotFoundError) as caught:
        locate(MNIST, folder, allow_download=False)
    message = str(caught.value)
    assert f"{folder / 'mnist'}: incomplete, lacks t10k-labels-idx1-ubyte" in message
    assert "system (does not exist)" in message
    assert "PLASTICITY_DATA" in message
    assert "download=False" in message
    assert isinstance(caught.value, UserError)
    assert isinstance(caught.value, FileNotFoundError)


def test_nmnist_has_to_be_obtained_by_hand(folder):
    with pytest.raises(DataNotFoundError, match="by hand") as caught:
        locate(NMNIST, folder)
    assert "Downloading" not in str(caught.value)


def test_a_missing_set_is_downloaded_to_the_first_root_and_then_found(server, folder):
    base, served = server
    (served / "data.bin").write_bytes(b"content")
    found = locate(source_of(remote(base, b"content")), folder)
    assert found.paths["data.bin"].read_bytes() == b"content"
    assert [p.name for p in (folder / "thing").iterdir()] == ["data.bin"]
    (served / "data.bin").unlink()
    assert locate(source_of(remote(base, b"content")), folder) == found  # no second download


def test_the_next_mirror_is_tried_after_a_missing_and_a_damaged_file(server, folder):
    base, served = server
    for mirror, content in (("damaged", b"cont"), ("good", b"content")):
        (served / mirror).mkdir()
        (served / mirror / "data.bin").write_bytes(content)
    file = remote(base, b"content", mirrors=("/none", "/damaged", "/good"))
    assert download(file, folder).read_bytes() == b"content"
    assert [p.name for p in folder.iterdir()] == ["data.bin"]


def test_every_failed_mirror_is_reported_and_nothing_is_left_behind(server, folder):
    base, served = server
    (served / "data.bin").write_bytes(b"cont")
    file = remote(base, b"content", mirrors=("/none", ""))
    with pytest.raises(DataNotFoundError) as caught:
        locate(source_of(file), folder)
    message = str(caught.value)
    assert f"{base}/none/data.bin: HTTP Error 404" in message
    assert f"{base}/data.bin: md5 is {hashlib.md5(b'cont').hexdigest()}, expected {file.md5}" in message
    assert "buy it." in message
    assert list((folder / "thing").iterdir()) == []


def test_an_unreachable_host_and_file_addresses(tmp_path, folder):
    (tmp_path / "data.bin").write_bytes(b"content")
    md5 = hashlib.md5(b"content").hexdigest()
    urls = ("http://127.0.0.1:9/data.bin", f"file://{tmp_path}/data.bin")
    assert download(RemoteFile("data.bin", md5, urls), folder).read_bytes() == b"content"
    with pytest.raises(DataNotFoundError, match=r"127\.0\.0\.1:9"):
        download(RemoteFile("other.bin", md5, urls[:1]), folder)


def test_what_an_interrupted_run_has_got_is_kept(server, folder):
    base, served = server
    (folder / "thing").mkdir()
    (folder / "thing" / "a").write_bytes(b"a")
    (served / "b").write_bytes(b"b")
    source = source_of(remote(base, b"a", "a"), remote(base, b"b", "b"))
    assert set(locate(source, folder).paths) == {"a", "b"}


@pytest.mark.parametrize("source", [MNIST, FASHION_MNIST, CIFAR10, CIFAR100])
def test_what_is_downloaded_is_a_complete_layout(source, folder):
    target = folder / source.download_folder
    target.mkdir(parents=True, exist_ok=True)
    for file in source.remote:
        assert len(file.md5) == 32
        assert all(url.endswith(file.name) for url in file.urls)
        (target / file.name).touch()
    assert {p.parent for p in locate(source, folder, allow_download=False).paths.values()} == {target}


def test_a_dripping_download_is_given_up(tmp_path):
    class Dripping(QuietHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            with contextlib.suppress(OSError):  # the other side has given up
                for _ in range(200):
                    self.wfile.write(b"x")
                    time.sleep(0.05)

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Dripping)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    started = time.monotonic()
    try:
        with pytest.raises(DataNotFoundError, match=r"slower than 1000 bytes a second for 0\.5 s"):
            download(remote(f"http://127.0.0.1:{httpd.server_port}", b"x"), tmp_path / "d", timeout_s=0.5)
    finally:
        httpd.shutdown()
        httpd.server_close()
    assert time.monotonic() - started < 8  # the whole drip would take 10 s
    assert not list((tmp_path / "d").iterdir())


def test_temporaries_of_a_killed_process_go(server, tmp_path):
    base, served = server
    (served / "data.bin").write_bytes(b"abc")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / ".data.bin.0123abcd.tmp").write_bytes(b"half")
    download(remote(base, b"abc"), tmp_path / "d")
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["data.bin"]
