/* Cleat: the tool service, switched wherever it can be.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cleat_tools_get and its kin as they are, on fibres (fibres.h): every schedule
 * of the service's thread, a loader and one or two callers, with a bounded
 * number of preemptions, at each touch of the words that hits share without a
 * lock too. What comes of a load is chosen; the machine's own model does the
 * rest. */
#include <stdio.h>

#include "port/service/tools_state.h"
#include "tool_script.h"

#define START_NS UINT64_C(1000000)
#define CALLERS 2u
#define SLOTS_FOR_ALL 6u /* two configs, two sources, each being refreshed */
#define BLOCK_BYTES ((size_t)24 << 10)

/* What a caller does, one letter after the other: a path's letter gets it,
 * looks at it and lets it go; 'r' reloads "a", 'R' its source too; 'C' tells
 * that the source has changed; 'X' closes; 'w' waits until the other one has
 * done something. */
struct model_case {
    const char *acts[CALLERS];
    uint8_t preemptions;
    uint8_t slots;
    uint8_t views;
    uint8_t odd;      /* how many loads do something else than succeed */
    uint32_t timeout; /* of each get, in ns; 0: long */
    bool ttl;         /* lists are fresh for 20 ns */
    bool watch;
};

static struct world {
    struct fibres_port port;
    struct fibres_mailbox mailbox;
    struct fibres_mailbox boxes[CALLERS + 1];
    struct tool_script script;
    const struct model_case *is;
    struct cleat_tool_service *service;
    uint32_t left; /* callers that are not done */
    uint8_t odd_left;
    uint8_t versions; /* of a that were begun when it was last called old */
    uint8_t configs;  /* the same of its config */
    bool closed;
    bool has_begun; /* somebody has done something */
    _Alignas(64) unsigned char block[BLOCK_BYTES];
} world;

static struct world *const w = &world;

/* ---- the loader --------------------------------------------------------- */

static void decide(struct tool_script *script,
                   const struct cleat_loader_request *request, uint8_t letter,
                   struct tool_script_step *step)
{
    uint32_t odd;

    (void)script;
    (void)request;
    (void)letter;
    if (w->is->ttl) { step->ttl_ns = 20; }
    odd = w->odd_left > 0 ? fibres_choose(5) : 0;
    if (odd == 0) { return; }
    w->odd_left--;
    fibres_note("load %llu is odd: %u", (unsigned long long)request->id, odd);
    switch (odd) {
    case 1: step->after_ns = 30; break;
    case 2: step->status = CLEAT_TRANSIENT; break;
    case 3: /* late, whatever is said meanwhile */
        step->after_ns = 150;
        step->cancel_ns = CLEAT_NEVER;
        break;
    default:
        step->refused = true;
        step->status = CLEAT_NO_SLOT;
        step->words = "full";
        break;
    }
}

static void changes(void)
{
    tool_script_tell_changed(&w->script, tool_script_key('a'));
}

/* ---- the callers -------------------------------------------------------- */

/* When a get began, and what had been called old by then. */
struct asked {
    uint64_t now_ns;
    uint8_t versions;
    uint8_t configs;
};

/* Whole, of its letter, fresh, and the same for as long as it is pinned. */
static void look_at(const struct cleat_tool_list *list, uint8_t letter,
                    const struct asked *asked)
{
    const struct cleat_tools *tools = list->parts[0].tools;
    uint32_t version = tool_script_version(tools, letter);
    struct cleat_tool_cache_counters counters;

    fibres_check(list->count == 1, "a-config-names-what-it-names");
    fibres_check(version != 0, "what-is-given-out-is-whole");
    fibres_check(letter != 'a' || (version > asked->versions &&
                                   w->script.configs > asked->configs),
                 "what-was-called-old-is-not-given-out");
    fibres_check(list->stale ||
                     asked->now_ns <
                         w->service->lines[list->parts[0].slot].fresh_until_ns,
                 "what-is-not-fresh-is-not-given-out");
    /* Here who has the lock goes on. */
    cleat_tool_service_count(w->service, &counters);
    fibres_check(counters.hits < 100, "hits-are-as-many-as-there-were");
    fibres_check(tool_script_version(tools, letter) == version,
                 "a-pinned-value-never-changes");
    fibres_check(list->sources->count == 1 &&
                     cleat_tool_source_name(list->sources, 0).text[0] ==
                         (char)letter,
                 "a-pinned-config-never-changes");
}

