/* Cleat: server processes that behave and misbehave. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include "mcp_child.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINE_BYTES ((size_t)1 << 20)

extern char **environ;

bool mcp_child_is(int argc, char **argv)
{
    return argc > 2 && strcmp(argv[1], "child") == 0;
}

/* ---- plain ones --------------------------------------------------------- */

static void say(const char *text, size_t bytes)
{
    while (bytes > 0) {
        ssize_t said = write(1, text, bytes);
        if (said <= 0) { _exit(9); }
        text += said;
        bytes -= (size_t)said;
    }
}

static void stay(void)
{
    for (;;) { (void)pause(); }
}

static int echo(size_t piece)
{
    static char text[65536];
    ssize_t got = read(0, text, sizeof text);

    while (got > 0) {
        for (size_t at = 0; at < (size_t)got; at += piece) {
            size_t left = (size_t)got - at;
            say(text + at, left < piece ? left : piece);
        }
        got = read(0, text, sizeof text);
    }
    return 0;
}

static int silent(void)
{
    static char text[65536];

    while (read(0, text, sizeof text) > 0) {}
    return 0;
}

static int swallow(unsigned long bytes)
{
    static char text[65536];

    while (bytes > 0) {
        size_t most = bytes < sizeof text ? bytes : sizeof text;
        ssize_t got = read(0, text, most);
        if (got <= 0) { return 1; }
        bytes -= (unsigned long)got;
    }
    say("done\n", 5);
    return silent();
}

static int parent(void)
{
    char line[64];
    pid_t pid = fork();

    if (pid == 0) {
        (void)signal(SIGTERM, SIG_IGN);
        stay();
    }
    int bytes = snprintf(line, sizeof line, "%d\n", (int)pid);
    say(line, (size_t)bytes);
    return 5;
}

static int flood(void)
{
    for (int i = 0; i < 65536; i++) {
        (void)fputs("a line that is sixty-four bytes long, with its newline "
                    "at end\n",
                    stderr);
    }
    (void)fputs("the flood is over\n", stderr);
    return echo(SIZE_MAX);
}

static int words(void)
{
    (void)fputs("first\nlast \xff\x1b[31m words\n    at indented (file:1)\n}\n"
                "\nNode.js v22.0.0\n",
                stderr);
    return 3;
}

static int secret(void)
{
    (void)fprintf(stderr, "login %s refused\n", getenv("SECRET"));
    return 1;
}

static int chatter(unsigned long lines)
{
    for (unsigned long i = 0; i < lines; i++) { (void)printf("line %lu\n", i); }
    (void)fflush(stdout);
    return 0;
}

static int long_line(unsigned long bytes)
{
    for (; bytes > 0; bytes--) { say("x", 1); }
    say("\n", 1);
    return silent();
}

static void tell_descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    const struct dirent *entry = readdir(folder);

    while (entry != NULL) {
        int fd = atoi(entry->d_name);
        if (entry->d_name[0] != '.' && fd != dirfd(folder)) {
            (void)printf("fd %d\n", fd);
        }
        entry = readdir(folder);
    }
    (void)closedir(folder);
}

static int tell(int argc, char **argv)
{
    char folder[4096];
    sigset_t blocked;

    for (int i = 3; i < argc; i++) { (void)printf("arg %s\n", argv[i]); }
    for (char **variable = environ; *variable != NULL; variable++) {
        (void)printf("env %s\n", *variable);
    }
    (void)printf("cwd %s\n", getcwd(folder, sizeof folder));
    tell_descriptors();
    (void)sigprocmask(SIG_SETMASK, NULL, &blocked);
    (void)printf("leader %d, SIGTERM blocked %d\n", getpgrp() == getpid(),
                 sigismember(&blocked, SIGTERM));
    (void)printf("end\n");
    (void)fflush(stdout);
    return silent();
}

/* ---- a server of MCP 2025-11-25 ----------------------------------------- */

struct server {
    const char *name;
    bool mute;
    bool mute_list;
    bool quit_list;
    bool sloth;
    const char *change;
    bool changed;
};

/* The request's id as it stands; 0: it has none. */
static size_t find_id(const char *line, const char **id)
{
    const char *key = strstr(line, "\"id\":");

    if (key == NULL) { return 0; }
    *id = key + 5;
    return strcspn(*id, ",}");
}

static void answer(const char *id, size_t id_bytes, const char *result)
{
    static char line[LINE_BYTES];
    /* In the order of real servers: the result first. */
    int bytes = snprintf(line, sizeof line,
                         "{\"result\":%s,\"jsonrpc\":\"2.0\",\"id\":%.*s}\n",
                         result, (int)id_bytes, id);

    say(line, (size_t)bytes);
}

static void answer_list(const struct server *server, const char *id,
                        size_t id_bytes)
{
    static const char tool[] = "{\"name\":\"%s_%s\",\"description\":\"d\","
                               "\"inputSchema\":{\"type\":\"object\"}}";
    static const char *const ends[] = {"one", "two", "three"};
    char result[4096] = "{\"tools\":[";
    size_t count = server->changed ? 3 : 2;

    for (size_t i = 0; i < count; i++) {
        size_t used = strlen(result);
        if (i > 0) { result[used++] = ','; }
        (void)snprintf(result + used, sizeof result - used, tool, server->name,
                       ends[i]);
    }
    (void)strcat(result, "]}");
    answer(id, id_bytes, result);
}

