/* Cleat: a server process. SPDX-License-Identifier: Apache-2.0
 *
 * MCP 2025-11-25, Transports, stdio. The server's stdin and stdout are the two
 * directions of one socket pair, so that no write of ours raises SIGPIPE. Its
 * stderr is a pipe that is always read, or the server would stop once it were
 * full; its last line tells why a server ended. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lines.h"
#include "secrets.h"
#include "wire.h"

#define READS_AT_ONCE 16
#define STDERR_READS_AT_ONCE 16
#define LAST_READS_MAX 4096 /* of what a server said before its end */
#define STDERR_PIECE ((size_t)4096)
#define LAST_LINE_BYTES ((size_t)120)
#define REAP_NS (5 * CLEAT_NS_PER_S) /* after SIGKILL */

enum which { WHICH_SOCKET, WHICH_STDERR, WHICH_CHILD };

enum state {
    STATE_CLOSED,
    STATE_RUNNING,
    STATE_ENDING /* the process is to end: what it says is thrown away */
};

/* The last line on stderr that says something: not an indented one (a stack),
 * nor one without a letter, nor the one that ends each of node's deaths. */
struct last_line {
    char line[LAST_LINE_BYTES]; /* being read; its end is cut */
    size_t bytes;
    char kept[LAST_LINE_BYTES];
    size_t kept_bytes;
};

struct mcp_stdio {
    uint32_t session;
    const struct mcp_stdio_host *host;
    const struct mcp_server *server; /* of the last open */
    enum state state;
    struct cleat_linux_child child;
    int socket_fd;
    int stderr_fd;
    bool waits_to_write;

    /* What is to be told by the next tick. */
    bool opened_due;
    bool closed_due;
    bool told_closed; /* since the last open */
    enum cleat_status why;
    char text[CLEAT_ERROR_TEXT_MAX];

    /* While it ends; CLEAT_NEVER: done. */
    bool asked; /* by mcp_stdio_close */
    uint64_t terminate_ns;
    uint64_t kill_ns;
    uint64_t give_up_ns;

    struct mcp_lines lines;
    struct last_line last;
    char *room; /* of the lines */
    char *out;
    size_t out_bytes;
    size_t out_begin;
    size_t out_end;
};

/* ---- the last line of stderr -------------------------------------------- */

static bool is_letter(char byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
           (unsigned char)byte >= 0x80;
}

static bool says_something(const struct last_line *last)
{
    static const char node[] = "Node.js v";

    if (last->bytes == 0 || last->line[0] == ' ' || last->line[0] == '\t') {
        return false;
    }
    if (last->bytes >= sizeof node - 1 &&
        memcmp(last->line, node, sizeof node - 1) == 0) {
        return false;
    }
    for (size_t i = 0; i < last->bytes; i++) {
        if (is_letter(last->line[i])) { return true; }
    }
    return false;
}

static void end_line(struct last_line *last)
{
    if (last->bytes > 0 && last->line[last->bytes - 1] == '\r') {
        last->bytes--;
    }
    if (says_something(last)) {
        memcpy(last->kept, last->line, last->bytes);
        last->kept_bytes = last->bytes;
    }
    last->bytes = 0;
}

static void add_to_last(struct last_line *last, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == '\n') {
            end_line(last);
        } else if (last->bytes < LAST_LINE_BYTES) {
            last->line[last->bytes++] = text[i];
        }
    }
}

/* ---- descriptors -------------------------------------------------------- */

static void shut(int *fd)
{
    if (*fd >= 0) { (void)close(*fd); }
    *fd = -1;
}

static int watch(const struct mcp_stdio *stdio, int operation, int fd,
                 enum which which, uint32_t events)
{
    struct epoll_event event = {.events = events};

    event.data.u64 = MCP_READY(MCP_READY_STDIO, stdio->session, which);
    return epoll_ctl(stdio->host->epoll_fd, operation, fd, &event) == 0 ? 0
                                                                        : errno;
}

static void unwatch(const struct mcp_stdio *stdio, int fd)
{
    struct epoll_event event = {.events = 0};

    (void)epoll_ctl(stdio->host->epoll_fd, EPOLL_CTL_DEL, fd, &event);
}

