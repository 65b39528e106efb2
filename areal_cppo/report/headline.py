"""The top of the report: what was run, and what came of it."""

from areal_cppo.report.heldout import Change, HeldOut, accuracy_change, heldout_points
from areal_cppo.report.markup import duration, number, text
from areal_cppo.report.runs import Run, is_number
from areal_cppo.report.timeline import overlap_share
from areal_cppo.report.vocabulary import OBJECTIVES


def run_title(run: Run) -> str:
    """The objective in words, not yet escaped."""
    objective = run.objective
    if objective is None:
        kind = "with" if run.has_cpl else "without"
        return f"Training run {kind} the Contrastive Perception Loss"
    return OBJECTIVES.get(objective, str(objective))


def header_html(run: Run) -> str:
    """Title, key figures and, plainly, what is missing."""
    parts = [
        "Seed not recorded" if run.seed is None else f"Seed {number(run.seed)}",
        _steps(run),
        duration(run.seconds),
    ]
    bare = "" if heldout_points(run) else " bare"
    responses = run.last("samples")
    if is_number(responses):
        parts.append(f"{number(responses)} responses trained on")
    return (
        '<header><p class="eyebrow">areal_cppo run report</p>'
        f"<h1>{text(run_title(run))}</h1>"
        f'<p class="muted">{" · ".join(parts)}</p>'
        f'<div class="headline{bare}">{_accuracy(run)}<div class="facts">'
        f"{_overlap(run)}{_staleness(run)}{_refused(run)}{_rate(run)}"
        f"</div></div>{_warnings(run)}{_missing(run)}</header>"
    )


def _steps(run: Run) -> str:
    done, planned = (
        run.figure("steps", "step") or 0,
        run.config.get("total_train_steps"),
    )
    of = f" of {number(planned)}" if is_number(planned) and planned > done else ""
    return f"{number(done)}{of} training step{'' if done == 1 and not of else 's'}"


def _accuracy(run: Run) -> str:
    points = heldout_points(run)
    change = accuracy_change(points)
    head = '<section class="card"><h2 class="label">Held-out accuracy</h2>'
    if not points:
        return (
            f'{head}<p class="big">Not measured</p><p class="muted">No evaluation on '
            "the held-out images is recorded.</p></section>"
        )
    if change is None:
        only = points[0]
        when = "before training" if only.step == 0 else f"at step {only.step}"
        return (
            f'{head}<p class="big">{number(only.accuracy, "share")}</p><p>Measured '
            f"{when} only, so no change can be given.</p>{_whiskers([only])}</section>"
        )
    before, after = change.before, change.after
    return (
        f'{head}<p class="big">{number(before.accuracy, "share")} → '
        f"{number(after.accuracy, 'share')}</p>{_change(change)}"
        f"{_whiskers([before, after])}</section>"
    )


def _change(change: Change) -> str:
    before, after = change.before, change.after
    sentence = f"<strong>{change.points:+.1f} points</strong>"
    if change.interval:
        low, high = (100 * end for end in change.interval)
        sentence += f", 95 % interval {low:+.1f} to {high:+.1f}"
    if after.n and before.n == after.n:
        sentence += f", on {after.n} images"
    elif after.n and before.n:
        sentence += f", on {before.n} and {after.n} images"
    if change.interval is None:
        how = "No interval: the number of images is not recorded."
    elif change.paired:
        how = "Paired: image by image, the same ones before and after."
    else:
        how = (
            "Unpaired: results image by image are not recorded, so on the same images "
            "this interval is usually wider than it need be."
        )
    return (
        f'<p>{sentence}.</p><p class="muted">{how} It covers the choice of images, '
        "not of the seed.</p>"
    )


