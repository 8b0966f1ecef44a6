/* Cleat: one weight update, blocking. SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cleat/arena.h"
#include "drive.h"

/* A worker that attaches while an update is under way takes part in the next
 * one: the machine takes its hello at rest. */
struct waiting_hello {
    struct cleat_worker_hello hello;
    bool waits;
};

struct cleat_sync_service {
    struct cleat_service_ports ports;
    struct cleat_worker_port workers;
    struct cleat_sync *machine;
    struct waiting_hello *hellos; /* one a member */
    uint32_t members_count;
    enum cleat_sync_step step_told;
    uint32_t attempt_told;
    bool running;
};

/* The three parts of the block, each at a multiple of CLEAT_ALIGN. */
#define SERVICE_BYTES CLEAT_ALIGN_UP(sizeof(struct cleat_sync_service))

static uint32_t members_of(const struct cleat_sync_config *config)
{
    return config->trainers + config->replicas * config->workers;
}

size_t cleat_sync_service_bytes(const struct cleat_sync_config *config)
{
    size_t machine = cleat_sync_bytes(config);

    if (machine == 0) { return 0; }
    return SERVICE_BYTES + CLEAT_ALIGN_UP(machine) +
           members_of(config) * sizeof(struct waiting_hello);
}

enum cleat_status cleat_sync_service_init(
    void *block, size_t bytes, const struct cleat_sync_config *config,
    const struct cleat_service_ports *ports,
    const struct cleat_worker_port *workers, struct cleat_sync_service **out,
    struct cleat_error *error)
{
    struct cleat_sync_service *service = block;
    size_t needed = cleat_sync_service_bytes(config);
    size_t hellos_at = SERVICE_BYTES + CLEAT_ALIGN_UP(cleat_sync_bytes(config));
    struct cleat_sync *machine;
    enum cleat_status status;

    *out = NULL;
    if (!drive_ports_complete(ports) || workers->send == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, 3, 0,
                               "sync: a function of its ports is missing");
    }
    if (needed != 0 && bytes < needed) {
        return cleat_error_set(error, CLEAT_TOO_SMALL, 1, needed,
                               "sync: the service's block is too small");
    }
    status = cleat_sync_init((unsigned char *)block + SERVICE_BYTES,
                             needed == 0 ? 0 : needed - SERVICE_BYTES, config,
                             &machine, error);
    if (status != CLEAT_OK) { return status; }
    memset(service, 0, sizeof *service);
    service->ports = *ports;
    service->workers = *workers;
    service->machine = machine;
    service->members_count = members_of(config);
    service->hellos = (void *)((unsigned char *)block + hellos_at);
    memset(service->hellos, 0,
           service->members_count * sizeof *service->hellos);
    *out = service;
    return CLEAT_OK;
}

const struct cleat_sync *
cleat_sync_service_machine(const struct cleat_sync_service *service)
{
    return service->machine;
}

static struct cleat_event event_of(const struct cleat_sync_service *service,
                                   enum cleat_event_kind kind, uint64_t now_ns,
                                   uint32_t member)
{
    struct cleat_event event = {.kind = kind,
                                .step = service->machine->step,
                                .member = member,
                                .attempt = service->machine->attempt,
                                .now_ns = now_ns,
                                .term = service->machine->term,
                                .epoch = service->machine->epoch};

    return event;
}

/* A step that passed without a command is not worth telling. */
static void tell_step(struct cleat_sync_service *service, uint64_t now_ns)
{
    const struct cleat_sync *machine = service->machine;
    struct cleat_event event = event_of(service, CLEAT_EVENT_STEP, now_ns,
                                        CLEAT_SYNC_NOBODY);

    if (service->step_told == machine->step &&
        service->attempt_told == machine->attempt) {
        return;
    }
    service->step_told = machine->step;
    service->attempt_told = machine->attempt;
    drive_tell(&service->ports, &event);
}

/* ------------------------------------------------- what the loop asks for */