static void get(char letter)
{
    const struct model_case *is = w->is;
    char path[2] = {letter, '\0'};
    uint64_t timeout_ns = is->timeout != 0 ? is->timeout : 1000000;
    uint64_t deadline_ns = fibres_now_ns() + timeout_ns;
    struct asked asked = {fibres_now_ns(), w->versions, w->configs};
    bool odd = w->odd_left < is->odd;
    struct cleat_tool_list list;
    struct cleat_error error;
    enum cleat_status status = cleat_tools_get(w->service, path, deadline_ns,
                                               &list, &error);

    odd = odd || w->odd_left < is->odd;
    fibres_note("get %s: %s %s", path, cleat_status_name(status),
                status == CLEAT_OK ? "" : error.text);
    fibres_check(!fibres_holds_lock(), "the-lock-is-given-at-the-end");
    fibres_check(fibres_now_ns() <= deadline_ns || fibres_time_ran_ahead(),
                 "nobody-waits-longer-than-it-said");
    switch (status) {
    case CLEAT_OK:
        look_at(&list, (uint8_t)letter, &asked);
        cleat_tools_unpin(&list);
        return;
    case CLEAT_CANCELLED:
        fibres_check(w->closed, "only-a-close-cancels");
        fibres_check(fibres_now_ns() < deadline_ns || fibres_time_ran_ahead(),
                     "who-is-cancelled-does-not-wait");
        break;
    case CLEAT_DEADLINE:
        fibres_check(fibres_now_ns() >= deadline_ns,
                     "nobody-is-late-before-its-time");
        fibres_check(odd || fibres_time_ran_ahead() ||
                         is->slots < SLOTS_FOR_ALL,
                     "who-is-woken-does-not-wait");
        break;
    case CLEAT_NO_SLOT:
        fibres_check(is->slots < SLOTS_FOR_ALL || odd, "there-is-room-for-all");
        break;
    default:
        fibres_check(odd || fibres_time_ran_ahead(),
                     "what-goes-well-does-not-fail");
        break;
    }
    fibres_check(list.service == NULL && list.count == 0,
                 "a-failure-leaves-nothing");
}

static void reload(bool sources)
{
    uint8_t versions = w->script.versions['a'];
    uint8_t configs = (uint8_t)w->script.configs;
    enum cleat_status status = cleat_tools_reload(w->service, "a", sources);

    fibres_note("reload: %s", cleat_status_name(status));
    /* With room for all, the config is there wherever its source is. */
    if (status == CLEAT_OK && w->is->slots == SLOTS_FOR_ALL) {
        w->configs = configs;
        if (sources) { w->versions = versions; }
    }
}

static void close_service(void)
{
    enum cleat_status status;

    w->closed = true;
    status = cleat_tool_service_close(w->service, CLEAT_NEVER);
    fibres_note("close: %s", cleat_status_name(status));
    fibres_check(status == CLEAT_OK, "a-close-without-a-deadline-ends-it");
    for (uint32_t i = 0; i < TOOL_SCRIPT_REQUESTS_MAX; i++) {
        fibres_check(w->script.requests[i].request.id == 0,
                     "after-a-close-nothing-is-under-way");
    }
}

static bool has_begun(void *nothing)
{
    (void)nothing;
    return w->has_begun;
}

static void caller_fibre(void *number)
{
    const char *act = w->is->acts[(uintptr_t)number];

    for (; *act != '\0'; act++) {
        if (*act == 'R' || *act == 'r') {
            reload(*act == 'R');
        } else if (*act == 'X') {
            close_service();
        } else if (*act == 'C') {
            changes();
        } else if (*act == 'w') {
            (void)fibres_wait(has_begun, NULL, CLEAT_NEVER);
        } else {
            get(*act);
        }
        w->has_begun = true;
    }
    if (--w->left > 0) { return; }
    if (!w->closed) { close_service(); }
    w->port.closing = true;
    tool_script_end(&w->script);
}

/* ---- the body ----------------------------------------------------------- */

/* More than one that says "look" would take the room of what has ended. */
static enum cleat_status post_news(struct cleat_mailbox_context *context,
                                   const struct cleat_message *message)
{
    const struct fibres_mailbox *box = (const void *)context;

    for (uint32_t i = 0; i < box->count; i++) {
        fibres_check(message->kind != CLEAT_WORKER_WAKE ||
                         box->messages[i].kind != CLEAT_WORKER_WAKE,
                     "one-wake-in-the-mailbox");
    }
    return fibres_mailbox(&w->mailbox).post(context, message);
}

