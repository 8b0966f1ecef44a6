/* Cleat: YAML as OmegaConf reads it, written as JSON.
 * SPDX-License-Identifier: Apache-2.0
 *
 * libfyaml reads YAML 1.2; OmegaConf reads YAML 1.1 as PyYAML does, and some of
 * that otherwise. Where the two could see another structure the text is
 * refused: what stands between the scalars is looked at byte by byte
 * (check_gap), and so are plain scalars (check_plain). What is left has the
 * same structure for both; what the scalars say is PyYAML's business alone
 * (yaml_text.c, scalar.c).
 *
 * libfyaml allocates inside its calls; nothing else here does.
 */
#define _GNU_SOURCE
#include <libfyaml.h>
#include <stdio.h>
#include <string.h>

#include "config.h"

#define DEPTH_MAX CLEAT_JSON_DEPTH_MAX
#define ANCHORS_MAX 64u
#define NO_ANCHOR UINT32_MAX

/* PyYAML takes no longer key; somewhat less, for it counts what is around. */
#define KEY_BYTES_MAX 1000u

/* A sequence or mapping that is open. */
struct level {
    bool is_map;
    bool wants_value; /* a mapping whose key was written */
    bool is_flow;     /* in brackets */
    size_t indent;    /* of block style: columns before it, one more */
    size_t members;
    size_t at;       /* of its bracket in the JSON */
    uint32_t anchor; /* its own, or NO_ANCHOR */
};

/* A name, and the JSON of what it names. */
struct anchor {
    size_t name; /* in the text */
    size_t name_bytes;
    size_t begin;
    size_t end; /* 0: not yet */
};

struct yaml {
    const char *file;
    const char *text;
    size_t bytes;
    struct fy_diag *diag;
    struct fy_parser *parser;
    struct mcp_json_out out;
    size_t wanted; /* of the block, for more than the JSON itself */
    struct level levels[DEPTH_MAX + 1];
    uint32_t depth;
    struct anchor anchors[ANCHORS_MAX];
    uint32_t anchors_count;
    size_t looked_at;  /* text up to here is known to be harmless */
    size_t header;     /* of the last block scalar there: its '|' or '>' */
    size_t kept;       /* bytes at the block's end that hold a scalar */
    uint32_t brackets; /* that are open there: flow style */
    bool document;     /* there was one */
    size_t twice_at;   /* CLEAT_EXISTS: of a key in the JSON */
    struct mcp_yaml_origin *origin;
    struct cleat_error *error;
    enum cleat_status status; /* CLEAT_OK while nothing is refused */
};

/* ---- refusing ------------------------------------------------------------ */

static void refuse_at(struct yaml *y, enum cleat_status status,
                      struct mcp_place place, const char *why)
{
    if (y->status != CLEAT_OK) { return; }
    y->status = status;
    mcp_config_fail(y->error, status, 0, "%s:%u:%u: %s",
                    mcp_show_path(y->file).text, place.line, place.column, why);
}

static void refuse(struct yaml *y, enum cleat_status status, size_t offset,
                   const char *why)
{
    refuse_at(y, status, mcp_place_of(y->text, offset), why);
}

/* Refuses what could mean something else to OmegaConf. */
static void unlike(struct yaml *y, size_t offset, const char *why)
{
    refuse(y, CLEAT_UNSUPPORTED, offset, why);
}

/* ---- the text before it is parsed ---------------------------------------- */

/* A byte-order mark, and what YAML 1.1 takes for a line break and 1.2 does not:
 * U+0085, U+2028, U+2029. */
static bool is_odd(const unsigned char *at, size_t bytes)
{
    static const char odd[4][4] = {"\xC2\x85", "\xE2\x80\xA8", "\xE2\x80\xA9",
                                   "\xEF\xBB\xBF"};

    for (size_t i = 0; i < 4; i++) {
        size_t length = strlen(odd[i]);

        if (bytes >= length && memcmp(at, odd[i], length) == 0) { return true; }
    }
    return false;
}

/* Not in PyYAML's set of printable characters. */
static bool is_unprintable(const unsigned char *at, size_t bytes)
{
    if (*at < 0x20) {
        /* Half a line end is one to PyYAML. */
        return *at != '\t' && *at != '\n' &&
               !(*at == '\r' && bytes > 1 && at[1] == '\n');
    }
    return *at == 0x7F || (*at == 0xC2 && at[1] < 0xA0) ||
           (*at == 0xEF && at[1] == 0xBF && at[2] >= 0xBE);
}

