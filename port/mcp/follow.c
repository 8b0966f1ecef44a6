/* Cleat: sources that are watched. SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "hub.h"

/* A lost session is opened again after this, doubled with each failure. */
#define AGAIN_NS CLEAT_NS_PER_S
#define AGAIN_NS_MAX (60 * CLEAT_NS_PER_S)
#define FAILURES_MAX 6u /* 2^6 s are more than AGAIN_NS_MAX */

/* What a caller has wanted since the last look: fills what is not known, lets
 * go of what is not wanted. True while it is wanted. */
static bool look(struct cleat_mcp *mcp, struct hub_watch *watch)
{
    hub_lock(mcp);
    uint32_t handle = watch->text;
    bool on = watch->on;
    if (handle != MCP_TEXTS_NOTHING && !on && !watch->known) {
        mcp_texts_release(&mcp->texts, handle);
        watch->text = MCP_TEXTS_NOTHING;
    }
    hub_unlock(mcp);
    if (handle == MCP_TEXTS_NOTHING || !on) { return false; }
    if (!watch->known) {
        struct cleat_text text = mcp_texts_at(&mcp->texts, handle);
        enum cleat_status status = mcp_server_open(&watch->server, text.text,
                                                   text.bytes, NULL);
        watch->native = status != CLEAT_OK || watch->server.is_native;
        watch->session_key = watch->native
                                 ? 0
                                 : mcp_server_session_key(&watch->server);
        watch->session_made = 0;
        watch->again_ns = 0;
        watch->failures = 0;
        watch->known = true;
    }
    return true;
}

/* Its changes are told by that session from now on. */
static void attach(struct hub_watch *watch, struct hub_session *session)
{
    if (watch->session_made == session->made) { return; }
    watch->session_made = session->made;
    hub_session_watch(session, watch->key);
}

static void begin(struct cleat_mcp *mcp, struct hub_watch *watch)
{
    uint32_t ending = hub_sessions_ending(mcp);
    struct hub_session *session = hub_session_find(mcp, watch->session_key);

    if (session == NULL || session->state != HUB_SESSION_KEPT) {
        session = hub_session_claim(mcp, watch->session_key, watch->text,
                                    &watch->server, HUB_CLAIM_WATCH, &ending);
    }
    if (session == NULL) {
        watch->again_ns = cleat_time_add(mcp->now_ns, AGAIN_NS);
        return;
    }
    attach(watch, session);
    if (session->following) { return; }
    session->following = true;
    session->following_ns = mcp->now_ns;
    mcp_engine_follow(session->engine, mcp->now_ns, true);
    hub_session_pump(mcp, session);
}

bool hub_watches_want(const struct cleat_mcp *mcp, uint64_t session_key)
{
    for (uint32_t i = 0; i < mcp->watches_count; i++) {
        const struct hub_watch *watch = &mcp->watches[i];
        if (watch->known && !watch->native &&
            watch->session_key == session_key) {
            return true;
        }
    }
    return false;
}

bool hub_watches_wanted(const struct cleat_mcp *mcp)
{
    for (uint32_t i = 0; i < mcp->watches_count; i++) {
        if (mcp->watches[i].on) { return true; }
    }
    return false;
}

static void stop(struct cleat_mcp *mcp, struct hub_watch *watch)
{
    watch->known = false;
    struct hub_session *session = hub_session_find(mcp, watch->session_key);
    if (!watch->native && session != NULL && session->following &&
        !hub_watches_want(mcp, watch->session_key)) {
        session->following = false;
        mcp_engine_follow(session->engine, mcp->now_ns, false);
        hub_session_pump(mcp, session);
    }
    hub_lock(mcp);
    if (!watch->on) {
        mcp_texts_release(&mcp->texts, watch->text);
        watch->text = MCP_TEXTS_NOTHING;
    }
    hub_unlock(mcp);
}

/* The session in which it is followed; NULL: none. */
static struct hub_session *find_followed(struct cleat_mcp *mcp,
                                         const struct hub_watch *watch)
{
    struct hub_session *session = hub_session_find(mcp, watch->session_key);

    return session != NULL && session->state == HUB_SESSION_KEPT &&
                   session->following
               ? session
               : NULL;
}

void hub_watches_move(struct cleat_mcp *mcp)
{
    for (uint32_t i = 0; i < mcp->watches_count; i++) {
        struct hub_watch *watch = &mcp->watches[i];
        bool wanted = look(mcp, watch);
        if (!wanted && watch->known) { stop(mcp, watch); }
        if (!wanted || watch->native) { continue; }
        struct hub_session *session = find_followed(mcp, watch);
        if (session != NULL) {
            attach(watch, session);
        } else if (mcp->now_ns >= watch->again_ns) {
            begin(mcp, watch);
        }
    }
}

void hub_watches_lost(struct cleat_mcp *mcp, const struct hub_session *session)
{
    bool lasted = mcp->now_ns - session->following_ns > AGAIN_NS_MAX;

    for (uint32_t i = 0; i < mcp->watches_count; i++) {
        struct hub_watch *watch = &mcp->watches[i];
        if (!watch->known || watch->session_key != session->key) { continue; }
        if (lasted) { watch->failures = 0; }
        uint64_t wait_ns = hub_min(AGAIN_NS << watch->failures, AGAIN_NS_MAX);
        if (watch->failures < FAILURES_MAX) { watch->failures++; }
        watch->again_ns = cleat_time_add(mcp->now_ns, wait_ns);
    }
}

uint64_t hub_watches_deadline(const struct cleat_mcp *mcp)
{
    uint64_t due_ns = CLEAT_NEVER;

    for (uint32_t i = 0; i < mcp->watches_count; i++) {
        const struct hub_watch *watch = &mcp->watches[i];
        if (watch->known && !watch->native && watch->again_ns > mcp->now_ns) {
            due_ns = hub_min(due_ns, watch->again_ns);
        }
    }
    return due_ns;
}
