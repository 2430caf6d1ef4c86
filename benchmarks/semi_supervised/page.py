"""Put the results of `arms.py` together: README.md beside this file, with plots.

    python benchmarks/semi_supervised/page.py

Differences are paired: the same held-out case under two arms. Intervals are 95 % bootstraps over cases; pooled over
draws, a case's difference is its mean over them, so that a case drawn is drawn in all.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("Agg")
from halves import read
from matplotlib import pyplot
from paired import difference

HERE = Path(__file__).parent
PAGE, RESULTS = HERE / "README.md", HERE / "results"
DATA = {
    "hippocampus": "Hippocampus",
    "left_atrium": "Left atrium",
    "fine_left_atrium": "Left atrium at its own resolution",
}
BASELINE, LONG = "supervised", "_long"
STUDIES = {
    "halves": """## Choices

On halves of the twelve labelled hippocampi (`halves.py`): six train, the other six measure. The arms `mix teacher no
...` are the ablation at full size, as far as it went; they were trained later, on an Intel Xeon with AMX.""",
    "ablation": """## Ablation

The same with a smaller network (8 to 64 features) and 800 steps (`halves.py --small`). `mix teacher` has the
defaults; every other arm changes the one thing that its name says.""",
}
"""Heads of the tables that `halves.py` fills."""

SCANS = {
    "sabotage_noise": "noise with the histograms of hippocampi",
    "sabotage_left_atrium": "left atria",
    "sabotage_hippocampus": "hippocampi",
}

Dice = dict[str, float]
"""By case."""
Draws = dict[str, dict[str, Dice]]
"""By draw, such as 6_0, and arm."""


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    for data in DATA:
        if draws := read_draws(data):
            plot(data, draws)


def page() -> str:
    """Return the whole page."""
    others = (own_scans(), similarity(), sabotage(), next_scans(), pretraining())
    parts = (*map(choices, STUDIES), cost(), *map(dataset_section, DATA), *others)
    sections = [section for section in parts if section]
    return (HERE / "introduction.md").read_text(encoding="utf-8") + "\n" + "\n".join(sections)


def choices(study: str) -> str:
    """Return a table of `halves.py`; "" while nothing is measured."""
    arms = sorted(path.stem.removeprefix(f"{study}_") for path in RESULTS.glob(f"{study}_*.csv"))
    dice = {arm: read(study, arm) for arm in arms}
    rows = [
        f"| {arm.replace('_', ' ')} | {fmean(found.values()):.4f} | {against(found, dice.get(BASELINE, found))} |"
        for arm, found in dice.items()
    ]
    if not rows:
        return ""
    head = [STUDIES[study], "", "| arm | mean Dice | difference [95 % interval] |", "| --- " * 3 + "|"]
    return "\n".join([*head, *rows, ""])


def cost() -> str:
    """Return what a step costs (`step_cost.py`); "" while it is not measured."""
    path = RESULTS / "step_cost.json"
    if not path.is_file():
        return ""
    ratios = json.loads(path.read_text())["ratio"]
    rows = [f"| {arm.replace('_', ' ')} | {ratio:.2f} |" for arm, ratio in ratios.items()]
    head = "## Cost\n\nA step against the supervised step on the same batch, processor time (`step_cost.py`)."
    return "\n".join([head, "", "| arm | ratio |", "| --- | --- |", *rows]) + "\n"


def own_scans() -> str:
    """Return what mixing brings for the unlabelled scans themselves (`own_scans.py`); "" while it is not measured."""
    rows = [
        f"| {DATA[record['data']]} | {record['draw'].replace('_', ' labelled, draw ')} | {record['scans']} "
        f"| {record['steps']['mixed']} | {record['mean_dice']['supervised']:.4f} | {record['mean_dice']['mixed']:.4f} "
        f"| {interval((record['gain'], *record['interval']))} |"
        for path in sorted(RESULTS.glob("own_scans_*.json"))
        for record in [json.loads(path.read_text())]
    ]
    head = """## The unlabelled scans themselves

Whoever labels a few scans wants masks of the others, too: those that the mixed model has seen, without masks. Both arms
of some draws on these scans, whose masks no run saw (`own_scans.py`).

| data | draw | scans | steps | supervised | mix teacher | difference [95 % interval] |
| --- | --- | --- | --- | --- | --- | --- |"""
    return "\n".join([head, *rows, ""]) if rows else ""


def similarity() -> str:
    """Return what similarity does to pseudo-labels (`similarity.py`); "" while it is not measured."""
    path = RESULTS / "similarity.json"
    if not path.is_file():
        return ""
    record = json.loads(path.read_text())
    rows = [
        f"| {share} | {record['labelled'][share]:.2%} | {right:.2%} |" for share, right in record["unlabelled"].items()
    ]
    head = """## Similarity in pseudo-labels