static void check_text(struct yaml *y)
{
    size_t valid = mcp_utf8_valid(y->text, y->bytes);

    for (size_t i = 0; i < valid; i++) {
        const unsigned char *at = (const unsigned char *)y->text + i;

        if (is_odd(at, valid - i) || is_unprintable(at, valid - i)) {
            refuse(y, CLEAT_MALFORMED, i,
                   "a character that YAML does not allow; expected an escape "
                   "in double quotes");
            return;
        }
    }
    if (valid < y->bytes) { refuse(y, CLEAT_MALFORMED, valid, "not UTF-8"); }
}

/* ---- between the scalars ------------------------------------------------- */

static int text_at(const struct yaml *y, size_t at)
{
    return at < y->bytes ? (unsigned char)y->text[at] : -1;
}

/* A space, the end of a line or of the text. */
static bool ends_token(const struct yaml *y, size_t at)
{
    int c = text_at(y, at);

    return c == ' ' || c == '\n' || c == '\r' || c == -1;
}

static size_t end_of_line(const struct yaml *y, size_t at)
{
    while (at < y->bytes && y->text[at] != '\n') { at++; }
    return at;
}

static size_t skip_spaces(const struct yaml *y, size_t at)
{
    while (text_at(y, at) == ' ') { at++; }
    return at;
}

static bool is_name_letter(int c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
           (c >= 'a' && c <= 'z') || c == '-' || c == '_';
}

static bool is_rest_of_line_empty(const struct yaml *y, size_t at)
{
    at = skip_spaces(y, at);
    return text_at(y, at) == '#' || text_at(y, at) == '\n' ||
           text_at(y, at) == '\r' || text_at(y, at) == -1;
}

/* "- " or "---". */
static size_t check_dash(struct yaml *y, size_t at)
{
    if (y->bytes - at >= 3 && memcmp(y->text + at, "---", 3) == 0) {
        if (!is_rest_of_line_empty(y, at + 3)) {
            unlike(y, at, "content on the line of '---'; expected it below");
        }
        return at + 3;
    }
    if (y->brackets > 0 || !ends_token(y, at + 1)) {
        unlike(y, at, "a '-' that begins no item; quote it");
    }
    return at + 1;
}

/* '|' or '>', which begin a block scalar. */
static size_t check_block_header(struct yaml *y, size_t at)
{
    size_t next = at + 1;

    y->header = at;
    if (text_at(y, next) == '+' || text_at(y, next) == '-') { next++; }
    if (!ends_token(y, next)) {
        unlike(y, next,
               "an indentation indicator, which is not supported; "
               "expected '|', '>', with '-' or '+'");
    }
    return next;
}

static size_t check_anchor(struct yaml *y, size_t at)
{
    size_t next = at + 1;

    while (is_name_letter(text_at(y, next))) { next++; }
    if (next == at + 1 || !ends_token(y, next)) {
        unlike(y, at,
               "the name of an anchor; expected letters, digits, - "
               "and _");
    }
    return next;
}

static size_t check_tag(struct yaml *y, size_t at)
{
    static const char *const tags[] = {"!!str",  "!!int", "!!float", "!!bool",
                                       "!!null", "!!map", "!!seq"};

    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++) {
        size_t bytes = strlen(tags[i]);

        if (y->bytes - at >= bytes &&
            memcmp(y->text + at, tags[i], bytes) == 0 &&
            ends_token(y, at + bytes)) {
            return at + bytes;
        }
    }
    unlike(y, at,
           "an unknown tag; expected !!str, !!int, !!float, !!bool, "
           "!!null, !!map or !!seq");
    return at + 1;
}

/* What may stand between scalars, each byte of it; moves on over one thing. */
static size_t check_mark(struct yaml *y, size_t at, size_t end)
{
    int c = text_at(y, at);

    switch (c) {
    case ' ':
    case '\n':
    case '\r':
    case ',': return at + 1;
    case '#': return end_of_line(y, at);
    case '[':
    case '{': y->brackets++; return at + 1;
    case ']':
    case '}':
        if (y->brackets > 0) { y->brackets--; }
        return at + 1;
    case ':':
        if (y->brackets == 0 && !ends_token(y, at + 1) &&
            text_at(y, at + 1) != '\t') {
            unlike(y, at, "a ':' without a space behind it");
        }
        return at + 1;
    case '-': return check_dash(y, at);
    case '&': return check_anchor(y, at);
    case '!': return check_tag(y, at);
    case '|':
    case '>': return check_block_header(y, at);
    case '"':
    case '\'':
    case '*':
        if (at + 1 == end) { return at + 1; }
        break;
    case '\t': unlike(y, at, "a tab; expected spaces"); return at + 1;
    case '?':
        unlike(y, at, "a key with '?', which is not supported");
        return at + 1;
    case '%':
        unlike(y, at, "a directive, which is not supported");
        return at + 1;
    case '.': unlike(y, at, "'...', which is not supported"); return at + 1;
    default: break;
    }
    unlike(y, at, "not supported here; expected it in quotes");
    return at + 1;
}

