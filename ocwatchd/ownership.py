"""Check and set the owners of files: never use another user's files, and give files written by root to the right user.

`open_plain` opens every file that another user could have substituted for ours, and `try_lock` locks it. This module is
used by commands that scripts call frequently, so it does not import pathlib, which takes 5 ms of CPU time.
"""

from __future__ import annotations

import errno
import os
import stat

from ocwatchd.errors import NotAFile, StateError

ELSEWHERE = "or set XDG_STATE_HOME to a directory of your own"


def is_ours(user: int) -> bool:
    """Return whether files of this user id count as ours.

    Our files are those of the current user. For root, they include those of the owner of HOME, because `sudo` may keep
    HOME.
    """
    return user == os.geteuid() or (os.geteuid() == 0 and user == home_owner())


def may_be_read(user: int) -> bool:
    """Return whether files of this user id may be read. This is True for our own files and for those of root, who could
    change our files anyway.
    """
    return user == 0 or is_ours(user)


def home_owner() -> int:
    """Return the user id of the owner of HOME; 0 (root) if it is unknown."""
    try:
        return os.stat(os.environ["HOME"]).st_uid
    except (KeyError, OSError):
        return 0


def user_name(user: int) -> str:
    """Return `user NAME (uid N)` for use in a sentence, or `user N` if no account has that id."""
    name = account(user)
    return f"user {user}" if name == str(user) else f"user {name} (uid {user})"


def account(user: int) -> str:
    """Return the user name for `chown`, or the numeric id if the user has no name."""
    import pwd  # lazy import: only for error messages

    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def repair(path: str, *, whole: bool = False) -> str:
    """Return the `chown` command that gives a file to the owner of HOME or, if `whole` is set, a whole directory
    tree.
    """
    from shlex import quote  # lazy import: only for error messages

    owner = home_owner() if os.geteuid() == 0 else os.geteuid()
    return f"sudo chown {'-R ' if whole else ''}{account(owner)} {quote(path)}"


# ---- directories


def check_directory(path: str | os.PathLike[str]) -> None:
    """Check that our private directory belongs to us, if it exists, and remove the permissions of other users.

    A symbolic link is followed only if it belongs to us or to root.

    Raises:
        StateError: The path belongs to another user, cannot be reached, or is not a directory.
    """
    path = os.fspath(path)
    try:
        here = os.lstat(path)
        if stat.S_ISLNK(here.st_mode) and not may_be_read(here.st_uid):
            raise StateError(
                f"{path} is a link that belongs to {user_name(here.st_uid)}, so ocwatchd does not follow it. "
                f"Remove it, {ELSEWHERE}"
            )
        there = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return  # the first write creates the directory
    except PermissionError:
        raise StateError(_out_of_reach(path)) from None
    if not stat.S_ISDIR(there.st_mode):
        raise StateError(f"{path} is not a directory, so nothing can be written into it. Move it away, {ELSEWHERE}")
    if not is_ours(there.st_uid):
        raise StateError(_anothers(path, there.st_uid))
    if there.st_mode & 0o077:
        _close(path)