static bool sync_dispatch(void *self, uint64_t now_ns)
{
    struct cleat_sync_service *service = self;
    struct cleat_sync_command command;

    (void)cleat_sync_tick(service->machine, now_ns);
    while (cleat_sync_next(service->machine, &command) == CLEAT_OK) {
        struct cleat_event event;
        enum cleat_status status;

        tell_step(service, now_ns);
        status = service->workers.send(service->workers.context, &command);
        event = event_of(service, CLEAT_EVENT_COMMAND, now_ns, command.member);
        event.status = status;
        drive_tell(&service->ports, &event);
        if (status == CLEAT_PEER_LOST && command.step != CLEAT_SYNC_EXPEL) {
            (void)cleat_sync_lost(service->machine, now_ns, command.member);
        }
    }
    tell_step(service, now_ns);
    return cleat_sync_outcome(service->machine) == CLEAT_SYNC_NOT_YET;
}

static uint64_t sync_deadline(void *self)
{
    const struct cleat_sync_service *service = self;

    return cleat_sync_deadline(service->machine);
}

static void take_hello(struct cleat_sync_service *service, uint64_t now_ns,
                       const struct cleat_message *message)
{
    struct waiting_hello *waiting = &service->hellos[message->index];
    struct cleat_event event = event_of(service, CLEAT_EVENT_HELLO, now_ns,
                                        message->index);

    memcpy(&waiting->hello, message->body, sizeof waiting->hello);
    waiting->waits = true;
    drive_tell(&service->ports, &event);
}

static void take_lost(struct cleat_sync_service *service, uint64_t now_ns,
                      uint32_t member)
{
    struct cleat_event event = event_of(service, CLEAT_EVENT_LOST, now_ns,
                                        member);

    service->hellos[member].waits = false;
    drive_tell(&service->ports, &event);
    (void)cleat_sync_lost(service->machine, now_ns, member);
}

static void take_answer(struct cleat_sync_service *service, uint64_t now_ns,
                        const struct cleat_message *message)
{
    struct cleat_worker_answer answer;
    struct cleat_event event = event_of(service, CLEAT_EVENT_ANSWER, now_ns,
                                        message->index);

    memcpy(&answer, message->body, sizeof answer);
    /* Who speaks is what the channel says, not what the frame says. */
    answer.sync.member = message->index;
    event.step = answer.sync.step;
    event.status = answer.sync.status;
    event.term = answer.sync.term;
    event.epoch = answer.sync.epoch;
    event.answer = &answer;
    drive_tell(&service->ports, &event);
    (void)cleat_sync_answered(service->machine, now_ns, &answer.sync);
}

static void sync_feed(void *self, uint64_t now_ns,
                      const struct cleat_message *message)
{
    struct cleat_sync_service *service = self;

    _Static_assert(sizeof(struct cleat_worker_answer) <= CLEAT_MESSAGE_BYTES,
                   "an answer fits a message");
    if (message->index >= service->members_count) { return; }
    switch (message->kind) {
    case CLEAT_WORKER_ANSWER: take_answer(service, now_ns, message); break;
    case CLEAT_WORKER_LOST: take_lost(service, now_ns, message->index); break;
    case CLEAT_WORKER_HELLO: take_hello(service, now_ns, message); break;
    default: break;
    }
}

/* ------------------------------------------------------------- the calls */

/* What came between two updates: losses and hellos, in their order. */
static void catch_up(struct cleat_sync_service *service)
{
    const struct cleat_mailbox *box = &service->ports.mailbox;
    struct cleat_message message;

    while (box->wait(box->context, 0, &message) == CLEAT_OK) {
        sync_feed(service, drive_now_ns(&service->ports), &message);
    }
    for (uint32_t i = 0; i < service->members_count; i++) {
        struct waiting_hello *waiting = &service->hellos[i];

        if (!waiting->waits) { continue; }
        waiting->waits = false;
        (void)cleat_sync_hello(service->machine, i, waiting->hello.term_seen,
                               (enum cleat_sync_holding)waiting->hello.holding,
                               waiting->hello.version);
    }
}