def _whiskers(points: list[HeldOut]) -> str:
    """Accuracies with their Wilson intervals on a scale from 0 to 100 %."""
    left, width, row = 92, 420, 24
    bottom = row * len(points) + 4
    parts = []
    for line, point in enumerate(points):
        y = row * line + 13
        x = left + width * point.accuracy
        label = "before" if point.step == 0 else f"step {point.step}"
        parts.append(
            f'<text class="who" x="{left - 12}" y="{y + 4}" text-anchor="end">'
            f"{label}</text>"
        )
        if point.interval:
            ends = [left + width * end for end in point.interval]
            parts.append(
                f'<path d="M{ends[0]:.1f} {y}H{ends[1]:.1f}M{ends[0]:.1f} {y - 4}v8'
                f'M{ends[1]:.1f} {y - 4}v8" stroke="rgb(var(--accent))" '
                'stroke-width="2" fill="none"/>'
            )
        parts.append(f'<circle cx="{x:.1f}" cy="{y}" r="5" fill="rgb(var(--accent))"/>')
    for share in (0, 25, 50, 75, 100):
        x = left + width * share / 100
        unit = " %" if share == 100 else ""
        parts.append(
            f'<path d="M{x} 0V{bottom}" stroke="rgb(var(--rule))"/>'
            f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{share}{unit}</text>'
        )
    parts.sort(key=lambda part: 'stroke="rgb(var(--rule))"' not in part)
    said = "; ".join(
        f"step {p.step}: {number(p.accuracy, 'share')}"
        + (
            f", 95 % interval {number(p.interval[0], 'share')} to "
            f"{number(p.interval[1], 'share')}"
            if p.interval
            else ""
        )
        for p in points
    )
    return (
        f'<svg class="whiskers" role="img" aria-label="Held-out accuracy, {said}" '
        f'viewBox="0 0 {left + width + 24} {bottom + 22}">{"".join(parts)}</svg>'
    )


def _fact(label: str, value: str, words: str) -> str:
    return (
        f'<section class="card"><h2 class="label">{label}</h2>'
        f'<p class="big">{value}</p><p class="muted">{words}</p></section>'
    )


def _overlap(run: Run) -> str:
    share = run.summary.get("overlap_share")
    if not is_number(share) and run.timeline and run.seconds > 0:
        share = overlap_share(
            run.timeline.generation, run.timeline.training, (0.0, run.seconds)
        )
    if not is_number(share):
        return _fact("Overlap", "Not recorded", "No time line of this run.")
    words = "of the training wall time, generation and training were both busy"
    return _fact("Overlap", number(share, "share"), words)


def _staleness(run: Run) -> str:
    mean = run.summary.get("mean_staleness")
    if mean is None:
        values = run.series("staleness_mean")[1]
        mean = sum(values) / len(values) if values else None
    largest = run.summary.get("max_staleness")
    if largest is None:
        largest = max(run.series("staleness_max")[1], default=None)
    if not is_number(mean):
        return _fact("Staleness", "Not recorded", "No staleness metrics.")
    words = "policy versions behind, mean of the tokens trained on"
    if is_number(largest):
        words += f"; at most {number(largest)}"
    return _fact("Staleness", f"{mean:.2f}", words)


def _refused(run: Run) -> str:
    refused = run.figure("refused")
    if not isinstance(refused, dict):
        return _fact("Refused responses", "Not recorded", "No counts of refusals.")
    counts = {reason: n for reason, n in refused.items() if is_number(n)}
    reasons = ", ".join(f"{text(key)} {number(n)}" for key, n in counts.items() if n)
    return _fact(
        "Refused responses",
        number(sum(n for reason, n in counts.items() if reason != "group_dropped")),
        reasons or "every response was fit to train on",
    )


def _rate(run: Run) -> str:
    rates = run.series("tokens_per_second")[1]
    if not rates:
        return _fact("Generation rate", "Not recorded", "No rates in the metrics.")
    words = "response tokens per second, mean of the steps"
    idle = run.series("trainer_idle_share")[1]
    if idle:
        share = number(sum(idle) / len(idle), "share")
        words += f"; the trainer waited {share} of a step for responses"
    return _fact("Generation rate", number(round(sum(rates) / len(rates))), words)


def _warnings(run: Run) -> str:
    """What the run's watch saw, step by step."""
    if not run.warnings:
        return ""
    items = "".join(
        f"<li><strong>Step {number(step)}</strong>: {text(line)}</li>"
        for step, line in run.warnings
    )
    return (
        '<section class="notes warnings"><h2>Warnings during the run</h2>'
        f"<ul>{items}</ul></section>"
    )


def _missing(run: Run) -> str:
    notes = list(run.notes)
    without = ("grpo", "papo", "vppo")
    if run.metrics and not run.has_cpl and run.objective not in without:
        notes.append("No metric of the Contrastive Perception Loss is recorded.")
    if not notes:
        return ""
    items = "".join(f"<li>{text(note)}</li>" for note in notes)
    return (
        '<section class="notes"><h2>What this report lacks</h2>'
        f"<ul>{items}</ul></section>"
    )
