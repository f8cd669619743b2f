"""The README's picture: what the demo's command says of each photograph, under it. ``make picture`` runs it.

Args: the picture to write. Standard input: lines of ``shvit predict --truth FILE --format jsonl``.
"""

from __future__ import annotations

import json
import sys

from PIL import Image, ImageDraw, ImageFont, ImageOps

COLUMNS = 5
WIDTH, HEIGHT, GAP = 340, 255, 8
FONT = ImageFont.load_default(20)
LINE = 26
GREY = (90, 90, 90)
COLOURS = {True: (27, 120, 50), False: (190, 40, 40), None: GREY}
"""By whether the model is right; ``None`` where it cannot tell what is unknown."""


def said(line: dict) -> str:
    """What the model says, in a few words."""
    best = line["predictions"][0]
    name = best["label"].split(",")[0]
    if line.get("decision") == "unknown":
        return f"unknown (nearest: {name})"
    if line.get("decision") == "unsure":
        return f"unsure (best: {name})"
    return f"{name}, {best['score']:.0%}"


def main() -> None:
    lines = sorted(map(json.loads, sys.stdin), key=lambda line: not line["taught"])
    rows = -(-len(lines) // COLUMNS)
    cell = (WIDTH + GAP, HEIGHT + 2 * LINE + 2 * GAP)
    sheet = Image.new("RGB", (COLUMNS * cell[0] - GAP, rows * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for place, line in enumerate(lines):
        left, top = place % COLUMNS * cell[0], place // COLUMNS * cell[1]
        with Image.open(line["source"]) as photograph:
            picture = ImageOps.pad(photograph.convert("RGB"), (WIDTH, HEIGHT), color="white", centering=(0.5, 1))
        sheet.paste(picture, (left, top))
        truth = "|".join(line["truth"]) + ("" if line["taught"] else ", not taught")
        below = top + HEIGHT + GAP // 2
        draw.text((left, below), f"is: {truth}", GREY, FONT)
        draw.text((left, below + LINE), f"says: {said(line)}", COLOURS[line["right"]], FONT)
    sheet.save(sys.argv[1], quality=85, optimize=True)


if __name__ == "__main__":
    main()
