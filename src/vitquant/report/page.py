"""report.html: the Markdown report as one self-contained page, its figures inline, for light and dark screens."""

import re
from collections.abc import Collection
from html import escape
from importlib import resources
from itertools import pairwise
from pathlib import Path
from string import Template

from markdown_it import MarkdownIt
from markdown_it.token import Token

from vitquant.report import style

THEMED = {  # a figure's colours become the page's, which differ between light and dark
    style.INK: "currentColor",
    style.PAPER: "var(--page)",
    style.GREY: "var(--grey)",
    style.BLUE: "var(--blue)",
    style.ORANGE: "var(--orange)",
    style.GREEN: "var(--green)",
}


def page(markdown: str, folder: Path, drawn: Collection[str]) -> str:
    """The page: it runs nothing and loads nothing, whatever `markdown` says.

    Args:
        folder: where the figures lie, `figures/<name>.svg` of each.
        drawn: the names of the figures; what else `markdown` shows as an image becomes its description.
    """
    shown = {f"figures/{name}.png": folder / "figures" / f"{name}.svg" for name in drawn}
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    titles = []
    for token, following in pairwise(tokens):
        if token.type == "heading_open":
            titles.append((token.tag, _plain(following), _slug(following.content)))
            token.attrSet("id", titles[-1][2])
        for image in [child for child in token.children or [] if child.type == "image"]:
            figure = shown.get(str(image.attrGet("src")))
            image.type = "html_inline" if figure else "text"
            image.content = _figure(image, figure) if figure else _plain(image)
    body = parser.renderer.render(tokens, parser.options, {})
    body = body.replace("<table>", '<div class="scroll" tabindex="0"><table>').replace("</table>", "</table></div>")
    files = resources.files("vitquant.report")
    return Template(files.joinpath("page.html").read_text("utf-8")).substitute(
        title=escape(titles[0][1]),
        style=files.joinpath("page.css").read_text("utf-8"),
        contents="".join(f'<a href="#{slug}">{escape(title)}</a>' for tag, title, slug in titles if tag == "h2"),
        body=re.sub(r"<p>(<figure.*?</figure>)</p>", r"\1", body, flags=re.DOTALL),
    )


def _plain(inline: Token) -> str:
    return "".join(child.content for child in inline.children or [])


def _figure(image: Token, file: Path) -> str:
    description = escape(_plain(image))
    svg = _inline(file.read_text("utf-8"), file.stem, description)
    return f'<figure><div class="scroll" tabindex="0">{svg}</div><figcaption>{description}</figcaption></figure>'


def _inline(svg: str, name: str, description: str) -> str:
    """A figure of matplotlib's as part of a page: its own names for its parts, the page's colours, a description."""
    svg = re.sub(
        r"^.*?(?=<svg)|<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL
    )
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for color, themed in THEMED.items():
        svg = svg.replace(color, themed)
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg).group(1))  # type: ignore[union-attr]  # matplotlib's
    opening = f'<svg role="img" aria-label="{description}" style="min-width: {0.85 * width:.0f}px"'
    return re.sub(r'<svg( xmlns:xlink="[^"]*")? width="[^"]*" height="[^"]*"', lambda _: opening, svg.strip(), count=1)


def _slug(title: str) -> str:
    """The anchor that a code host gives this heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
