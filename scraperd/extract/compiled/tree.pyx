# cython: language_level=3, boundscheck=True, wraparound=False, freethreading_compatible=False
"""A page as a tree, by lexbor, parsed under bounds that are checked at each token.

May touch: lexbor, its memory, the processor time of this thread.
Must never: let go of the GIL while it holds a tree, recurse by a page's depth, or keep a tree.

It offers the part of selectolax's interface that this folder uses, in the same words: the same
Python code reads either tree. lexbor is compiled from the sources that selectolax ships.
"""

cimport cython
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memcmp, memcpy
from posix.time cimport CLOCK_THREAD_CPUTIME_ID, clock_gettime, timespec

from scraperd.extract.compiled.lexbor cimport *

LEXBOR_VERSION = (LEXBOR_VERSION_MAJOR, LEXBOR_VERSION_MINOR)

cdef size_t TICK = 256  # tokens and attributes between two looks at the clock
cdef size_t VISITED = 256  # nodes of a text for each call of `spend`


class Beyond(Exception):
    """The page is beyond a bound; the text names it."""


class SelectorError(ValueError):
    """lexbor can't read the selector."""


# --- parsing under bounds -------------------------------------------------------------------------

# lexbor looks up the name of each attribute before a token is done, in time that grows with the
# square of their number. So its tokenizer is compiled to call this before the function that makes an
# attribute (hatch_build.py: COUNTED). What it refuses ends the parsing as if no memory were left.
cdef extern from *:
    """
    #include "lexbor/html/token.h"

    static size_t tree_most_attributes = 0;
    static size_t tree_attributes = 0;

    lxb_html_token_attr_t *
    tree_token_attr_append(lxb_html_token_t *token, lexbor_dobject_t *dobj)
    {
        if (token->attr_last == NULL) {
            tree_attributes = 0;
        }
        if (++tree_attributes > tree_most_attributes) {
            return NULL;
        }
        return lxb_html_token_attr_append(token, dobj);
    }
    """
    size_t tree_most_attributes
    size_t tree_attributes


cdef enum Bound:
    NONE, DEPTH, ELEMENTS, ATTRIBUTES, FORMATTING, MEMORY, TIME, CLONES

cdef dict NAMES = {
    DEPTH: "open elements",
    ELEMENTS: "tags",
    ATTRIBUTES: "attributes of a tag",
    FORMATTING: "formatting elements",
    MEMORY: "bytes of memory",
    TIME: "seconds",
    CLONES: "copies of options",
}

cdef struct Guard:
    lxb_html_tokenizer_token_f build  # lexbor's own, which the guard stands before
    void *context
    lxb_html_tree_t *tree
    lxb_dom_document_t *document
    size_t depth
    size_t tags
    size_t formatting
    size_t rich  # attributes of a formatting element
    size_t memory
    long long end  # nanoseconds of this thread's clock
    size_t seen
    size_t ticks
    size_t chunks
    Bound passed


cdef inline long long _now() noexcept nogil:
    cdef timespec at
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at)
    return at.tv_sec * <long long> 1000000000 + at.tv_nsec


cdef inline bint _formats(lxb_tag_id_t tag) noexcept nogil:
    return (
        tag == LXB_TAG_A or tag == LXB_TAG_B or tag == LXB_TAG_BIG or tag == LXB_TAG_CODE
        or tag == LXB_TAG_EM or tag == LXB_TAG_FONT or tag == LXB_TAG_I or tag == LXB_TAG_NOBR
        or tag == LXB_TAG_S or tag == LXB_TAG_SMALL or tag == LXB_TAG_STRIKE
        or tag == LXB_TAG_STRONG or tag == LXB_TAG_TT or tag == LXB_TAG_U
    )


cdef size_t _held(lexbor_mem_t *memory) noexcept nogil:
    """Return the bytes of all chunks."""
    cdef size_t held = 0
    cdef lexbor_mem_chunk_t *chunk = memory.chunk
    while chunk != NULL:
        held += chunk.size
        chunk = chunk.prev
    return held


