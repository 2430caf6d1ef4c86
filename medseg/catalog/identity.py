"""Names for cases that say nothing about patients, and never collide.

The pseudonym of a DICOM series is a keyed hash (HMAC-SHA256) of its identifiers: equal on every run with
the same key, and not to be reversed or guessed without it. The key file stays with the hospital.
"""

from __future__ import annotations

import hmac
import logging
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from medseg.errors import ConfigError, OutputError
from medseg.io.nifti_header import split_ending

logger = logging.getLogger(__name__)

KEY_BYTES = 32
PSEUDONYM_DIGITS = 12
MAX_NAME = 64
PATH_DIGITS = 16
RESERVED = re.compile(
    rf"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|case-[0-9a-f]+|.*-[0-9a-f]{{{PATH_DIGITS}}}", re.IGNORECASE
)
"""Names that Windows can't hold, and those that only pseudonyms and digests may have."""


def default_key_path() -> Path:
    """Return where the key lies when none is given: the user's configuration folder."""
    base = os.environ.get("XDG_CONFIG_HOME")
    try:
        return Path(base or Path.home() / ".config") / "medseg" / "pseudonym.key"
    except RuntimeError:
        raise ConfigError(
            "the key of the pseudonyms has no place, because this user has no home folder; name a file with --key"
        ) from None


def load_key(path: Path | None = None) -> bytes:
    """Return the key of the pseudonyms; a missing key file is made, and that is said. Raises as `load_secret`."""
    path = path or default_key_path()
    is_new = not os.path.exists(path)
    key = load_secret(path)
    if is_new:
        logger.warning("a new key of the pseudonyms was made: %s; keep it, other keys give other names", path)
    return key


def load_secret(path: Path) -> bytes:
    """Return the key that a file holds; a missing one is made, readable by its owner only.

    Raises
    ------
    ConfigError
        If the file holds no key, or others may read it.
    OutputError
        If it can't be made.
    """
    try:
        if not path.exists():
            _make_key(path)
        mode, text = path.stat().st_mode, path.read_text(encoding="ascii").strip()
        key = bytes.fromhex(text)
    except OSError as error:
        raise OutputError(f"the key file {path} can't be made or read ({error.strerror}); name another one") from None
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{path} is not a key file of {2 * KEY_BYTES} hexadecimal digits; delete it or name another")
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(f"the key file {path} can be read by others (mode {mode & 0o777:o}); run chmod 600 on it")
    return key


def pseudonym(key: bytes, identity: str, prefix: str, digits: int = PSEUDONYM_DIGITS) -> str:
    """Return a name such as 'case-1f0c55a2b9d3' for the thing called `identity`.

    Examples
    --------
    >>> pseudonym(bytes(32), "1.2.3", "case")
    'case-f45c672e859f'
    """
    named = identity.encode(errors="surrogateescape")  # a file's name, where there are no UIDs, may be any bytes
    return f"{prefix}-{hmac.new(key, named, sha256).hexdigest()[:digits]}"


def unused_pseudonym(key: bytes, identity: str, used: set[str]) -> str:
    """Return the pseudonym of a case, longer where a shorter one is used already, and add it to those."""
    digits = PSEUDONYM_DIGITS
    while (name := pseudonym(key, identity, "case", digits)) in used:
        digits += 4
    used.add(name)
    return name


def name_scans(paths: Sequence[Path]) -> list[str]:
    """Return a unique, safe name for each NIfTI file, as short as possible.

    Parameters
    ----------
    paths : relative to the indexed folder, all different.

    Returns
    -------
    list of str
        The file's name without its ending; with its folders' names in front where that is not unique;
        with a digest of the whole path where even that is not. Of letters, digits and ``._-``, at
        most 64, unique also where case does not count.

    Examples
    --------
    >>> name_scans([Path("a/scan.nii.gz"), Path("b/scan.nii.gz"), Path("liver 1.nii")])
    ['a_scan', 'b_scan', 'liver_1']
    """
    names = [safe_name("_".join(_parts(path)[-1:])) for path in paths]
    for level in range(2, 2 + max((len(path.parts) for path in paths), default=0)):
        taken = Counter(name.casefold() for name in names)
        if max(taken.values(), default=1) == 1:
            break
        names = [
            safe_name("_".join(_parts(path)[-level:])) if taken[name.casefold()] > 1 else name
            for path, name in zip(paths, names, strict=True)
        ]
    taken = Counter(name.casefold() for name in names)
    return [
        _with_digest(name, path) if taken[name.casefold()] > 1 or RESERVED.fullmatch(name) else name
        for path, name in zip(paths, names, strict=True)
    ]


def safe_ids(names: Iterable[str]) -> dict[str, str]:
    """Return what the cases of a dataset are called, by their files' names: as their scans are in results.

    A name stays as it is where several would become one.

    Examples
    --------
    >>> safe_ids(["liver 1", "liver_2", "a b", "a_b"])
    {'liver 1': 'liver_1', 'liver_2': 'liver_2', 'a b': 'a b', 'a_b': 'a_b'}
    """
    safe = {name: safe_name(name) for name in names}
    taken = Counter(name.casefold() for name in safe.values())
    return {name: new if taken[new.casefold()] == 1 else name for name, new in safe.items()}


def safe_name(text: str) -> str:
    """Replace what a file name can't hold everywhere; of long names the end, which differs, is kept.

    Examples
    --------
    >>> safe_name("liver 1")
    'liver_1'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")[-MAX_NAME:].lstrip("._-") or "scan"


def _with_digest(name: str, path: Path) -> str:
    return f"{name[: MAX_NAME - PATH_DIGITS - 1]}-{sha256(os.fsencode(path)).hexdigest()[:PATH_DIGITS]}"


def _parts(path: Path) -> list[str]:
    return [*path.parts[:-1], split_ending(path.name)[0]]


def _make_key(path: Path) -> None:
    """Write a new key so that two processes starting at once end up with the same one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(KEY_BYTES) + "\n")
        try:
            os.link(temporary, path)  # fails where another process was first; a rename would replace its key
        except FileExistsError:
            return
    finally:
        temporary.unlink(missing_ok=True)