def _close(path: str) -> None:
    """Set the mode of the directory to 0700, after a second check that it is ours. Errors are ignored, because some
    file systems have no modes.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if is_ours(os.fstat(fd).st_uid):
            os.fchmod(fd, 0o700)
    except OSError:
        pass
    finally:
        os.close(fd)


def _anothers(path: str, user: int) -> str:
    """Return the error message for a directory that belongs to another user.

    If root owns a directory in our own home, the directory was most likely created with `sudo`, so the message suggests
    `chown`. For any other owner, `chown` is not suggested, because ocwatchd would then trust the directory's content.
    """
    said = f"{path} belongs to {user_name(user)}, not to you, so ocwatchd does not use it."
    if user == 0 and in_own_home(path):
        return f"{said} Change its owner: {repair(path, whole=True)}, {ELSEWHERE}"
    return f"{said} Remove it, set HOME to your own home directory, {ELSEWHERE}"


def in_own_home(path: str) -> bool:
    """Return whether a path is below HOME and HOME belongs to the current user. Messages suggest `chown` only for such
    paths.
    """
    home = os.environ.get("HOME", "")
    try:
        own = os.stat(home).st_uid == os.geteuid()
    except OSError:
        return False
    return own and os.path.realpath(path).startswith(f"{os.path.realpath(home).rstrip('/')}/")


def _out_of_reach(path: str) -> str:
    """Return the error message for a path that cannot be reached. The message names the parent directory that denies
    access.
    """
    above = path
    while (above := os.path.dirname(above)) != "/":
        try:
            found = os.stat(above)
        except OSError:
            continue
        if not is_ours(found.st_uid):
            return f"{path} cannot be reached: {_anothers(above, found.st_uid)}"
        return f"{path} cannot be reached: {above} has mode {stat.S_IMODE(found.st_mode):04o}; chmod u+rwx {above}"
    return f"{path} cannot be reached"


def make_directories(path: str | os.PathLike[str], mode: int = 0o700) -> None:
    """Create a directory and its missing parents, each with this mode.

    If run by root, give each new directory to the owner of its parent. Existing directories are not changed.

    Raises:
        OSError: A directory cannot be created.
    """
    path = os.fspath(path)
    missing = []
    while path and not os.path.exists(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        try:
            os.mkdir(directory, mode)
        except FileExistsError:
            if not os.path.isdir(directory):
                raise
            continue
        if os.geteuid() == 0:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                give(fd, os.path.dirname(directory))
            finally:
                os.close(fd)


# ---- files


def open_plain(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """Open a plain file that belongs to us or to root, and return its descriptor. Links are never followed, and the
    call never blocks.

    With `os.O_CREAT`, create a missing file with mode 0600; if run by root, give it to the owner of its directory.

    Raises:
        FileNotFoundError: The file does not exist.
        NotAFile: The path is a link, a directory, a pipe, or another user's file.
        OSError: The file cannot be opened.
    """
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # these error codes mean a link (Linux, BSD), a socket, or a pipe opened for writing
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):
            raise NotAFile(f"{path} is a symbolic link, a pipe or a socket, not a plain file") from None
        if error.errno == errno.EISDIR:
            raise NotAFile(f"{path} is not a plain file") from None
        raise
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise NotAFile(f"{path} is not a plain file")
        if not may_be_read(info.st_uid):
            raise NotAFile(f"{path} belongs to {user_name(info.st_uid)}: it is not read")
        if flags & os.O_CREAT and info.st_uid == 0:
            give(fd, os.path.dirname(os.fspath(path)))
    except BaseException:
        os.close(fd)
        raise
    return fd


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Lock an open file (`flock`). Return False if a conflicting lock is held by another process or descriptor.

    The lock is released when the descriptor is closed or the process ends for any reason.

    Raises:
        OSError: The file system does not support locks.
    """
    import fcntl  # lazy import: `pick` and `statusline` do not lock files

    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_followed(path: str | os.PathLike[str]) -> int:
    """Open a plain file of any owner for reading, such as OpenCode's logs, and return its descriptor.

    Links are followed. The call never blocks, even if the path is a pipe.

    Raises:
        FileNotFoundError: The file does not exist.
        IsADirectoryError: The path is not a plain file.
        OSError: The file cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise IsADirectoryError(errno.EISDIR, "not a plain file", os.fspath(path))
    return fd


def read_followed(path: str | os.PathLike[str], cap: int) -> bytes:
    """Return at most the first `cap` bytes of a file that `open_followed` opens.

    Raises:
        OSError: The file cannot be opened (see `open_followed`) or read.
    """
    with open(open_followed(path), "rb") as file:
        return file.read(cap)


def give(fd: int, directory: str | os.PathLike[str], replaced: str | os.PathLike[str] | None = None) -> None:
    """If run by root, give a new file to the owner of the file that it replaces, or else to the owner of its directory.

    Otherwise, a command run with `sudo` would leave files that the user cannot change.

    Raises:
        OSError: The owner cannot be changed.
    """
    if os.geteuid() != 0:
        return
    owner = os.stat(directory or ".")
    if replaced is not None:
        try:
            before = os.lstat(replaced)
        except OSError:
            before = owner
        if before.st_uid != 0:
            owner = before
    if owner.st_uid != 0:
        os.fchown(fd, owner.st_uid, owner.st_gid)


def give_socket(path: str | os.PathLike[str]) -> None:
    """If run by root, give a new socket to the owner of its directory.

    Raises:
        OSError: The owner cannot be changed.
    """
    owner = os.stat(os.path.dirname(path) or ".")
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def give_tree(path: str | os.PathLike[str], directory: str | os.PathLike[str]) -> None:
    """If run by root, give a directory tree to the owner of `directory`, which will contain it.

    Raises:
        OSError: The owner cannot be changed.
    """
    owner = os.stat(directory)
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for place, directories, files in os.walk(path):
        for name in ("", *directories, *files):
            os.chown(os.path.join(place, name), owner.st_uid, owner.st_gid, follow_symlinks=False)