/* Whoever else holds a copy of it would keep it in the epoll set. */
static void unwatch_and_shut(const struct mcp_stdio *stdio, int *fd)
{
    if (*fd >= 0) { unwatch(stdio, *fd); }
    shut(fd);
}

static int make_unblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0 ? 0
                                                                     : errno;
}

/* ---- what is told ------------------------------------------------------- */

static void tell(struct mcp_stdio *stdio, enum mcp_told what,
                 struct cleat_text text, enum cleat_status status)
{
    struct mcp_told_it told;

    memset(&told, 0, sizeof told);
    told.what = what;
    told.text = text;
    told.status = status;
    told.retry_ns = CLEAT_NONE;
    told.retry_after_ns = CLEAT_NONE;
    stdio->host->tell(stdio->host->context, stdio->session, &told);
}

__attribute__((format(printf, 3, 4))) static void
close_because(struct mcp_stdio *stdio, enum cleat_status why,
              const char *format, ...)
{
    va_list arguments;

    if (stdio->told_closed || stdio->closed_due) { return; }
    va_start(arguments, format);
    (void)vsnprintf(stdio->text, sizeof stdio->text, format, arguments);
    va_end(arguments);
    stdio->why = why;
    stdio->closed_due = true;
}

/* ---- the end ------------------------------------------------------------ */

/* Brings the timers forward: the shutdown takes no longer than the deadline,
 * and half of what is left of it is for stdin. */
static void begin_ending(struct mcp_stdio *stdio, uint64_t now_ns,
                         uint64_t deadline_ns)
{
    uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
    uint64_t half_ns = cleat_time_add(now_ns, left_ns / 2);

    if (stdio->state == STATE_RUNNING) {
        stdio->state = STATE_ENDING;
        stdio->terminate_ns = half_ns;
        stdio->kill_ns = deadline_ns;
        stdio->give_up_ns = cleat_time_add(deadline_ns, REAP_NS);
        stdio->out_begin = 0;
        stdio->out_end = 0;
        (void)shutdown(stdio->socket_fd, SHUT_WR);
        return;
    }
    if (stdio->kill_ns == CLEAT_NEVER || deadline_ns >= stdio->kill_ns) {
        return;
    }
    if (stdio->terminate_ns > half_ns && stdio->terminate_ns != CLEAT_NEVER) {
        stdio->terminate_ns = half_ns;
    }
    stdio->kill_ns = deadline_ns;
    stdio->give_up_ns = cleat_time_add(deadline_ns, REAP_NS);
}

static void begin_own_ending(struct mcp_stdio *stdio, uint64_t now_ns)
{
    if (stdio->state != STATE_RUNNING) { return; }
    begin_ending(stdio, now_ns, cleat_time_add(now_ns, stdio->host->grace_ns));
}

/* ": <last line>", where there is one. */
static void fill_last_line(struct mcp_stdio *stdio, char *to, size_t to_bytes)
{
    end_line(&stdio->last);
    to[0] = '\0';
    if (stdio->last.kept_bytes == 0) { return; }
    memcpy(to, ": ", 2);
    /* Before it becomes printable, which might change a secret. */
    size_t bytes = mcp_secrets_hide(stdio->server, stdio->last.kept,
                                    stdio->last.kept_bytes);
    mcp_printable(to + 2, to_bytes - 2, stdio->last.kept, bytes);
}

/* The process has ended, by itself or by us. */
static void say_how_it_ended(struct mcp_stdio *stdio)
{
    const struct cleat_linux_child *child = &stdio->child;
    char said[2 + LAST_LINE_BYTES + 1];
    const char *inside = mcp_lines_rest(&stdio->lines) > 0
                             ? " in the middle of a message"
                             : "";
    bool forced = stdio->terminate_ns == CLEAT_NEVER &&
                  stdio->state == STATE_ENDING;

    fill_last_line(stdio, said, sizeof said);
    if (stdio->asked) {
        close_because(stdio, CLEAT_OK, "%s", "");
    } else if (forced) {
        close_because(stdio, CLEAT_TRANSIENT, "closed its output%s%s", inside,
                      said);
    } else if (child->exit_signal != 0) {
        close_because(stdio, CLEAT_TRANSIENT, "killed by signal %d%s%s",
                      child->exit_signal, inside, said);
    } else if (child->exit_code >= 0) {
        close_because(stdio, CLEAT_TRANSIENT, "exited with %d%s%s",
                      child->exit_code, inside, said);
    } else {
        close_because(stdio, CLEAT_TRANSIENT, "ended%s%s", inside, said);
    }
}