cdef Bound _judge(Guard *guard, lxb_html_token_t *token) noexcept nogil:
    """Which bound is passed, before the tree is given this token."""
    cdef lxb_html_token_attr_t *attribute = token.attr_first
    cdef size_t count = 0
    cdef size_t chunks
    while attribute != NULL:
        count += 1
        attribute = attribute.next
    if count > guard.rich and _formats(token.tag_id):
        return ATTRIBUTES
    guard.seen += 1
    if guard.seen > guard.tags:
        return ELEMENTS
    if guard.tree.open_elements.length > guard.depth:
        return DEPTH
    if guard.tree.active_formatting.length > guard.formatting:
        return FORMATTING
    if token.tag_id == LXB_TAG_SELECTEDCONTENT:
        return CLONES
    guard.ticks += 1 + count + guard.tree.active_formatting.length * 4
    if guard.ticks >= TICK:
        guard.ticks = 0
        if _now() > guard.end:
            return TIME
    chunks = guard.document.mraw.mem.chunk_length + guard.document.text.mem.chunk_length
    if chunks != guard.chunks:
        guard.chunks = chunks
        if _held(guard.document.mraw.mem) + _held(guard.document.text.mem) > guard.memory:
            return MEMORY
    return NONE


cdef lxb_html_token_t *_before(
    lxb_html_tokenizer_t *tokenizer, lxb_html_token_t *token, void *context
) noexcept nogil:
    cdef Guard *guard = <Guard *> context
    guard.passed = _judge(guard, token)
    if guard.passed != NONE:
        tokenizer.status = LXB_STATUS_ERROR_OVERFLOW
        return NULL
    return guard.build(tokenizer, token, guard.context)


# One parser for all pages: to make one takes as long as to parse 4 kB. What a page was refused with,
# and what a large page leaves behind, is not kept.
cdef lxb_html_parser_t *PARSER = NULL
cdef Py_ssize_t KEPT_AFTER = 64 * 1024  # bytes of a page


cdef lxb_html_parser_t *_parser() except NULL:
    global PARSER
    cdef lxb_html_parser_t *parser = PARSER
    PARSER = NULL
    if parser == NULL:
        parser = lxb_html_parser_create()
        if parser == NULL or lxb_html_parser_init(parser) != LXB_STATUS_OK:
            lxb_html_parser_destroy(parser)
            raise MemoryError
    return parser


cdef void _give_back(lxb_html_parser_t *parser, bint keep) noexcept:
    global PARSER
    if keep and PARSER == NULL:
        PARSER = parser
    else:
        lxb_html_parser_destroy(parser)