static void check_gap(struct yaml *y, size_t end)
{
    size_t at = y->looked_at;

    if (at > end) { unlike(y, end, "text that could mean two things"); }
    while (at < end && y->status == CLEAT_OK) { at = check_mark(y, at, end); }
    if (at > y->looked_at) { y->looked_at = at; }
}

/* ---- writing ------------------------------------------------------------- */

static struct level *top(struct yaml *y)
{
    return &y->levels[y->depth];
}

/* Whether what comes now is a key. */
static bool is_key(const struct yaml *y)
{
    const struct level *level = &y->levels[y->depth];

    return y->depth > 0 && level->is_map && !level->wants_value;
}

/* The comma or colon before a node, and where it comes from. */
static void begin_node(struct yaml *y, size_t offset)
{
    struct level *level = top(y);

    if (y->depth > 0) {
        if (level->wants_value) {
            mcp_json_puts(&y->out, ":");
        } else if (level->members > 0) {
            mcp_json_puts(&y->out, ",");
        }
        if (!level->wants_value) { level->members++; }
        if (level->is_map) { level->wants_value = !level->wants_value; }
    }
    if (y->origin != NULL && y->out.used <= y->origin->offset) {
        y->origin->place = mcp_place_of(y->text, offset);
    }
}

static const char *token_text(struct fy_token *token, size_t *bytes)
{
    const char *text = NULL;

    *bytes = 0;
    if (token != NULL) { text = fy_token_get_text(token, bytes); }
    return text != NULL ? text : "";
}

static size_t token_offset(const struct yaml *y, struct fy_token *token)
{
    const struct fy_mark *mark = token != NULL ? fy_token_start_mark(token)
                                               : NULL;

    if (mark == NULL || mark->input_pos > y->bytes) { return y->looked_at; }
    return mark->input_pos;
}

/* Refuses what is not indented more than the sequence or mapping that it is in,
 * or as much where `same` allows that. */
static void check_indent(struct yaml *y, size_t offset, bool same)
{
    const struct level *level = top(y);

    if (y->depth == 0 || level->is_flow || is_key(y)) { return; }
    if (mcp_place_of(y->text, offset).column + (same ? 1 : 0) <=
        level->indent) {
        unlike(y, offset, "not indented; expected more spaces before it");
    }
}

/* ---- anchors ------------------------------------------------------------- */

static struct anchor *find_anchor(struct yaml *y, const char *name,
                                  size_t bytes)
{
    for (uint32_t i = 0; i < y->anchors_count; i++) {
        struct anchor *anchor = &y->anchors[i];

        if (anchor->name_bytes == bytes &&
            memcmp(y->text + anchor->name, name, bytes) == 0) {
            return anchor;
        }
    }
    return NULL;
}

/* Opens the anchor of a node that begins now. Returns its number. */
static uint32_t open_anchor(struct yaml *y, struct fy_token *token)
{
    size_t at;
    size_t bytes;
    const char *name;
    struct anchor *anchor;

    if (token == NULL) { return NO_ANCHOR; }
    at = token_offset(y, token);
    name = token_text(token, &bytes);
    check_indent(y, at - 1, false); /* of its '&' */
    if (is_key(y)) {
        unlike(y, at, "an anchor at a key, which is not supported");
    } else if (find_anchor(y, name, bytes) != NULL) {
        refuse(y, CLEAT_EXISTS, at, "an anchor of that name is there already");
    } else if (y->anchors_count == ANCHORS_MAX) {
        refuse(y, CLEAT_LIMIT, at, "more than 64 anchors");
    } else if (bytes > y->bytes - at || memcmp(y->text + at, name, bytes)) {
        unlike(y, at, "the name of an anchor");
    } else {
        anchor = &y->anchors[y->anchors_count];
        anchor->name = at;
        anchor->name_bytes = bytes;
        anchor->begin = 0;
        anchor->end = 0;
        return y->anchors_count++;
    }
    return NO_ANCHOR;
}

static void close_anchor(struct yaml *y, uint32_t number, size_t begin)
{
    if (number == NO_ANCHOR) { return; }
    y->anchors[number].begin = begin;
    y->anchors[number].end = y->out.used;
}

