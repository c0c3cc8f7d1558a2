"""sidecar.handout.tree: what a metadata server says of itself, and in which form"""

from __future__ import annotations

import json

import pytest

from sidecar.handout.tree import Described, find, tree, write

FACTS = Described("a@p.iam.gserviceaccount.com", ("s1", "s2"), "p", 12, "googleapis.com", "z")
ROOT = tree(FACTS)
V1 = "/computeMetadata/v1"


@pytest.mark.parametrize(
    ("path", "recursive", "alt", "text"),
    [
        pytest.param(f"{V1}/", False, "", "instance/\nproject/\nuniverse/\n", id="directory"),
        pytest.param(
            f"{V1}/", False, "json", "instance/\nproject/\nuniverse/\n", id="a-listing-has-one-form"
        ),
        pytest.param(f"{V1}/instance/zone", False, "", "projects/12/zones/z", id="value"),
        pytest.param(f"{V1}/instance/zone", False, "json", '"projects/12/zones/z"', id="value-as-json"),
        pytest.param(f"{V1}/project/numeric-project-id", False, "json", "12", id="number-as-json"),
        pytest.param(f"{V1}/instance/service-accounts/default/scopes", False, "", "s1\ns2\n", id="lines"),
        pytest.param(
            f"{V1}/instance/service-accounts/default/scopes", True, "", '["s1","s2"]', id="recursive-lines"
        ),
        pytest.param(
            f"{V1}/project/",
            True,
            "",
            '{"attributes":{},"numericProjectId":12,"projectId":"p"}',
            id="names-in-camel-case",
        ),
        pytest.param(
            f"{V1}/project/", True, "text", "numeric-project-id 12\nproject-id p\n", id="recursive-as-text"
        ),
    ],
)
def test_a_node_is_written_as_it_was_asked_for(path: str, recursive: bool, alt: str, text: str) -> None:
    """Listings are lines; `recursive` is JSON unless text is asked for."""
    name = path.rstrip("/").rpartition("/")[2]
    assert write(find(ROOT, path), name=name, recursive=recursive, alt=alt).text == text


@pytest.mark.parametrize("path", [f"{V1}/", f"{V1}/instance/", f"{V1}/instance/service-accounts/"])
def test_no_recursive_answer_has_a_token(path: str) -> None:
    """They are made for each request."""
    name = path.rstrip("/").rpartition("/")[2]
    for alt in ("json", "text"):
        text = write(find(ROOT, path), name=name, recursive=True, alt=alt).text
        assert "token" not in text
        assert "identity" not in text


def test_accounts_keep_their_names() -> None:
    """An e-mail is nobody's camel case."""
    found = json.loads(write(find(ROOT, f"{V1}/instance/"), name="instance", recursive=True, alt="").text)
    assert set(found["serviceAccounts"]) == {"default", FACTS.email}


def test_who_has_no_e_mail_is_the_default_account() -> None:
    """A person's login: libraries want something there."""
    root = tree(FACTS._replace(email=None, project_id=None))
    assert find(root, f"{V1}/instance/service-accounts/default/email") == "default"
    with pytest.raises(KeyError):
        find(root, f"{V1}/project/project-id")
    with pytest.raises(KeyError):
        find(root, f"{V1}/instance/zone/x")