@cython.final
cdef class Tree:
    """A parsed page. `bounds` are those of `engine.Bounds`; raises Beyond and MemoryError."""

    cdef lxb_html_document_t *document
    cdef readonly Py_ssize_t elements
    cdef readonly Py_ssize_t depth
    cdef readonly Py_ssize_t beside
    cdef readonly Py_ssize_t comments
    cdef readonly Py_ssize_t classes
    cdef readonly Py_ssize_t value
    cdef readonly Py_ssize_t listed
    cdef readonly Py_ssize_t bases  # elements `base`

    def __cinit__(self, bytes page not None, bounds not None):
        cdef Guard guard
        cdef lxb_status_t status
        cdef lxb_html_parser_t *parser
        depth, tags, attributes, formatting, rich, memory, seconds = bounds
        guard.depth, guard.tags = depth, tags
        guard.formatting, guard.rich, guard.memory = formatting, rich, memory
        guard.end = _now() + <long long> (<double> seconds * 1e9)
        guard.seen = guard.ticks = guard.chunks = 0
        guard.passed = NONE
        parser = _parser()
        self.document = lxb_html_parse_chunk_begin(parser)
        if self.document == NULL:
            lxb_html_parser_destroy(parser)
            raise MemoryError
        guard.tree = parser.tree
        guard.document = &self.document.dom_document
        guard.build = parser.tkz.callback_token_done
        guard.context = parser.tkz.callback_token_ctx
        parser.tkz.callback_token_done = _before
        parser.tkz.callback_token_ctx = &guard
        global tree_most_attributes, tree_attributes
        tree_most_attributes, tree_attributes = attributes, 0
        status = lxb_html_parse_chunk_process(
            parser, <const lxb_char_t *> <char *> page, <size_t> len(page)
        )
        if status == LXB_STATUS_OK:
            status = lxb_html_parse_chunk_end(parser)
        parser.tkz.callback_token_done = guard.build
        parser.tkz.callback_token_ctx = guard.context
        if tree_attributes > tree_most_attributes:
            guard.passed = ATTRIBUTES
        _give_back(parser, status == LXB_STATUS_OK and len(page) <= KEPT_AFTER)
        if guard.passed != NONE:
            raise Beyond(NAMES[guard.passed])
        if status != LXB_STATUS_OK:  # any bytes are HTML: only memory can be wanting
            raise MemoryError
        self._measure()

    def __dealloc__(self):
        if self.document != NULL:
            lxb_html_document_destroy(self.document)
            self.document = NULL

    cdef void _measure(self) noexcept:
        """Find what of a page decides how long a search takes; each as in `cost.Shape`."""
        cdef lxb_dom_node_t *root = &self.document.dom_document.node
        cdef lxb_dom_node_t *node = root.first_child
        cdef lxb_dom_node_t *child
        cdef lxb_dom_attr_t *attribute
        cdef size_t depth = 1, beside, listed
        while node != NULL:
            if node.type == LXB_DOM_NODE_TYPE_ELEMENT:
                self.elements += 1
                self.bases += node.local_name == LXB_TAG_BASE
                if depth > <size_t> self.depth:
                    self.depth = depth
                listed = 0
                attribute = (<lxb_dom_element_t *> node).first_attr
                while attribute != NULL:
                    listed += 1
                    if attribute.value != NULL and <Py_ssize_t> attribute.value.length > self.value:
                        self.value = attribute.value.length
                    attribute = attribute.next
                if <Py_ssize_t> listed > self.listed:
                    self.listed = listed
                attribute = (<lxb_dom_element_t *> node).attr_class
                if (
                    attribute != NULL and attribute.value != NULL
                    and <Py_ssize_t> attribute.value.length > self.classes
                ):
                    self.classes = attribute.value.length
            elif node.type != LXB_DOM_NODE_TYPE_TEXT:
                self.comments += 1
            if node.prev == NULL:  # the first of its parent counts them all
                beside = 0
                child = node
                while child != NULL:
                    beside += 1
                    child = child.next
                if <Py_ssize_t> beside > self.beside:
                    self.beside = beside
            if node.first_child != NULL:
                node = node.first_child
                depth += 1
                continue
            while node != root and node.next == NULL:
                node = node.parent
                depth -= 1
            if node == root:
                return
            node = node.next

    @property
    def root(self):
        """The `html` element, or None."""
        cdef lxb_dom_node_t *node = lxb_dom_document_root(&self.document.dom_document)
        return _node(self, node) if node != NULL else None

    def tags(self, str name not None):
        """All elements of this name, in document order; `name` is in lower case."""
        cdef list found = []
        _find_simple(self, &self.document.dom_document.node, ((name.encode(), None),), 0, found)
        return found

    def css(self, str selector not None):
        """All elements that match, in document order; one is there for each list that matches."""
        cdef lxb_dom_node_t *node = lxb_dom_document_root(&self.document.dom_document)
        return _css(self, node, selector, 0) if node != NULL else []

    def css_first(self, str selector not None):
        """The first element that matches, or None."""
        cdef lxb_dom_node_t *node = lxb_dom_document_root(&self.document.dom_document)
        found = _css(self, node, selector, 1) if node != NULL else []
        return found[0] if found else None


# --- searching ------------------------------------------------------------------------------------

@cython.final
cdef class _Finder:
    """lexbor's reader of selectors and its matcher; one for the process."""

    cdef lxb_css_parser_t *parser
    cdef lxb_css_selectors_t *lists
    cdef lxb_selectors_t *matcher

    def __cinit__(self):
        self.parser = lxb_css_parser_create()
        if self.parser == NULL or lxb_css_parser_init(self.parser, NULL) != LXB_STATUS_OK:
            raise MemoryError
        self.lists = lxb_css_selectors_create()
        if self.lists == NULL or lxb_css_selectors_init(self.lists) != LXB_STATUS_OK:
            raise MemoryError
        lxb_css_parser_selectors_set(self.parser, self.lists)
        self.matcher = lxb_selectors_create()
        if self.matcher == NULL or lxb_selectors_init(self.matcher) != LXB_STATUS_OK:
            raise MemoryError
        lxb_selectors_opt_set(self.matcher, LXB_SELECTORS_OPT_MATCH_ROOT)

    def __dealloc__(self):
        if self.matcher != NULL:
            lxb_selectors_destroy(self.matcher, True)
        if self.parser != NULL:
            lxb_css_parser_destroy(self.parser, True)
        if self.lists != NULL:
            lxb_css_selectors_destroy(self.lists, True)


