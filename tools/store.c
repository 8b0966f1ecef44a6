/* Cleat: `cleat store`, the command line. SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include "store.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "options.h"
#include "store_job.h"
#include "store_tensors.h"

#define COMMAND "cleat store"
#define DAY_NS (UINT64_C(86400) * CLEAT_NS_PER_S)

/* Where help is folded. */
#define HELP_COLUMNS 79u
#define HELP_NAME_COLUMNS 20u

static const char usage[] =
    "usage: cleat store put    --store STORE --from DIR|FILE [OPTION]...\n"
    "       cleat store get    --store STORE --to FILE [OPTION]...\n"
    "       cleat store get    --store STORE --keys-from FILE [--to DIR] ...\n"
    "       cleat store exists --store STORE --keys-from FILE [OPTION]...\n"
    "       cleat store remove --store STORE --keys-from FILE [OPTION]...\n"
    "       cleat store bench  --help\n"
    "Puts values into a store and gets them from it, by key. What fails is "
    "sent\n"
    "again, alone; ok means that the bytes are there, and the right ones.\n"
    "\n"
    "  --store STORE      memory[:keys=N,bytes=SIZE]: of this process alone, "
    "and\n"
    "                     gone with it: to try a put out\n"
    "                     memory:shared=NAME[,bytes=SIZE,keys=N]: of all "
    "processes\n"
    "                     of this user here; bytes=SIZE, keys=N: of a new "
    "one,\n"
    "                     where there is none; it stays until the file\n"
    "                     /dev/shm/cleat-store-NAME is removed\n"
    "                     mooncake[:OPTION,...]: a Mooncake Store; "
    "library=PATH,\n"
    "                     master=HOST:PORT, metadata=, hostname=, protocol=,\n"
    "                     device=, segment=SIZE, local-buffer=SIZE, "
    "staging=SIZE,\n"
    "                     replicas=N, hard-pin, soft-pin\n"
    "                     (\\, is a comma inside a value)\n"
    "  --from DIR|FILE    put: the values: a file a key, or a safetensors "
    "file, a\n"
    "                     key a tensor, and one more, __metadata__; exists,\n"
    "                     remove: the keys\n"
    "  --to DIR           get: a file a key, as far as they are ok; without "
    "it,\n"
    "                     values are read, checked and dropped\n"
    "  --to FILE          get, where the name ends in .safetensors: the file "
    "that\n"
    "                     was put, byte for byte; whole, or not at all\n"
    "  --keys-from FILE   a key a line; put: of --from, only these\n"
    "  --prefix TEXT      before each key in the store; not in files and "
    "lists\n"
    "  --mode M           put, where the key is there: create (default) "
    "fails,\n"
    "                     replace removes the old value first, keep leaves it\n"
    "  --verify V         put: none: what was sent again, or may have failed, "
    "is\n"
    "                     always looked at; exist: all are, by their size; "
    "full:\n"
    "                     all are read back and compared (none; mooncake: "
    "exist,\n"
    "                     for it takes a key that another is putting for its "
    "own);\n"
    "                     what keep leaves is not read\n"
    "  --deadline-s S     for all of it, once the keys are read (180)\n"
    "  --report text|json on standard output (text); exists: a key that is\n"
    "                     missing is no failure\n"
    "  --seed S           of the faults (1)\n"
    "  --fault KIND:RATE[:ARG]...\n"
    "                     what the store does wrong; may be given again and\n"
    "                     again. RATE is a share of the keys, 0.1 or 10%; ARG "
    "is\n"
    "                     TIMES, of each key and operation the first so many\n"
    "                     only; a time, 500ms, of a silence (without it: for\n"
    "                     ever); or, last, key=KEY, that key alone\n"
    "\n"
    "In a folder, a key's file has its name, with /, %, control characters "
    "and a\n"
    "first dot as % and two hex digits; 255 bytes at most.\n"
    "\n"
    "Exit: 0 all keys are ok, 8 some failed, as the report says, or it could "
    "not be\n"
    "written, 9 the store is not ready, 2 bad input: nothing was sent, 128 + "
    "N\n"
    "signal N.\n"
    "\n"
    "Faults:\n";

/* ---- help --------------------------------------------------------------- */

