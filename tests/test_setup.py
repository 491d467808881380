"""The set-up: what it says when it cannot go on, when it does nothing, and what it pins."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
TOOLS = ["bash", "cat", "cksum", "dirname", "env", "find", "mkdir", "mv", "rm", "sleep", "tail", "touch"]

# Answers what the set-up asks of an interpreter, and notes what it is told to install.
PYTHON = """\
#!/usr/bin/env bash
case "$*" in
    *version_info*) echo "${STUB_VERSION:-3.11}" ;;
    *base_prefix*) echo /usr ;;
    *sysconfig*) echo /usr/include ;;
    "-m venv "*) mkdir -p "$3/bin"; echo venv >>"$STUB_LOG"
        printf '#!/usr/bin/env bash\\nexec "%s" "$@"\\n' "$0" >"$3/bin/python"; chmod +x "$3/bin/python" ;;
    "-m pip install"*) echo "${*: -1}" >>"$STUB_LOG"
        if [[ ${*: -1} == "${STUB_FAILS:-}" ]]; then echo "no such wheel"; exit 1; fi
        if [[ ${*: -1} == "${STUB_DIES:-}" ]]; then kill -KILL $$; fi
        if [[ ${*: -1} == "${STUB_HANGS:-}" ]]; then
            trap 'kill $!; exit 2' INT TERM # as pip ends: with a status, not by the signal
            sleep 60 & wait
        fi ;;
