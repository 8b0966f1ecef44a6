/* Cleat: the `cleat` command. SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"
#include "gpu.h"
#include "options.h"
#include "store.h"
#include "sync.h"
#include "tools.h"
#include "trainer.h"
#include "weights.h"

static const char usage[] =
    "usage: cleat COMMAND [OPTION]...   (cleat COMMAND --help)\n"
    "\n"
    "  weights make   makes a checkpoint file\n"
    "  weights show   lists a checkpoint's tensors\n"
    "  sync           takes a checkpoint to every engine\n"
    "  engine         an engine; cleat sync starts them\n"
    "  trainer        a trainer; cleat sync starts it\n"
    "  store put      puts values into a store, by key\n"
    "  store get      gets them\n"
    "  store exists   asks which are there\n"
    "  store remove   removes them\n"
    "  store bench    measures a store\n"
    "  tools list     lists the tools that a config's servers offer\n"
    "  tools call     calls one\n"
    "  tools watch    prints each change of them\n"
    "  gpu info       says which GPUs there are and what they can do\n";

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"weights", cleat_tool_weights}, {"sync", cleat_tool_sync},
    {"engine", cleat_tool_engine},   {"trainer", cleat_tool_trainer},
    {"tools", cleat_tool_tools},     {"store", cleat_tool_store},
    {"gpu", cleat_tool_gpu},
};

/* A file opened later must not take the place of a closed standard stream: it
 * would get what is printed. */
static void fill_standard_streams(void)
{
    int fd = open("/dev/null", O_RDWR);

    while (fd >= 0 && fd <= STDERR_FILENO) { fd = dup(fd); }
    if (fd >= 0) { (void)close(fd); }
}

int main(int argc, char **argv)
{
    fill_standard_streams();
    /* A file that may not grow is an error to be told, not the end. */
    (void)signal(SIGXFSZ, SIG_IGN);
    if (argc < 2) {
        return options_fail("cleat", "expected a command: weights, sync, "
                                     "engine, trainer, store, tools or gpu");
    }
    if (strcmp(argv[1], "--help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(argv[1], commands[i].name) == 0) {
            return commands[i].run(argc - 1, argv + 1);
        }
    }
    return options_fail("cleat",
                        "%s: there is no such command; expected weights, "
                        "sync, engine, trainer, store, tools or gpu",
                        argv[1]);
}