static void fill_report(const struct cleat_sync_service *service,
                        uint64_t started_ns, struct cleat_sync_report *report)
{
    const struct cleat_sync *machine = service->machine;

    memset(report, 0, sizeof *report);
    report->outcome = cleat_sync_outcome(machine);
    report->attempts = machine->attempt;
    report->version = machine->request.version;
    report->term = machine->term;
    report->epoch = machine->epoch;
    report->started_ns = started_ns;
    report->ended_ns = drive_now_ns(&service->ports);
    report->errors_count = cleat_sync_errors_count(machine);
    (void)cleat_sync_error_at(machine, 0, &report->first);
    for (uint32_t r = 0; r < machine->config.replicas; r++) {
        report->serving +=
            cleat_sync_replica_state(machine, r) == CLEAT_SYNC_SERVING ? 1 : 0;
    }
}

static enum cleat_status say_why(const struct cleat_sync_service *service,
                                 const struct cleat_sync_report *report,
                                 struct cleat_error *error)
{
    const struct cleat_sync_config *config = &service->machine->config;
    uint32_t replica = CLEAT_SYNC_NOBODY;
    enum cleat_status status = report->outcome == CLEAT_SYNC_RESTART
                                   ? CLEAT_RESTART
                                   : report->first.status;
    char who[48] = "the caller";
    char line[CLEAT_ERROR_TEXT_MAX];

    if (report->errors_count == 0) { status = CLEAT_RESTART; }
    if (report->errors_count > 0 && report->first.member != CLEAT_SYNC_NOBODY) {
        replica = cleat_sync_replica_of(config, report->first.member);
        if (replica == CLEAT_SYNC_NOBODY) {
            (void)snprintf(who, sizeof who, "trainer %" PRIu32,
                           report->first.member);
        } else {
            (void)snprintf(who, sizeof who, "replica %" PRIu32, replica);
        }
    }
    if (report->errors_count == 0) {
        (void)snprintf(line, sizeof line,
                       "sync: %s: fewer than %" PRIu32 " replicas are left",
                       cleat_sync_outcome_name(report->outcome),
                       config->replicas_min == 0 ? 1 : config->replicas_min);
    } else {
        (void)snprintf(line, sizeof line, "sync: %s: %s of %s: %s",
                       cleat_sync_outcome_name(report->outcome),
                       cleat_sync_step_name(report->first.step), who,
                       cleat_status_sentence(report->first.status));
    }
    return cleat_error_set(error, status, report->first.member, 0, line);
}

enum cleat_status cleat_sync_run(struct cleat_sync_service *service,
                                 const struct cleat_sync_request *request,
                                 struct cleat_sync_report *report,
                                 struct cleat_error *error)
{
    const struct cleat_threads *threads = &service->ports.threads;
    struct cleat_drive_machine machine = {service, sync_dispatch, sync_deadline,
                                          sync_feed};
    uint64_t started_ns = 0;
    enum cleat_status status = CLEAT_STATE;

    threads->lock(threads->context);
    if (!service->running) {
        catch_up(service);
        started_ns = drive_now_ns(&service->ports);
        service->step_told = CLEAT_SYNC_STEPS;
        service->attempt_told = 0;
        status = cleat_sync_begin(service->machine, started_ns, request);
        service->running = status == CLEAT_OK;
    }
    threads->unlock(threads->context);
    if (status != CLEAT_OK) {
        return cleat_error_set(error, status, 1, 0,
                               status == CLEAT_STATE
                                   ? "sync: an update is under way, or the job "
                                     "must restart"
                                   : "sync: the new version is the old one");
    }
    cleat_drive(&service->ports, &machine);
    threads->lock(threads->context);
    service->running = false;
    fill_report(service, started_ns, report);
    threads->unlock(threads->context);
    if (report->outcome == CLEAT_SYNC_COMMITTED ||
        report->outcome == CLEAT_SYNC_DEGRADED) {
        return CLEAT_OK;
    }
    return say_why(service, report, error);
}

enum cleat_status cleat_sync_stop(struct cleat_sync_service *service)
{
    const struct cleat_threads *threads = &service->ports.threads;
    enum cleat_status status = CLEAT_STATE;

    /* Told to the machine here and now, so that what is answered is true: what
     * comes next, be it the last answer that commit waits for, finds it
     * cancelled. */
    threads->lock(threads->context);
    if (service->running) {
        status = cleat_sync_cancel(service->machine,
                                   drive_now_ns(&service->ports));
    }
    threads->unlock(threads->context);
    if (status == CLEAT_OK) { drive_wake(&service->ports); }
    return status;
}
