"""Which tree a page is parsed into: the compiled one, under bounds, or selectolax's.

May touch: the compiled file, if there is one. Pure otherwise.
Must never: raise because that file is missing, or use one that was made of another lexbor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, TypeGuard

from selectolax import lexbor
from selectolax.lexbor import LexborHTMLParser, LexborNode, SelectolaxError

from scraperd.extract.cost import Shape
from scraperd.extract.nodes import PARTING, SOURCE
from scraperd.extract.selectors import tags_of

try:
    from scraperd.extract.compiled import tree as _tree
except ImportError:  # it was not built, or it was built for another Python
    _tree = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scraperd.extract.compiled import tree as compiled
    from scraperd.extract.nodes import Base

    Node: TypeAlias = LexborNode | compiled.Node
    Tree: TypeAlias = LexborHTMLParser | compiled.Tree

LINKS: Final = "a[href], area[href]"


class Bounds(NamedTuple):
    """What a page may have, looked at before each token is handed to lexbor's tree builder.

    `depth` open elements, `tags` and other tokens, `attributes` of a tag, elements in the list of
    active `formatting` elements, attributes of one of them (`rich`), bytes of `memory`, and
    `seconds` of processor time.
    """

    depth: int = 512  # as in browsers
    tags: int = 100_000
    attributes: int = 300
    formatting: int = 64
    rich: int = 64
    memory: int = 64 * 1024 * 1024
    seconds: float = 0.025


BOUNDS: Final = Bounds()


class Beyond(Exception):  # noqa: N818 - a bound, and that it was passed
    """A page is beyond one of `Bounds`; the text names it."""


LEXBOR: Final = (lexbor.LEXBOR_VERSION_MAJOR, lexbor.LEXBOR_VERSION_MINOR)


def _is_good() -> bool:
    """Whether the compiled tree is of the lexbor that selectolax has, and keeps its bounds."""
    if getattr(_tree, "LEXBOR_VERSION", None) != LEXBOR:
        return False
    try:
        _tree.Tree(b"<p " + b"a " * (BOUNDS.attributes + 1) + b">", BOUNDS)
    except _tree.Beyond:
        return True
    return False


AVAILABLE: Final = _is_good()
"""Whether pages can be parsed into a compiled tree, which gives the same as selectolax's."""


def parse(page: bytes, *, bounded: bool) -> Tree:
    """Return the tree of a page (UTF-8): the compiled one if it is to be `bounded`.

    Raises Beyond and MemoryError.
    """
    if not bounded:
        try:
            return LexborHTMLParser(page)
        except SelectolaxError:  # any bytes are HTML: only memory can be wanting
            raise MemoryError from None
    try:
        return _tree.Tree(page, BOUNDS)
    except _tree.Beyond as error:
        raise Beyond(str(error)) from None


def is_compiled(tree: object) -> TypeGuard[compiled.Tree]:
    """Whether it is a tree that knows its shape."""
    return not isinstance(tree, LexborHTMLParser)


def shape_of(tree: compiled.Tree) -> Shape:
    """Return what decides how long a search takes, as it is and not as it may be at worst."""
    return Shape(
        *(tree.elements, tree.depth, tree.beside, tree.comments),
        *(tree.classes, tree.value, tree.listed),
    )


def is_node(scope: object) -> TypeGuard[Node]:
    """Whether it is a node, and not a whole page."""
    return isinstance(scope, LexborNode) or (AVAILABLE and isinstance(scope, _tree.Node))


def values_of(nodes: list[compiled.Node], name: str) -> list[str | None]:
    """Return the attribute of each node: "" if it has no value, None if there is no attribute."""
    return _tree.values_of(nodes, name)


def urls_of(nodes: list[compiled.Node], name: str, base: Base) -> list[str | None]:
    """Return where the attribute of each node leads (`Base.resolve`); None if it leads nowhere."""
    return _tree.urls_of(nodes, name, base.parts, base.resolve)


def links_in(tree: Tree, base: Base) -> Iterable[tuple[Node, str | None, str | None]]:
    """Return each element that links, where it leads, and its `rel`."""
    if isinstance(tree, LexborHTMLParser):
        for node in tree.css(LINKS):
            attributes = node.attributes
            if "href" in attributes:  # and not only `xlink:href`, which the selector finds too
                yield node, base.resolve(attributes["href"] or ""), attributes.get("rel")
    else:
        found = tree.css(LINKS)
        yield from zip(found, urls_of(found, "href", base), values_of(found, "rel"), strict=True)


if AVAILABLE:
    _tree._prepare(PARTING, SOURCE, tags_of)  # noqa: SLF001 - of this folder