cdef _Finder FINDER = _Finder()

cdef struct Found:
    lxb_dom_node_t **nodes
    size_t length
    size_t room
    bint first
    bint failed


cdef lxb_status_t _keep(
    lxb_dom_node_t *node, lxb_css_selector_specificity_t _, void *context
) noexcept nogil:
    cdef Found *found = <Found *> context
    cdef void *more
    if found.length == found.room:
        more = PyMem_RawRealloc(found.nodes, (2 * found.room + 16) * sizeof(void *))
        if more == NULL:
            found.failed = True
            return LXB_STATUS_STOP
        found.nodes = <lxb_dom_node_t **> more
        found.room = 2 * found.room + 16
    found.nodes[found.length] = node
    found.length += 1
    return LXB_STATUS_STOP if found.first else LXB_STATUS_OK


cdef list _css(Tree tree, lxb_dom_node_t *scope, str selector, bint first):
    cdef list nodes = []
    cdef bytes text
    cdef lxb_css_selector_list_t *lists
    cdef Found found
    cdef lxb_status_t status
    cdef size_t at
    simple = FORM(selector)
    if simple is not None:
        _find_simple(tree, scope, simple, first, nodes)
        return nodes
    text = selector.encode()
    lists = lxb_css_selectors_parse(FINDER.parser, <lxb_char_t *> <char *> text, len(text))
    if lists == NULL:
        raise SelectorError(selector)
    found.nodes, found.length, found.room = NULL, 0, 0
    found.first, found.failed = first, False
    status = lxb_selectors_find(FINDER.matcher, scope, lists, _keep, &found)
    lxb_css_selector_list_destroy_memory(lists)
    FINDER.parser.memory = NULL
    try:
        if found.failed or (status != LXB_STATUS_OK and status != LXB_STATUS_STOP):
            raise MemoryError
        for at in range(found.length):
            nodes.append(_node(tree, found.nodes[at]))
    finally:
        PyMem_RawFree(found.nodes)
    return nodes


cdef enum:
    SIMPLE = 8  # parts of a simple selector


cdef int _find_simple(
    Tree tree, lxb_dom_node_t *scope, tuple wanted, bint first, list found
) except -1:
    """Find elements by pairs of a tag and an attribute that it must have (or None)."""
    cdef lxb_tag_id_t tags[SIMPLE]
    cdef uintptr_t attributes[SIMPLE]
    cdef bint must[SIMPLE]
    cdef size_t count = 0, at
    cdef const lxb_dom_attr_data_t *data
    cdef lxb_dom_document_t *document = &tree.document.dom_document
    cdef bytes text
    cdef lxb_dom_node_t *node = scope
    if len(wanted) > SIMPLE:
        raise ValueError("too many parts")
    for tag, attribute in wanted:
        text = tag
        tags[count] = lxb_tag_id_by_name(document.tags, <lxb_char_t *> <char *> text, len(text))
        must[count] = attribute is not None
        attributes[count] = 0
        if attribute is not None:
            text = attribute
            data = lxb_dom_attr_data_by_local_name(
                document.attrs, <lxb_char_t *> <char *> text, len(text)
            )
            attributes[count] = data.attr_id if data != NULL else 0
        if tags[count] != LXB_TAG__UNDEF and not (must[count] and attributes[count] == 0):
            count += 1
    if not count:
        return 0
    if node.type == LXB_DOM_NODE_TYPE_DOCUMENT:
        node = node.first_child
    while node != NULL:
        if node.type == LXB_DOM_NODE_TYPE_ELEMENT:
            for at in range(count):
                if node.local_name == tags[at] and (
                    not must[at] or _has(<lxb_dom_element_t *> node, attributes[at])
                ):
                    found.append(_node(tree, node))
                    if first:
                        return 0
                    break
            if node.first_child != NULL:
                node = node.first_child
                continue
        while node != scope and node.next == NULL:
            node = node.parent
        if node == scope:
            return 0
        node = node.next
    return 0


