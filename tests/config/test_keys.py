"""The signing keys: from the file that is set, or systemd's credential; never told.

May touch: files in pytest's own folder, environments that are passed in.
Must never: read or change the real environment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scraperd.config.keys import signing_key_file, signing_keys
from scraperd.config.load import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


GOOD_KEY = "k" * 32


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (GOOD_KEY, 1),
        (f"\n  {GOOD_KEY}\t\r\n\n{'l' * 64}\n", 2),
        (b"\xff\x00" * 16, 1),
        (b"\xef\xbb\xbf" + GOOD_KEY.encode(), 1),
    ],
)
def test_the_signing_keys_are_the_lines_of_their_file(
    text: str | bytes, keys: int, write: Callable[[str | bytes], Path]
) -> None:
    """In their order, without the spaces around; any bytes will do."""
    path = write(text)
    found = signing_keys(str(path), {})
    assert len(found) == keys
    assert all(len(key) in (32, 64) for key in found)


def test_the_signing_keys_may_be_a_credential(tmp_path: Path) -> None:
    """Of systemd's LoadCredential; the setting is stronger, and without either there is none."""
    own = tmp_path / "own"
    own.write_text("o" * 32)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert signing_keys("", environ) == signing_keys("", {}) == ()
    assert signing_key_file("", environ) is None
    (tmp_path / "scraperd-signing-key").write_text(GOOD_KEY)
    assert signing_keys("", environ) == (GOOD_KEY.encode(),)
    assert signing_keys(str(own), environ) == (b"o" * 32,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "PATH is empty; write one key a line"),
        ("\n \n", "PATH is empty"),
        (f"{GOOD_KEY}\nsecret-of-ours", "line 2 of PATH has 14 bytes, fewer than 32; `openssl"),
        ("secret-of-ours" * 2000, "has more than 16384 bytes"),
        (None, "PATH.gone: No such file or directory"),
    ],
)
def test_a_bad_key_file_is_told_without_its_keys(
    text: str | None, words: str, write: Callable[[str | bytes], Path]
) -> None:
    """Which file and line, what is wrong, and what makes a good key."""
    path = write(text or "")
    name = str(path) if text is not None else f"{path}.gone"
    with pytest.raises(ConfigError) as caught:
        signing_keys(name, {})
    [fault] = caught.value.faults
    assert fault.startswith("jobs.signing_key_file: ")
    assert words.replace("PATH", str(path)) in fault
    assert "secret-of-ours" not in fault
    assert GOOD_KEY not in fault
