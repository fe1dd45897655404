"""Tests of a command as root with the user's HOME, as some `sudo` runs it: all files still belong to the user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ocwatchd.core.domain.types import Target
from ocwatchd.drill.fetch import _unpack
from ocwatchd.opencode.plugin.install import NAME
from ocwatchd.paths import Paths
from ocwatchd.service import files as service_files
from ocwatchd.state import cursors, forecasts, prices
from ocwatchd.state import moved_sessions as moved
from ocwatchd.state.journal import Journal
from ocwatchd.state.relaunch_requests import Asking, path_for
from tests.cli.conftest import Cli, resting
from tests.support.processes import wait_until
from tests.support.stranger import NOBODY, THERE_ARE_STRANGERS, give_to, owners_below

USER = NOBODY if THERE_ARE_STRANGERS else os.geteuid()
EMPTY, OWN = "an empty home", "files of one's own"


@pytest.fixture(params=[EMPTY, OWN])
def cli(request: pytest.FixtureRequest, tmp_path: Path) -> Cli:
    """Return a user's home, in which root works."""
    made = Cli(tmp_path / "home")
    made.opencode(model="p/a")
    if request.param == OWN:
        made.configure(fallbackChain={"p/a": "q/b"})
        made.register(**{"p/z": resting()})
        for name in ("journal.jsonl", "journal.jsonl.lock", "blacklist.json.lock", "daemon.lock", "cursors.json"):
            (made.paths.state_dir / name).touch()
    give_to(made.paths.home)
    return made


def is_the_users(cli: Cli, *written: str) -> None:
    owners = owners_below(cli.paths.home)
    assert {name: user for name, user in owners.items() if user != USER} == {}
    assert {name for name in written if name not in owners} == set()


STATE = ".local/state/ocwatchd"


@pytest.mark.parametrize(
    ("command", "written"),
    [
        (("block", "p/a", "--for", "1h"), (f"{STATE}/blacklist.json", f"{STATE}/journal.jsonl")),
        (("clear", "--all"), ()),
        (
            ("plugin", "install"),
            (f".config/opencode/plugin/{NAME}", ".config/opencode/plugin/rate-limit-fallback/door.js"),
        ),
        (("config", "init", "--write", "--force"), (".config/opencode/rate-limit-config.json",)),
        (("doctor",), ()),
        (("status",), ()),
        (("report", "--out", "-"), ()),
    ],
    ids=lambda it: " ".join(it[:2]),
)
def test_a_command_leaves_every_file_to_the_user(cli: Cli, command: tuple[str, ...], written: tuple[str, ...]) -> None:
    cli(*command)
    is_the_users(cli, *written)