cdef inline bint _has(lxb_dom_element_t *element, uintptr_t attribute) noexcept nogil:
    cdef lxb_dom_attr_t *one = element.first_attr
    while one != NULL:
        if one.node.local_name == attribute:
            return True
        one = one.next
    return False


# --- reading --------------------------------------------------------------------------------------

cdef struct Buffer:
    char *data
    size_t length
    size_t room


cdef inline bint _add(Buffer *buffer, const void *data, size_t length) noexcept nogil:
    """Add to the buffer; False if there is no memory."""
    cdef size_t room
    cdef void *more
    if buffer.length + length > buffer.room:
        room = 2 * (buffer.length + length) + 256
        more = PyMem_RawRealloc(buffer.data, room)
        if more == NULL:
            return False
        buffer.data, buffer.room = <char *> more, room
    if length:
        memcpy(buffer.data + buffer.length, data, length)
        buffer.length += length
    return True


cdef inline int _put(Buffer *buffer, const void *data, size_t length) except -1:
    if not _add(buffer, data, length):
        raise MemoryError
    return 0


cdef lxb_status_t _write(const lxb_char_t *data, size_t length, void *context) noexcept nogil:
    return LXB_STATUS_OK if _add(<Buffer *> context, data, length) else LXB_STATUS_STOP


cdef inline str _str(const void *data, size_t length):
    return PyUnicode_DecodeUTF8(<const char *> data, length, "replace") if length else ""


cdef unsigned char PARTING[512]  # by tag: HTML standard, "Rendering"; as in nodes.py
cdef unsigned char SOURCE[512]
cdef unsigned char SPACE[256]


cdef object FORM = None


def _prepare(parting, source, form):
    """Take over the lists of tags, and what finds the form of a selector; called once."""
    global FORM
    cdef lxb_html_document_t *document = lxb_html_document_create()
    cdef bytes text
    cdef lxb_tag_id_t tag
    cdef int at
    if document == NULL:
        raise MemoryError
    try:
        for at in range(256):
            SPACE[at] = at in b" \t\n\v\f\r\x1c\x1d\x1e\x1f"
        for names, table in ((parting, 0), (source, 1)):
            for name in names:
                text = (<str> name).encode()
                tag = lxb_tag_id_by_name(
                    document.dom_document.tags, <lxb_char_t *> <char *> text, len(text)
                )
                if name == "-comment":
                    tag = LXB_TAG__EM_COMMENT
                if name == "text":
                    continue  # of SVG: lexbor has no number for it, `_label` finds it
                if tag == LXB_TAG__UNDEF or tag >= 512:
                    raise ValueError(f"lexbor knows no element {name}")
                if table:
                    SOURCE[tag] = 1
                else:
                    PARTING[tag] = 1
    finally:
        lxb_html_document_destroy(document)
    FORM = form


cdef inline bint _parts(lxb_dom_node_t *node, lxb_tag_id_t label) noexcept nogil:
    if node.local_name < 512:
        return PARTING[node.local_name]
    return node.local_name == label


cdef inline lxb_tag_id_t _label(Tree tree) noexcept:
    """The number of SVG's `text` in this page; 0 if the page has none."""
    return lxb_tag_id_by_name(tree.document.dom_document.tags, <const lxb_char_t *> b"text", 4)


cdef inline bint _is_source(lxb_dom_node_t *node) noexcept nogil:
    return node.local_name < 512 and SOURCE[node.local_name]


cdef size_t _gather(lxb_dom_node_t *scope, Buffer *buffer, lxb_tag_id_t label) except 0:
    """Write the texts inside of `scope`, with a space at each end of what parts words.

    Return how many nodes were looked at, and one more.
    """
    cdef lxb_dom_node_t *node = scope.first_child
    cdef lexbor_str_t *text
    cdef size_t seen = 1
    while node != NULL:
        seen += 1
        if node.type == LXB_DOM_NODE_TYPE_TEXT:
            text = &(<lxb_dom_character_data_t *> node).data
            _put(buffer, text.data, text.length if text.data != NULL else 0)
        elif not _is_source(node):
            if _parts(node, label):
                _put(buffer, b" ", 1)
            if node.first_child != NULL:
                node = node.first_child
                continue
            if _parts(node, label):
                _put(buffer, b" ", 1)
        while node.next == NULL:
            node = node.parent
            if node == scope:
                return seen
            if _parts(node, label):
                _put(buffer, b" ", 1)
        node = node.next
    return seen


