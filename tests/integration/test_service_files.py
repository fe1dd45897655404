"""Tests of the service's files: their content and owner, and that uninstalling leaves none.

launchd itself cannot run here: its plist is checked by its form, and the commands with a stand-in for launchctl.
"""

from __future__ import annotations

import os
import plistlib
from pathlib import Path

import pytest

from ocwatchd.paths import Paths
from ocwatchd.service import FileState, NoManager, ServiceFault, manager_for, texts
from ocwatchd.service.launchd import Launchd
from ocwatchd.service.systemd import remove_files
from ocwatchd.service.values import DAEMON, SHARE

ENVIRON = {
    "HOME": "/home/dev",
    "PATH": "/a b:/100%",
    "TZ": "",
    "ANTHROPIC_API_KEY": "sk-secret",
    "XDG_DATA_HOME": '/d"\\',
}


def paths(home: Path) -> Paths:
    return Paths(home, home / "config", home / "data", home / "state", home / "cache")


def test_a_unit_quotes_what_has_a_meaning_and_carries_no_keys() -> None:
    text = texts.unit(ENVIRON, ["/opt/my $HOME/bin/100%/ocwatchd"], Path("/log %h.log"))
    assert 'Environment="PATH=/a b:/100%%"\n' in text
    assert 'Environment="XDG_DATA_HOME=/d\\"\\\\"\n' in text
    assert 'ExecStart=":/opt/my $HOME/bin/100%%/ocwatchd"\n' in text
    assert "StandardError=append:/log %%h.log\n" in text
    assert "Environment" not in texts.unit({}, ["/d"], None)
    assert "sk-secret" not in text
    assert "TZ" not in text
    assert text.replace("@system-service", "").replace("between @", "").count("@") == 0


def test_the_sandbox_leaves_room_for_what_is_written(tmp_path: Path) -> None:
    text = texts.sandbox(paths(tmp_path / "100% mine"))
    assert f'ReadWritePaths="-{tmp_path}/100%% mine/state" "-{tmp_path}/100%% mine/data"\n' in text
    assert "@" not in text


@pytest.mark.parametrize("value", ["two\nlines", "\udcff", "a\x1bb"])
def test_what_a_unit_cannot_hold_is_said(value: str) -> None:
    with pytest.raises(ServiceFault, match="systemd unit"):
        texts.unit({"XDG_STATE_HOME": value}, ["/d"], None)


def test_the_daemon_of_this_installation_is_absolute() -> None:
    assert Path(texts.command_of()[0]).is_absolute()
    assert os.access(texts.command_of()[0], os.X_OK)