static void body(struct choose *c, const void *arg)
{
    static const struct cleat_retry_policy policy = {
        .base_ns = 10,
        .attempt_timeout_ns = 100,
        .deadline_ns = CLEAT_NONE,
        .attempts_max = 2,
        .jitter = CLEAT_RETRY_JITTER_NONE};
    const struct model_case *is = arg;
    struct cleat_tool_service_config config = {
        .cache = {.policy = &policy},
        .watch = is->watch,
        .callers_max = CALLERS,
        .configs_max = is->views,
        .slots_count = is->slots,
        .entries_count = is->slots > 4 ? is->slots : 4,
        .slot_bytes = 256,
        .calls_max = CLEAT_TOOL_CACHE_NOBODY};
    struct cleat_mailbox boxes[CALLERS + 1];
    struct cleat_loader loader = tool_script_loader(&w->script);
    struct cleat_service_ports ports;
    enum cleat_status status;

    memset(w, 0, sizeof *w);
    w->is = is;
    w->odd_left = is->odd;
    w->mailbox.messages_max = FIBRES_MAILBOX_MAX;
    w->port.jobs_max = 1;
    w->script.mailbox = &w->mailbox;
    w->script.decide = decide;
    w->script.tools = 1;
    fibres_begin(c, is->preemptions, &w->port, w, sizeof *w, START_NS);
    for (uint32_t i = 0; i <= CALLERS; i++) {
        w->boxes[i].messages_max = 1;
        boxes[i] = fibres_mailbox(&w->boxes[i]);
    }
    ports = (struct cleat_service_ports){
        .clock = fibres_clock(),
        .threads = tool_script_threads(),
        .mailbox = fibres_mailbox(&w->mailbox)};
    ports.mailbox.post = post_news;
    status = cleat_tool_service_init(w->block, sizeof w->block, &config, &ports,
                                     boxes, &loader, 1, &w->service, NULL);
    choose_check(c, status == CLEAT_OK, "the service begins");
    fibres_add("service", fibres_work, NULL);
    fibres_add("loader", tool_script_fibre, &w->script);
    for (uint32_t i = 0; i < CALLERS; i++) {
        if (is->acts[i] == NULL) { continue; }
        w->left++;
        fibres_add(i == 0 ? "first" : "second", caller_fibre,
                   (void *)(uintptr_t)i);
    }
    if (!fibres_run()) { return; }
    for (uint32_t i = 0; i < is->slots; i++) {
        choose_check(c, (w->service->lines[i].pins & TOOLS_PINS) == 0,
                     "every-pin-is-given-back");
    }
    choose_check(c, w->port.lock_owner == 0, "the-lock-is-free-at-the-end");
    choose_mark(c, 0);
}

/* ---- the list ----------------------------------------------------------- */

static const char *const marks[] = {"its end", NULL};

#define CASE(title, slowness, ...)                                      \
    {                                                                   \
        .name = (title), .body = body,                                  \
        .arg = &(const struct model_case){__VA_ARGS__}, .marks = marks, \
        slowness                                                        \
    }
#define SLOW .slow = true
#define QUICK .slow = false

/* clang-format off */
static const struct choose_test tests[] = {
    CASE("one-caller-misses-and-hits", QUICK,
         .acts = {"aa"}, .preemptions = 2, .slots = 6, .views = 1),
    CASE("two-callers-share-what-is-loaded", QUICK,
         .acts = {"aa", "aa"}, .preemptions = 1, .slots = 6, .views = 1),
    CASE("a-hit-while-its-slot-is-wanted", QUICK,
         .acts = {"aaa", "b"}, .preemptions = 1, .slots = 2, .views = 1),
    CASE("a-hit-while-its-slot-is-wanted-by-any-schedule", SLOW,
         .acts = {"aa", "wb"}, .preemptions = 2, .slots = 2, .views = 1),
    CASE("two-paths-of-one-view", QUICK,
         .acts = {"aba", "wb"}, .preemptions = 1, .slots = 6, .views = 1),
    CASE("a-reload-at-any-moment", QUICK,
         .acts = {"aaa", "R"}, .preemptions = 2, .slots = 6, .views = 1),
    CASE("a-reload-and-a-get-after-it", QUICK,
         .acts = {"aa", "wRa"}, .preemptions = 1, .slots = 6, .views = 1),
    CASE("a-config-is-read-again-and-its-sources-are-not-loaded", QUICK,
         .acts = {"aa", "wra"}, .preemptions = 1, .slots = 6, .views = 1),
    CASE("a-config-is-read-again-by-any-schedule", SLOW,
         .acts = {"aa", "wra"}, .preemptions = 2, .slots = 6, .views = 1),
    CASE("a-list-that-goes-stale", QUICK,
         .acts = {"aa", "wa"}, .preemptions = 1, .slots = 6, .views = 1,
         .ttl = true),
    CASE("a-load-goes-wrong", SLOW,
         .acts = {"a", "a"}, .preemptions = 1, .slots = 6, .views = 1,
         .odd = 1),
    CASE("two-loads-go-wrong-and-somebody-leaves", QUICK,
         .acts = {"a", "a"}, .preemptions = 0, .slots = 6, .views = 1,
         .odd = 2, .timeout = 40),
    CASE("a-change-is-told-at-any-moment", QUICK,
         .acts = {"aa", "C"}, .preemptions = 2, .slots = 6, .views = 1,
         .watch = true),
    CASE("a-close-at-any-moment", QUICK,
         .acts = {"aa", "X"}, .preemptions = 1, .slots = 6, .views = 1,
         .odd = 1),
    CASE("a-close-at-any-moment-by-any-schedule", QUICK,
         .acts = {"a", "X"}, .preemptions = 2, .slots = 6, .views = 1),
};
/* clang-format on */

int main(int argc, char **argv)
{
    return choose_main(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
