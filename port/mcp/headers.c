/* Cleat: what MCP 2026-07-28 mirrors into HTTP headers.
 * SPDX-License-Identifier: Apache-2.0 */
#include "headers.h"

#include <string.h>

/* More annotations than this in one tool are not allowed either. */
#define ANNOTATIONS_MAX 64u
#define NAME_BYTES_MAX 128u

/* ---- a walk over a schema's annotations --------------------------------- */

/* What the members of an object, or the items of an array, are. */
enum place {
    SCHEMA, /* keywords of a schema that is reached by `properties` alone */
    NAMES,  /* its properties: names, each with a schema */
    AWAY,   /* keywords, or schemas, anywhere else */
    AWAY_NAMES
};

struct level {
    struct cleat_json_value value;
    struct cleat_json_cursor cursor;
    enum place place;
    struct cleat_json_value instance; /* SCHEMA, NAMES: what the arguments have
                                         there */
    bool has_instance;
};

struct walk {
    const char *text;
    const char *arguments; /* NULL: none */
    char *room;
    size_t room_bytes;
    size_t depth;
    struct level levels[CLEAT_JSON_DEPTH_MAX + 1];
};

/* One "x-mcp-header", wherever it stands. */
struct annotation {
    struct cleat_json_value name;
    struct cleat_json_value schema; /* that it stands in */
    bool reachable;
    struct cleat_json_value instance;
    bool has_instance;
};

static bool is_container(const struct cleat_json_value *value)
{
    return value->type == CLEAT_JSON_OBJECT || value->type == CLEAT_JSON_ARRAY;
}

static struct level *
push(struct walk *walk, const struct cleat_json_value *value, enum place place)
{
    struct level *level = &walk->levels[walk->depth];

    if (!is_container(value) || walk->depth > CLEAT_JSON_DEPTH_MAX) {
        return NULL;
    }
    level->value = *value;
    level->place = value->type == CLEAT_JSON_OBJECT ? place : AWAY;
    level->has_instance = false;
    cleat_json_open(walk->text, value, &level->cursor);
    walk->depth++;
    return level;
}

/* The member of the instance that has the name of a property. */
static bool find_instance(const struct walk *walk,
                          const struct cleat_json_value *name,
                          const struct cleat_json_value *object,
                          struct cleat_json_value *found)
{
    struct cleat_json_cursor cursor;
    struct cleat_json_value key;
    struct cleat_json_value value;
    struct cleat_text wanted;
    struct cleat_text given;
    size_t half = walk->room_bytes / 2;

    if (!mcp_string(walk->text, name, CLEAT_JSON_ALLOW_NUL, walk->room, half,
                    &wanted)) {
        return false;
    }
    cleat_json_open(walk->arguments, object, &cursor);
    while (object->type == CLEAT_JSON_OBJECT &&
           cleat_json_next_member(walk->arguments, &cursor, &key, &value)) {
        if (mcp_string(walk->arguments, &key, CLEAT_JSON_ALLOW_NUL,
                       walk->room + half, half, &given) &&
            mcp_same(wanted, given)) {
            *found = value;
            return true;
        }
    }
    return false;
}

/* A property of a reachable schema. */
static void enter_property(struct walk *walk, const struct level *names,
                           const struct cleat_json_value *name,
                           const struct cleat_json_value *schema)
{
    struct level *level = push(walk, schema, SCHEMA);

    if (level != NULL && names->has_instance) {
        level->has_instance = find_instance(walk, name, &names->instance,
                                            &level->instance);
    }
}

static bool is_one_of(const struct walk *walk,
                      const struct cleat_json_value *key,
                      const char *const *names)
{
    for (; *names != NULL; names++) {
        if (cleat_json_equals(walk->text, key, *names)) { return true; }
    }
    return false;
}

