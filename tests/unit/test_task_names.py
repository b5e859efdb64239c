"""One rule for names, and every door that holds to it."""

import pytest

from mtmarl.data import vault
from mtmarl.envs.registry import make_env
from mtmarl.errors import UserError
from mtmarl.task_names import check_dataset, task_parts, vault_parts

LEGAL = (
    "replay",
    "Good",
    "20240613092231",
    "0",
    "5m_vs_6m",
    "a.b",
    "v1.0+x-y",
    "null",
    "true",
    "1e5",
    "x" * 80,
)
ILLEGAL = (
    "", ".", "..", ".x", "-x", "_x", "+x", "a/b", "a:b", "a b", " a", "a ", "a,b", "a=b", "a\\b", "a\n", "a\0",
    "\uff12", "2\uff12", "\u0662", "d\xe9j\xe0", "a%20b", "a#b", "a?b", "a*b", "a[b]", "a'b", "$a", "~", "x" * 81,
)  # fmt: skip


@pytest.mark.parametrize("part", LEGAL)
def test_legal_names_are_parts_of_all_names(part, tmp_path):
    assert check_dataset(part) == part
    assert task_parts(f"{part}/{part}") == (part, part)
    assert vault_parts(f"{part}/{part}/{part}") == (part, part, part)
    assert vault.vault_path(tmp_path, f"{part}/{part}", part) == tmp_path / part / f"{part}.vlt" / part


@pytest.mark.parametrize("part", ILLEGAL)
def test_other_names_are_refused_in_one_line_at_every_door(part, tmp_path):
    doors = (
        lambda: check_dataset(part),
        lambda: task_parts(f"lbf/{part}"),
        lambda: task_parts(f"{part}/3m"),
        lambda: vault_parts(f"lbf/{part}/replay"),
        lambda: vault_parts(f"lbf/3m/{part}"),
        lambda: make_env(f"lbf/{part}"),
        lambda: vault.vault_path(tmp_path, f"lbf/{part}", "replay"),
        lambda: vault.vault_path(tmp_path, "lbf/3m", part),
        lambda: vault.reference_file(tmp_path, f"lbf/{part}"),
    )
    for door in doors:
        with pytest.raises(UserError, match="not a legal name; ") as caught:
            door()
        message = str(caught.value)
        assert message.isascii() and message.isprintable()


@pytest.mark.parametrize("name", ["", "lbf", "lbf/", "/x", "a/b/c", "references/3m", "figures/3m"])
def test_a_task_has_a_family_and_a_scenario(name):
    with pytest.raises(UserError, match="write family/scenario"):
        task_parts(name)


def test_full_width_digits_make_no_other_task():
    with pytest.raises(UserError, match="not a legal name"):
        make_env("lbf/8x8-\uff12p-2f-coop")