static void end_descriptors(struct mcp_stdio *stdio)
{
    unwatch_and_shut(stdio, &stdio->socket_fd);
    unwatch_and_shut(stdio, &stdio->stderr_fd);
    stdio->terminate_ns = CLEAT_NEVER;
    stdio->kill_ns = CLEAT_NEVER;
    stdio->give_up_ns = CLEAT_NEVER;
    stdio->state = STATE_CLOSED;
}

/* A killed process that the system does not let go (a disk that hangs). */
static void give_up(struct mcp_stdio *stdio)
{
    unwatch_and_shut(stdio, &stdio->child.pidfd);
    stdio->child.pid = 0;
    close_because(stdio, CLEAT_TRANSIENT, "was killed and does not end");
    end_descriptors(stdio);
}

/* ---- reading ------------------------------------------------------------ */

/* Tells the lines that are there. What is told may end the session. */
static void tell_lines(struct mcp_stdio *stdio, uint64_t now_ns)
{
    struct cleat_text line;
    enum cleat_status status = CLEAT_OK;

    while (status == CLEAT_OK && stdio->state == STATE_RUNNING) {
        status = mcp_lines_next(&stdio->lines, &line);
        if (status == CLEAT_OK && line.bytes > 0) {
            tell(stdio, MCP_MESSAGE, line, CLEAT_OK);
        }
    }
    if (status == CLEAT_LIMIT) {
        close_because(stdio, CLEAT_LIMIT,
                      "sent a message longer than %zu bytes "
                      "(message_bytes_max)",
                      stdio->host->message_bytes_max);
        begin_own_ending(stdio, now_ns);
    }
}

/* Reads up to so many pieces of what the server says. Returns false at the end
 * of it. */
static bool read_socket(struct mcp_stdio *stdio, uint64_t now_ns, int reads_max)
{
    for (int i = 0; i < reads_max && stdio->socket_fd >= 0; i++) {
        size_t bytes;
        char *room = mcp_lines_room(&stdio->lines, &bytes);
        bool wanted = stdio->state == STATE_RUNNING;
        if (!wanted) {
            mcp_lines_init(&stdio->lines, stdio->room,
                           stdio->host->message_bytes_max);
            room = mcp_lines_room(&stdio->lines, &bytes);
        }
        ssize_t got = recv(stdio->socket_fd, room, bytes, 0);
        if (got > 0 && wanted) {
            mcp_lines_filled(&stdio->lines, (size_t)got);
            tell_lines(stdio, now_ns);
        } else if (got == 0) {
            return false;
        } else if (got < 0 && errno != EINTR) {
            return errno == EAGAIN;
        }
    }
    return true;
}

/* The same for its stderr. */
static bool read_stderr(struct mcp_stdio *stdio, int reads_max)
{
    char piece[STDERR_PIECE];

    for (int i = 0; i < reads_max && stdio->stderr_fd >= 0; i++) {
        ssize_t got = read(stdio->stderr_fd, piece, sizeof piece);
        if (got > 0) {
            add_to_last(&stdio->last, piece, (size_t)got);
        } else if (got == 0) {
            return false;
        } else if (errno != EINTR) {
            return errno == EAGAIN;
        }
    }
    return true;
}

/* ---- writing ------------------------------------------------------------ */