/* A keyword of a schema: where does its value belong? */
static void enter_keyword(struct walk *walk, const struct level *schema,
                          const struct cleat_json_value *key,
                          const struct cleat_json_value *value)
{
    static const char *const data[] = {"default", "const", "enum", "examples",
                                       NULL};
    static const char *const names[] = {
        "patternProperties", "$defs", "definitions", "dependentSchemas", NULL};
    struct level *level;

    if (!is_container(value) || is_one_of(walk, key, data)) { return; }
    if (cleat_json_equals(walk->text, key, "properties")) {
        level = push(walk, value, schema->place == SCHEMA ? NAMES : AWAY_NAMES);
        if (level != NULL) {
            level->has_instance = schema->has_instance;
            level->instance = schema->instance;
        }
    } else {
        (void)push(walk, value,
                   is_one_of(walk, key, names) ? AWAY_NAMES : AWAY);
    }
}

static void begin(struct walk *walk, const char *text,
                  const struct cleat_json_value *schema)
{
    walk->text = text;
    walk->arguments = NULL;
    walk->room = NULL;
    walk->room_bytes = 0;
    walk->depth = 0;
    (void)push(walk, schema, SCHEMA);
}

/* The next annotation, in the order of the text. Returns false after the last
 * one. */
static bool next(struct walk *walk, struct annotation *annotation)
{
    struct cleat_json_value key;
    struct cleat_json_value value;

    while (walk->depth > 0) {
        struct level *level = &walk->levels[walk->depth - 1];

        if (level->value.type == CLEAT_JSON_ARRAY) {
            if (!cleat_json_next_item(walk->text, &level->cursor, &value)) {
                walk->depth--;
            } else {
                (void)push(walk, &value, AWAY);
            }
            continue;
        }
        if (!cleat_json_next_member(walk->text, &level->cursor, &key, &value)) {
            walk->depth--;
        } else if (level->place == NAMES) {
            enter_property(walk, level, &key, &value);
        } else if (level->place == AWAY_NAMES) {
            (void)push(walk, &value, AWAY);
        } else if (cleat_json_equals(walk->text, &key, "x-mcp-header")) {
            annotation->name = value;
            annotation->schema = level->value;
            annotation->reachable = level->place == SCHEMA && walk->depth > 1;
            annotation->has_instance = level->has_instance;
            annotation->instance = level->instance;
            return true;
        } else {
            enter_keyword(walk, level, &key, &value);
        }
    }
    return false;
}

/* ---- what is allowed ---------------------------------------------------- */

