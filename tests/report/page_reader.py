"""Reads a report page back: its structure, its tables and its figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "rect", "line", "circle", "polygon", "polyline", "br"}
Attributes = dict[str, str]


@dataclass
class Element:
    """A tag with what is inside."""

    tag: str
    attributes: Attributes
    content: list[Element | str] = field(default_factory=list)

    @property
    def children(self) -> list[Element]:
        """The elements inside."""
        return [part for part in self.content if isinstance(part, Element)]

    @property
    def text(self) -> str:
        """The text of the element itself."""
        return "".join(part for part in self.content if isinstance(part, str))

    def all(self, tag: str, css: str = "") -> list[Element]:
        """Elements below this one, with that class if one is given, in document order."""
        found = []
        for child in self.children:
            classes = child.attributes.get("class", "").split()
            if child.tag == tag and (not css or css in classes):
                found.append(child)
            found += child.all(tag, css)
        return found

    def one(self, tag: str, css: str = "") -> Element:
        """The first of `all`."""
        return self.all(tag, css)[0]

    def words(self) -> str:
        """The whole text."""
        return "".join(part if isinstance(part, str) else part.words() for part in self.content)

    def number(self, attribute: str) -> float:
        """An attribute that is a number."""
        return float(self.attributes[attribute])


class PageReader(HTMLParser):
    """Builds the tree; AssertionError where tags do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element; XML's form of an empty one comes to `handle_startendtag`."""
        attributes = {name: value or "" for name, value in attrs}
        assert len(attributes) == len(attrs), f"<{tag}> repeats an attribute"
        element = Element(tag, attributes)
        self.open[-1].content.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Only elements of SVG may close themselves in HTML."""
        assert tag in VOID, f"<{tag}/> is not closed in HTML"
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        """Closes the innermost element, nothing else."""
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        """Text."""
        self.open[-1].content.append(data)


def read_page(html: str) -> Element:
    """The page as a tree."""
    reader = PageReader()
    reader.feed(html)
    reader.close()
    assert reader.open == [reader.root], f"<{reader.open[-1].tag}> is not closed"
    return reader.root


def section(page: Element, name: str) -> Element:
    """The section with that id."""
    return next(each for each in page.all("section") if each.attributes["id"] == name)


def table_rows(table: Element) -> list[list[str]]:
    """Cells of the body as text."""
    return [[cell.words() for cell in row.all("td")] for row in table.one("tbody").all("tr")]


def value(text: str) -> int:
    """An integer with thousands separators."""
    return int(text.replace(",", ""))