def test_up_and_the_daemon_leave_every_file_to_the_user(cli: Cli) -> None:
    """Run a configuration, the plugin, and a daemon that reads a limit, which write every kind of file."""
    log = cli.paths.log_dir / "opencode.log"
    log.parent.mkdir(parents=True)
    log.touch()
    give_to(cli.paths.home / ".local")
    daemon = subprocess.Popen(
        cli.command("up", "--foreground"), env=cli.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        wait_until(cli.paths.heartbeat.exists, 30, why="the daemon's heartbeat")
        assert cli("block", "q/c").returncode == 0
        wait_until(lambda: cli.paths.cursors.exists() and cli.paths.cursors.stat().st_size, 30, why="the cursors")
        is_the_users(
            cli, f"{STATE}/daemon.json", f"{STATE}/daemon.lock", f"{STATE}/cursors.json", f"{STATE}/facts",
            f"{STATE}/journal.jsonl", ".config/opencode/rate-limit-config.json", f".config/opencode/plugin/{NAME}",
        )  # fmt: skip
    finally:
        daemon.terminate()
        daemon.communicate(timeout=20)
    is_the_users(cli)


def test_every_other_writer_leaves_its_file_to_the_user(cli: Cli) -> None:
    paths = cli.paths
    script = """
import os
from pathlib import Path
from tests.integration.test_sudo import write_everything
from ocwatchd.paths import Paths
write_everything(Paths.from_env())
"""
    subprocess.run([sys.executable, "-c", script], env=cli.env, check=True, timeout=60)
    is_the_users(
        cli,
        *(f"{STATE}/{name}" for name in ("forecasts.json", "prices.json", "budget.json", "moved.json", "relaunch-7")),
        ".config/systemd/user/ocwatchd.service",
        ".cache/ocwatchd/opencode-1.2.3/opencode",
    )
    assert paths.state_dir.stat().st_mode & 0o777 == 0o700


def write_everything(paths: Paths) -> None:
    """Runs in a separate process, whose HOME is the user's."""
    import tarfile

    from ocwatchd.core.domain.budget import DayBudget, Price
    from ocwatchd.core.domain.types import ModelRef
    from ocwatchd.core.engine.messages import Remember
    from ocwatchd.ownership import make_directories
    from ocwatchd.state.files import make_private_dir

    make_private_dir(paths.state_dir)
    forecasts.write(paths.forecasts, [], 1.0)
    prices.remember(paths.prices, {"p/a": Price(1.0, 1.0, 1.0, 1.0)}, 1.0)
    prices.write_budget(paths.budget, DayBudget(1.0, 0.0, {}), 2.0, 1.0)
    cursors.save(paths.cursors, {})
    Journal(paths.journal, max_bytes=10).append({"what": "x"}, durable=True)
    Journal(paths.journal, max_bytes=10).append({"what": "rotated"})
    target = Target(ModelRef.parse("p/a"), None)
    moved.remember(paths.moved, Remember("ses_1", target, target), 1.0)
    Asking(path_for(str(paths.state_dir), 7), {}).close()
    service_files.put(paths.home / ".config/systemd/user/ocwatchd.service", b"[Unit]\n")
    make_directories(paths.cache_dir)
    scratch = paths.cache_dir / "scratch"
    package = scratch / "package"
    (package / "bin").mkdir(parents=True)
    (package / "bin/opencode").write_text("")
    (package / "package.json").write_text(json.dumps({"version": "1.2.3"}))
    with tarfile.open(scratch / "packed.tgz", "w:gz") as archive:
        archive.add(package, "package")
    _unpack(scratch / "packed.tgz", paths.cache_dir, scratch)
    import shutil

    shutil.rmtree(scratch)


@pytest.fixture
def home(tmp_path: Path) -> Cli:
    made = Cli(tmp_path / "home")
    give_to(made.paths.home)
    return made


def test_what_an_older_version_left_to_root_is_named_with_its_command_and_given_back_when_replaced(home: Cli) -> None:
    home.register(**{"p/a": resting()})
    home.paths.state_dir.chmod(0o700)
    home.configure(fallbackChain={"p/a": "q/b"})
    give_to(home.paths.home)
    if not THERE_ARE_STRANGERS:
        return
    for path in (home.paths.blacklist, home.paths.config_file):
        os.chown(path, 0, 0)
    checks = json.loads(home("doctor", "--json").stdout)["checks"]
    named = {check["seen"].split(" ")[0]: check["remedy"] for check in checks if check["code"] == "file-mode"}
    assert named == {str(path): f"sudo chown nobody {path}" for path in (home.paths.config_file, home.paths.blacklist)}
    home("block", "p/c")
    assert home.paths.blacklist.stat().st_uid == USER


SHUT_OUT = """
import os, sys
from ocwatchd.cli.commands import pick, status as listing  # while the library can still be read
from ocwatchd.cli.main import guarded
import ocwatchd.cli.output.render, ocwatchd.state.forecasts, shlex, pwd, shutil, textwrap
os.setgid(65534)
os.setuid(65534)
code = guarded({"pick": lambda: pick.pick("p/a"), "cooldowns": listing.cooldowns}[sys.argv[1]])
sys.exit(code)
"""


@pytest.mark.parametrize("command", ["pick", "cooldowns"])
def test_a_register_that_lets_its_user_not_in_says_whose_it_is_and_how_to_mend_that(command: str) -> None:
    """A file that is 0600 and root's was reported as damaged and taken as empty."""
    if not THERE_ARE_STRANGERS:
        return
    with TemporaryDirectory() as scratch:
        home = Cli(Path(scratch) / "home")
        home.configure(fallbackChain={"p/a": "q/b"})
        home.register(**{"p/a": resting()})
        home.paths.blacklist.chmod(0o600)
        Path(scratch).chmod(0o755)
        give_to(home.paths.home)
        os.chown(home.paths.blacklist, 0, 0)
        run = [sys.executable, "-c", SHUT_OUT, command]
        done = subprocess.run(run, env=home.env, capture_output=True, text=True, timeout=30, cwd="/")
        assert done.returncode == 0, done.stderr
        assert "it belongs to user root (uid 0)" in done.stderr
        assert f"sudo chown nobody {home.paths.blacklist}" in done.stderr
        assert "damaged" not in done.stderr