/* tchar of RFC 9110, section 5.6.2. */
static bool is_token(struct cleat_text text)
{
    static const char marks[] = "!#$%&'*+-.^_`|~";

    for (size_t i = 0; i < text.bytes; i++) {
        char c = text.text[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                      (c >= '0' && c <= '9');

        if (!letter && (c == '\0' || strchr(marks, c) == NULL)) {
            return false;
        }
    }
    return text.bytes > 0;
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool same_name(struct cleat_text a, struct cleat_text b)
{
    if (a.bytes != b.bytes) { return false; }
    for (size_t i = 0; i < a.bytes; i++) {
        if (lower(a.text[i]) != lower(b.text[i])) { return false; }
    }
    return true;
}

static bool is_primitive(const char *text,
                         const struct cleat_json_value *schema)
{
    static const char *const types[] = {"string", "integer", "boolean"};
    struct mcp_member type = {.name = "type"};

    if (!mcp_members(text, schema, &type, 1) || !type.there) { return false; }
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (cleat_json_equals(text, &type.value, types[i])) { return true; }
    }
    return false;
}

/* One annotation by itself, with its name. */
static bool is_allowed(const char *text, const struct annotation *annotation,
                       char *room, struct cleat_text *name)
{
    return annotation->reachable &&
           mcp_string(text, &annotation->name, 0, room, NAME_BYTES_MAX, name) &&
           name->bytes < NAME_BYTES_MAX && is_token(*name) &&
           is_primitive(text, &annotation->schema);
}

bool mcp_headers_allowed(const char *text,
                         const struct cleat_json_value *schema)
{
    struct walk walk;
    struct annotation annotation;
    struct cleat_text names[ANNOTATIONS_MAX];
    char rooms[ANNOTATIONS_MAX][NAME_BYTES_MAX];
    size_t count = 0;

    begin(&walk, text, schema);
    while (next(&walk, &annotation)) {
        if (count == ANNOTATIONS_MAX ||
            !is_allowed(text, &annotation, rooms[count], &names[count])) {
            return false;
        }
        for (size_t i = 0; i < count; i++) {
            if (same_name(names[i], names[count])) { return false; }
        }
        count++;
    }
    return true;
}

/* ---- values ------------------------------------------------------------- */

bool mcp_headers_plain(struct cleat_text value)
{
    for (size_t i = 0; i < value.bytes; i++) {
        char c = value.text[i];

        if (c < 0x20 || c > 0x7E) { return false; }
    }
    return value.bytes > 0 && value.text[0] != ' ' &&
           value.text[value.bytes - 1] != ' ';
}

static bool looks_encoded(struct cleat_text value)
{
    static const char before[] = "=?base64?";
    static const char after[] = "?=";

    return value.bytes >= sizeof before - 1 &&
           memcmp(value.text, before, sizeof before - 1) == 0 &&
           memcmp(value.text + value.bytes - 2, after, 2) == 0;
}

void mcp_headers_value(struct mcp_out *out, struct cleat_text value)
{
    bool plain = value.bytes == 0 || mcp_headers_plain(value);

    if (plain && !looks_encoded(value)) {
        mcp_put_text(out, value);
        return;
    }
    mcp_put(out, "=?base64?");
    mcp_put_base64(out, value);
    mcp_put(out, "?=");
}

/* The text of a value that is mirrored; false: it is not. */
static bool value_of(const struct walk *walk,
                     const struct cleat_json_value *value,
                     struct cleat_text *text)
{
    switch (value->type) {
    case CLEAT_JSON_STRING:
        return mcp_string(walk->arguments, value,
                          CLEAT_JSON_ALLOW_NUL | CLEAT_JSON_REPLACE_LONE,
                          walk->room, walk->room_bytes, text);
    case CLEAT_JSON_NUMBER:
    case CLEAT_JSON_TRUE:
    case CLEAT_JSON_FALSE:
        *text = mcp_slice(walk->arguments, value);
        return true;
    case CLEAT_JSON_NULL:
    case CLEAT_JSON_ARRAY:
    case CLEAT_JSON_OBJECT: break;
    }
    return false;
}

void mcp_headers_params(struct mcp_out *out, struct cleat_text schema,
                        struct cleat_text arguments, char *room,
                        size_t room_bytes)
{
    struct walk walk;
    struct annotation annotation;
    struct cleat_json_value schema_root;
    struct cleat_json_value arguments_root;

    if (cleat_json_check(schema.text, schema.bytes, NULL, &schema_root, NULL) !=
            CLEAT_OK ||
        cleat_json_check(arguments.text, arguments.bytes, NULL, &arguments_root,
                         NULL) != CLEAT_OK) {
        return;
    }
    begin(&walk, schema.text, &schema_root);
    if (walk.depth == 0) { return; }
    walk.arguments = arguments.text;
    walk.room = room;
    walk.room_bytes = room_bytes;
    walk.levels[0].has_instance = true;
    walk.levels[0].instance = arguments_root;
    while (next(&walk, &annotation)) {
        char name_room[NAME_BYTES_MAX];
        struct cleat_text name;
        struct cleat_text value;

        if (!annotation.has_instance ||
            !is_allowed(schema.text, &annotation, name_room, &name) ||
            !value_of(&walk, &annotation.instance, &value)) {
            continue;
        }
        mcp_put(out, "Mcp-Param-");
        mcp_put_text(out, name);
        mcp_put(out, ": ");
        mcp_headers_value(out, value);
        mcp_put(out, "\n");
    }
}