Twelve labelled hippocampi, two teachers of the ablation's size. Share of similarity to class prototypes in the
probabilities (`pseudo.prototype_share`), and how many voxels near structures get the right label (`similarity.py`).

| share | held-out labelled scans | unlabelled scans |
| --- | --- | --- |"""
    return "\n".join([head, *rows, ""])


def sabotage() -> str:
    """Return what guards against misleading scans said (`sabotage.py`); "" while they were not asked."""
    rows = [
        f"| {SCANS[path.stem]} | {record['left_out_by_looks']} of {record['scans']} "
        f"| {' | '.join(f'{trials[weight]:.4f}' if weight in trials else '' for weight in ('1', '0.5'))} "
        f"| {'' if chosen is None else f'{chosen:g}'} | {record.get('left_out_by_teachers', '')} |"
        for path in sorted(RESULTS.glob("sabotage_*.json"))
        for record in [json.loads(path.read_text())]
        for trials, chosen in [(record.get("trials", {}), record.get("labelled_weight"))]
    ]
    head = """## Misleading scans

Twelve labelled hippocampi and 40 scans without masks, with the small networks of the ablation (`sabotage.py`). Online
training leaves out what doesn't look like the labelled scans. With all of them in, λ is chosen on halves of the
labelled ones; 1 leaves the others out. Teachers that write pseudo-labels leave scans out, too. Empty: not measured.

| the 40 scans | left out by looks | Dice, λ = 1 | Dice, λ = 0.5 | chosen λ | left out by teachers |
| --- | --- | --- | --- | --- | --- |"""
    return "\n".join([head, *rows, ""]) if rows else ""


def next_scans() -> str:
    """Return what choosing scans to label brought (`active_learning.py`); "" while it is not measured."""
    records = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("active_learning_*.json"))]
    if not records:
        return ""
    names = list(records[0]["mean_dice"])
    rows = [
        "| " + " | ".join([str(number), *(f"{record['mean_dice'][name]:.4f}" for name in names)]) + " |"
        for number, record in enumerate(records)
    ]
    pooled = {name: mean_over_draws(record["cases"][name] for record in records) for name in names}
    means = " | ".join(f"{fmean(dice.values()):.4f}" for dice in pooled.values())
    rows.append(f"| all {len(records)} | {means} |")
    gains = [f"{name} {interval(difference(pooled[name], pooled['random']))}" for name in names[1:] if name != "random"]
    settings = f"{records[0]['steps']} steps of a network of {records[0]['features']} features"
    head = f"""## Which scans to label next

A model of six labels chooses six more of 174 scans; twelve train a new one, {settings}, scored on the 28 held-out cases
(`active_learning.py`). Dice:

| draw | {" | ".join(names)} |
{"| --- " * (1 + len(names))}|"""
    return "\n".join([head, *rows, "", f"Against drawing at random, all draws: {'; '.join(gains)}.", ""])


def pretraining() -> str:
    """Return what pre-training brought (`pretraining.py`); "" while it is not measured."""
    rows = [
        f"| {path.stem.removeprefix('pretraining_')} | {record['pretraining']['steps']} | {record['steps']} "
        f"| {record['mean_dice']['scratch']:.4f} | {record['mean_dice']['pretrained']:.4f} "
        f"| {interval((record['gain'], *record['interval']))} |"
        for path in sorted(RESULTS.glob("pretraining_*.json"))
        for record in [json.loads(path.read_text())]
    ]
    tables = [read_columns(path) for path in sorted(RESULTS.glob("pretraining_*.csv"))]
    if len(tables) > 1:
        random, trained = (mean_over_draws(table[arm] for table in tables) for arm in ("scratch", "pretrained"))
        means = " | ".join(f"{fmean(dice.values()):.4f}" for dice in (random, trained))
        rows.append(f"| all {len(tables)} | | | {means} | **{interval(difference(trained, random))}** |")
    head = """## Pre-training

Hippocampus, from random weights and from weights that restored hidden blocks of 180 scans (`pretraining.py`).

| draw | steps of pre-training | of training | random | pre-trained | difference [95 % interval] |
| --- | --- | --- | --- | --- | --- |"""
    return "\n".join([head, *rows, ""]) if rows else ""


def read_columns(path: Path) -> dict[str, Dice]:
    """Return the columns of a table of cases, by name."""
    with path.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {name: {row["case"]: float(row[name]) for row in rows} for name in rows[0] if name != "case"}


def dataset_section(data: str) -> str:
    """Return the plot and the tables of a dataset; "" while nothing is measured."""
    draws = read_draws(data)
    if not draws:
        return ""
    tables = "\n".join(count_table(data, count, draws) for count in sorted({counted(draw) for draw in draws}))
    return f"## {DATA[data]}\n\n![Dice of every draw](results/{data}.png)\n\n{tables}"


def read_draws(data: str) -> Draws:
    """Return each held-out case's mean Dice over its structures."""
    draws: Draws = defaultdict(dict)
    for path in sorted(RESULTS.glob(f"{data}_*.csv")):
        arm, count, number = path.stem.removeprefix(f"{data}_").rsplit("_", 2)
        by_case = defaultdict(list)
        with path.open(newline="") as lines:
            for row in csv.DictReader(lines):
                by_case[row["case"]].append(float(row["dice"]))
        draws[f"{count}_{number}"][arm] = {case: fmean(values) for case, values in by_case.items()}
    return draws