cdef str _on_one_line(Buffer *buffer):
    """The text with each run of white space as one space, and none at the ends (`str.split`)."""
    cdef size_t at = 0, to = 0
    cdef unsigned char *data = <unsigned char *> buffer.data
    cdef bint space = False
    while at < buffer.length:
        if data[at] >= 0x80:
            return " ".join(_str(buffer.data, buffer.length).split())
        at += 1
    for at in range(buffer.length):
        if SPACE[data[at]]:
            space = to > 0
            continue
        if space:
            data[to] = 32
            to += 1
            space = False
        data[to] = data[at]
        to += 1
    return _str(data, to)


cdef lxb_dom_attr_t *_attribute(lxb_dom_node_t *node, const char *name, size_t length) noexcept:
    """The attribute of this name as written, in lower or upper case; NULL if there is none."""
    cdef lxb_dom_attr_t *one
    cdef const lxb_char_t *other
    cdef size_t size = 0, at
    cdef unsigned char a, b
    if node.type != LXB_DOM_NODE_TYPE_ELEMENT:
        return NULL
    one = (<lxb_dom_element_t *> node).first_attr
    while one != NULL:
        other = lxb_dom_attr_qualified_name(one, &size)
        if other != NULL and size == length:
            for at in range(length):
                a, b = <unsigned char> name[at], other[at]
                if a != b and not (
                    (a | 32) == (b | 32) and 97 <= (a | 32) and (a | 32) <= 122
                ):
                    break
            else:
                return one
        one = one.next
    return NULL


cdef inline object _value(lxb_dom_attr_t *attribute):
    """The value as selectolax gives it: None if there is none."""
    if attribute.value == NULL or attribute.value.data == NULL:
        return None
    return _str(attribute.value.data, attribute.value.length)


@cython.final
@cython.freelist(256)
cdef class Node:
    """An element or another node of a tree, which lives as long as one of its nodes."""

    cdef Tree tree
    cdef lxb_dom_node_t *node

    def __init__(self):
        raise TypeError("a tree makes its nodes")

    @property
    def mem_id(self):
        """A number that no other node of the tree has."""
        return <size_t> self.node

    @property
    def tag(self):
        """The element's name, or "-text", "-comment", "-doctype"; None for others."""
        cdef size_t size = 0
        cdef const lxb_char_t *name
        if self.node.type == LXB_DOM_NODE_TYPE_ELEMENT:
            name = lxb_dom_element_qualified_name(<lxb_dom_element_t *> self.node, &size)
            return _str(name, size) if name != NULL else None
        if self.node.local_name == LXB_TAG__TEXT:
            return "-text"
        if self.node.local_name == LXB_TAG__EM_COMMENT:
            return "-comment"
        if self.node.local_name == LXB_TAG__EM_DOCTYPE:
            return "-doctype"
        return "-document" if self.node.local_name == LXB_TAG__DOCUMENT else None

    @property
    def parent(self):
        """The parent, or None."""
        return _node(self.tree, self.node.parent) if self.node.parent != NULL else None

    def iter(self):
        """The children that are not text, one by one."""
        cdef list found = []
        cdef lxb_dom_node_t *child = self.node.first_child
        while child != NULL:
            if child.type != LXB_DOM_NODE_TYPE_TEXT:
                found.append(_node(self.tree, child))
            child = child.next
        return iter(found)

    @property
    def attrs(self):
        """The attributes of an element: `get` and `len`."""
        return _Attributes(self)

    @property
    def attributes(self):
        """The attributes as a dict."""
        cdef dict found = {}
        cdef lxb_dom_attr_t *one
        cdef size_t size = 0
        cdef const lxb_char_t *name
        if self.node.type == LXB_DOM_NODE_TYPE_ELEMENT:
            one = (<lxb_dom_element_t *> self.node).first_attr
            while one != NULL:
                name = lxb_dom_attr_qualified_name(one, &size)
                found[_str(name, size)] = _value(one)
                one = one.next
        return found

    def css(self, str selector not None):
        """All elements inside, or this one itself, that match."""
        return _css(self.tree, self.node, selector, 0)

    def css_first(self, str selector not None):
        """The first such element, or None."""
        found = _css(self.tree, self.node, selector, 1)
        return found[0] if found else None

    def text(self):
        """All text inside, as it stands."""
        cdef Buffer buffer
        cdef lxb_dom_node_t *node = self.node.first_child
        cdef lexbor_str_t *text
        buffer.data, buffer.length, buffer.room = NULL, 0, 0
        try:
            while node != NULL:
                if node.type == LXB_DOM_NODE_TYPE_TEXT:
                    text = &(<lxb_dom_character_data_t *> node).data
                    _put(&buffer, text.data, text.length if text.data != NULL else 0)
                if node.first_child != NULL:
                    node = node.first_child
                    continue
                while node != self.node and node.next == NULL:
                    node = node.parent
                if node == self.node:
                    break
                node = node.next
            return _str(buffer.data, buffer.length)
        finally:
            PyMem_RawFree(buffer.data)

    @property
    def html(self):
        """The element as HTML."""
        cdef Buffer buffer
        buffer.data, buffer.length, buffer.room = NULL, 0, 0
        try:
            if lxb_html_serialize_tree_cb(self.node, _write, &buffer) != LXB_STATUS_OK:
                raise MemoryError
            return _str(buffer.data, buffer.length)
        finally:
            PyMem_RawFree(buffer.data)

    def words(self, spend not None):
        """The text inside as a person reads it: see `nodes.text_of`."""
        cdef Buffer buffer
        cdef size_t seen
        buffer.data, buffer.length, buffer.room = NULL, 0, 0
        try:
            seen = _gather(self.node, &buffer, _label(self.tree))
            while seen >= VISITED:
                spend()
                seen -= VISITED
            return _on_one_line(&buffer)
        finally:
            PyMem_RawFree(buffer.data)