/* Copies what an alias names: what is resolved in it is resolved alike. */
static void take_alias(struct yaml *y, const struct fy_event *event)
{
    size_t bytes;
    const char *name = token_text(event->alias.anchor, &bytes);
    size_t at = token_offset(y, event->alias.anchor);
    const struct anchor *anchor = find_anchor(y, name, bytes);

    check_gap(y, at);
    y->looked_at = at + bytes;
    check_indent(y, at - 1, false); /* of its '*' */
    if (is_key(y)) {
        unlike(y, at, "an alias as a key, which is not supported");
    } else if (anchor == NULL) {
        refuse(y, CLEAT_MALFORMED, at, "an alias of no anchor above");
    } else if (anchor->end == 0) {
        unlike(y, at, "an alias inside of what it names");
    }
    if (y->status != CLEAT_OK) { return; }
    begin_node(y, at);
    if (anchor->end <= y->out.bytes) {
        mcp_json_put(&y->out, y->out.text + anchor->begin,
                     anchor->end - anchor->begin);
    } else {
        y->out.used = anchor->end - anchor->begin <= SIZE_MAX / 2 - y->out.used
                          ? y->out.used + (anchor->end - anchor->begin)
                          : SIZE_MAX / 2;
    }
}

/* ---- scalars ------------------------------------------------------------- */

/* A scalar: where it stands, and what it says. */
struct scalar {
    size_t begin; /* in the text, without quotes or header */
    size_t end;
    enum fy_scalar_style style;
    const char *text;
    size_t bytes;
    char tag[8]; /* "str" …; empty: none */
};

static bool is_block(const struct scalar *scalar)
{
    return scalar->style == FYSS_LITERAL || scalar->style == FYSS_FOLDED;
}

static bool is_quoted(const struct scalar *scalar)
{
    return scalar->style == FYSS_SINGLE_QUOTED ||
           scalar->style == FYSS_DOUBLE_QUOTED;
}

static void check_plain(struct yaml *y, const struct scalar *scalar)
{
    for (size_t i = scalar->begin; i < scalar->end; i++) {
        int c = text_at(y, i);

        if (c == '\t') { unlike(y, i, "a tab; expected spaces"); }
        if (c == '?' && y->brackets > 0) {
            unlike(y, i, "a '?' in brackets; expected it in quotes");
        }
    }
    if (scalar->begin < scalar->end &&
        (strchr("%@`", text_at(y, scalar->begin)) != NULL ||
         (text_at(y, scalar->begin) == ':' && y->brackets > 0))) {
        unlike(y, scalar->begin,
               "a character that begins no plain text; "
               "expected quotes");
    }
}

/* PyYAML's simple keys: on one line with their colon. */
static void check_key(struct yaml *y, const struct scalar *scalar)
{
    size_t at = scalar->end;

    if (scalar->end - scalar->begin > KEY_BYTES_MAX) {
        refuse(y, CLEAT_LIMIT, scalar->begin, "a key of more than 1000 bytes");
    }
    if (memchr(y->text + scalar->begin, '\n', scalar->end - scalar->begin) !=
        NULL) {
        unlike(y, scalar->begin, "a key on more than one line");
    }
    if (is_quoted(scalar)) { at++; }
    at = skip_spaces(y, at);
    if (text_at(y, at) == ':') { return; }
    while (at < y->bytes && is_rest_of_line_empty(y, at)) {
        at = skip_spaces(y, end_of_line(y, at) + 1);
    }
    if (text_at(y, at) == ':') {
        unlike(y, at, "a ':' on another line than its key");
    }
}

/* PyYAML takes a line that is not indented for what comes next. */
static void check_block(struct yaml *y, const struct scalar *scalar)
{
    size_t at = skip_spaces(y, scalar->begin);

    while (text_at(y, at) == '\n' || text_at(y, at) == '\r') {
        at = skip_spaces(y, at + 1);
    }
    if (at < scalar->end) { check_indent(y, at, false); }
}

/* Finds the scalar in the text. */
static void open_scalar(struct yaml *y, const struct fy_event *event,
                        struct scalar *scalar)
{
    struct fy_token *value = event->scalar.value;
    const struct fy_mark *end = value != NULL ? fy_token_end_mark(value) : NULL;

    memset(scalar, 0, sizeof *scalar);
    scalar->style = FYSS_PLAIN;
    scalar->begin = token_offset(y, value);
    scalar->end = scalar->begin;
    scalar->text = "";
    if (value == NULL) { return; }
    scalar->style = fy_token_scalar_style(value);
    if (end != NULL && end->input_pos >= scalar->begin &&
        end->input_pos <= y->bytes) {
        scalar->end = end->input_pos;
    }
}

