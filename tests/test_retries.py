"""What is tried again, for how long, and what is not."""

from __future__ import annotations

import errno

import pytest

from rayvos.retries import Patience, retrying


class Store:
    """Fails some times, then answers."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return "found"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits, which take no time."""
    found: list[float] = []
    monkeypatch.setattr("rayvos.retries.time.sleep", found.append)
    return found


def flaky() -> OSError:
    return OSError(errno.EIO, "flaky")


def test_what_heals_is_tried_again_after_growing_waits(waits: list[float]) -> None:
    store = Store(3, flaky())

    assert retrying(store, patience=Patience()) == "found"

    assert store.calls == 4
    assert [0.5 * 0.2 * 2**i <= wait <= 1.5 * 0.2 * 2**i for i, wait in enumerate(waits)] == [True] * 3


@pytest.mark.parametrize(
    "error", [PermissionError("no"), FileNotFoundError("no"), OSError(errno.ENOSPC, "full"), OSError(errno.EROFS, "")]
)
@pytest.mark.usefixtures("waits")
def test_what_cannot_heal_is_not_tried_again(error: OSError) -> None:
    store = Store(1, error)

    with pytest.raises(type(error)):
        retrying(store, patience=Patience())

    assert store.calls == 1


def test_a_place_that_never_answered_is_given_up_soon(waits: list[float]) -> None:
    with pytest.raises(OSError, match="flaky"):
        retrying(Store(1000, flaky()), path="s3://dead/x", patience=Patience())

    assert sum(waits) < 10


def test_a_place_that_answered_gets_a_minute_once(waits: list[float]) -> None:
    patience = Patience()
    for _ in range(100):
        retrying(Store(0, flaky()), path="s3://b/x", patience=patience)

    with pytest.raises(OSError, match="flaky"):
        retrying(Store(1000, flaky()), path="s3://b/y", patience=patience)
    first, waits[:] = sum(waits), []
    with pytest.raises(OSError, match="flaky"):
        retrying(Store(1000, flaky()), path="s3://b/z", patience=patience)

    assert 30 <= first <= 120
    assert sum(waits) < 10


def test_places_are_judged_apart() -> None:
    patience = Patience()
    for _ in range(9):
        retrying(Store(0, flaky()), path="s3://good/x", patience=patience)

    assert patience.left("s3://good") > patience.left("s3://bad")
