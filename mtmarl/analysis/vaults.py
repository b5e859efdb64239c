"""The figure of one recorded data set, from the figures that `mtmarl.data.describe` counts."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mtmarl.analysis import plots
from mtmarl.analysis.plots import COLOURS, styled


@styled
def vault_figure(name: str, figures: Mapping[str, Any]) -> Figure:
    """Returns, returns by the policy that played, actions, coverage."""
    figure, axes = plots.panels(4, 2, 3.6, 2.5)
    figure.suptitle(f"{name}: {figures['steps']:,} steps, {figures['episodes']['whole']:,} whole episodes")
    for draw, axis in zip((_returns, _policies, _actions, _coverage), axes, strict=True):
        draw(axis, figures)
    return figure


def _references(axis: Axes, figures: Mapping[str, Any], line: str) -> None:
    expert = figures["expert"]
    if expert is not None:
        for i, key in enumerate(("reference", "random")):
            getattr(axis, line)(expert[key], color=COLOURS[i + 1], linestyle="--", linewidth=1.2, label=key)
        axis.legend()


def _returns(axis: Axes, figures: Mapping[str, Any]) -> None:
    axis.set(xlabel="return per episode", ylabel="whole episodes")
    if "histogram" in figures:
        axis.stairs(
            figures["histogram"]["counts"], figures["histogram"]["edges"], fill=True, color=COLOURS[0]
        )
        _references(axis, figures, "axvline")


def _policies(axis: Axes, figures: Mapping[str, Any]) -> None:
    axis.set(xlabel="training step of the recorded policy", ylabel="mean return")
    by = figures["policies"]
    axis.plot([p["policy_step"] for p in by], [p["return"] for p in by], marker="o", color=COLOURS[0])
    axis.xaxis.set_major_formatter(FuncFormatter(plots.shorten))
    axis.xaxis.set_major_locator(MaxNLocator(5))
    _references(axis, figures, "axhline")


def _actions(axis: Axes, figures: Mapping[str, Any]) -> None:
    rates = [of["taken"] / max(of["legal"], 1) for of in figures["actions"]]
    axis.bar(range(len(rates)), rates, color=COLOURS[0])
    axis.set(xlabel="action", ylabel="taken where legal", ylim=(0, 1))
    axis.xaxis.set_major_locator(MaxNLocator(min(len(rates), 12), integer=True))


def _coverage(axis: Axes, figures: Mapping[str, Any]) -> None:
    steps, share = zip(*figures["coverage"], strict=True)
    axis.plot(steps, share, marker="o", color=COLOURS[0])
    axis.set(xlabel="steps", ylabel="distinct joint pairs per step", ylim=(0, 1.02))
    axis.xaxis.set_major_formatter(FuncFormatter(plots.shorten))
    axis.xaxis.set_major_locator(MaxNLocator(5))