/* The text of the result is our number, and how many calls there were. */
static void answer_call(const char *line, const char *id, size_t id_bytes)
{
    static int calls;
    char result[4096];
    const char *arguments = strstr(line, "\"arguments\":");
    const char *word = arguments == NULL ? NULL : strstr(arguments, "say");
    bool is_error = word != NULL && strstr(word, "fail") != NULL;

    (void)snprintf(result, sizeof result,
                   "{\"content\":[{\"type\":\"text\",\"text\":\"%d %d\"}],"
                   "\"isError\":%s}",
                   (int)getpid(), ++calls, is_error ? "true" : "false");
    answer(id, id_bytes, result);
}

static void hear(struct server *server, const char *line)
{
    const char *id = NULL;
    size_t id_bytes = find_id(line, &id);

    if (id_bytes == 0 || server->mute) { return; }
    if (strstr(line, "\"initialize\"") != NULL) {
        answer(id, id_bytes,
               "{\"protocolVersion\":\"2025-11-25\",\"capabilities\":"
               "{\"tools\":{\"listChanged\":true}},\"serverInfo\":"
               "{\"name\":\"child\",\"version\":\"1\"}}");
    } else if (strstr(line, "\"tools/list\"") != NULL) {
        if (server->quit_list) {
            (void)fputs("cannot list\n", stderr);
            _exit(4);
        }
        if (!server->mute_list) { answer_list(server, id, id_bytes); }
    } else if (strstr(line, "\"tools/call\"") != NULL) {
        if (!server->sloth) { answer_call(line, id, id_bytes); }
    } else {
        answer(id, id_bytes, "{}");
    }
}

static void note_start(const char *path)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT, 0600);
    ssize_t written = write(fd, "started\n", 8);

    (void)written;
    (void)close(fd);
}

static void read_ways(struct server *server, int argc, char **argv)
{
    for (int i = 3; i < argc; i++) {
        const char *value = strchr(argv[i], '=');
        value = value == NULL ? "" : value + 1;
        if (strncmp(argv[i], "name=", 5) == 0) { server->name = value; }
        if (strncmp(argv[i], "change=", 7) == 0) { server->change = value; }
        if (strncmp(argv[i], "touch=", 6) == 0) { note_start(value); }
        server->mute = server->mute || strcmp(argv[i], "mute") == 0;
        server->mute_list = server->mute_list ||
                            strcmp(argv[i], "mute_list") == 0;
        server->quit_list = server->quit_list ||
                            strcmp(argv[i], "quit_list") == 0;
        server->sloth = server->sloth || strcmp(argv[i], "sloth") == 0;
    }
}

static void tell_change(struct server *server, int *fifo)
{
    static const char line[] = "{\"jsonrpc\":\"2.0\",\"method\":"
                               "\"notifications/tools/list_changed\"}\n";

    server->changed = true;
    (void)close(*fifo);
    *fifo = -1;
    say(line, sizeof line - 1);
}

static int serve(int argc, char **argv)
{
    static char text[LINE_BYTES];
    struct server server = {.name = "child"};
    size_t used = 0;

    read_ways(&server, argc, argv);
    int fifo = server.change == NULL
                   ? -1
                   : open(server.change, O_RDONLY | O_NONBLOCK);
    for (;;) {
        struct pollfd fds[2] = {{0, POLLIN, 0}, {fifo, POLLIN, 0}};
        (void)poll(fds, 2, -1);
        if (fifo >= 0 && fds[1].revents != 0) { tell_change(&server, &fifo); }
        if (fds[0].revents == 0) { continue; }
        ssize_t got = read(0, text + used, sizeof text - 1 - used);
        if (got <= 0) { return 0; }
        used += (size_t)got;
        text[used] = '\0';
        char *line = text;
        char *end = strchr(line, '\n');
        while (end != NULL) {
            *end = '\0';
            hear(&server, line);
            line = end + 1;
            end = strchr(line, '\n');
        }
        used -= (size_t)(line - text);
        memmove(text, line, used + 1);
    }
}

/* ---- all of them -------------------------------------------------------- */

static unsigned long number(int argc, char **argv)
{
    return argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
}

static int behave(const char *way, int argc, char **argv)
{
    if (strcmp(way, "echo") == 0) { return echo(SIZE_MAX); }
    if (strcmp(way, "drip") == 0) { return echo(1); }
    if (strcmp(way, "silent") == 0) { return silent(); }
    if (strcmp(way, "swallow") == 0) { return swallow(number(argc, argv)); }
    if (strcmp(way, "parent") == 0) { return parent(); }
    if (strcmp(way, "flood") == 0) { return flood(); }
    if (strcmp(way, "words") == 0) { return words(); }
    if (strcmp(way, "secret") == 0) { return secret(); }
    if (strcmp(way, "chatter") == 0) { return chatter(number(argc, argv)); }
    if (strcmp(way, "long") == 0) { return long_line(number(argc, argv)); }
    if (strcmp(way, "tell") == 0) { return tell(argc, argv); }
    if (strcmp(way, "server") == 0) { return serve(argc, argv); }
    if (strcmp(way, "shot") == 0) { (void)kill(getpid(), SIGKILL); }
    if (strcmp(way, "half") == 0) {
        say("{\"half", 6);
        return 0;
    }
    if (strcmp(way, "stubborn") == 0) {
        (void)signal(SIGTERM, SIG_IGN);
        if (argc > 3) { say("no\n", 3); }
    }
    if (strcmp(way, "leaver") == 0) {
        (void)shutdown(1, SHUT_WR);
        (void)close(1);
    }
    stay(); /* deaf, stubborn, leaver */
    return 0;
}

int mcp_child_main(int argc, char **argv)
{
    return behave(argv[2], argc, argv);
}