def test_the_unit_that_shares_runs_ocwatch_share() -> None:
    text = texts.unit(ENVIRON, texts.command_of(SHARE), Path("/log"), SHARE)
    assert text.startswith(texts.MARKER)
    (command,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    assert command.endswith('/ocwatch" "share"')
    assert "AF_INET" in text
    assert "sk-secret" not in text
    assert texts.unit(ENVIRON, ["/d"], None, SHARE) != texts.unit(ENVIRON, ["/d"], None)


def test_the_job_that_shares_goes_with_the_daemons(launchctl: Path, tmp_path: Path) -> None:
    home = paths(tmp_path / "home")
    daemon, share = (manager_for(home, ENVIRON, "darwin", service) for service in (DAEMON, SHARE))
    (one,), (other,) = daemon.install(), share.install()
    assert (one.name, other.name) == ("dev.ocwatchd.plist", "dev.ocwatchd.share.plist")
    document = plistlib.loads(other.read_bytes())
    assert document["Label"] == "dev.ocwatchd.share"
    assert document["ProgramArguments"][-1] == "share"
    assert document["StandardErrorPath"] == str(home.share / "ocwatchd-share.log")
    assert set(daemon.uninstall()) == {one, other}
    assert launchctl.exists()


def test_the_plist_as_launchd_wants_it() -> None:
    document = plistlib.loads(texts.plist(ENVIRON, ["/opt/ocwatchd"], Path("/state/ocwatchd.log")))
    assert document == {
        "Label": "dev.ocwatchd",
        "ProgramArguments": ["/opt/ocwatchd"],
        "EnvironmentVariables": {key: ENVIRON[key] for key in ("HOME", "PATH", "XDG_DATA_HOME")},
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 5,
        "ExitTimeOut": 10,
        "ProcessType": "Interactive",
        "StandardErrorPath": "/state/ocwatchd.log",
        "Umask": 0o077,
    }


def test_a_unit_asks_for_its_share_of_a_busy_machine_by_what_a_user_may_set() -> None:
    """A negative Nice, or a class above best effort, would end the start."""
    lines = texts.unit(ENVIRON, ["/d"], None).splitlines()
    assert {"CPUWeight=500", "IOWeight=500", "IOSchedulingClass=best-effort"} <= set(lines)
    assert not [line for line in lines if line.startswith(("Nice=-", "CPUSchedulingPolicy=", "OOMScoreAdjust=-"))]


def test_what_a_plist_cannot_hold_is_said() -> None:
    for value in ("a\x1bb", "\udcff"):
        with pytest.raises(ServiceFault, match="property list"):
            texts.plist({"PATH": value}, ["/d"], Path("/log"))
    assert b"&lt;&amp;" in texts.plist({"PATH": "<&"}, ["/d"], Path("/log"))


def test_another_path_is_no_change() -> None:
    one, other = ({**ENVIRON, "PATH": path} for path in ("/one", "/other"))
    assert texts.same_unit(texts.unit(one, ["/d"], None), texts.unit(other, ["/d"], None))
    assert not texts.same_unit(texts.unit(one, ["/d"], None), texts.unit(one, ["/e"], None))
    assert texts.same_plist(texts.plist(one, ["/d"], Path("/l")), texts.plist(other, ["/d"], Path("/l")))
    assert not texts.same_plist(texts.plist(one, ["/d"], Path("/l")), b"\0")


def test_removed_without_systemd_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    units = tmp_path / ".config" / "systemd" / "user"
    (units / "default.target.wants").mkdir(parents=True)
    unit, link = units / "ocwatchd.service", units / "default.target.wants" / "ocwatchd.service"
    link.symlink_to(unit)
    unit.write_text("[Service]\nExecStart=/mine\n")
    assert remove_files(units) == []
    unit.write_text(texts.unit(ENVIRON, ["/d"], None))
    shares = units / "ocwatchd-share.service"
    shares.write_text(texts.unit(ENVIRON, ["/d"], None, SHARE))
    assert remove_files(units) == [shares, link, unit]
    assert list(tmp_path.iterdir()) == [tmp_path / ".config"]
    assert list((tmp_path / ".config").iterdir()) == []


LAUNCHCTL = """#!/bin/sh
# A stand-in that knows one job: loaded is where the file `loaded` is.
here=$(dirname "$0")
echo "$*" >> "$here/calls"
case "$1 $2" in
  "print gui/"*/*) [ -e "$here/loaded" ] || exit 113; printf '\\tstate = running\\n\\tpid = 4711\\n\\truns = 3\\n' ;;
  "print gui/"*) exit 0 ;;
  "bootstrap gui/"*) [ ! -e "$here/loaded" ] || exit 5; touch "$here/loaded" ;;
  "bootout gui/"*) rm "$here/loaded" ;;
  *) exit 64 ;;
esac
"""


@pytest.fixture
def launchctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin" / "launchctl"
    program.parent.mkdir()
    program.write_text(LAUNCHCTL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def test_a_job_of_launchd_from_install_to_uninstall(launchctl: Path, tmp_path: Path) -> None:
    manager = manager_for(paths(tmp_path / "home"), ENVIRON, "darwin")
    assert isinstance(manager, Launchd)
    assert manager.status().state is FileState.ABSENT
    (written,) = manager.install()
    assert written == tmp_path / "home/Library/LaunchAgents/dev.ocwatchd.plist"
    assert manager.install() == []
    manager.start()
    manager.start()  # loaded again, because a loaded job keeps the former file
    seen = manager.status()
    assert (seen.state, seen.enabled, seen.running, seen.pid, seen.restarts) == (FileState.CURRENT, True, True, 4711, 2)
    assert manager.log().file == tmp_path / "home/state/ocwatchd.log"
    manager.stop()
    assert not manager.status().running
    assert manager.uninstall() == [written]
    assert manager.uninstall() == []
    with pytest.raises(ServiceFault, match="--sandbox is for systemd"):
        manager.install(True)
    job = f"gui/{os.getuid()}/dev.ocwatchd"
    changes = [line for line in (launchctl.parent / "calls").read_text().splitlines() if not line.startswith("print")]
    boot = f"bootstrap gui/{os.getuid()} {written}"
    assert changes == [boot, f"bootout {job}", boot, f"bootout {job}"]


def test_a_plist_that_is_not_ours_stays(launchctl: Path, tmp_path: Path) -> None:
    manager = Launchd(paths(tmp_path), ENVIRON)
    place = tmp_path / "Library/LaunchAgents/dev.ocwatchd.plist"
    place.parent.mkdir(parents=True)
    place.write_bytes(plistlib.dumps({"Label": "another"}))
    assert manager.status().state is FileState.FOREIGN
    assert manager.uninstall() == []
    with pytest.raises(ServiceFault, match="ocwatchd did not write it"):
        manager.install()
    assert place.exists()


def test_no_manager_says_why_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for platform, why in (("linux", "systemd is not installed"), ("darwin", "launchctl is not on PATH")):
        manager = manager_for(paths(tmp_path), {}, platform)
        assert isinstance(manager, NoManager)
        with pytest.raises(ServiceFault, match=f"{why}.*ocwatch up --detach"):
            manager.install()
        assert manager.uninstall() == []
