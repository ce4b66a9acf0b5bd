"""Settings from the environment win, and no word of a secret reaches an error or the log."""

from __future__ import annotations

import pytest

from app.config import load_settings
from app.errors import ConfigError

SECRET = "hunter2-secret"  # noqa: S105 - no one's


def test_the_environment_wins_over_the_file(tmp_path, monkeypatch):
    path = tmp_path / "app.yaml"
    path.write_text("node:\n  receiver: {port: 104, ae_title: FILE}\n")
    monkeypatch.setenv("GLIOMA_NODE__RECEIVER__PORT", "11113")
    receiver = load_settings(path).receiver
    assert (receiver.port, receiver.ae_title) == (11113, "FILE")


BROKEN = [
    f"node:\n  receiver: {{ae_title: {SECRET}-and-much-longer-than-it-may-be}}\n",
    f"node:\n  receiver: {{port: {SECRET}}}\n",
    f"node:\n  {SECRET}: 1\n  data_dir: [{SECRET}\n",
    f"node: {{token: '{SECRET}\n",
    f"node:\n  receiver: {{peers: [{{ae_title: A, address: {SECRET}}}]}}\n",
    f"node:\n  audit: {{syslog: {{host: a, key: {{b: {SECRET}}}}}}}\n",
    f"node:\n  log: {{format: {SECRET}}}\n",
]


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_an_error_in_the_settings_never_quotes_a_value(tmp_path, text):
    path = tmp_path / "app.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_value_of_the_environment_is_not_quoted_either(monkeypatch):
    monkeypatch.setenv("GLIOMA_NODE__RECEIVER__PORT", SECRET)
    with pytest.raises(ConfigError, match=r"node\.receiver\.port") as caught:
        load_settings()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["RECEIVER", "SENDER__DESTINATIONS"])
def test_a_variable_that_is_not_json_is_one_line_and_not_quoted(monkeypatch, name):
    monkeypatch.setenv(f"GLIOMA_NODE__{name}", "{" + SECRET)
    with pytest.raises(ConfigError, match=f"GLIOMA_NODE__{name.partition('__')[0]}.*is not JSON") as caught:
        load_settings()
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_one_line(tmp_path):
    path = tmp_path / "app.yaml"
    path.write_bytes(b"\xff\xfe\x00node")
    with pytest.raises(ConfigError, match="is not YAML") as caught:
        load_settings(path)
    assert "\n" not in str(caught.value)


def test_where_yaml_is_broken_is_told(tmp_path):
    path = tmp_path / "app.yaml"
    path.write_text("node:\n  data_dir: [1\n  receiver: {}\n")
    with pytest.raises(ConfigError, match=r"is not YAML at line 3, column"):
        load_settings(path)
