/* Cleat: the safetensors port, driven by a script. SPDX-License-Identifier:
 * Apache-2.0
 *
 * Reads commands from standard input, one a line, and answers each:
 *
 *     open PATH        ok COUNT, then a line a tensor:
 *                      NAME(hex) DTYPE RANK DIMENSION… DATA(hex)
 *     copy PATH TO     ok 0: what PATH has, written to TO
 *     (either)         refused STATUS TEXT
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleat/safetensors.h"

static unsigned char block[1 << 20];
static unsigned char bytes[1 << 20];

static void print_hex(const void *from, size_t count)
{
    const unsigned char *byte = from;

    for (size_t i = 0; i < count; i++) { printf("%02x", byte[i]); }
}

static void refuse(const struct cleat_error *error)
{
    printf("refused %s %s\n", cleat_status_name(error->status), error->text);
}

static void show(const struct cleat_tensor_source *source)
{
    uint32_t count = source->count(source->context);

    printf("ok %" PRIu32 "\n", count);
    for (uint32_t i = 0; i < count; i++) {
        struct cleat_tensor tensor;

        if (source->describe(source->context, i, &tensor) != CLEAT_OK ||
            tensor.bytes > sizeof bytes ||
            source->read(source->context, i, 0, (size_t)tensor.bytes, bytes,
                         NULL) != CLEAT_OK) {
            abort();
        }
        print_hex(tensor.name, tensor.name_bytes);
        printf(" %s %" PRIu32, cleat_dtype_name(tensor.dtype), tensor.rank);
        for (uint32_t k = 0; k < tensor.rank; k++) {
            printf(" %" PRIu64, tensor.shape[k]);
        }
        printf(" ");
        print_hex(bytes, (size_t)tensor.bytes);
        printf("\n");
    }
}

static void copy(const struct cleat_tensor_source *source, const char *to)
{
    static unsigned char buffer[1 << 16];
    struct cleat_error error;

    if (cleat_safetensors_write(to, source, buffer, sizeof buffer, &error) !=
        CLEAT_OK) {
        refuse(&error);
    } else {
        printf("ok 0\n");
    }
}

static void obey(char *line)
{
    struct cleat_safetensors file;
    struct cleat_tensor_source source;
    struct cleat_error error;
    char *path = strchr(line, ' ');
    char *to = NULL;

    if (path == NULL) { exit(2); }
    *path++ = '\0';
    if (strcmp(line, "copy") == 0) {
        to = strchr(path, ' ');
        if (to == NULL) { exit(2); }
        *to++ = '\0';
    }
    if (cleat_safetensors_open(&file, path, block, sizeof block, &error) !=
        CLEAT_OK) {
        refuse(&error);
        return;
    }
    source = cleat_safetensors_source(&file);
    if (to != NULL) {
        copy(&source, to);
    } else {
        show(&source);
    }
    cleat_safetensors_close(&file);
}

int main(void)
{
    char line[1024];

    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        obey(line);
        fflush(stdout);
    }
    return 0;
}
