/* Cleat: what the checker says of files. SPDX-License-Identifier: Apache-2.0
 *
 *     json_verdict FILE…      one line a file: "accept", or "reject" with
 *                             the status and the offset
 */
#include <stdio.h>
#include <stdlib.h>

#include "cleat/json.h"

/* The whole file in a block of exactly its size. */
static char *read_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    long size = -1;

    if (file != NULL && fseek(file, 0, SEEK_END) == 0) { size = ftell(file); }
    if (size >= 0 && fseek(file, 0, SEEK_SET) == 0) {
        text = malloc(size > 0 ? (size_t)size : 1);
    }
    if (text == NULL || fread(text, 1, (size_t)size, file) != (size_t)size) {
        fprintf(stderr, "json_verdict: %s cannot be read\n", path);
        exit(2);
    }
    fclose(file);
    *bytes = (size_t)size;
    return text;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        struct cleat_error error;
        size_t bytes;
        char *text = read_file(argv[i], &bytes);

        if (cleat_json_check(text, bytes, NULL, NULL, &error) == CLEAT_OK) {
            printf("accept\n");
        } else {
            printf("reject %s at %llu\n", cleat_status_name(error.status),
                   (unsigned long long)error.offset);
        }
        free(text);
    }
    return 0;
}