esac
"""
APT = """\
#!/usr/bin/env bash
echo "apt $*" >>"$STUB_LOG"
[[ $1 != install ]] || touch "$STUB_LIBRARIES"
"""


class Checkout:
    """A copy of the set-up on a machine of which every command is a stub."""

    def __init__(self, root: Path) -> None:
        self.root, self.bin, self.log = root / "checkout", root / "bin", root / "log"
        self.libraries = root / "libraries"
        for file in (".ci/setup", "pyproject.toml", "constraints.txt"):
            (self.root / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, self.root / file)
        self.bin.mkdir()
        for tool in [*TOOLS, "chmod"]:
            (self.bin / tool).symlink_to(str(shutil.which(tool)))
        self.libraries.touch()
        self.command("python3.11", PYTHON)
        self.command("cc", "#!/usr/bin/env bash\ncat >/dev/null\n")
        self.command("pkg-config", "#!/usr/bin/env bash\n[[ -f $STUB_LIBRARIES ]]\n")
        self.command("id", "#!/usr/bin/env bash\necho 1000\n")

    @property
    def stamp(self) -> Path:
        return self.root / ".venv/setup.stamp"

    @property
    def done(self) -> list[str]:
        """What was installed since the last look."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines

    def command(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def start(self, **environment: str) -> subprocess.Popen[str]:
        stubs = {"PATH": str(self.bin), "STUB_LOG": str(self.log), "STUB_LIBRARIES": str(self.libraries)}
        return subprocess.Popen(
            [str(self.root / ".ci/setup")], env=stubs | environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            # Tests that run in the background were told to ignore Ctrl-C, and would pass that on.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def set_up(self, **environment: str) -> tuple[int, str, str]:
        process = self.start(**environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


EVERYTHING = ["venv", "pip", "torch", ".[dev]", "or-gym"]


def test_installs_in_order_and_then_does_nothing(checkout: Checkout) -> None:
    code, out, err = checkout.set_up()
    assert (code, err) == (0, "")
    assert "torch" in out
    assert checkout.done == EVERYTHING
    assert checkout.set_up() == (0, "", "")
    assert checkout.done == []


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt", ".ci/setup"])
def test_what_it_depends_on_makes_it_run_again_in_the_same_environment(checkout: Checkout, file: str) -> None:
    checkout.set_up()
    assert checkout.done == EVERYTHING
    with (checkout.root / file).open("a") as stream:
        stream.write("# changed\n")
    assert checkout.set_up()[0] == 0
    assert checkout.done == EVERYTHING[1:]


def test_a_moved_checkout_is_set_up_again(checkout: Checkout) -> None:
    checkout.set_up()
    assert checkout.done == EVERYTHING
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    assert checkout.set_up()[0] == 0
    assert checkout.done


def test_another_python_makes_another_environment_and_is_then_kept(checkout: Checkout) -> None:
    checkout.set_up()
    checkout.command("python3.12", PYTHON.replace(":-3.11", ":-3.12"))
    assert checkout.done == EVERYTHING
    assert checkout.set_up(PYTHON="python3.12")[0] == 0
    assert checkout.done == EVERYTHING
    assert checkout.stamp.read_text().splitlines()[1] == "3.12"
    assert checkout.set_up() == (0, "", "")
    assert checkout.set_up(PYTHON="python3.12") == (0, "", "")
    assert checkout.done == []


def test_a_failure_shows_the_log_and_the_next_try_goes_on(checkout: Checkout) -> None:
    code, _, err = checkout.set_up(STUB_FAILS=".[dev]")
    assert code != 0
    assert "no such wheel" in err
    assert not checkout.stamp.exists()
    assert checkout.done == EVERYTHING[:4]
    assert checkout.set_up()[0] == 0
    assert checkout.done == EVERYTHING[1:]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_environment_is_made_anew(checkout: Checkout, sent: signal.Signals) -> None:
    process = checkout.start(STUB_HANGS="torch")
    until = time.monotonic() + 30
    while not (checkout.log.exists() and "torch" in checkout.log.read_text()):
        assert time.monotonic() < until
        time.sleep(0.02)
    os.killpg(process.pid, sent)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert not checkout.stamp.exists()
    assert checkout.done == EVERYTHING[:3]
    assert checkout.set_up()[0] == 0
    assert checkout.done == EVERYTHING


def test_an_environment_in_which_pip_was_killed_is_made_anew(checkout: Checkout) -> None:
    assert checkout.set_up(STUB_DIES=".[dev]")[0] != 0
    assert checkout.done == EVERYTHING[:4]
    assert checkout.set_up()[0] == 0
    assert checkout.done == EVERYTHING


def test_missing_libraries_end_it_at_once_with_the_remedies(checkout: Checkout) -> None:
    checkout.libraries.unlink()
    code, out, err = checkout.set_up()
    assert code != 0
    assert "missing: Ipopt" in err
    assert re.search(r"apt-get install .*coinor-libipopt-dev.*libblas-dev.*liblapack-dev.*pkg-config", err)
    assert "python3.11-dev" in err
    assert re.search(r"brew install .*ipopt", err)
    assert re.search(r"conda install .*ipopt", err)
    assert err.count("set-up:") == 1
    assert out == ""
    assert checkout.done == []
    assert not (checkout.root / ".venv").exists()


@pytest.mark.parametrize(
    ("name", "said"), [("cc", "a C compiler"), ("pkg-config", "pkg-config")], ids=["compiler", "pkg-config"]
)
def test_missing_tools_are_named(checkout: Checkout, name: str, said: str) -> None:
    (checkout.bin / name).unlink()
    code, _, err = checkout.set_up()
    assert code != 0
    assert f"missing: {said}" in err
    assert checkout.done == []


def test_libraries_that_do_not_link_are_missing(checkout: Checkout) -> None:
    checkout.command("cc", "#!/usr/bin/env bash\nexit 1\n")
    code, _, err = checkout.set_up()
    assert code != 0
    assert "LAPACK" in err
    assert checkout.done == []


@pytest.mark.parametrize("rights", ["root", "sudo"])
def test_missing_libraries_are_installed_where_that_is_allowed(checkout: Checkout, rights: str) -> None:
    checkout.libraries.unlink()
    checkout.command("apt-get", APT)
    if rights == "root":
        checkout.command("id", "#!/usr/bin/env bash\necho 0\n")
    else:
        checkout.command("sudo", '#!/usr/bin/env bash\nshift\n[[ $1 == true ]] || exec "$@"\n')
    code, _, err = checkout.set_up()
    assert (code, err) == (0, "")
    update, install, *rest = checkout.done
    assert update == "apt update"
    assert "coinor-libipopt-dev" in install
    assert rest == EVERYTHING


def test_apt_without_the_rights_is_not_tried(checkout: Checkout) -> None:
    checkout.libraries.unlink()
    checkout.command("apt-get", APT)
    checkout.command("sudo", "#!/usr/bin/env bash\nexit 1\n")
    code, out, err = checkout.set_up()
    assert code != 0
    assert "missing: Ipopt" in err
    assert out == ""
    assert checkout.done == []


@pytest.mark.parametrize(
    "environment", [{"STUB_VERSION": "3.14"}, {"STUB_VERSION": "3.9"}, {"PYTHON": "python3.99"}], ids=str
)
def test_no_suitable_python_is_one_clear_message(checkout: Checkout, environment: dict[str, str]) -> None:
    code, out, err = checkout.set_up(**environment)
    assert code != 0
    assert "no Python 3.10 to 3.13" in err
    assert "make setup PYTHON=" in err
    assert err.count("set-up:") == 1
    assert out == ""
    assert not (checkout.root / ".venv").exists()


def _project() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    return [Requirement(line) for line in project["dependencies"] + extras]


def _constraints() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_pinned_within_its_range(python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    pins: dict[str, str] = {}
    for pin in _constraints():
        assert re.fullmatch(r"==[^*,+]+", str(pin.specifier)), f"{pin} is no plain pin"
        if pin.marker is None or pin.marker.evaluate(environment):
            name = canonicalize_name(pin.name)
            assert name not in pins, f"{name} is pinned twice on Python {python}"
            pins[name] = str(pin.specifier)[2:]
    for wanted in [*_project(), *map(Requirement, ("pip", "setuptools", "cython", "or-gym==0.5.0"))]:
        if wanted.marker is not None and not wanted.marker.evaluate(environment | {"extra": ""}):
            continue
        version = pins.get(canonicalize_name(wanted.name))
        assert version is not None, f"{wanted.name} has no pin on Python {python}"
        assert wanted.specifier.contains(version, prereleases=True), f"{wanted} excludes its pin {version}"


# Ray's images live in /home/ray, and PyTorch's own index is where its documentation sends people.
FOREIGN = {
    "a machine's path": r"(?<![\w.$}>-])/(root|work|home/(?!ray/)[a-z]\w*|Users/\w+)/",
    "a package registry": r"(?i)(index|find|trusted)[-_](url|links|host)[ =]+"
    r"(?!https://download\.pytorch\.org/)\S*[./]",
    "a registry's listing": r"https?://[^\s/]+/(\S*/)?simple(/|[\"'\s]|$)",
    "a password in an address": r"[a-z]+://[^\s/:@{}$<]+:[^\s/:@{}$<]+@",
}


def _foreign(text: str) -> list[str]:
    return [name for name, pattern in FOREIGN.items() if re.search(pattern, text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see /" + "root/x", ["a machine's path"]),
        ('"/' + 'work/main/x"', ["a machine's path"]),
        ("cd /" + "home/anna/solverl", ["a machine's path"]),
        ("--index-url" + "=https://registry.example/root", ["a package registry"]),
        ("PIP_FIND_LINKS" + "=/opt/wheels", ["a package registry"]),
        ("http" + "://registry.example:8080/pypi/simple/", ["a registry's listing"]),
        ("https" + "://user:secret@host/x", ["a password in an address"]),
        ("https://github.com/org/name/work/x", []),
        ("--index-url https://download.pytorch.org/whl/cpu", []),
        ("networks/root/x and ./work/ and /home/ray/solverl", []),
    ],
)
def test_foreign_marks_are_recognised(text: str, found: list[str]) -> None:
    assert _foreign(text) == found


def test_the_repository_speaks_of_no_machine_and_no_registry() -> None:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listing.returncode:
        pytest.skip("not a git checkout")
    complaints = []
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        if not path.is_file() or path.is_symlink() or b"\0" in (data := path.read_bytes())[:8192]:
            continue
        for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
            complaints += [f"{name}:{number}: {mark}" for mark in _foreign(line)]
    assert not complaints, "\n".join(complaints)