/* The end of what it reads is seen where its output or its process ends. */
static void flush(struct mcp_stdio *stdio)
{
    while (stdio->out_begin < stdio->out_end) {
        ssize_t sent = send(stdio->socket_fd, stdio->out + stdio->out_begin,
                            stdio->out_end - stdio->out_begin,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent > 0) {
            stdio->out_begin += (size_t)sent;
        } else if (sent < 0 && errno == EAGAIN) {
            break;
        } else if (sent == 0 || errno != EINTR) {
            stdio->out_begin = stdio->out_end;
        }
    }
    if (stdio->out_begin == stdio->out_end) {
        stdio->out_begin = 0;
        stdio->out_end = 0;
    }
    bool waits = stdio->out_end > 0;
    if (waits != stdio->waits_to_write) {
        stdio->waits_to_write = waits;
        (void)watch(stdio, EPOLL_CTL_MOD, stdio->socket_fd, WHICH_SOCKET,
                    waits ? EPOLLIN | EPOLLOUT : EPOLLIN);
    }
}

void mcp_stdio_send(struct mcp_stdio *stdio, uint64_t now_ns,
                    struct cleat_text body)
{
    size_t waiting = stdio->out_end - stdio->out_begin;

    if (stdio->state != STATE_RUNNING) { return; }
    if (body.bytes >= stdio->out_bytes - waiting) {
        if (waiting == 0) {
            close_because(stdio, CLEAT_LIMIT,
                          "would be sent a message longer than %zu bytes",
                          stdio->out_bytes - 1);
        } else {
            close_because(stdio, CLEAT_PEER_SILENT,
                          "does not read: %zu bytes wait for it", waiting);
        }
        begin_own_ending(stdio, now_ns);
        return;
    }
    if (body.bytes >= stdio->out_bytes - stdio->out_end) {
        memmove(stdio->out, stdio->out + stdio->out_begin, waiting);
        stdio->out_end = waiting;
        stdio->out_begin = 0;
    }
    memcpy(stdio->out + stdio->out_end, body.text, body.bytes);
    stdio->out_end += body.bytes;
    stdio->out[stdio->out_end++] = '\n';
    flush(stdio);
}

/* ---- the beginning ------------------------------------------------------ */

/* Ends of what a process is given, and ours. */
struct ends {
    int socket[2]; /* ours, the child's */
    int error[2];  /* the same */
    int folder;
};

static void shut_ends(struct ends *ends)
{
    shut(&ends->socket[0]);
    shut(&ends->socket[1]);
    shut(&ends->error[0]);
    shut(&ends->error[1]);
    shut(&ends->folder);
}

static int make_ends(struct ends *ends)
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends->socket) != 0 ||
        pipe2(ends->error, O_CLOEXEC) != 0) {
        return errno;
    }
    int code = make_unblocking(ends->socket[0]);
    return code != 0 ? code : make_unblocking(ends->error[0]);
}

/* What a new attempt may find otherwise is worth one. */
static enum cleat_status class_of(int code)
{
    return code == EMFILE || code == ENFILE || code == ENOMEM ||
                   code == EAGAIN || code == ENOBUFS || code == ENOSPC ||
                   code == ETXTBSY
               ? CLEAT_TRANSIENT
               : CLEAT_PERMANENT;
}

static void say_not_started(struct mcp_stdio *stdio, const char *doing,
                            const char *name, int code)
{
    char said[LAST_LINE_BYTES];
    const char *words = strerrordesc_np(code);

    mcp_printable(said, sizeof said, name, strlen(name));
    close_because(stdio, class_of(code), "%s \"%s\": %s", doing, said,
                  words != NULL ? words : "unknown error");
}

