"""A page to look at labelled photos in a browser."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

from wsss.io import atomic

PAGE = Template(
    """<!doctype html>
<meta charset="utf-8">
<title>Labelled photos</title>
<style>
body {font: 15px sans-serif; margin: 1.5em; background: #fafafa}
main {display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 1em}
figure {margin: 0; background: white; padding: .5em; border: 1px solid #ddd}
img {width: 100%}
figcaption {overflow-wrap: anywhere}
</style>
<h1>Labelled photos</h1>
<p>$about</p>
<main>
$figures
</main>
"""
)
FIGURE = Template(
    """<figure><a href="$overlay"><img loading="lazy" src="$overlay" alt="$name"></a>
<figcaption>$name: $tags (<a href="$labels">label map</a>)</figcaption></figure>"""
)


def write_page(
    folder: Path, ids: Sequence[str], *, tags: Mapping[str, Sequence[str]], about: str
) -> Path:
    """Write ``index.html`` beside ``overlays/`` and ``labels/`` of some photos, with the names of
    each photo's ``tags`` and a sentence ``about`` all of them; returns its path.
    """
    figures = [
        FIGURE.substitute(
            overlay=quote(f"overlays/{photo_id}.jpg"),
            labels=quote(f"labels/{photo_id}.png"),
            name=escape(photo_id),
            tags=escape(", ".join(tags.get(photo_id, ())) or "no tags"),
        )
        for photo_id in ids
    ]
    path = folder / "index.html"
    atomic.write_text(path, PAGE.substitute(about=escape(about), figures="\n".join(figures)))
    return path
