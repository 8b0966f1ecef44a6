/* Cleat: the words of the tool service. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "tools_state.h"

/* Room for how often and for how long, behind the words. */
#define TAIL_BYTES 64u

/* ---- lines -------------------------------------------------------------- */

/* One line that ends with a whole character. */
static void tidy(char *text)
{
    size_t bytes = strlen(text);
    size_t whole = bytes;

    for (size_t i = 0; i < bytes; i++) {
        if ((unsigned char)text[i] < 0x20) { text[i] = ' '; }
    }
    while (whole > 0 && ((unsigned char)text[whole - 1] & 0xC0) == 0x80) {
        whole--;
    }
    /* UTF-8's first byte says how many there are: 110…, 1110…, 11110… */
    if (whole > 0 && (unsigned char)text[whole - 1] >= 0xC0) {
        unsigned char first = (unsigned char)text[whole - 1];
        size_t wanted = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;

        if (bytes - (whole - 1) < wanted) { text[whole - 1] = '\0'; }
    }
}

enum cleat_status tool_service_say(struct cleat_error *error,
                                   enum cleat_status status, uint64_t index,
                                   uint64_t offset, const char *format, ...)
{
    char line[CLEAT_ERROR_TEXT_MAX];
    va_list arguments;

    if (error == NULL) { return status; }
    va_start(arguments, format);
    (void)vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    tidy(line);
    return cleat_error_set(error, status, index, offset, line);
}

enum cleat_status tool_service_say_closed(struct cleat_error *error)
{
    return cleat_error_set(error, CLEAT_CANCELLED, 0, 0,
                           "tools: the service is closed");
}

const char *tool_service_file(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash != NULL && slash[1] != '\0' ? slash + 1 : path;
}

/* ---- how a load went ---------------------------------------------------- */

void tool_service_note(struct tools_known *known, uint64_t now_ns,
                       enum cleat_status status,
                       const struct cleat_error *error)
{
    known->elapsed_ns = now_ns - known->began_ns;
    if (status == CLEAT_OK) {
        memset(&known->error, 0, sizeof known->error);
    } else if (error != NULL && error->status == status &&
               error->text[0] != '\0') {
        known->error = *error;
    } else {
        (void)cleat_error_set(&known->error, status, 0, 0,
                              cleat_status_sentence(status));
    }
}

/* " (PEER_SILENT), 3 attempts in 63.0 s" */
static void say_tail(char *tail, const struct tools_known *known,
                     enum cleat_status status)
{
    (void)snprintf(tail, TAIL_BYTES,
                   " (%s), %" PRIu32 " attempt%s in %" PRIu64 ".%" PRIu64 " s",
                   cleat_status_name(status), known->attempts,
                   known->attempts == 1 ? "" : "s",
                   known->elapsed_ns / CLEAT_NS_PER_S,
                   known->elapsed_ns / (CLEAT_NS_PER_S / 10) % 10);
}

/* "tools.yaml: server everything: " */
static void say_who(char *who, size_t bytes, const struct tools_get *get,
                    uint32_t source)
{
    const char *file = tool_service_file(get->path);
    const struct cleat_tool_sources *sources = get->list->sources;
    struct cleat_text name;
    bool native;

    if (source == TOOLS_NOBODY) {
        (void)snprintf(who, bytes, "%s: ", file);
        return;
    }
    native = sources->sources[source].kind == CLEAT_TOOLS_NATIVE;
    name = cleat_tool_source_name(sources, source);
    (void)snprintf(who, bytes, "%.60s: %s%.*s: ", file, native ? "" : "server ",
                   (int)name.bytes, name.text);
    tidy(who);
}

