# What tree.pyx uses of lexbor's headers.
from libc.stdint cimport uint32_t, uintptr_t

cdef extern from "lexbor/core/base.h" nogil:
    const int LEXBOR_VERSION_MAJOR
    const int LEXBOR_VERSION_MINOR
    ctypedef unsigned char lxb_char_t
    ctypedef unsigned int lxb_status_t
    const lxb_status_t LXB_STATUS_OK
    const lxb_status_t LXB_STATUS_STOP
    const lxb_status_t LXB_STATUS_ERROR_OVERFLOW

cdef extern from "lexbor/core/str.h" nogil:
    ctypedef struct lexbor_str_t:
        lxb_char_t *data
        size_t length

cdef extern from "lexbor/core/mem.h" nogil:
    ctypedef struct lexbor_mem_chunk_t:
        size_t size
        lexbor_mem_chunk_t *prev
    ctypedef struct lexbor_mem_t:
        lexbor_mem_chunk_t *chunk
        size_t chunk_length

cdef extern from "lexbor/core/mraw.h" nogil:
    ctypedef struct lexbor_mraw_t:
        lexbor_mem_t *mem

cdef extern from "lexbor/core/array.h" nogil:
    ctypedef struct lexbor_array_t:
        size_t length

cdef extern from "lexbor/core/hash.h" nogil:
    ctypedef struct lexbor_hash_t:
        pass
    ctypedef struct lexbor_hash_entry_t:
        size_t length
    lxb_char_t *lexbor_hash_entry_str(lexbor_hash_entry_t *entry)

cdef extern from "lexbor/tag/tag.h" nogil:
    ctypedef uintptr_t lxb_tag_id_t
    lxb_tag_id_t lxb_tag_id_by_name(lexbor_hash_t *hash, const lxb_char_t *name, size_t len)
    lxb_tag_id_t LXB_TAG__UNDEF, LXB_TAG__TEXT, LXB_TAG__DOCUMENT, LXB_TAG__EM_COMMENT
    lxb_tag_id_t LXB_TAG__EM_DOCTYPE, LXB_TAG__LAST_ENTRY, LXB_TAG_SELECTEDCONTENT
    lxb_tag_id_t LXB_TAG_BASE, LXB_TAG_A, LXB_TAG_B, LXB_TAG_BIG, LXB_TAG_CODE, LXB_TAG_EM, LXB_TAG_FONT
    lxb_tag_id_t LXB_TAG_I, LXB_TAG_NOBR, LXB_TAG_S, LXB_TAG_SMALL, LXB_TAG_STRIKE
    lxb_tag_id_t LXB_TAG_STRONG, LXB_TAG_TT, LXB_TAG_U

cdef extern from "lexbor/dom/dom.h" nogil:
    ctypedef enum lxb_dom_node_type_t:
        LXB_DOM_NODE_TYPE_ELEMENT
        LXB_DOM_NODE_TYPE_TEXT
        LXB_DOM_NODE_TYPE_DOCUMENT
    ctypedef struct lxb_dom_node_t:
        uintptr_t local_name
        lxb_dom_node_t *next
        lxb_dom_node_t *prev
        lxb_dom_node_t *parent
        lxb_dom_node_t *first_child
        lxb_dom_node_type_t type
    ctypedef struct lxb_dom_attr_data_t:
        uintptr_t attr_id
    ctypedef struct lxb_dom_attr_t:
        lxb_dom_node_t node
        lexbor_str_t *value
        lxb_dom_attr_t *next
    ctypedef struct lxb_dom_element_t:
        lxb_dom_attr_t *first_attr
        lxb_dom_attr_t *attr_class
    ctypedef struct lxb_dom_character_data_t:
        lexbor_str_t data
    ctypedef struct lxb_dom_document_t:
        lxb_dom_node_t node
        lexbor_mraw_t *mraw
        lexbor_mraw_t *text
        lexbor_hash_t *tags
        lexbor_hash_t *attrs
    const lxb_dom_attr_data_t *lxb_dom_attr_data_by_local_name(
        lexbor_hash_t *hash, const lxb_char_t *name, size_t length)
    const lxb_char_t *lxb_dom_attr_qualified_name(lxb_dom_attr_t *attr, size_t *len)
    const lxb_char_t *lxb_dom_element_qualified_name(lxb_dom_element_t *element, size_t *len)
    lxb_dom_node_t *lxb_dom_document_root(lxb_dom_document_t *document)