@cython.final
@cython.freelist(16)
cdef class _Attributes:
    cdef Node node

    def __cinit__(self, Node node not None):
        self.node = node

    def __len__(self):
        cdef Py_ssize_t count = 0
        cdef lxb_dom_attr_t *one
        if self.node.node.type == LXB_DOM_NODE_TYPE_ELEMENT:
            one = (<lxb_dom_element_t *> self.node.node).first_attr
            while one != NULL:
                count += 1
                one = one.next
        return count

    def get(self, str name not None, default=None):
        cdef bytes text = name.encode()
        cdef lxb_dom_attr_t *one = _attribute(self.node.node, text, len(text))
        return _value(one) if one != NULL else default


cdef inline Node _node(Tree tree, lxb_dom_node_t *at):
    cdef Node node = Node.__new__(Node)
    node.tree = tree
    node.node = at
    return node


# --- many values at once --------------------------------------------------------------------------

cdef unsigned char PLAIN[256]  # what may be in a path, and means nothing there
cdef unsigned char SAFE[256]  # what may be in a reference, and means nothing but `#` and `?`
for _at in range(256):
    _c = chr(_at)
    PLAIN[_at] = _at < 128 and (_c.isalnum() or _c in "_.~%-")
    SAFE[_at] = PLAIN[_at] or (_at < 128 and _c in "!$&()*+,=:@/?#")


def values_of(list nodes not None, str name not None):
    """The attribute of each node: "" if it has no value, None if there is no attribute."""
    cdef bytes text = name.encode()
    cdef Node node
    cdef lxb_dom_attr_t *one
    cdef list found = []
    for node in nodes:
        one = _attribute(node.node, text, len(text))
        found.append(None if one == NULL else (_value(one) or ""))
    return found


def urls_of(list nodes not None, str name not None, tuple base, resolve not None):
    """Where the attribute of each node leads: as `resolve` says, and faster.

    `base` is `Base.parts`, or None: then each is resolved by `resolve`.
    """
    cdef bytes text = name.encode()
    cdef Node node
    cdef lxb_dom_attr_t *one
    cdef list found = []
    cdef Buffer buffer
    cdef bytes page, folder, site
    cdef From start
    if base is not None:
        page, folder, site, start.most = base
        start.page, start.page_length = page, len(page)
        start.folder, start.folder_length = folder, len(folder)
        start.site, start.site_length = site, len(site)
    buffer.data, buffer.length, buffer.room = NULL, 0, 0
    try:
        for node in nodes:
            one = _attribute(node.node, text, len(text))
            if one == NULL:
                found.append(None)
                continue
            if base is not None and one.value != NULL and one.value.data != NULL:
                buffer.length = 0
                if _resolve(one.value.data, one.value.length, &start, &buffer):
                    found.append(_str(buffer.data, buffer.length))
                    continue
            found.append(resolve(_value(one) or ""))
        return found
    finally:
        PyMem_RawFree(buffer.data)