static void print_folded(const char *name, const char *text)
{
    size_t column = HELP_NAME_COLUMNS;

    printf("  %-*s", (int)HELP_NAME_COLUMNS - 2, name);
    while (*text != '\0') {
        size_t bytes = strcspn(text, " ");

        if (column + 1 + bytes > HELP_COLUMNS) {
            printf("\n%*s", (int)HELP_NAME_COLUMNS, "");
            column = HELP_NAME_COLUMNS;
        } else if (column > HELP_NAME_COLUMNS) {
            printf(" ");
            column++;
        }
        printf("%.*s", (int)bytes, text);
        column += bytes;
        text += bytes + (text[bytes] == ' ' ? 1 : 0);
    }
    printf("\n");
}

static int help(void)
{
    fputs(usage, stdout);
    for (uint32_t i = CLEAT_STORE_FAULT_NONE + 1; i < CLEAT_STORE_FAULTS; i++) {
        enum cleat_store_fault_kind kind = (enum cleat_store_fault_kind)i;

        print_folded(cleat_store_fault_name(kind),
                     cleat_store_fault_meaning(kind));
    }
    return 0;
}

/* ---- the command line --------------------------------------------------- */

static const struct {
    const char *name;
    const char *command;
    uint32_t kind;
} commands[] = {
    {"put", COMMAND " put", CLEAT_TRANSFER_PUT},
    {"get", COMMAND " get", CLEAT_TRANSFER_GET},
    {"exists", COMMAND " exists", CLEAT_TRANSFER_EXISTS},
    {"remove", COMMAND " remove", CLEAT_TRANSFER_REMOVE},
};

static bool wants_help(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) { return true; }
    }
    return false;
}

static int check_options(const struct store_job *job, bool puts_only)
{
    bool is_put = job->kind == CLEAT_TRANSFER_PUT;
    bool is_get = job->kind == CLEAT_TRANSFER_GET;

    if (!is_put && puts_only) {
        return options_fail(job->command, "--mode, --verify: only for put");
    }
    if (!is_get && job->to != NULL) {
        return options_fail(job->command, "--to: only for get");
    }
    if (is_get && job->from != NULL) {
        return options_fail(job->command, "--from: not for get");
    }
    if (is_put && job->from == NULL) {
        return options_fail(job->command, "--from: must be given");
    }
    if (!is_get && job->from == NULL && job->keys_from == NULL) {
        return options_fail(job->command, "--keys-from: must be given");
    }
    return 0;
}

static int parse_store(struct store_job *job, const struct option_texts *faults)
{
    char line[STORE_OPEN_LINE_BYTES];

    if (!store_parse(job->text, &job->spec, line)) {
        return options_fail(job->command, "--store %s", line);
    }
    for (size_t i = 0; i < faults->count; i++) {
        if (!store_faults_add(&job->faults, faults->items[i], line)) {
            return options_fail(job->command, "--fault %s", line);
        }
    }
    return 0;
}

static int parse(struct store_job *job, int argc, char **argv)
{
    const char *fault_items[CLEAT_STORE_FAULTS_RULES_MAX];
    struct option_texts faults = {fault_items, CLEAT_STORE_FAULTS_RULES_MAX, 0};
    struct option table[] = {
        {.name = "mode",
         .kind = OPTION_CHOICE,
         .to = &job->mode,
         .choices = "create|replace|keep"},
        {.name = "verify",
         .kind = OPTION_CHOICE,
         .to = &job->verify,
         .choices = "none|exist|full"},
        {.name = "store",
         .kind = OPTION_TEXT,
         .to = &job->text,
         .required = true},
        {.name = "keys-from", .kind = OPTION_TEXT, .to = &job->keys_from},
        {.name = "from", .kind = OPTION_TEXT, .to = &job->from},
        {.name = "to", .kind = OPTION_TEXT, .to = &job->to},
        {.name = "prefix", .kind = OPTION_TEXT, .to = &job->prefix},
        {.name = "deadline-s",
         .kind = OPTION_SECONDS,
         .to = &job->deadline_after_ns,
         .min = CLEAT_NS_PER_MS,
         .max = DAY_NS},
        {.name = "report",
         .kind = OPTION_CHOICE,
         .to = &job->json,
         .choices = "text|json"},
        {.name = "seed", .kind = OPTION_COUNT, .to = &job->faults.seed},
        {.name = "fault", .kind = OPTION_TEXTS, .to = &faults},
    };
    struct options options = {.command = job->command,
                              .table = table,
                              .count = sizeof table / sizeof table[0]};
    int result = options_parse(&options, argc, argv);

    if (result != 0) { return result; }
    result = check_options(job, table[0].given + table[1].given != 0);
    if (result != 0) { return result; }
    job->rows.prefix = job->prefix;
    job->rows.prefix_bytes = job->prefix != NULL ? strlen(job->prefix) : 0;
    result = parse_store(job, &faults);
    if (result == 0 && table[1].given == 0) {
        job->verify = store_verify(&job->spec);
    }
    return result;
}