/* Whether the text between the scalar's marks is not what it says. */
static bool is_encoded(const struct yaml *y, const struct scalar *scalar)
{
    static const char *const codes[FYSS_MAX] = {"\n", "\n'", "\n\\\"", "", ""};
    const char *code = codes[scalar->style];

    for (; *code != '\0'; code++) {
        if (memchr(y->text + scalar->begin, *code,
                   scalar->end - scalar->begin) != NULL) {
            return true;
        }
    }
    return is_block(scalar);
}

/* Keeps room for what a scalar says, at the block's end. */
static bool keep_room(struct yaml *y, const struct scalar *scalar,
                      struct mcp_json_out *room)
{
    size_t bytes = is_block(scalar) ? y->bytes - y->header
                                    : scalar->end - scalar->begin;

    bytes += bytes / 2 + 1;
    if (y->out.used > y->out.bytes || bytes > y->out.bytes - y->out.used) {
        if (y->out.used + bytes > y->wanted) {
            y->wanted = y->out.used + bytes;
        }
        return false;
    }
    y->kept = bytes;
    room->text = y->out.text + y->out.bytes - bytes;
    room->bytes = bytes;
    room->used = 0;
    return true;
}

static const char *decode(struct yaml *y, struct scalar *scalar,
                          struct mcp_json_out *room)
{
    const char *text = y->text + scalar->begin;
    size_t bytes = scalar->end - scalar->begin;
    size_t indent = top(y)->indent;

    switch (scalar->style) {
    case FYSS_SINGLE_QUOTED: return mcp_yaml_single(text, bytes, room);
    case FYSS_DOUBLE_QUOTED: return mcp_yaml_double(text, bytes, room);
    case FYSS_LITERAL:
    case FYSS_FOLDED:
        scalar->end = mcp_yaml_block(y->text, y->bytes, y->header,
                                     indent > 0 ? indent : 1, room);
        return NULL;
    case FYSS_PLAIN:
    case FYSS_ANY:
    case FYSS_MAX: break;
    }
    mcp_yaml_plain(text, bytes, room);
    return NULL;
}

/* What the scalar says: the text itself, or what is decoded from it. Without
 * room for that it says nothing, for the whole will be refused. */
static void read_scalar(struct yaml *y, struct scalar *scalar)
{
    struct mcp_json_out room;
    const char *why;

    scalar->text = y->text + scalar->begin;
    scalar->bytes = scalar->end - scalar->begin;
    if (!is_encoded(y, scalar)) { return; }
    scalar->bytes = 0;
    if (!keep_room(y, scalar, &room)) { return; }
    why = decode(y, scalar, &room);
    if (why != NULL || room.used > room.bytes) {
        unlike(y, scalar->begin, why != NULL ? why : "too long a text");
        return;
    }
    scalar->text = room.text;
    scalar->bytes = room.used;
}

/* The tag of a node, by its last part; check_gap has seen to it that it is one
 * of ours. */
static void read_tag(struct yaml *y, struct fy_token *token, char tag[8])
{
    size_t bytes;
    const char *text = token_text(token, &bytes);
    static const char prefix[] = "tag:yaml.org,2002:";
    size_t skipped = sizeof prefix - 1;

    tag[0] = '\0';
    if (token == NULL) { return; }
    check_indent(y, token_offset(y, token), false);
    if (bytes <= skipped || bytes - skipped > 7 ||
        memcmp(text, prefix, skipped) != 0) {
        unlike(y, token_offset(y, token), "an unknown tag");
        return;
    }
    memcpy(tag, text + skipped, bytes - skipped);
    tag[bytes - skipped] = '\0';
}

/* What the scalar is, by its tag or by itself. A tag that does not fit its text
 * makes it MCP_SCALAR_OTHER. */
static enum mcp_scalar_kind kind_of(const struct scalar *scalar)
{
    static const struct {
        char tag[8];
        enum mcp_scalar_kind kind;
    } tags[] = {{"int", MCP_SCALAR_INT},
                {"float", MCP_SCALAR_FLOAT},
                {"null", MCP_SCALAR_NULL},
                {"bool", MCP_SCALAR_TRUE},
                {"bool", MCP_SCALAR_FALSE}};
    enum mcp_scalar_kind kind = mcp_scalar_resolve(scalar->text, scalar->bytes);

