"""Terminal output: a progress bar with speed, remaining time and headline score; plain lines when piped."""

import time
from collections.abc import Mapping
from typing import Any, SupportsFloat

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mtmarl.foreign import shown
from mtmarl.sinks.summary import HEADLINE, HEADLINE_TEST, summarise

PLAIN_EVERY = 10.0  # seconds between plain lines


class Console:
    def __init__(
        self, quiet: bool = False, console: rich.console.Console | None = None, unit: str = "updates"
    ):
        self._quiet, self._unit = quiet, unit
        self._console = console or rich.console.Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._total = 0
        self._started = (0, time.monotonic())  # (step, time), to compute the speed
        self._last_print = float("-inf")
        self._headline = ""

    def start(self, total: int, done: int = 0) -> None:
        self._total, self._started = total, (done, time.monotonic())
        if self._quiet or not self._console.is_terminal:
            return
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]} " + f"{self._unit}/s, left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[headline]}"),
            console=self._console,
        )
        self._task = self._bar.add_task("", total=total, completed=done, speed="–", headline="")
        self._bar.start()

    def log(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        now = time.monotonic()
        speed = (step - self._started[0]) / max(now - self._started[1], 1e-9)
        if self._bar is not None:
            text = f"{speed:.1f}"
            self._bar.update(self._task, completed=step, speed=text, headline=self._headline)
        elif now - self._last_print >= PLAIN_EVERY or step >= self._total:
            self._last_print = now
            left = _duration(max(self._total - step, 0) / speed) if speed else "unknown time"
            losses = "  ".join(f"{k} {float(v):.4g}" for k, v in metrics.items() if k.endswith("loss"))
            self._print(
                f"{step:,} of {self._total:,} {self._unit}  {speed:.1f}/s, {left} left  {losses}".rstrip()
            )

    def log_evaluation(
        self, step: int, results: Mapping[str, Mapping[str, Any]], final: bool = False
    ) -> None:
        summary = summarise(results)
        parts = [
            f"{label} {summary[name]:.3f}"
            for label, name in (("train tasks", HEADLINE), ("test tasks", HEADLINE_TEST))
            if name in summary
        ]
        if not parts:
            parts = [f"{task} {summary[f'eval/{task}/return']:.3f}" for task in results]
            self._headline = "return: " + ", ".join(parts[:3])
        else:
            self._headline = "normalised score: " + ", ".join(parts)
        self._print(f"{'final score' if final else f'evaluation at {step:,} {self._unit}'}  {self._headline}")
        if final:
            width = max(map(len, results), default=0)
            for task, result in results.items():
                line = f"  {task:<{width}}  {result.get('split', ''):<5}"
                line += f"  return {summary[f'eval/{task}/return']:.3f}"
                if result.get("normalised") is not None:
                    line += f"  normalised {float(result['normalised']):.3f}"
                if result.get("win_rate") is not None:
                    line += f"  won {float(result['win_rate']):.1%}"
                self._print(f"{line}  ({len(result['return'])} episodes)")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, line: str) -> None:
        if not self._quiet:
            self._console.print(shown(line), markup=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes, s = divmod(int(min(seconds, 1e8)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{s:02d}s"