/* ---- where values come from, and go ------------------------------------- */

enum place { PLACE_NOWHERE, PLACE_FOLDER, PLACE_TENSORS };

static bool is_folder(const char *path)
{
    struct stat about;

    return stat(path, &about) == 0 && S_ISDIR(about.st_mode);
}

static bool has_tensors_name(const char *path)
{
    static const char end[] = ".safetensors";
    size_t bytes = strlen(path);

    return bytes >= sizeof end - 1 &&
           strcmp(path + bytes - (sizeof end - 1), end) == 0;
}

/* What a run has open besides the store. */
struct ends {
    enum place from;
    enum place to;
    struct store_tensors tensors;
    struct store_folder folder; /* of `to` */
    const char *name;           /* of the file in it */
    char path[PATH_MAX];
};

/* The rows of --from, and --keys-from. */
static int open_from(struct store_job *job, struct ends *ends)
{
    struct store_rows wanted = {.prefix = job->rows.prefix,
                                .prefix_bytes = job->rows.prefix_bytes};
    int result;

    if (job->from == NULL) {
        if (job->keys_from == NULL) { return 0; } /* get: of the file put */
        result = store_rows_read(job->command, &job->rows, job->keys_from);
        return result != 0
                   ? result
                   : store_rows_check(job->command, &job->rows, job->keys_from);
    }
    if (is_folder(job->from)) {
        ends->from = PLACE_FOLDER;
        result = store_rows_scan(job->command, &job->rows, job->from);
    } else {
        result = store_tensors_open(job, &ends->tensors);
        if (result == 0) { ends->from = PLACE_TENSORS; }
    }
    if (result != 0 || job->keys_from == NULL) { return result; }
    result = store_rows_read(job->command, &wanted, job->keys_from);
    if (result == 0) {
        result = store_rows_keep(job->command, &job->rows, &wanted,
                                 job->keys_from, job->from);
    }
    store_rows_free(&wanted);
    return result;
}

/* For each key there must be a file's name. */
static int check_names(const struct store_job *job)
{
    char name[STORE_FILE_NAME_MAX + 1];

    for (uint32_t i = 0; i < job->rows.count; i++) {
        const struct store_row *row = &job->rows.each[i];

        if (!store_file_name(row->name, name)) {
            store_say(job->command,
                      "%s: line %u: the file's name would have more than %u "
                      "bytes",
                      job->keys_from, row->line, STORE_FILE_NAME_MAX);
            return STORE_EXIT_INPUT;
        }
    }
    return 0;
}

static int open_folder(struct store_job *job, struct ends *ends,
                       const char *path, bool make)
{
    int code = store_folder_open(&ends->folder, path, make);

    if (code == 0 && access(path, W_OK) != 0) { code = errno; }
    if (code == 0) { return 0; }
    store_folder_close(&ends->folder);
    return options_fail(job->command, "--to %s: %s", job->to, strerror(code));
}

static int open_to_tensors(struct store_job *job, struct ends *ends)
{
    const char *slash = strrchr(job->to, '/');
    size_t bytes = slash == NULL ? 0 : (size_t)(slash - job->to) + 1;
    int result;

    if (job->keys_from != NULL) {
        return options_fail(job->command,
                            "--to %s: a safetensors file is got whole; "
                            "--keys-from goes with a folder",
                            job->to);
    }
    if (bytes + 2 > sizeof ends->path) {
        return options_fail(job->command, "--to: the path is too long");
    }
    ends->to = PLACE_TENSORS;
    ends->name = job->to + bytes;
    memcpy(ends->path, job->to, bytes);
    memcpy(ends->path + bytes, ".", 2);
    result = open_folder(job, ends, ends->path, false);
    return result != 0 ? result : store_get_tensors_begin(job);
}

static int open_to(struct store_job *job, struct ends *ends)
{
    int result;

    ends->folder.fd = -1;
    if (job->kind != CLEAT_TRANSFER_GET) { return 0; }
    if (job->to != NULL && !is_folder(job->to) && has_tensors_name(job->to)) {
        return open_to_tensors(job, ends);
    }
    if (job->keys_from == NULL) {
        return options_fail(job->command,
                            "--keys-from: must be given, or --to a name that "
                            "ends in .safetensors");
    }
    if (job->to == NULL) { return 0; }
    result = check_names(job);
    if (result != 0) { return result; }
    ends->to = PLACE_FOLDER;
    return open_folder(job, ends, job->to, true);
}

