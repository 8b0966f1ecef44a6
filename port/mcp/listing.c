/* Cleat: pages of tools/list, made one list. SPDX-License-Identifier:
 * Apache-2.0 */
#include "listing.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "headers.h"

enum cleat_status mcp_fail(struct cleat_error *error, enum cleat_status status,
                           const char *format, ...)
{
    char text[CLEAT_ERROR_TEXT_MAX];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return cleat_error_set(error, status, 0, 0, text);
}

/* ---- a tool ------------------------------------------------------------- */

enum field {
    NAME,
    TITLE,
    DESCRIPTION,
    INPUT_SCHEMA,
    OUTPUT_SCHEMA,
    ANNOTATIONS,
    FIELDS
};

/* A tool object of a page: its members, each of the type that it must have. */
struct tool {
    const char *text;
    struct cleat_json_value object;
    struct mcp_member fields[FIELDS];
    struct cleat_text wire_name;
};

/* Members that are null count as absent: some servers write them so. */
static bool has_type(struct mcp_member *member, enum cleat_json_type type)
{
    if (member->there && member->value.type == CLEAT_JSON_NULL) {
        member->there = false;
    }
    return !member->there || member->value.type == type;
}

static enum cleat_status open_tool(struct tool *tool, uint32_t number,
                                   struct cleat_error *error)
{
    static const char *const names[FIELDS] = {"name",         "title",
                                              "description",  "inputSchema",
                                              "outputSchema", "annotations"};
    static const enum cleat_json_type types[FIELDS] = {
        CLEAT_JSON_STRING, CLEAT_JSON_STRING, CLEAT_JSON_STRING,
        CLEAT_JSON_OBJECT, CLEAT_JSON_OBJECT, CLEAT_JSON_OBJECT};

    for (size_t i = 0; i < FIELDS; i++) { tool->fields[i].name = names[i]; }
    if (!mcp_members(tool->text, &tool->object, tool->fields, FIELDS)) {
        return mcp_fail(error, CLEAT_PEER_DEVIANT,
                        "tool %u of a page is no object, or has a member twice",
                        number);
    }
    for (size_t i = 0; i < FIELDS; i++) {
        bool needed = i == NAME || i == INPUT_SCHEMA;

        if (!has_type(&tool->fields[i], types[i]) ||
            (needed && !tool->fields[i].there)) {
            return mcp_fail(error, CLEAT_PEER_DEVIANT,
                            "tool %u of a page: its %s is missing or not of "
                            "the type that the protocol says",
                            number, names[i]);
        }
    }
    return CLEAT_OK;
}

/* Room that is given out from its start, for one tool. */
struct room {
    char *at;
    size_t bytes;
};

static bool take_string(struct room *room, const struct tool *tool,
                        enum field field, uint32_t options,
                        struct cleat_text *string)
{
    *string = mcp_text("", 0);
    if (!tool->fields[field].there) { return true; }
    if (!mcp_string(tool->text, &tool->fields[field].value, options, room->at,
                    room->bytes, string)) {
        return false;
    }
    if (string->text == room->at) {
        room->at += string->bytes;
        room->bytes -= string->bytes;
    }
    return true;
}

static enum cleat_status take_name(struct tool *tool, struct room *room,
                                   uint32_t number, struct cleat_error *error)
{
    if (!take_string(room, tool, NAME, 0, &tool->wire_name) ||
        tool->wire_name.bytes == 0) {
        return mcp_fail(error, CLEAT_PEER_DEVIANT,
                        "tool %u of a page: its name is empty, or holds what "
                        "no name may (a NUL, half a character)",
                        number);
    }
    return CLEAT_OK;
}

static struct cleat_text field_text(const struct tool *tool, enum field field)
{
    return tool->fields[field].there
               ? mcp_slice(tool->text, &tool->fields[field].value)
               : mcp_text("", 0);
}

/* The prefix and the wire name, joined. */
static bool join_name(const struct cleat_text *prefix,
                      const struct cleat_text *wire_name, struct room *room,
                      struct cleat_text *name)
{
    size_t bytes = prefix->bytes + wire_name->bytes;

    *name = *wire_name;
    if (prefix->bytes == 0) { return true; }
    if (bytes > room->bytes) { return false; }
    memcpy(room->at, prefix->text, prefix->bytes);
    memcpy(room->at + prefix->bytes, wire_name->text, wire_name->bytes);
    *name = mcp_text(room->at, bytes);
    room->at += bytes;
    room->bytes -= bytes;
    return true;
}

/* ---- what was selected -------------------------------------------------- */

/* Calls for each name of the selection; false after the last one. A selection
 * that is no JSON array selects nothing; names that no tool can have are
 * passed over. */
