import pytest

from vitquant.urls import shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://host/a", "https://host/a"),
        ("https://me@host/a", "https://host/a"),
        ("https://me:secret@host:8080/a@b?c=d@e", "https://host:8080/a@b?c=d@e"),
        ("https://me:se@cret@host/a", "https://host/a"),
        ("file:///data/a@b", "file:///data/a@b"),
        ("no 'http://me:secret@a/x', no //you@b", "no 'http://a/x', no //b"),
        ("somebody@example.com", "somebody@example.com"),
    ],
)
def test_passwords_are_left_out(text: str, expected: str) -> None:
    assert shown(text) == expected