    if (scalar->tag[0] == '\0') {
        return scalar->style == FYSS_PLAIN ? kind : MCP_SCALAR_STRING;
    }
    if (strcmp(scalar->tag, "str") == 0) { return MCP_SCALAR_STRING; }
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++) {
        if (strcmp(scalar->tag, tags[i].tag) == 0 && kind == tags[i].kind) {
            return kind;
        }
    }
    return MCP_SCALAR_OTHER;
}

static void write_string(struct yaml *y, const struct scalar *scalar)
{
    static const char mark[] = "${";
    struct mcp_shown name = {""};
    const char *why;

    if (memmem(scalar->text, scalar->bytes, mark, 2) == NULL) {
        mcp_json_puts(&y->out, "\"");
        mcp_json_escaped(&y->out, scalar->text, scalar->bytes);
        mcp_json_puts(&y->out, "\"");
        return;
    }
    why = mcp_scalar_write_interpolated(scalar->text, scalar->bytes, &y->out,
                                        &name);
    if (why != NULL && why[0] == '\0') {
        char text[128];

        snprintf(text, sizeof text,
                 "the environment variable %s is not set; expected it, or a "
                 "default",
                 name.text);
        refuse(y, CLEAT_NOT_FOUND, scalar->begin, text);
    } else if (why != NULL) {
        unlike(y, scalar->begin, why);
    }
}

static void write_scalar(struct yaml *y, const struct scalar *scalar)
{
    const char *why = NULL;

    switch (kind_of(scalar)) {
    case MCP_SCALAR_STRING: write_string(y, scalar); return;
    case MCP_SCALAR_NULL: mcp_json_puts(&y->out, "null"); return;
    case MCP_SCALAR_FALSE: mcp_json_puts(&y->out, "false"); return;
    case MCP_SCALAR_TRUE: mcp_json_puts(&y->out, "true"); return;
    case MCP_SCALAR_INT:
        why = mcp_scalar_write_int(scalar->text, scalar->bytes, &y->out);
        break;
    case MCP_SCALAR_FLOAT:
        why = mcp_scalar_write_float(scalar->text, scalar->bytes, &y->out);
        break;
    case MCP_SCALAR_OTHER:
        why = "a value that is not supported here; quote it";
        break;
    }
    if (why != NULL) { unlike(y, scalar->begin, why); }
}

/* Keys of JSON are text; OmegaConf's may be more. */
static void write_key(struct yaml *y, const struct scalar *scalar)
{
    static const char mark[] = "${";

    check_key(y, scalar);
    if (scalar->tag[0] == '\0' && kind_of(scalar) == MCP_SCALAR_OTHER) {
        unlike(y, scalar->begin,
               "a merge key (<<) or '=', which is not supported");
    }
    if (scalar->tag[0] != '\0' || kind_of(scalar) != MCP_SCALAR_STRING) {
        unlike(y, scalar->begin,
               "a key that is read as a number, a boolean, null or more; "
               "expected text: quote it");
    } else if (memmem(scalar->text, scalar->bytes, mark, 2) != NULL) {
        unlike(y, scalar->begin, "an interpolation in a key");
    } else {
        write_string(y, scalar);
    }
}

static void take_scalar(struct yaml *y, const struct fy_event *event)
{
    struct scalar scalar;
    uint32_t anchor;
    size_t begin;

    open_scalar(y, event, &scalar);
    check_gap(y, scalar.begin);
    if (scalar.style == FYSS_PLAIN) { check_plain(y, &scalar); }
    if (is_block(&scalar)) { check_block(y, &scalar); }
    if (y->status == CLEAT_OK) { read_scalar(y, &scalar); }
    if (scalar.end > y->looked_at) { y->looked_at = scalar.end; }
    if (is_quoted(&scalar)) { y->looked_at++; }
    if (event->scalar.value != NULL && !is_block(&scalar)) {
        check_indent(y, scalar.begin - is_quoted(&scalar), false);
    }
    anchor = open_anchor(y, event->scalar.anchor);
    read_tag(y, event->scalar.tag, scalar.tag);
    if (y->depth == 0 && kind_of(&scalar) != MCP_SCALAR_NULL) {
        refuse(y, CLEAT_MALFORMED, scalar.begin,
               "a value alone; expected a mapping");
    }
    if (y->status != CLEAT_OK) { return; }
    y->out.bytes -= y->kept; /* for it is read while this is written */
    if (y->depth == 0) {
        mcp_json_puts(&y->out, "{}");
    } else if (is_key(y)) {
        begin_node(y, scalar.begin);
        write_key(y, &scalar);
    } else {
        begin_node(y, scalar.begin);
        begin = y->out.used;
        write_scalar(y, &scalar);
        close_anchor(y, anchor, begin);
    }
    if (y->out.used > y->out.bytes && y->out.used + y->kept > y->wanted) {
        y->wanted = y->out.used + y->kept;
    }
    y->out.bytes += y->kept;
    y->kept = 0;
}

