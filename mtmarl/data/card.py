"""The card of a published data set: what it holds, in figures, and what every number in it means."""

from collections.abc import Mapping
from typing import Any

from mtmarl.data.describe import EXPERT, text

BEGIN, END = "<!-- mtmarl: begin -->", "<!-- mtmarl: end -->"
SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))
_LAYOUT = (
    "Recorded steps of cooperative multi-agent tasks, as Flashbax vaults of version 1.2, one per task and dataset at "
    "`<family>/<scenario>.vlt/<dataset>`. `manifest.json` holds size and SHA-256 of every file; `references/` the "
    "returns of the reference policy and of random play. `python -m mtmarl.vault pull --hub …` fetches and checks "
    "them, `mtmarl.vault export` writes them as NumPy or Parquet.",
    "",
    "Leaves, per step: `obs` (agents, features), to be multiplied by `obs_scale`; `mask` (agents, actions), the "
    "legal actions; `action` (agents); `reward`, of the team; `first`, an episode or a recording begins; `terminal` "
    "and `truncated`, this step ended the episode by its state, or by the time limit or the end of the recording; "
    "`step_count` in the episode; `policy_step`, the training step of the policy that acted.",
    "",
)
_MEANING = (
    f"An expert episode returns {100 * EXPERT:.0f}% or more of the way from random play to the reference policy. "
    "Joint coverage is the number of distinct pairs of joint observation and joint action per step."
)


def card(entries: Mapping[str, Mapping[str, Any]], title: str, license: str | None = None) -> str:
    """The card of a data set: front matter, then per vault the figures, and per family the observation layout.

    entries: those of a manifest, with `description`; one that is damaged is left out, as of a vault not described.
    """
    entries = {name: _with_sound_description(name, entry) for name, entry in entries.items()}
    steps = sum(e["steps"] for e in entries.values())
    size = next((label for most, label in SIZES if steps < most), "10M<n<100M" if steps < 1e8 else "n>100M")
    front = ["---", "pretty_name: " + title, *([f"license: {license}"] if license else []), "viewer: false"]
    front += ["tags:", *(f"- {t}" for t in ("offline-rl", "multi-agent", "reinforcement-learning", "mtmarl"))]
    front += ["size_categories:", f"- {size}", "---", "", f"# {title}", ""]
    return "\n".join([*front, *_card_body(entries), ""])


def _with_sound_description(name: str, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        _card_body({name: entry})
    except Exception:  # A hub's manifest may hold anything there.
        return {key: value for key, value in entry.items() if key != "description"}
    return entry


def update(old: str | None, new: str) -> str:
    """The old card with its part between the marks replaced; what its owner wrote around them stays."""
    if not old:
        return new
    part = new[new.index(BEGIN) : new.index(END) + len(END)]
    if BEGIN not in old or END not in old:
        return f"{old.rstrip()}\n\n{part}\n"
    return old[: old.index(BEGIN)] + part + old[old.index(END) + len(END) :]


def _card_body(entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    described = {name: entry["description"] for name, entry in entries.items() if "description" in entry}
    lines = [
        *(BEGIN, "", *_LAYOUT),
        "| vault | steps | episodes | return, mean (min … max) | expert episodes | joint coverage |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, entry in entries.items():
        of, figures = entry["returns"], described.get(name)
        span = f"{of['mean']:.3f} ({of['min']:.3f} … {of['max']:.3f})" if of else "none whole"
        expert = f"{100 * figures['expert']['share']:.1f}%" if figures and figures["expert"] else "unknown"
        coverage = f"{figures['coverage'][-1][1]:.3f}" if figures else "unknown"
        cells = f"`{name}`", f"{entry['steps']:,}", f"{entry['episodes']:,}", span, expert, coverage
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", _MEANING]
    layouts: dict[str, list[list[Any]]] = {}
    for name, figures in described.items():
        layouts.setdefault(f"{name.partition('/')[0]}, {len(figures['layout'])} features", figures["layout"])
        lines += ["", f"## {name}", ""]
        if "picture" in figures:
            lines += [f"![Returns, returns by policy, actions, coverage of {name}]({figures['picture']})", ""]
        lines += ["```", *text(name, figures)[1:], "```"]
    for family, layout in layouts.items():
        lines += [
            "",
            f"## Observation of one agent: {family}",
            "",
            "| feature | meaning | scale |",
            "|---:|---|---:|",
        ]
        lines += [f"| {i} | {name} | {scale:.6g} |" for i, (name, scale) in enumerate(layout)]
    return [*lines, "", END]