static void close_ends(struct store_job *job, struct ends *ends)
{
    if (ends->from == PLACE_TENSORS) {
        store_tensors_close(job, &ends->tensors);
    }
    store_folder_close(&ends->folder);
    store_rows_free(&job->rows);
    if (!job->held) { free(job->kept); }
}

/* ---- a run -------------------------------------------------------------- */

static void move(struct store_job *job, struct ends *ends)
{
    switch (job->kind) {
    case CLEAT_TRANSFER_PUT:
        atomic_store(&job->watch.what, "putting");
        if (ends->from == PLACE_TENSORS) {
            store_put_tensors(job, &ends->tensors);
        } else {
            store_put_folder(job);
        }
        break;
    case CLEAT_TRANSFER_GET:
        atomic_store(&job->watch.what, "getting");
        if (ends->to == PLACE_TENSORS) {
            store_get_tensors(job, &ends->folder, ends->name);
        } else {
            store_get_folder(job,
                             ends->to == PLACE_FOLDER ? &ends->folder : NULL);
        }
        break;
    default:
        atomic_store(&job->watch.what, job->kind == CLEAT_TRANSFER_REMOVE
                                           ? "removing"
                                           : "asking");
        store_ask(job);
    }
}

/* What a store in memory of our own must have room for. */
static void hint(struct store_job *job)
{
    job->faults.keys = job->rows.count;
    job->spec.keys_hint = job->rows.count;
    for (uint32_t i = 0; i < job->rows.count; i++) {
        job->spec.bytes_hint += job->rows.each[i].bytes +
                                strlen(job->rows.each[i].key);
    }
    /* Of a safetensors file, what is not tensors. */
    job->spec.bytes_hint += UINT64_C(16) << 20;
}

static int run(struct store_job *job, struct ends *ends)
{
    int result;

    hint(job);
    job->folder = &ends->folder;
    store_files_guard(job->command);
    result = store_job_open(job);
    if (result != 0) { return result; }
    move(job, ends);
    job->ended_ns = job->clock.now_ns(job->clock.context);
    result = store_job_close(job, 0);
    watch_let_signals(); /* nobody may be reading the report */
    return store_report(job, result);
}

static int finish_output(const char *command, int result)
{
    if (fflush(stdout) == 0 && ferror(stdout) == 0) { return result; }
    return options_fail(command, "standard output: %s", strerror(errno));
}

/* What was done was done, but nobody can read it. */
static int finish_report(const char *command, int result)
{
    bool is_told = fflush(stdout) == 0 && ferror(stdout) == 0;

    if (is_told || result != 0) { return result; }
    store_say(command, "standard output: %s", strerror(errno));
    return STORE_EXIT_KEYS;
}

static int store_command(const char *command, uint32_t kind, int argc,
                         char **argv)
{
    static struct store_job job; /* large, and one */
    static struct ends ends;
    int result;

    job.command = command;
    job.kind = kind;
    job.deadline_after_ns = CLEAT_TRANSFER_DEADLINE_NS_DEFAULT;
    job.faults.seed = 1;
    ends.folder.fd = -1;
    result = parse(&job, argc, argv);
    if (result == 0) { result = open_from(&job, &ends); }
    if (result == 0) { result = open_to(&job, &ends); }
    if (result == 0) { result = run(&job, &ends); }
    result = finish_report(command, result);
    close_ends(&job, &ends);
    /* A call of the store's is still under way on a thread of ours. */
    if (job.held) { _exit(result); }
    return result;
}

int cleat_tool_store(int argc, char **argv)
{
    if (argc >= 2 && strcmp(argv[1], "bench") == 0) {
        return finish_output(COMMAND " bench", store_bench(argc - 1, argv + 1));
    }
    if (wants_help(argc, argv)) { return finish_output(COMMAND, help()); }
    if (argc < 2) {
        return options_fail(COMMAND,
                            "expected put, get, exists, remove or bench");
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(argv[1], commands[i].name) == 0) {
            return store_command(commands[i].command, commands[i].kind,
                                 argc - 1, argv + 1);
        }
    }
    return options_fail(
        COMMAND, "%s: expected put, get, exists, remove or bench", argv[1]);
}
