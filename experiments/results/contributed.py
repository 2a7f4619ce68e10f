"""The table of what each site contributed, in Markdown. Pure: results in, text out."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.results.measure import Group, mean

MOST_SITES = 10


def table_of_contributions(groups: Sequence[Group]) -> str:
    """What each site's models brought on the holdout, in the main metric, as the mean of all seeds.

    Of policies without rounds, and of few sites: in rounds a site's gain is its share of the round's.
    """
    rows = []
    for group in groups:
        run = group.run
        if run.schedule not in ("free", "relay") or run.sites > MOST_SITES:
            continue
        told = [result.outcome.contributed for result in group.results if result.outcome.contributed]
        if not told:
            continue
        cells = []
        for site in run.site_names:
            found = mean(one.get(site, {}).get(run.metric, 0.0) for one in told)
            word = " (attacks)" if site in run.attackers else ""
            cells.append(f"{site}{word} {found.value:+.3f}" if found else site)
        rows.append(f"| {group.label} | {run.metric} | {', '.join(cells)} |\n")
    if not rows:
        return ""
    head = "| run | gain in | brought by, seeds averaged |\n| --- | --- | --- |\n"
    return "What each site contributed, on the holdout:\n\n" + head + "".join(rows)
