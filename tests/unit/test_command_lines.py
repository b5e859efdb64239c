"""What messages advise to type means what they say, once it has gone through a shell and Hydra."""

import ast
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

import mtmarl
from mtmarl import build, config, vault_options
from mtmarl import vault as command_line
from mtmarl.command_lines import AS_THEY_STAND, command, line, word
from mtmarl.config import command_line as config_line
from mtmarl.config import composition
from mtmarl.data import vault
from mtmarl.data.vault import manifest
from mtmarl.errors import UserError
from mtmarl.runs.policy import read_saved
from mtmarl.sweeps.options import Options, read_options

TEXTS = (
    "every_block", "null", "True", "1", "1e5", "a b", "it's", "x\\", "x\\'y", "${seed}", "\\${seed}", "[1]", "a,b",
    "{a:b}", "#x", "a=b", '"q"', "'q'", "$(ls)", "`ls`", "*", "~", "é", "-x", "a;b",
)  # fmt: skip

parse = vault_options.parser(command_line.COMMANDS).parse_args


@pytest.mark.parametrize("value", [*TEXTS, "", (1, 2), TEXTS, None, True, -3, 1e-5, 1e300, float("inf")])
def test_hydra_reads_what_was_meant(value):
    argv = shlex.split(line(word("zz.q", value)))
    found = composition._merged([], dict([argv[0].split("=", 1)]), {})["zz"]["q"]
    assert len(argv) == 1 and found == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize("value", TEXTS)
@pytest.mark.parametrize("key", AS_THEY_STAND)
def test_so_do_keys_whose_values_are_taken_as_they_stand(key, value):
    assert config_line.read(shlex.split(line(word(key, value)))).texts == {key: value}


def advised(message: str) -> list[list[str]]:
    """The commands of a message, each as the words that a shell makes of it."""
    return [shlex.split(c) for c in re.findall(r"python -m .*?(?=; or |, a new one|$)", message)]


@pytest.mark.parametrize("folder", ["plain", "a b", "it's; or so", "x=y,z", "$HOME", "'q'"])
def test_commands_to_get_a_vault(tmp_path, folder):
    root, address = tmp_path / folder, f"file:///{folder}"
    with pytest.raises(UserError) as caught:
        vault.find_vault("lbf/3m", "replay", [root], address)
    message = str(caught.value)
    pull = command("vault", "pull", "lbf/3m/replay", "--hub", address, "--root", root)
    add = line("data.download=true", word("hub.url", address))
    collect = f"+tasks=lbf/3m data.quality=replay {line(word('data.vault_dir', str(root)))}"
    assert pull in message and f"add {add};" in message and message.endswith(collect)
    args = parse(shlex.split(pull)[3:])
    assert (args.hub, args.root) == (address, str(root))
    cfg = config.compose(["+algo=sable", *shlex.split(f"{add} {collect}")], "train")
    assert (cfg.hub.url, cfg.data.vault_dir, cfg.data.download) == (address, str(root), True)


def test_vaults_that_cannot_be_asked_for_are_not_advised(tmp_path):
    for name in ("a b", "good"):
        (tmp_path / "lbf" / "3m.vlt" / name).mkdir(parents=True)
        (tmp_path / "lbf" / "3m.vlt" / name / "metadata.json").write_text("{}")
    with pytest.raises(UserError, match="there is good: add data.quality=good; "):
        vault.find_vault("lbf/3m", "replay", [tmp_path])


def test_the_command_that_repairs_names_the_root(tmp_path, capsys):
    root = tmp_path / "it's; here"
    (root / "lbf" / "3m.vlt" / "replay").mkdir(parents=True)
    vault.write_manifest(root, {})
    (fault,) = [fault for _, fault in vault.check_all(root) if fault] or [manifest.repair(root)]
    with pytest.raises(UserError, match="no vault"):
        command_line._named(parse(["describe", "lbf/x", "--root", str(root)]))
    args = parse(advised(manifest.repair(root))[0][3:])
    assert args.repair and args.root == str(root) and isinstance(fault, str)


def test_settings_of_an_earlier_network(tmp_path):
    """All of them at once, one of a kind each."""
    compose = lambda *more: config.compose(["+algo=mt_oryx", "+tasks=lbf_5", *more], "train")
    earlier = compose("algo.network.embed_dim=32", "algo.network.heads=2", "algo.network.decay_scale=0.25")
    (tmp_path / "run.json").write_text(json.dumps({"config": config.to_dict(earlier)}))
    cfg = compose(f"init_from={tmp_path}")
    start = read_saved(cfg)
    _, settings = build.parse_algorithm(cfg, build.ALGOS)
    with pytest.raises(UserError, match="its network is another one") as caught:
        start.check_network(cfg, settings)
    argv = shlex.split(str(caught.value).partition("; give ")[2])
    cfg = compose(f"init_from={tmp_path}", *argv)
    _, settings = build.parse_algorithm(cfg, build.ALGOS)
    assert len(argv) == 3 and start.check_network(cfg, settings) is None


@pytest.mark.parametrize(("name", "known"), [("lbf", False), (config.options("sweep")[0], True)])
def test_a_sweep_to_run_first(tmp_path, name, known):
    place = tmp_path / "sweeps" / f"{name}-my profile" / "a=b" / "seed_0"
    cfg = config.compose(["+algo=mt_oryx", "+tasks=lbf_5", f"init_from={place}"], "train")
    with pytest.raises(UserError, match="no run.json there") as caught:
        read_saved(cfg)
    found = advised(str(caught.value))
    assert bool(found) == known
    for argv in found:
        assert read_options(argv[3:]) == replace(Options(name), profile="my profile")


def test_no_other_message_puts_a_command_together():
    """They would have to quote by themselves."""
    wrong = []
    for file in Path(mtmarl.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr) and any(
                isinstance(v, ast.FormattedValue) for v in node.values
            ):
                text = "".join(v.value for v in node.values if isinstance(v, ast.Constant))
                if "python -m" in text and not text.startswith("usage: "):
                    wrong.append(f"{file.name}:{node.lineno}")
    assert not wrong, "use mtmarl.command_lines.command"