/* ---- sequences and mappings ---------------------------------------------- */

static void open_level(struct yaml *y, bool is_map, bool is_flow,
                       struct fy_token *start, struct fy_token *anchor,
                       struct fy_token *tag)
{
    size_t at = token_offset(y, start);
    uint32_t number = open_anchor(y, anchor);
    char tag_text[8];
    struct level *level;

    read_tag(y, tag, tag_text);
    if (tag_text[0] != '\0' && strcmp(tag_text, is_map ? "map" : "seq") != 0) {
        unlike(y, at, "a tag that does not fit");
    }
    if (is_key(y)) { unlike(y, at, "a key that is no text"); }
    check_indent(y, at, !is_map && !is_flow && top(y)->is_map);
    if (y->depth == DEPTH_MAX) {
        refuse(y, CLEAT_LIMIT, at, "more than 64 levels");
    }
    if (y->status != CLEAT_OK) { return; }
    begin_node(y, at);
    y->depth++;
    level = top(y);
    memset(level, 0, sizeof *level);
    level->is_map = is_map;
    level->is_flow = is_flow;
    level->indent = mcp_place_of(y->text, at).column;
    level->at = y->out.used;
    level->anchor = number;
    mcp_json_puts(&y->out, is_map ? "{" : "[");
}

/* Looks for a key that comes twice. The words for it are what is left of the
 * block. */
static void check_keys(struct yaml *y, const struct level *level)
{
    struct cleat_json_value object = {level->at, y->out.used - level->at,
                                      CLEAT_JSON_OBJECT};
    uintptr_t text = (uintptr_t)y->out.text;
    uintptr_t words = (text + y->out.used + 3) & ~(uintptr_t)3;
    size_t count = level->members + 1;
    size_t wanted = (size_t)(words - text) + count * sizeof(uint32_t);
    struct cleat_error error;

    if (level->members < 2 || y->origin != NULL) { return; }
    if (wanted > y->wanted) { y->wanted = wanted; }
    if (wanted > y->out.bytes) { return; }
    if (cleat_json_unique_keys(y->out.text, &object, (uint32_t *)words, count,
                               &error) == CLEAT_EXISTS) {
        y->status = CLEAT_EXISTS;
        y->twice_at = (size_t)error.offset;
    }
}

static void close_level(struct yaml *y)
{
    struct level *level = top(y);

    mcp_json_puts(&y->out, level->is_map ? "}" : "]");
    close_anchor(y, level->anchor, level->at);
    if (level->is_map) { check_keys(y, level); }
    y->depth--;
}

/* ---- the whole ----------------------------------------------------------- */

static void take_event(struct yaml *y, struct fy_event *event)
{
    bool is_flow = fy_event_get_node_style(event) == FYNS_FLOW;

    switch (event->type) {
    case FYET_DOCUMENT_START:
        if (y->document) {
            unlike(y, token_offset(y, event->document_start.document_start),
                   "a second document");
        }
        y->document = true;
        break;
    case FYET_SCALAR: take_scalar(y, event); break;
    case FYET_ALIAS: take_alias(y, event); break;
    case FYET_SEQUENCE_START:
        open_level(y, false, is_flow, event->sequence_start.sequence_start,
                   event->sequence_start.anchor, event->sequence_start.tag);
        break;
    case FYET_MAPPING_START:
        open_level(y, true, is_flow, event->mapping_start.mapping_start,
                   event->mapping_start.anchor, event->mapping_start.tag);
        break;
    case FYET_SEQUENCE_END:
    case FYET_MAPPING_END: close_level(y); break;
    case FYET_STREAM_END: check_gap(y, y->bytes); break;
    case FYET_NONE:
    case FYET_STREAM_START:
    case FYET_DOCUMENT_END: break;
    }
}

/* libfyaml's own words, up to where they quote the text: it may hold a secret.
 */
static void refuse_syntax(struct yaml *y)
{
    void *position = NULL;
    const struct fy_diag_error *first = fy_diag_errors_iterate(y->diag,
                                                               &position);
    struct mcp_place place = {1, 1};
    char why[96] = "not YAML";

    if (first != NULL && first->msg != NULL) {
        size_t bytes = strcspn(first->msg, "'\"(\n");

        snprintf(why, sizeof why, "%.*s%s", (int)bytes, first->msg,
                 first->msg[bytes] != '\0' ? "..." : "");
    }
    if (first != NULL && first->line > 0) {
        place.line = (uint32_t)first->line;
    }
    if (first != NULL && first->column > 0) {
        place.column = (uint32_t)first->column;
    }
    refuse_at(y, CLEAT_MALFORMED, place, why);
}