static bool open_folder(struct mcp_stdio *stdio,
                        const struct mcp_command *command, struct ends *ends)
{
    if (command->folder == NULL) { return true; }
    ends->folder = open(command->folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (ends->folder >= 0) { return true; }
    say_not_started(stdio, "cannot start in", command->folder, errno);
    return false;
}

/* Takes the ends over, watched; 0 or errno, and then none. */
static int take_ends(struct mcp_stdio *stdio, struct ends *ends)
{
    int code = watch(stdio, EPOLL_CTL_ADD, ends->socket[0], WHICH_SOCKET,
                     EPOLLIN);

    if (code == 0) {
        code = watch(stdio, EPOLL_CTL_ADD, ends->error[0], WHICH_STDERR,
                     EPOLLIN);
        if (code != 0) { unwatch(stdio, ends->socket[0]); }
    }
    if (code != 0) { return code; }
    stdio->socket_fd = ends->socket[0];
    stdio->stderr_fd = ends->error[0];
    ends->socket[0] = -1;
    ends->error[0] = -1;
    return 0;
}

/* Starts the program with the ends; 0 or errno, and then nothing is left. */
static int start(struct mcp_stdio *stdio, const struct mcp_command *command,
                 const char *path, struct ends *ends)
{
    const int fds[MCP_STDIO_FDS_COUNT] = {ends->socket[1], ends->socket[1],
                                          ends->error[1]};
    struct cleat_error error = {.port_code = 0};
    int code = take_ends(stdio, ends);

    if (code != 0) { return code; }
    (void)cleat_linux_child_start(stdio->host->maker, path, command->argv,
                                  command->envp, fds, ends->folder,
                                  &stdio->child, &error);
    code = error.port_code;
    if (code == 0) {
        code = watch(stdio, EPOLL_CTL_ADD, stdio->child.pidfd, WHICH_CHILD,
                     EPOLLIN);
        if (code != 0) {
            cleat_linux_child_signal(&stdio->child, SIGKILL);
            (void)cleat_linux_child_await(&stdio->child, CLEAT_NEVER);
        }
    }
    if (code != 0) { end_descriptors(stdio); }
    return code;
}

/* The rooms for messages hold the command until the program runs. */
static void open_with(struct mcp_stdio *stdio, const struct mcp_server *server,
                      struct ends *ends)
{
    struct mcp_room room = {stdio->room,
                            MCP_LINES_BYTES(stdio->host->message_bytes_max)};
    struct mcp_command command;
    struct cleat_error error;
    const char *path = NULL;

    memset(&error, 0, sizeof error);
    if (mcp_command_fill(server, &stdio->host->environment, &room,
                         (char **)(void *)stdio->out,
                         stdio->out_bytes / sizeof(char *), &command,
                         &error) != CLEAT_OK) {
        close_because(stdio, error.status, "%s", error.text);
        return;
    }
    if (!open_folder(stdio, &command, ends)) { return; }
    if (mcp_command_find(&command, ends->folder, &room, &path, &error) !=
        CLEAT_OK) {
        close_because(stdio, error.status, "%s", error.text);
        return;
    }
    int code = make_ends(ends);
    if (code == 0) { code = start(stdio, &command, path, ends); }
    if (code != 0) {
        say_not_started(stdio, "cannot start", command.command, code);
        return;
    }
    stdio->state = STATE_RUNNING;
    stdio->opened_due = true;
}

void mcp_stdio_open(struct mcp_stdio *stdio, uint64_t now_ns,
                    const struct mcp_server *server)
{
    struct ends ends = {{-1, -1}, {-1, -1}, -1};

    (void)now_ns;
    stdio->server = server;
    stdio->told_closed = false;
    stdio->opened_due = false;
    stdio->closed_due = false;
    stdio->asked = false;
    stdio->waits_to_write = false;
    memset(&stdio->last, 0, sizeof stdio->last);
    open_with(stdio, server, &ends);
    shut_ends(&ends);
    mcp_lines_init(&stdio->lines, stdio->room, stdio->host->message_bytes_max);
    stdio->out_begin = 0;
    stdio->out_end = 0;
}

/* ---- from outside ------------------------------------------------------- */

size_t mcp_stdio_bytes(const struct mcp_stdio_host *host)
{
    size_t bytes = sizeof(struct mcp_stdio) + host->send_bytes +
                   MCP_LINES_BYTES(host->message_bytes_max);

    return (bytes + 7) & ~(size_t)7;
}

/* What is sent lies first: pointers lie there while a process is started. */
struct mcp_stdio *mcp_stdio_init(void *block, uint32_t session,
                                 const struct mcp_stdio_host *host)
{
    struct mcp_stdio *stdio = block;

    memset(stdio, 0, sizeof *stdio);
    stdio->session = session;
    stdio->host = host;
    stdio->socket_fd = -1;
    stdio->stderr_fd = -1;
    stdio->child.pidfd = -1;
    stdio->terminate_ns = CLEAT_NEVER;
    stdio->kill_ns = CLEAT_NEVER;
    stdio->give_up_ns = CLEAT_NEVER;
    stdio->out = (char *)(stdio + 1);
    stdio->out_bytes = host->send_bytes;
    stdio->room = stdio->out + stdio->out_bytes;
    return stdio;
}

void mcp_stdio_close(struct mcp_stdio *stdio, uint64_t now_ns,
                     uint64_t deadline_ns)
{
    stdio->asked = true;
    if (stdio->state == STATE_CLOSED) {
        close_because(stdio, CLEAT_OK, "%s", "");
    } else {
        begin_ending(stdio, now_ns, deadline_ns);
    }
}

/* It has ended: what it said before is heard before. */
static void bury(struct mcp_stdio *stdio, uint64_t now_ns)
{
    unwatch(stdio, stdio->child.pidfd);
    if (!cleat_linux_child_reap(&stdio->child)) {
        (void)watch(stdio, EPOLL_CTL_ADD, stdio->child.pidfd, WHICH_CHILD,
                    EPOLLIN);
        return;
    }
    (void)read_socket(stdio, now_ns, LAST_READS_MAX);
    (void)read_stderr(stdio, LAST_READS_MAX);
    say_how_it_ended(stdio);
    end_descriptors(stdio);
}

/* Before anything else is told. */
static void tell_opened(struct mcp_stdio *stdio)
{
    struct cleat_text nothing = {"", 0};

    if (!stdio->opened_due) { return; }
    stdio->opened_due = false;
    if (stdio->state == STATE_RUNNING) {
        tell(stdio, MCP_OPENED, nothing, CLEAT_OK);
    }
}

void mcp_stdio_ready(struct mcp_stdio *stdio, uint64_t now_ns, uint32_t which)
{
    if (stdio->state == STATE_CLOSED) { return; } /* an event of before */
    tell_opened(stdio);
    if (which == WHICH_STDERR) {
        if (!read_stderr(stdio, STDERR_READS_AT_ONCE)) {
            unwatch_and_shut(stdio, &stdio->stderr_fd);
        }
    } else if (which == WHICH_CHILD) {
        if (stdio->child.pidfd >= 0) { bury(stdio, now_ns); }
    } else if (stdio->socket_fd >= 0) {
        if (stdio->waits_to_write) { flush(stdio); }
        if (!read_socket(stdio, now_ns, READS_AT_ONCE)) {
            begin_own_ending(stdio, now_ns);
            unwatch_and_shut(stdio, &stdio->socket_fd);
        }
    }
}

static uint64_t earlier(uint64_t a_ns, uint64_t b_ns)
{
    return a_ns < b_ns ? a_ns : b_ns;
}

uint64_t mcp_stdio_deadline(const struct mcp_stdio *stdio)
{
    if (stdio->opened_due || stdio->closed_due) { return 0; }
    return earlier(stdio->terminate_ns,
                   earlier(stdio->kill_ns, stdio->give_up_ns));
}

static void tick_ending(struct mcp_stdio *stdio, uint64_t now_ns)
{
    if (now_ns >= stdio->terminate_ns) {
        stdio->terminate_ns = CLEAT_NEVER;
        cleat_linux_child_signal(&stdio->child, SIGTERM);
    }
    if (now_ns >= stdio->kill_ns) {
        stdio->kill_ns = CLEAT_NEVER;
        cleat_linux_child_signal(&stdio->child, SIGKILL);
    }
    if (now_ns >= stdio->give_up_ns) { give_up(stdio); }
}

void mcp_stdio_tick(struct mcp_stdio *stdio, uint64_t now_ns)
{
    tell_opened(stdio);
    if (stdio->state == STATE_ENDING) { tick_ending(stdio, now_ns); }
    if (stdio->closed_due) {
        struct cleat_text text = {stdio->text, strlen(stdio->text)};
        stdio->closed_due = false;
        stdio->told_closed = true;
        tell(stdio, MCP_CLOSED, text, stdio->why);
    }
}

bool mcp_stdio_is_closed(const struct mcp_stdio *stdio)
{
    return stdio->state == STATE_CLOSED && !stdio->closed_due;
}
