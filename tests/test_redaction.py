"""Secrets taken out of text, and the text left as it was."""

from __future__ import annotations

import json
import logging
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayvos.cli.main import set_up_logging
from rayvos.errors import StorageError
from rayvos.redaction import without_secrets

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f"https://user:{SECRET}@host/clips.parquet: gone",
        f"https://host/w?X-Amz-Signature={SECRET}&X-Amz-Expires=60",
        f"https://host/w?sv=1&sig={SECRET}",
        f"secret_access_key={SECRET}",
        f"{{'aws_session_token': '{SECRET}', 'region': 'eu'}}",
        f"Authorization: Bearer {SECRET}",
        f"headers: authorization={SECRET}",
        f"RAY_AUTH_TOKEN={SECRET} ray start",
        f"password: {SECRET}",
    ],
)
def test_a_secret_is_taken_out(text: str) -> None:
    assert "hunter2" not in without_secrets(text)


def test_a_secret_of_the_environment_is_taken_out_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)

    assert "hunter2" not in without_secrets(f"signing with {SECRET} failed")


@pytest.mark.parametrize(
    "text",
    [
        "clip 'dog' frame 17: image is 480x854 but the manifest says 480x910; re-import the clip",
        "s3://bucket/run/labels/0123456789abcdef.parquet: nothing is there to read; check the path",
        "weights s3://b/stcn.pth: 4 keys missing (key_encoder.conv1.weight, …)",
        "https://host/a.mp4?version=3&X-Amz-Expires=60",
        "unknown key 'tua' in options.yaml; did you mean 'tau'?",
        "--rates-from run: no measured rates there",
    ],
)
def test_a_message_without_a_secret_stays_as_it_is(text: str) -> None:
    assert without_secrets(text) == text


@given(st.text())
def test_what_was_cleaned_is_clean(text: str) -> None:
    once = without_secrets(text)

    assert without_secrets(once) == once


def test_structures_are_cleaned_all_through() -> None:
    found = without_secrets({"a": [f"s3://k:{SECRET}@b/c", 3], "b": {"c": f"token={SECRET}"}, "d": None})

    assert found == {"a": ["s3://b/c", 3], "b": {"c": "token=***"}, "d": None}


def test_errors_hold_no_secret_on_either_side_of_a_pickle() -> None:
    error = StorageError(f"https://u:{SECRET}@host/x: could not read it")

    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "https://host/x: could not read it"


@pytest.mark.parametrize("as_json", [False, True])
def test_logs_hold_no_secret(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    set_up_logging(logging.WARNING, as_json=as_json)

    try:
        raise OSError(f"https://u:{SECRET}@host/x")
    except OSError:
        logging.getLogger("rayvos.test").warning("storage error=%s", f"token={SECRET}", exc_info=True)

    said = capsys.readouterr().err
    assert "storage error=" in said
    assert "hunter2" not in said
    if as_json:
        json.loads(said)