struct selection {
    struct cleat_text json;
    struct cleat_json_cursor cursor;
};

static bool open_selection(struct selection *selection, struct cleat_text json)
{
    struct cleat_json_value root;

    selection->json = json;
    if (json.bytes == 0) { return false; }
    if (cleat_json_check(json.text, json.bytes, NULL, &root, NULL) !=
            CLEAT_OK ||
        root.type != CLEAT_JSON_ARRAY) {
        root = (struct cleat_json_value){0, 1, CLEAT_JSON_NULL};
    }
    cleat_json_open(json.text, &root, &selection->cursor);
    return true;
}

static bool next_selected(struct selection *selection, struct room room,
                          struct cleat_text *name)
{
    struct cleat_json_value item;

    while (
        cleat_json_next_item(selection->json.text, &selection->cursor, &item)) {
        if (mcp_string(selection->json.text, &item, 0, room.at, room.bytes,
                       name)) {
            return true;
        }
    }
    return false;
}

static bool is_selected(const struct mcp_list *list, struct room room,
                        struct cleat_text wire_name)
{
    struct selection selection;
    struct cleat_text name;

    if (!open_selection(&selection, list->selected)) { return true; }
    while (next_selected(&selection, room, &name)) {
        if (mcp_same(name, wire_name)) { return true; }
    }
    return false;
}

/* Notes a name that there is, for the error about one that there is not. */
static void note_name(struct mcp_listing *listing, struct cleat_text name)
{
    size_t left = sizeof listing->there - listing->there_bytes;
    char *at = listing->there + listing->there_bytes;

    if (left <= 6) { return; }
    if (listing->there_bytes > 0) {
        memcpy(at, ", ", 2);
        at += 2;
        left -= 2;
    }
    mcp_clean(name, left - 1, at, left);
    listing->there_bytes = (size_t)(at - listing->there) + strlen(at);
    if (strlen(at) < name.bytes) {
        listing->there_bytes = sizeof listing->there;
    }
}

/* ---- a page ------------------------------------------------------------- */

static enum cleat_status too_long(struct cleat_error *error)
{
    return mcp_fail(error, CLEAT_LIMIT,
                    "a tool's texts are longer than a message may be");
}

static enum cleat_status keep(struct mcp_listing *listing,
                              const struct mcp_listing_rules *rules,
                              struct tool *tool, struct room room,
                              struct cleat_error *error)
{
    struct cleat_tool made;
    enum cleat_status status;

    memset(&made, 0, sizeof made);
    made.wire_name = tool->wire_name;
    if (!join_name(&rules->list->prefix, &made.wire_name, &room, &made.name) ||
        !take_string(&room, tool, TITLE,
                     CLEAT_JSON_ALLOW_NUL | CLEAT_JSON_REPLACE_LONE,
                     &made.title) ||
        !take_string(&room, tool, DESCRIPTION,
                     CLEAT_JSON_ALLOW_NUL | CLEAT_JSON_REPLACE_LONE,
                     &made.description)) {
        return too_long(error);
    }
    if (rules->list->prefix.bytes > 0) {
        made.wire_name.text = made.name.text + rules->list->prefix.bytes;
    }
    made.definition = mcp_slice(tool->text, &tool->object);
    made.input_schema = field_text(tool, INPUT_SCHEMA);
    made.output_schema = field_text(tool, OUTPUT_SCHEMA);
    made.annotations = field_text(tool, ANNOTATIONS);
    made.class_name = rules->list->class_name;
    status = cleat_tools_add(&listing->writer, &made, error);
    if (status == CLEAT_EXISTS) {
        cleat_tools_leave_out(&listing->writer);
        listing->left_out++;
        return CLEAT_OK;
    }
    if (status == CLEAT_TOO_SMALL) {
        listing->too_small = true;
        status = CLEAT_OK;
    }
    listing->kept++;
    return status;
}

static enum cleat_status add_tool(struct mcp_listing *listing,
                                  const struct mcp_listing_rules *rules,
                                  struct tool *tool, uint32_t number,
                                  struct cleat_error *error)
{
    struct room room = {rules->room, rules->room_bytes};
    enum cleat_status status = open_tool(tool, number, error);

    if (status == CLEAT_OK) { status = take_name(tool, &room, number, error); }
    if (status != CLEAT_OK) { return status; }
    if (rules->check_headers &&
        !mcp_headers_allowed(tool->text, &tool->fields[INPUT_SCHEMA].value)) {
        if (is_selected(rules->list, room, tool->wire_name)) {
            cleat_tools_leave_out(&listing->writer);
            listing->left_out++;
        }
        return CLEAT_OK;
    }
    note_name(listing, tool->wire_name);
    if (!is_selected(rules->list, room, tool->wire_name)) { return CLEAT_OK; }
    if (listing->kept >= rules->tools_max) {
        return mcp_fail(error, CLEAT_LIMIT,
                        "it lists more tools than tools_max, %u",
                        rules->tools_max);
    }
    return keep(listing, rules, tool, room, error);
}