enum cleat_status tool_service_say_why(const struct tools_get *get,
                                       uint32_t source,
                                       const struct tools_wait *wait)
{
    const struct tools_known *known = tool_service_known(get->service,
                                                         wait->key);
    enum cleat_status status = (enum cleat_status)wait->status;
    char who[CLEAT_ERROR_TEXT_MAX / 2];
    char tail[TAIL_BYTES];
    const char *words = known != NULL ? known->error.text : "";
    size_t room;

    if (get->error == NULL) { return status; }
    say_who(who, sizeof who, get, source);
    /* A config's words begin with its place in it. */
    if (source == TOOLS_NOBODY &&
        strstr(words, tool_service_file(get->path)) != NULL) {
        who[0] = '\0';
    }
    if (source == TOOLS_NOBODY) { source = 0; }
    if (status == CLEAT_DEADLINE) {
        return tool_service_say(get->error, status, source, 0,
                                "%snot there by the deadline%s%s", who,
                                words[0] != '\0' ? "; so far: " : "", words);
    }
    if (status == CLEAT_NO_SLOT && get->caller == TOOLS_NOBODY) {
        return tool_service_say(get->error, status, source, 0,
                                "%sit must be waited for, and callers_max "
                                "threads wait already (NO_SLOT)",
                                who);
    }
    if (known == NULL || known->error.status != status) {
        return tool_service_say(get->error, status, source, 0, "%s%s (%s)", who,
                                cleat_status_sentence(status),
                                cleat_status_name(status));
    }
    say_tail(tail, known, status);
    room = CLEAT_ERROR_TEXT_MAX - 1 - strlen(who) - strlen(tail);
    (void)tool_service_say(get->error, status, source, known->error.offset,
                           "%s%.*s%s", who, (int)room, words, tail);
    get->error->port_code = known->error.port_code;
    return status;
}

/* ---- why ---------------------------------------------------------------- */

static void fill_name(struct cleat_tool_failure *failure, const char *name,
                      size_t bytes)
{
    if (bytes >= sizeof failure->name) { bytes = sizeof failure->name - 1; }
    memcpy(failure->name, name, bytes);
    failure->name[bytes] = '\0';
    tidy(failure->name);
}

/* How the last load of a key went, if anything is known of that. */
static void fill_failure(const struct cleat_tool_service *service, uint64_t key,
                         struct cleat_tool_failure *failure)
{
    const struct tools_known *known = tool_service_known(service, key);

    if (known == NULL || known->attempts == 0) {
        failure->error.status = CLEAT_PENDING;
        return;
    }
    failure->error = known->error;
    failure->attempts = known->attempts;
    failure->elapsed_ns = known->elapsed_ns;
    if (known->error.status == CLEAT_PENDING) {
        failure->elapsed_ns = drive_now_ns(&service->ports) - known->began_ns;
    }
}

/* The config, where that is what there is to tell. */
static bool fill_config(const struct cleat_tool_service *service,
                        const char *path, uint64_t key, bool is_there,
                        struct cleat_tool_failure *failure)
{
    const struct tools_known *known = tool_service_known(service, key);

    if (known == NULL || known->error.status == CLEAT_OK ||
        (is_there && known->error.status == CLEAT_PENDING)) {
        return false;
    }
    failure->source = TOOLS_NOBODY;
    fill_name(failure, tool_service_file(path),
              strlen(tool_service_file(path)));
    fill_failure(service, key, failure);
    return true;
}

static uint32_t fill_failures(const struct cleat_tool_service *service,
                              const char *path, uint64_t key,
                              struct cleat_tool_failure *failures,
                              uint32_t failures_max)
{
    uint32_t slot = tool_service_find_value(service, key);
    const struct cleat_tool_sources *sources;
    uint32_t count = 0;

    if (failures_max > 0 &&
        fill_config(service, path, key, slot != TOOLS_NOBODY, &failures[0])) {
        count++;
    }
    if (slot == TOOLS_NOBODY) { return count; }
    sources = tools_value(service, slot);
    for (uint32_t i = 0; i < sources->count && count < failures_max; i++) {
        struct cleat_text name = cleat_tool_source_name(sources, i);
        struct cleat_tool_failure *failure = &failures[count++];

        failure->source = i;
        fill_name(failure, name.text, name.bytes);
        fill_failure(service, tools_key(sources->sources[i].key), failure);
    }
    return count;
}

uint32_t cleat_tools_why(struct cleat_tool_service *service, const char *path,
                         struct cleat_tool_failure *failures,
                         uint32_t failures_max)
{
    size_t bytes = path != NULL ? strnlen(path, TOOLS_PATH_MAX + 1) : 0;
    uint32_t count;

    if (bytes == 0 || bytes > TOOLS_PATH_MAX) { return 0; }
    if (failures_max > 0) {
        memset(failures, 0, failures_max * sizeof *failures);
    }
    tools_lock(service);
    count = fill_failures(
        service, path,
        tool_service_path_key(service, path, bytes, tools_hash(path, bytes)),
        failures, failures_max);
    tools_unlock(service);
    return count;
}