cdef struct From:
    const char *page  # the URL without its fragment; empty if it is not plain
    size_t page_length
    const char *folder
    size_t folder_length
    const char *site
    size_t site_length
    size_t most  # characters of a URL


cdef bint _resolve(
    const unsigned char *reference, size_t length, From *base, Buffer *url
) except -1:
    """Write where a reference of a plain form leads; False if it is not of such a form.

    Those are `#c`, `a/b`, `../a/b`, `/a/b` and `http://host/a`, the last four each with a query and
    a fragment that are not empty.
    """
    cdef size_t path, at = 0, depth
    cdef bint done
    if not length or length > base.most or not _is_safe(reference, length, &path):
        return False
    if reference[0] == 35:  # "#"
        if not base.page_length:
            return False
        _put(url, base.page, base.page_length)
    elif _is_ordinary(reference, length, path):
        pass
    elif reference[0] == 47:  # "/"
        if not _is_path(reference + 1, path - 1, True):
            return False
        _put(url, base.site, base.site_length - 1)
    else:
        depth = base.folder_length
        while path - at >= 3 and memcmp(reference + at, b"../", 3) == 0:
            at += 3
            if depth > base.site_length:
                depth -= 1
                while base.folder[depth - 1] != 47:
                    depth -= 1
        if not _is_path(reference + at, path - at, False):
            return False
        _put(url, base.folder, depth)
    _put(url, reference + at, length - at)
    return url.length <= base.most


cdef bint _is_safe(const unsigned char *text, size_t length, size_t *path) noexcept nogil:
    """Whether all characters are plain, and the query and the fragment not empty.

    `path` becomes the number of characters before both.
    """
    cdef size_t at
    cdef bint query = False, fragment = False
    path[0] = length
    for at in range(length):
        if not SAFE[text[at]]:
            return False
        if text[at] == 35:  # "#"
            if not fragment and at and text[at - 1] == 63:
                return False
            if not query and not fragment:
                path[0] = at
            fragment = True
        elif text[at] == 63 and not query and not fragment:  # "?"
            path[0] = at
            query = True
    return text[length - 1] != 35 and text[length - 1] != 63


cdef bint _is_ordinary(const unsigned char *text, size_t length, size_t path) noexcept nogil:
    """Whether it is an absolute URL that browsers leave as it is, and a job can have."""
    cdef size_t at, start, label = 0
    cdef bint digit = False  # the label begins with one: it may be a number, an address
    cdef unsigned char c
    if length > 8 and memcmp(text, b"https://", 8) == 0:
        start = 8
    elif length > 7 and memcmp(text, b"http://", 7) == 0:
        start = 7
    else:
        return False
    for at in range(start, length + 1):
        if at - start > 253:
            return False
        c = text[at] if at < length else 47
        if at == length or c == 35 or c == 63:  # "#", "?": browsers put a "/" before
            return False
        if c == 47:  # "/"
            return label > 0 and not digit and _is_path(text + at + 1, path - at - 1, True)
        if c == 46:  # "."
            if not label:
                return False
            label = 0
        elif (97 <= c and c <= 122) or (48 <= c and c <= 57) or c == 45 or c == 95:
            if not label:
                digit = 48 <= c and c <= 57
            if label == 3 and c == 45 and text[at - 1] == 45 and memcmp(text + at - 3, b"xn", 2) == 0:
                return False  # punycode
            label += 1
            if label > 63:
                return False
        else:
            return False
    return False


cdef bint _is_path(const unsigned char *text, size_t length, bint may_end) noexcept nogil:
    """Whether it is segments that don't begin with a dot, none empty (but the last: `may_end`)."""
    cdef size_t at
    cdef bint start = True
    for at in range(length):
        if start and (text[at] == 46 or text[at] == 47):
            return False
        if start and text[at] == 37 and at + 2 < length and text[at + 1] == 50:
            if text[at + 2] == 101 or text[at + 2] == 69:  # "%2e", a dot as well
                return False
        start = text[at] == 47
        if not start and not PLAIN[text[at]]:
            return False
    return not start or may_end