static void parse(struct yaml *y)
{
    struct fy_event *event = NULL;

    if (fy_parser_set_string(y->parser, y->text, y->bytes) != 0) {
        refuse(y, CLEAT_IO, 0, "libfyaml could not read it");
    }
    while (y->status == CLEAT_OK) {
        event = fy_parser_parse(y->parser);
        if (event == NULL) { break; }
        take_event(y, event);
        fy_parser_event_free(y->parser, event);
    }
    if (y->status == CLEAT_OK && fy_parser_get_stream_error(y->parser)) {
        refuse_syntax(y);
    }
    if (y->status == CLEAT_OK && !y->document) { mcp_json_puts(&y->out, "{}"); }
}

/* Runs libfyaml over a text that has been checked. */
static void parse_with_fyaml(struct yaml *y)
{
    struct fy_diag_cfg diag_config;
    struct fy_parse_cfg config;

    memset(&config, 0, sizeof config);
    fy_diag_cfg_default(&diag_config);
    diag_config.fp = NULL;
    y->diag = fy_diag_create(&diag_config);
    if (y->diag != NULL) {
        fy_diag_set_collect_errors(y->diag, true);
        config.flags = FYPCF_QUIET | FYPCF_COLLECT_DIAG |
                       FYPCF_DEFAULT_VERSION_1_2;
        config.diag = y->diag;
        y->parser = fy_parser_create(&config);
    }
    if (y->parser != NULL) {
        parse(y);
    } else {
        refuse(y, CLEAT_IO, 0, "libfyaml could not start");
    }
    if (y->parser != NULL) { fy_parser_destroy(y->parser); }
    if (y->diag != NULL) { fy_diag_destroy(y->diag); }
}

/* What libfyaml gave is looked over once more: it says what is nested too
 * deeply by aliases, and vouches for the rest. */
static void check_json(struct yaml *y)
{
    struct cleat_error error;

    if (y->wanted < y->out.used) { y->wanted = y->out.used; }
    if (y->wanted > y->out.bytes) {
        y->status = cleat_error_set(y->error, CLEAT_TOO_SMALL, 0, y->wanted,
                                    "yaml: the block is too small");
    } else if (cleat_json_check(y->out.text, y->out.used, NULL, NULL, &error) !=
               CLEAT_OK) {
        refuse(y, error.status, 0,
               error.status == CLEAT_LIMIT ? "more than 64 levels, by aliases"
                                           : "it cannot be written as JSON");
    }
}

enum cleat_status mcp_yaml_convert(const char *file, const char *text,
                                   size_t bytes, char *json, size_t json_bytes,
                                   size_t *json_bytes_out,
                                   struct mcp_yaml_origin *origin,
                                   struct cleat_error *error)
{
    struct yaml y;

    memset(&y, 0, sizeof y);
    if (bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) {
        text += 3;
        bytes -= 3;
    }
    y.file = file;
    y.text = text;
    y.bytes = bytes;
    y.out.text = json;
    y.out.bytes = json_bytes;
    y.origin = origin;
    y.error = error;
    *json_bytes_out = 0;
    check_text(&y);
    if (y.status == CLEAT_OK) { parse_with_fyaml(&y); }
    if (y.status == CLEAT_OK) { check_json(&y); }
    if (y.status == CLEAT_OK) { *json_bytes_out = y.out.used; }
    if (y.status == CLEAT_EXISTS && y.twice_at != 0) {
        struct mcp_yaml_origin twice = {y.twice_at, {1, 1}};

        /* Once more, to learn where it came from. */
        mcp_yaml_convert(file, text, bytes, json, json_bytes, json_bytes_out,
                         &twice, NULL);
        *json_bytes_out = 0;
        y.status = CLEAT_OK;
        refuse_at(&y, CLEAT_EXISTS, twice.place,
                  "a key that its mapping has already");
    }
    return y.status;
}

enum cleat_status mcp_yaml_to_json(const char *file, const char *text,
                                   size_t bytes, char *json, size_t json_bytes,
                                   size_t *json_bytes_out,
                                   struct cleat_error *error)
{
    return mcp_yaml_convert(file, text, bytes, json, json_bytes, json_bytes_out,
                            NULL, error);
}
