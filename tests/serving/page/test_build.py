"""The built page is that of its sources, small, self-contained, and inside the wheel."""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from gpt2.errors import GPT2Error
from gpt2.serving.page import STATIC, router

ROOT = Path(__file__).resolve().parents[3]
WEB = ROOT / "web"
TOP = ("index.html", "package.json", "package-lock.json", "svelte.config.js", "tsconfig.json", "vite.config.ts")


def test_the_built_page_is_that_of_the_sources() -> None:
    """`make web` writes the hash of what it has built; who changes web/ without building is told here."""
    below = [path.relative_to(WEB).as_posix() for name in ("src", "public") for path in (WEB / name).rglob("*")]
    names = [*TOP, *(name for name in below if (WEB / name).is_file())]
    total = hashlib.sha256()
    # As JavaScript sorts: by UTF-16 units, which for these names is by code points.
    for name in sorted(names):
        total.update(f"{name}\0{(WEB / name).read_text(encoding='utf-8')}\0".encode())
    assert (STATIC / "sources.sha256").read_text().strip() == total.hexdigest(), "run: make web"


def test_all_script_together_is_small() -> None:
    scripts = list(STATIC.rglob("*.js"))
    assert scripts
    assert sum(len(gzip.compress(path.read_bytes(), 9)) for path in scripts) <= 160_000


def test_nothing_is_loaded_from_outside_and_nothing_becomes_markup() -> None:
    harmless = ("http://www.w3.org/", "https://svelte.dev/e/")  # names of XML, and pages that messages name
    for path in [*STATIC.rglob("*.js"), *STATIC.rglob("*.css"), *STATIC.rglob("*.html")]:
        for address in re.findall(r"https?://[^\s\"'`)]+", path.read_text(encoding="utf-8")):
            assert address.startswith(harmless), (path.name, address)
    for path in [*(WEB / "src").rglob("*.svelte"), *(WEB / "src").rglob("*.ts")]:
        source = path.read_text(encoding="utf-8")
        assert "{@html" not in source, path
        assert "innerHTML" not in source, path
        assert "Math.random" not in source, path


def test_the_page_is_sent_with_a_strict_policy_and_kept_by_browsers(address: str) -> None:
    with urllib.request.urlopen(f"{address}/") as answer:
        index, headers = answer.read().decode(), answer.headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["Cache-Control"] == "no-cache"
    names = re.findall(r'(?:src|href)="\./(assets/[^"]+)"', index)
    assert len(names) == 2
    for name in names:
        request = urllib.request.Request(f"{address}/{name}", headers={"Accept-Encoding": "gzip"})
        with urllib.request.urlopen(request) as answer:
            assert gzip.decompress(answer.read()) == (STATIC / name).read_bytes()
            assert "immutable" in answer.headers["Cache-Control"]
            tag = answer.headers["ETag"]
        again = urllib.request.Request(f"{address}/{name}", headers={"If-None-Match": tag})
        with pytest.raises(urllib.error.HTTPError, match="304"):
            urllib.request.urlopen(again)
    for path in ("assets/../page.py", "assets/%2e%2e/page.py", "assets/nothing.js"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}/{path}")


def test_a_package_without_the_page_says_so(tmp_path: Path) -> None:
    with pytest.raises(GPT2Error, match="make web"):
        router(tmp_path)


@pytest.mark.slow
def test_building_again_gives_the_same_bytes(tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("building the page needs Node.js")
    shutil.copytree(WEB, tmp_path / "web", ignore=shutil.ignore_patterns("node_modules"))
    if (WEB / "node_modules" / "vite").is_dir():
        (tmp_path / "web" / "node_modules").symlink_to(WEB / "node_modules")
    else:
        done = subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=tmp_path / "web", capture_output=True
        )
        if done.returncode:
            pytest.skip("the page's build tools cannot be fetched here")
    subprocess.run([npm, "run", "build"], cwd=tmp_path / "web", check=True, capture_output=True)
    built = tmp_path / "src" / "gpt2" / "serving" / "static"
    files = {path.relative_to(built): path.read_bytes() for path in built.rglob("*") if path.is_file()}
    assert files == {path.relative_to(STATIC): path.read_bytes() for path in STATIC.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_wheel_out_of_the_source_archive_serves_the_page(tmp_path: Path, run_folder: Path) -> None:
    """Built, installed and started where there is no Node and no checkout."""
    bare = {**os.environ, "PATH": "/nowhere", "PYTHONPATH": "", "PYTHONUNBUFFERED": "1"}

    def build(kind: str, source: Path) -> Path:
        command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(tmp_path / kind)]
        subprocess.run(command, cwd=source, check=True, capture_output=True, env=bare)
        return next((tmp_path / kind).iterdir())

    with tarfile.open(build("sdist", ROOT)) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    assert (source / "web" / "src" / "App.svelte").is_file()
    assert not (source / "web" / "node_modules").exists()
    wheel = build("wheel", source)
    shutil.rmtree(source)

    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "clean")], check=True)
    python = next(path for path in (tmp_path / "clean").glob("*/python*") if path.name in ("python", "python.exe"))
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, env=bare)
    # The libraries are those of this environment, behind the installed package: PyTorch is large.
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (Path(own) / "libraries.pth").write_text("\n".join(libraries) + "\n")
    where = subprocess.run([str(python), "-c", "import gpt2; print(gpt2.__file__)"], capture_output=True, text=True,
                           cwd=tmp_path, env=bare, check=True).stdout  # fmt: skip
    assert Path(where.strip()).is_relative_to(tmp_path)

    command = [str(python), "-m", "gpt2", "serve", str(run_folder), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, cwd=tmp_path, env=bare, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as server:  # fmt: skip
        assert server.stdout is not None
        found = None
        for line in server.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        assert found
        with urllib.request.urlopen(f"{found[0]}/", timeout=20) as answer:
            index = answer.read().decode()
        assert re.sub(r'<script type="application/json" id="about">.*?</script>\s*(?=</head>)', "", index).split() == (
            (STATIC / "index.html").read_text().split()
        )
        for name in re.findall(r'(?:src|href)="\./([^"]+)"', index):
            with urllib.request.urlopen(f"{found[0]}/{name}", timeout=20) as answer:
                assert answer.read() == (STATIC / name).read_bytes()
        server.terminate()
        assert server.wait(timeout=40) == 0
