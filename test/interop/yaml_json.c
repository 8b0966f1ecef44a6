/* Cleat: what YAML texts are as JSON, for a comparison with OmegaConf.
 * SPDX-License-Identifier: Apache-2.0
 *
 *     yaml_json < TEXTS
 *
 * TEXTS is any number of "BYTES\n" and so many bytes of YAML. Prints a line for
 * each: "ok JSON", or "no STATUS WORDS".
 */
#include <stdio.h>
#include <stdlib.h>

#include "port/mcp/server.h"

#define TEXT_MAX ((size_t)1 << 20)
#define JSON_MAX ((size_t)8 << 20)

int main(void)
{
    char *text = malloc(TEXT_MAX);
    char *json = malloc(JSON_MAX);
    size_t bytes;

    if (text == NULL || json == NULL) { return 2; }
    while (scanf("%zu", &bytes) == 1) {
        struct cleat_error error;
        size_t json_bytes;

        if (getchar() != '\n' || bytes > TEXT_MAX ||
            fread(text, 1, bytes, stdin) != bytes) {
            fprintf(stderr, "yaml_json: not what was expected\n");
            return 2;
        }
        if (mcp_yaml_to_json("text", text, bytes, json, JSON_MAX, &json_bytes,
                             &error) == CLEAT_OK) {
            printf("ok %.*s\n", (int)json_bytes, json);
        } else {
            printf("no %s %s\n", cleat_status_name(error.status), error.text);
        }
        fflush(stdout);
    }
    free(text);
    free(json);
    return 0;
}
