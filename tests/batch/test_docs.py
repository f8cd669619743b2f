"""What docs/batch.md says of the rows and of the arithmetic."""

from __future__ import annotations

import json
import re

from shvit.batch.rows import row_schema

from ..conftest import ROOT

PAGE = (ROOT / "docs/batch.md").read_text()


def test_the_columns_are_those_of_the_page():
    rows = re.findall(
        r"^\| (`[^|]*`) \|", PAGE.partition("## What comes out")[2].partition("\n\n`pandas")[0], re.MULTILINE
    )
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert named == row_schema("video", embedding=True).names


def test_the_sizing_follows_from_what_was_measured():
    measured = json.loads((ROOT / "benchmarks/results/throughput.json").read_text())
    s1 = measured["photographs_500x375_224"]["s1_int8"]
    exact, fast = (s1[name]["median"] for name in ("shvit_images_per_second", "shvit_fast_images_per_second"))
    assert f"| {exact:.0f} | {fast:.0f} |" in PAGE
    hours = 1e9 / round(exact) / 3600
    assert f"**{round(hours, -1):,.0f} core-hours**" in PAGE
    assert f"(fast decoding: {round(1e9 / round(fast) / 3600, -1):,.0f})" in PAGE
    assert f"{hours * 0.04:.0f} for the processors" in PAGE
    assert f"10,000 × 25 ÷ 79 = **{round(10_000 * 25 / 79, -2):,.0f} cores**" in PAGE
