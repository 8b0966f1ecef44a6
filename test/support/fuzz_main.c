/* Cleat: runs a fuzz target on files, where there is no libFuzzer.
 * SPDX-License-Identifier: Apache-2.0
 *
 *     fuzz_json FILE|FOLDER…      each file once; prints how many there were
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned long runs;

static void fail(const char *path, const char *what)
{
    fprintf(stderr, "%s: %s\n", path, what);
    exit(2);
}

static void run_file(const char *path, size_t bytes)
{
    FILE *file = fopen(path, "rb");
    /* Exactly as large as the input, so that a sanitizer sees an overrun. */
    uint8_t *data = malloc(bytes > 0 ? bytes : 1);

    if (file == NULL || data == NULL) { fail(path, "cannot be opened"); }
    if (fread(data, 1, bytes, file) != bytes) { fail(path, "cannot be read"); }
    fclose(file);
    printf("%s\n", path);
    fflush(stdout);
    LLVMFuzzerTestOneInput(data, bytes);
    free(data);
    runs++;
}

static void run_path(const char *path)
{
    struct stat about;
    struct dirent **names = NULL;
    int count;

    if (stat(path, &about) != 0) { fail(path, "is not there"); }
    if (S_ISREG(about.st_mode)) {
        run_file(path, (size_t)about.st_size);
        return;
    }
    count = scandir(path, &names, NULL, alphasort);
    if (count < 0) { fail(path, "cannot be listed"); }
    for (int i = 0; i < count; i++) {
        char file[4096];

        snprintf(file, sizeof file, "%s/%s", path, names[i]->d_name);
        if (names[i]->d_name[0] != '.' && stat(file, &about) == 0 &&
            S_ISREG(about.st_mode)) {
            run_file(file, (size_t)about.st_size);
        }
        free(names[i]);
    }
    free(names);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] != '-') { run_path(argv[i]); }
    }
    printf("%lu inputs\n", runs);
    /* An empty corpus is a mistake, not a success. */
    return runs > 0 ? 0 : 2;
}
