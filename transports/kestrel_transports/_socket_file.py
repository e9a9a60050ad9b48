"""The file of a Unix socket: how it comes to be, whose it is, and how it goes.

Theory of operation. The socket is bound under a temporary name beside the real one, gets its
permissions and its owner, and listens; only then is it linked to its real name. So nobody ever
finds a file there that has the wrong permissions, or one at which nobody listens yet (and which
another server would take for stale); and of two servers that start at once, one is refused. All
that takes no change of the umask, which threads share. The price is that tools such as `ss`, which
tell the name that a socket was bound to, show the temporary one.

A file that is there already is asked whether it is in use, by a datagram socket: that it cannot be
connected to is clear, since ours are of another type, but the error tells why, and no server has to
accept and drop a connection for it. If nobody holds the file's socket any more, a server left it
behind when it crashed, and it is replaced. Whatever else is there, a socket in use or no socket at
all, stays.
"""

import errno
import logging
import os
import secrets
import socket
import stat
import sys
from contextlib import suppress

import attrs

from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import BindError

if sys.platform != "win32":
    import grp
    import pwd

__all__ = ["MOST_PATH_BYTES", "FileAccess", "SocketFile"]

_log = logging.getLogger("kestrel.transport")

# `sockaddr_un` has room for 108 bytes on Linux and for 104 on the BSDs, a zero among them.
MOST_PATH_BYTES = 107 if sys.platform == "linux" else 103

# As often as this, others may take a name that was free or stale a moment ago.
_ATTEMPTS = 10

# chown() takes ids of 32 bits; the highest one, as -1, means "leave it".
_MOST_ID = 2**32 - 2
_LEAVE_ID = -1


@attrs.frozen
class FileAccess:
    """What an endpoint says of its file's permissions and owner; true if it says anything."""

    mode: int | None
    user_id: int
    group_id: int

    @classmethod
    def of(cls, endpoint: Endpoint) -> "FileAccess":
        """Read the options `mode` and `owner` of `endpoint`.

        Raises:
            EndpointError: they are malformed, or nobody has that name.
        """
        mode = endpoint.integer_option("mode", 0, base=8) if "mode" in endpoint.options else None
        if mode is not None and mode > 0o777:
            raise endpoint.error(f"the option mode={mode:o} is not of the form 660")
        user, _, group = endpoint.options.get("owner", "").partition(":")
        if "owner" in endpoint.options and not (user or group):
            raise endpoint.error("the option owner is written user:group, user or :group")
        return cls(mode, _user_id(user, endpoint), _group_id(group, endpoint))

    def __bool__(self) -> bool:
        return self.mode is not None or (self.user_id, self.group_id) != (_LEAVE_ID, _LEAVE_ID)

    def apply(self, path: bytes) -> None:
        """Give the file at `path` these permissions and this owner.

        Nobody listens at it yet, so nobody profits from those it has meanwhile.
        """
        if self.mode is not None:
            os.chmod(path, self.mode)
        if (self.user_id, self.group_id) != (_LEAVE_ID, _LEAVE_ID):
            os.chown(path, self.user_id, self.group_id, follow_symlinks=False)


class SocketFile:
    """The file that a listening socket was bound to."""

    def __init__(self, path: bytes, status: os.stat_result) -> None:
        self._path = os.path.abspath(path)  # the working directory may be another one at the end
        self._status = status

    @classmethod
    def listen(
        cls,
        listening: socket.socket,
        path: bytes,
        endpoint: Endpoint,
        access: FileAccess,
        backlog: int,
    ) -> "SocketFile":
        """Bind `listening` to `path`, which is `endpoint`'s, and have it listen.

        Raises:
            BindError: there is something at `path` that must stay.
            OSError: the system refused. In neither case is there a file.
        """
        _is_stale(path, endpoint)  # nothing need be made if that raises
        temporary = _name_beside(path)
        try:
            listening.bind(temporary)
        except FileNotFoundError as error:
            raise BindError(f"cannot bind {endpoint}: its folder does not exist") from error
        try:
            access.apply(temporary)
            listening.listen(backlog)
            status = os.lstat(temporary)
            _put_in_place(temporary, path, endpoint)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        return cls(path, status)

    def remove(self) -> None:
        """Remove the file if it is still ours; the socket must still be open.

        Until that is closed the system gives the file's number to no other, so that the one which
        somebody else may have put in its place can be told from it.
        """
        try:
            if os.path.samestat(os.lstat(self._path), self._status):
                os.unlink(self._path)
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning("%s was not removed: %s", os.fsdecode(self._path), error.strerror)


def _name_beside(path: bytes) -> bytes:
    """Return an unused name in the same folder, as long as the path's where room is scarce."""
    folder, name = os.path.split(path)
    suffix = f".{secrets.token_hex(3)}".encode()
    room = MOST_PATH_BYTES - len(os.path.join(folder, suffix))
    return os.path.join(folder, name[: max(room, 0)] + suffix)


def _put_in_place(temporary: bytes, path: bytes, endpoint: Endpoint) -> None:
    """Link the socket at `temporary` to its real name, which is free or stale."""
    for _ in range(_ATTEMPTS):
        if _is_stale(path, endpoint):
            _remove_stale(path, temporary + b"~", endpoint)
        try:
            os.link(temporary, path)
        except FileExistsError:
            continue  # somebody was faster: have a look at what it is
        except OSError:
            os.rename(temporary, path)  # a file system without links, or without the right to
        return
    raise BindError(f"cannot bind {endpoint}: others bind it again and again")


def _is_stale(path: bytes, endpoint: Endpoint) -> bool:
    """Tell whether what is at `path` is stale; if nothing is there, it is not.

    Raises:
        BindError: what is there is in use, or no socket.
    """
    try:
        kind = stat.S_IFMT(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False
    if kind != stat.S_IFSOCK:
        raise BindError(f"cannot bind {endpoint}: what is there already is no socket, and stays")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise BindError(
                    f"cannot bind {endpoint}: a socket is there already, and there is no telling"
                    f" whether it is in use: {error.strerror}"
                ) from error
    raise BindError(f"cannot bind {endpoint}: a socket that is in use is there already")


def _remove_stale(path: bytes, aside: bytes, endpoint: Endpoint) -> None:
    """Remove the file at `path`, which was stale a moment ago, by way of the name `aside`.

    Raises:
        BindError: it has been replaced since, and the new one is in use; it is there again.
    """
    with suppress(FileNotFoundError):
        os.rename(path, aside)
        try:
            _is_stale(aside, endpoint)
        except BindError:
            os.rename(aside, path)
            raise
        os.unlink(aside)


def _user_id(user: str, endpoint: Endpoint) -> int:
    if not user:
        return _LEAVE_ID
    number = _id(user)
    if number is not None:
        return number
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError as error:
        raise endpoint.error(f"there is no user {user!r}") from error


def _group_id(group: str, endpoint: Endpoint) -> int:
    if not group:
        return _LEAVE_ID
    number = _id(group)
    if number is not None:
        return number
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise endpoint.error(f"there is no group {group!r}") from error


def _id(text: str) -> int | None:
    """Return the number that `text` is, unless it is none, or none of a user or group."""
    number = int(text) if text.isascii() and text.isdigit() else None
    return number if number is not None and number <= _MOST_ID else None