/* MCP 2026-07-28, Caching: what is not a whole number of milliseconds above
 * zero is stale at once, and so is a result that says nothing. But one that
 * has no mark of that revision at all comes from a server that does not know
 * it, and has said nothing. */
static uint64_t ttl_of(const char *text, const struct mcp_member *ttl,
                       bool has_mark)
{
    uint64_t ms = 0;

    if (!ttl->there) { return has_mark ? 0 : CLEAT_NONE; }
    switch (cleat_json_u64(text, &ttl->value, &ms, NULL)) {
    case CLEAT_OK: break;
    case CLEAT_LIMIT: return CLEAT_NONE - 1;
    default: return 0;
    }
    return ms < (CLEAT_NONE - 1) / CLEAT_NS_PER_MS ? ms * CLEAT_NS_PER_MS
                                                   : CLEAT_NONE - 1;
}

/* A cursor that was seen before would lead round and round. */
static enum cleat_status follow(struct mcp_listing *listing,
                                const struct mcp_listing_rules *rules,
                                struct cleat_text cursor,
                                struct cleat_error *error)
{
    uint64_t hash = mcp_hash(cursor);

    if (listing->pages >= rules->pages_max) {
        return mcp_fail(error, CLEAT_LIMIT,
                        "its list has more pages than pages_max, %u",
                        rules->pages_max);
    }
    if (listing->pages > 1 &&
        (hash == listing->cursor_sent || hash == listing->cursor_kept)) {
        return mcp_fail(error, CLEAT_PEER_DEVIANT,
                        "its list has no end: a page's nextCursor leads back "
                        "to a page before (after %u pages)",
                        listing->pages);
    }
    if (listing->steps == listing->steps_max) {
        listing->cursor_kept = hash;
        listing->steps = 0;
        listing->steps_max = listing->steps_max > 0 ? 2 * listing->steps_max
                                                    : 1;
    }
    listing->steps++;
    listing->cursor_sent = hash;
    return CLEAT_OK;
}

enum page_field { TOOLS, CURSOR, TTL, SCOPE, RESULT_TYPE, PAGE_FIELDS };

static enum cleat_status
open_page(const struct mcp_listing_rules *rules, struct mcp_listing *listing,
          const char *text, const struct cleat_json_value *result,
          struct mcp_member *page, struct cleat_error *error)
{
    static const char *const names[PAGE_FIELDS] = {
        "tools", "nextCursor", "ttlMs", "cacheScope", "resultType"};
    uint64_t ttl_ns;

    for (size_t i = 0; i < PAGE_FIELDS; i++) { page[i].name = names[i]; }
    if (!mcp_members(text, result, page, PAGE_FIELDS) || !page[TOOLS].there ||
        page[TOOLS].value.type != CLEAT_JSON_ARRAY) {
        return mcp_fail(error, CLEAT_PEER_DEVIANT,
                        "its answer to tools/list has no array `tools`, or a "
                        "member twice");
    }
    if (!has_type(&page[CURSOR], CLEAT_JSON_STRING)) {
        return mcp_fail(error, CLEAT_PEER_DEVIANT,
                        "its answer to tools/list has a nextCursor that is no "
                        "string");
    }
    if (rules->modern) {
        /* Who may share the list (cacheScope) makes no difference: it is kept
         * by all that defines its source, credentials included. */
        ttl_ns = ttl_of(text, &page[TTL],
                        page[SCOPE].there || page[RESULT_TYPE].there);
        if (ttl_ns < listing->ttl_ns) { listing->ttl_ns = ttl_ns; }
    }
    listing->pages++;
    return CLEAT_OK;
}

static enum cleat_status close_page(struct mcp_listing *listing,
                                    const struct mcp_listing_rules *rules,
                                    const char *text,
                                    const struct mcp_member *page,
                                    struct cleat_json_value *cursor, bool *more,
                                    struct cleat_error *error)
{
    *more = page[CURSOR].there;
    if (!*more) { return CLEAT_OK; }
    *cursor = page[CURSOR].value;
    return follow(listing, rules, mcp_slice(text, cursor), error);
}

/* ---- the walk ----------------------------------------------------------- */

enum cleat_status mcp_listing_begin(struct mcp_listing *listing,
                                    const struct mcp_listing_rules *rules,
                                    struct cleat_error *error)
{
    memset(listing, 0, sizeof *listing);
    listing->ttl_ns = CLEAT_NONE;
    return cleat_tools_begin(&listing->writer, rules->list->block,
                             rules->list->bytes, CLEAT_TOOLS_MCP, rules->server,
                             error);
}