cdef extern from "lexbor/html/html.h" nogil:
    ctypedef struct lxb_html_document_t:
        lxb_dom_document_t dom_document
    ctypedef struct lxb_html_token_attr_t:
        lxb_html_token_attr_t *next
    ctypedef struct lxb_html_token_t:
        lxb_html_token_attr_t *attr_first
        lxb_tag_id_t tag_id
    ctypedef lxb_html_token_t *(*lxb_html_tokenizer_token_f)(
        lxb_html_tokenizer_t *tkz, lxb_html_token_t *token, void *ctx) noexcept nogil
    ctypedef struct lxb_html_tokenizer_t:
        lxb_html_tokenizer_token_f callback_token_done
        void *callback_token_ctx
        lxb_status_t status
    ctypedef struct lxb_html_tree_t:
        lexbor_array_t *open_elements
        lexbor_array_t *active_formatting
    ctypedef struct lxb_html_parser_t:
        lxb_html_tokenizer_t *tkz
        lxb_html_tree_t *tree
    lxb_html_document_t *lxb_html_document_create()
    lxb_html_document_t *lxb_html_document_destroy(lxb_html_document_t *document)
    lxb_html_parser_t *lxb_html_parser_create()
    lxb_status_t lxb_html_parser_init(lxb_html_parser_t *parser)
    lxb_html_parser_t *lxb_html_parser_destroy(lxb_html_parser_t *parser)
    lxb_html_document_t *lxb_html_parse_chunk_begin(lxb_html_parser_t *parser)
    lxb_status_t lxb_html_parse_chunk_process(
        lxb_html_parser_t *parser, const lxb_char_t *html, size_t size)
    lxb_status_t lxb_html_parse_chunk_end(lxb_html_parser_t *parser)
    lxb_status_t lxb_html_serialize_tree_cb(
        lxb_dom_node_t *node, lxb_status_t (*cb)(const lxb_char_t *, size_t, void *) noexcept nogil,
        void *ctx)

cdef extern from "lexbor/css/css.h" nogil:
    ctypedef struct lxb_css_memory_t:
        pass
    ctypedef struct lxb_css_selectors_t:
        pass
    ctypedef struct lxb_css_parser_t:
        lxb_css_memory_t *memory
    ctypedef struct lxb_css_selector_list_t:
        pass
    lxb_css_parser_t *lxb_css_parser_create()
    lxb_status_t lxb_css_parser_init(lxb_css_parser_t *parser, void *tkz)
    lxb_css_parser_t *lxb_css_parser_destroy(lxb_css_parser_t *parser, bint self_destroy)
    void lxb_css_parser_selectors_set(lxb_css_parser_t *parser, lxb_css_selectors_t *selectors)
    lxb_css_selectors_t *lxb_css_selectors_create()
    lxb_status_t lxb_css_selectors_init(lxb_css_selectors_t *selectors)
    lxb_css_selectors_t *lxb_css_selectors_destroy(lxb_css_selectors_t *selectors, bint destroy)
    lxb_css_selector_list_t *lxb_css_selectors_parse(
        lxb_css_parser_t *parser, const lxb_char_t *data, size_t length)
    void lxb_css_selector_list_destroy_memory(lxb_css_selector_list_t *list)

cdef extern from "lexbor/selectors/selectors.h" nogil:
    ctypedef unsigned int lxb_selectors_opt_t
    const lxb_selectors_opt_t LXB_SELECTORS_OPT_MATCH_ROOT
    ctypedef struct lxb_selectors_t:
        pass
    ctypedef uint32_t lxb_css_selector_specificity_t
    lxb_selectors_t *lxb_selectors_create()
    lxb_status_t lxb_selectors_init(lxb_selectors_t *selectors)
    lxb_selectors_t *lxb_selectors_destroy(lxb_selectors_t *selectors, bint self_destroy)
    void lxb_selectors_opt_set(lxb_selectors_t *selectors, lxb_selectors_opt_t opt)
    lxb_status_t lxb_selectors_find(
        lxb_selectors_t *selectors, lxb_dom_node_t *root, const lxb_css_selector_list_t *list,
        lxb_status_t (*cb)(lxb_dom_node_t *, lxb_css_selector_specificity_t, void *) noexcept nogil,
        void *ctx)