def counted(draw: str) -> int:
    """Return how many cases of a draw are labelled."""
    return numbers(draw)[0]


def numbers(draw: str) -> tuple[int, ...]:
    """Return a draw's labelled cases and its number."""
    return tuple(map(int, draw.split("_")))


def count_table(data: str, count: int, draws: Draws) -> str:
    """Return the table of all draws with so many labelled cases."""
    chosen = {draw: arms for draw, arms in draws.items() if counted(draw) == count}
    rows = [
        row(data, draw, arm, dice, arms.get(baseline_of(arm)))
        for draw, arms in chosen.items()
        for arm, dice in sorted(
            arms.items(), key=lambda item: (item[0].endswith(LONG), not is_baseline(item[0]), item[0])
        )
    ]
    rows += [pooled_row(arm, chosen) for arm in pooled_arms(chosen)]
    head = ["| draw | arm | steps | s/step | mean Dice | difference [95 % interval] |", "| --- " * 6 + "|"]
    return f"### {count} labelled cases\n\n" + "\n".join([*head, *rows]) + "\n"


def baseline_of(arm: str) -> str:
    """Return the arm of the same steps that learns from the labelled scans alone."""
    return BASELINE + LONG * arm.endswith(LONG)


def is_baseline(arm: str) -> bool:
    return arm == baseline_of(arm)


def against(dice: Dice, baseline: Dice) -> str:
    return "" if dice is baseline or dice == baseline else interval(difference(dice, baseline))


def row(data: str, draw: str, arm: str, dice: Dice, baseline: Dice | None) -> str:
    record = json.loads((RESULTS / f"{data}_{arm}_{draw}.json").read_text())
    gain = against(dice, baseline or dice)
    number, name = draw.split("_")[1], arm.replace("_", " ")
    return (
        f"| {number} | {name} | {record['steps']} | {record['median_step_s']} | {fmean(dice.values()):.4f} | {gain} |"
    )


def pooled_arms(draws: Draws) -> list[str]:
    """Return the arms that several draws measured beside the baseline."""
    measured = [arm for arms in draws.values() for arm in arms if baseline_of(arm) in arms and not is_baseline(arm)]
    return sorted({arm for arm in measured if measured.count(arm) > 1})


def pooled_row(arm: str, draws: Draws) -> str:
    both = [arms for arms in draws.values() if arm in arms and baseline_of(arm) in arms]
    mine, others = (mean_over_draws(arms[name] for arms in both) for name in (arm, baseline_of(arm)))
    gain = interval(difference(mine, others))
    return f"| all {len(both)} | {arm.replace('_', ' ')} | | | {fmean(mine.values()):.4f} | **{gain}** |"


def mean_over_draws(dice: Iterable[Dice]) -> Dice:
    by_case = defaultdict(list)
    for of_draw in dice:
        for case, value in of_draw.items():
            by_case[case].append(value)
    return {case: fmean(values) for case, values in by_case.items()}


def interval(found: tuple[float, float, float]) -> str:
    """Write a difference in points of Dice."""
    mean, low, high = (100 * value for value in found)
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def plot(data: str, draws: Draws) -> None:
    """Draw every held-out case's Dice, a column for each draw and arm, with the mean."""
    columns = [(draw, arm, draws[draw][arm]) for draw in sorted(draws, key=numbers) for arm in sorted(draws[draw])]
    figure, axes = pyplot.subplots(figsize=(max(5.0, 0.55 * len(columns) + 1.5), 4.2), layout="constrained")
    for place, (_, arm, dice) in enumerate(columns):
        colour = "#777777" if arm.startswith(BASELINE) else "#2b7bba"
        axes.plot([place] * len(dice), list(dice.values()), ".", color=colour, alpha=0.35, markersize=5)
        axes.plot([place - 0.3, place + 0.3], [fmean(dice.values())] * 2, color=colour, linewidth=2)
    labels = [f"{arm.replace('_', ' ')}, {draw.replace('_', ' labels, draw ')}" for draw, arm, _ in columns]
    axes.set_xticks(range(len(columns)), labels, rotation=45, ha="right", fontsize=7)
    axes.set_ylabel("Dice of a held-out case")
    figure.savefig(RESULTS / f"{data}.png", dpi=150)


if __name__ == "__main__":
    main()