enum cleat_status mcp_listing_page(struct mcp_listing *listing,
                                   const struct mcp_listing_rules *rules,
                                   const char *text,
                                   const struct cleat_json_value *result,
                                   struct cleat_json_value *cursor, bool *more,
                                   struct cleat_error *error)
{
    struct mcp_member page[PAGE_FIELDS];
    struct cleat_json_cursor items;
    struct tool tool = {.text = text};
    uint32_t number = 0;
    enum cleat_status status = open_page(rules, listing, text, result, page,
                                         error);

    if (status != CLEAT_OK) { return status; }
    cleat_json_open(text, &page[TOOLS].value, &items);
    while (cleat_json_next_item(text, &items, &tool.object)) {
        status = add_tool(listing, rules, &tool, number, error);
        if (status != CLEAT_OK) { return status; }
        number++;
    }
    return close_page(listing, rules, text, page, cursor, more, error);
}

static enum cleat_status not_there(const struct mcp_listing *listing,
                                   struct cleat_text name,
                                   struct cleat_error *error)
{
    char shown[40];

    mcp_clean(name, sizeof shown - 1, shown, sizeof shown);
    return mcp_fail(error, CLEAT_NOT_FOUND,
                    "the selected tool %s is not among its tools%s: %.*s%s",
                    shown, listing->left_out > 0 ? " (some left out)" : "",
                    (int)strlen(listing->there), listing->there,
                    listing->there[0] == '\0' ? "it has none" : "");
}

/* Every name that was selected must be in the list. */
static enum cleat_status check_selected(const struct mcp_listing *listing,
                                        const struct mcp_listing_rules *rules,
                                        const struct cleat_tools *tools,
                                        struct cleat_error *error)
{
    struct selection selection;
    struct cleat_text wire_name;
    size_t half = rules->room_bytes / 2;
    struct room words = {rules->room, half};

    if (!open_selection(&selection, rules->list->selected) ||
        rules->list->selected_some) {
        return CLEAT_OK;
    }
    while (next_selected(&selection, words, &wire_name)) {
        struct room room = {rules->room + half, half};
        struct cleat_text name;
        uint32_t number;

        if (!join_name(&rules->list->prefix, &wire_name, &room, &name)) {
            return too_long(error);
        }
        if (cleat_tools_find(tools, name.text, name.bytes, &number) !=
            CLEAT_OK) {
            return not_there(listing, wire_name, error);
        }
    }
    return CLEAT_OK;
}

enum cleat_status mcp_listing_end(struct mcp_listing *listing,
                                  const struct mcp_listing_rules *rules,
                                  size_t *bytes, struct cleat_error *error)
{
    const struct cleat_tools *tools;
    enum cleat_status status = cleat_tools_end(&listing->writer, &tools, error);

    *bytes = 0;
    if (status == CLEAT_OK) {
        status = check_selected(listing, rules, tools, error);
    }
    if (status == CLEAT_OK) { *bytes = cleat_tools_bytes(tools); }
    return status;
}

enum cleat_status mcp_listing_look(
    struct mcp_listing *listing, const struct mcp_listing_rules *rules,
    const char *text, const struct cleat_json_value *result,
    struct cleat_text name, struct cleat_json_value *schema,
    struct cleat_json_value *cursor, bool *more, struct cleat_error *error)
{
    struct mcp_member page[PAGE_FIELDS];
    struct cleat_json_cursor items;
    struct tool tool = {.text = text};
    uint32_t number = 0;
    enum cleat_status status = open_page(rules, listing, text, result, page,
                                         error);

    if (status != CLEAT_OK) { return status; }
    cleat_json_open(text, &page[TOOLS].value, &items);
    while (cleat_json_next_item(text, &items, &tool.object)) {
        struct room room = {rules->room, rules->room_bytes};

        status = open_tool(&tool, number, error);
        if (status == CLEAT_OK) {
            status = take_name(&tool, &room, number++, error);
        }
        if (status != CLEAT_OK) { return status; }
        if (!mcp_same(tool.wire_name, name)) { continue; }
        *schema = tool.fields[INPUT_SCHEMA].value;
        return mcp_headers_allowed(text, schema)
                   ? CLEAT_OK
                   : mcp_fail(error, CLEAT_PEER_DEVIANT,
                              "the tool has an x-mcp-header that is not "
                              "allowed");
    }
    status = close_page(listing, rules, text, page, cursor, more, error);
    return status == CLEAT_OK ? CLEAT_NOT_FOUND : status;
}
