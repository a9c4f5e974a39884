"""``ocm usage``: usage by user, model, day or week."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import click

from ocm_wsgi.accounting import queries
from ocm_wsgi.accounting.queries import Counts, Sum
from ocm_wsgi.cli.output import echo_json, echo_paragraph, table, terminal_width, usd, utc
from ocm_wsgi.cli.parameters import PAST, USER_NAME, json_option
from ocm_wsgi.cli.state import open_state
from ocm_wsgi.quota.limits import MICRO_PER_USD
from ocm_wsgi.reporting.spreadsheet import csv_text
from ocm_wsgi.reporting.status import iso
from ocm_wsgi.reporting.units import UNIT_COLUMNS, units_text

_Dimension = Literal["user", "model", "day", "week"]

_COLUMNS = (
    "turns",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "reasoning_tokens",
    "turns_without_usage",
    "turns_unpriced",
    "turns_estimated",
    *UNIT_COLUMNS,
)
_HEADERS = ("TURNS", "INPUT", "CACHED", "OUTPUT", "USD")


@click.command("usage", short_help="Show usage by user, credential, model, day or week.")
@click.option(
    "--by",
    type=click.Choice(["user", "credential", "model", "day", "week"]),
    multiple=True,
    help="Group by this (default: user). Can be repeated.",
)
@click.option("--since", type=PAST, metavar="WHEN", help="Only usage since then: 2027-01-31 (UTC), or 12h, 7d, 4w ago.")
@click.option("--user", type=USER_NAME, help="Only this user's usage.")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
def usage(by: tuple[_Dimension, ...], since: float | None, user: str | None, as_json: bool, as_csv: bool) -> None:
    """Show usage: turns, tokens, and what they would have cost at OpenAI's API prices.

    Days are in UTC, weeks are those of the subscription. --since is rounded down to the hour.

    \b
    Examples:
      ocm usage --since 7d
      ocm usage --by day --by user --since 2027-01-01 --csv
      ocm usage --by model --user alice
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv cannot be combined.")
    groups = tuple(dict.fromkeys(by)) or ("user",)
    with open_state().database.read() as connection:
        sums = queries.sums(connection, since, None, groups, user=user, utc_offset_seconds=0)
    if as_json:
        echo_json([{**_group_values(sum_, groups), **_counts(sum_.counts)} for sum_ in sums])
    elif as_csv:
        header = (*groups, *_COLUMNS, "cost_usd")
        click.echo("".join(csv_text(header, _csv_rows(sums, groups), line_end="\n")), nl=False)
    elif not sums:
        click.echo(f"No usage in this time{f' by {user}' if user else ''}.")
    else:
        _echo_table(sums, groups)


def _echo_table(sums: Sequence[Sum], groups: Sequence[_Dimension]) -> None:
    rows = [(*_group_texts(sum_, groups), *_texts(sum_.counts)) for sum_ in sums]
    total = _total(sums)
    if len(sums) > 1:
        rows.append(("all", *("" for _ in groups[1:]), *_texts(total)))
    headers = (*(group.upper() for group in groups), *_HEADERS)
    click.echo(table(headers, rows, terminal_width(), right=_HEADERS))
    if units := units_text(total):
        echo_paragraph(f"Not only text: {units}.")
    if total.turns_unpriced:
        echo_paragraph(
            f"* {_turns(total.turns_unpriced)} with models without a price, not included in the cost (see `prices`)."
        )
    if total.turns_estimated:
        echo_paragraph(
            f"~ {_turns(total.turns_estimated)} with estimated tokens: OpenAI did not report them, as when a client "
            "leaves early."
        )
    if total.turns_without_usage:
        echo_paragraph(f"{_turns(total.turns_without_usage)} without token counts, such as those that were refused.")


def _turns(count: int) -> str:
    return f"{count:,} turn{'' if count == 1 else 's'}"


def _group_texts(sum_: Sum, groups: Sequence[_Dimension]) -> list[str]:
    texts = []
    for group in groups:
        value = sum_.group[group]
        if group == "day":
            texts.append(utc(_seconds(value))[:10])
        elif group == "week":
            texts.append(utc(_seconds(value), "unknown"))
        else:
            texts.append(str(value) or "-")
    return texts


def _group_values(sum_: Sum, groups: Sequence[_Dimension]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for group in groups:
        value = sum_.group[group]
        if group == "day":
            values[group] = (iso(_seconds(value)) or "")[:10]
        elif group == "week":
            values[group] = iso(_seconds(value))
        else:
            values[group] = value
    return values


def _seconds(value: object) -> float | None:
    return value if isinstance(value, int) else None


def _texts(counts: Counts) -> tuple[str, ...]:
    mark = ("~" if counts.turns_estimated else "") + ("*" if counts.turns_unpriced else "")
    numbers = (counts.turns, counts.input_tokens, counts.cached_tokens, counts.output_tokens)
    return (*(f"{number:,}" for number in numbers), usd(counts.cost_micro_usd) + mark)


def _counts(counts: Counts) -> dict[str, Any]:
    return {**{name: getattr(counts, name) for name in _COLUMNS}, "cost_usd": counts.cost_micro_usd / MICRO_PER_USD}


def _csv_rows(sums: Sequence[Sum], groups: Sequence[_Dimension]) -> Iterator[Sequence[object]]:
    for sum_ in sums:
        counts = [getattr(sum_.counts, name) for name in _COLUMNS]
        cost = sum_.counts.cost_micro_usd
        yield *_group_values(sum_, groups).values(), *counts, f"{cost // 10**6}.{cost % 10**6:06}"


def _total(sums: Sequence[Sum]) -> Counts:
    names = Counts.__dataclass_fields__
    return Counts(**{name: sum(getattr(sum_.counts, name) for sum_ in sums) for name in names})
