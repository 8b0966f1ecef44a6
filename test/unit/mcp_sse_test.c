/* Cleat: event streams. SPDX-License-Identifier: Apache-2.0
 *
 * What each stream gives is written out from WHATWG HTML, "Server-sent events";
 * "%0a" is a byte in hexadecimal. Each is cut in every way into two, and into
 * single bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/sse_model.h"

#define NONE "18446744073709551615"
#define ROOM 1000000u

/* ---- cutting ------------------------------------------------------------ */

struct cut {
    size_t first; /* of the next piece; 0: single bytes */
    uint64_t random;
};

static size_t cut_once(void *context, size_t left)
{
    struct cut *cut = context;
    size_t piece = cut->first;

    cut->first = left;
    return piece < left ? piece : left;
}

static size_t cut_bytes(void *context, size_t left)
{
    (void)context;
    (void)left;
    return 1;
}

/* splitmix64 */
static uint64_t draw(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static size_t cut_anywhere(void *context, size_t left)
{
    struct cut *cut = context;
    size_t piece = (size_t)(draw(&cut->random) % 40);

    return piece < left ? piece : left;
}

static void gives_cut(const char *stream, size_t count, size_t data_bytes_max,
                      const char *expected,
                      size_t (*next_piece)(void *, size_t), struct cut cut)
{
    struct sse_text log = {NULL, 0};

    sse_add(&log, "", 0);
    sse_parse(stream, count, data_bytes_max, next_piece, &cut, &log);
    assert_string_equal(log.bytes, expected);
    free(log.bytes);
}

static void gives(const char *stream, size_t count, size_t data_bytes_max,
                  const char *expected)
{
    struct cut cut = {0, 0};

    for (cut.first = 0; cut.first <= count; cut.first++) {
        gives_cut(stream, count, data_bytes_max, expected, cut_once, cut);
    }
    gives_cut(stream, count, data_bytes_max, expected, cut_bytes, cut);
}

#define GIVES(stream, expected) \
    gives(stream, sizeof(stream) - 1, ROOM, expected "end retry=" NONE "\n")

/* ---- the standard ------------------------------------------------------- */

static void the_examples_of_the_standard_give_what_it_says(void **state)
{
    (void)state;
    GIVES("data: YHOO\ndata: +2\ndata: 10\n\n",
          "event= data=YHOO%0a+2%0a10 id= retry=" NONE "\n");
    /* The second block resets the id; the third has a leading space. */
    GIVES(": test stream\n\ndata: first event\nid: 1\n\n"
          "data:second event\nid\n\ndata:  third event\n",
          "event= data=first%20event id=1 retry=" NONE "\n"
          "event= data=second%20event id= retry=" NONE "\n");
    GIVES(": test stream\n\ndata: first event\nid: 1\n\n"
          "data:second event\nid\n\ndata:  third event\n\n",
          "event= data=first%20event id=1 retry=" NONE "\n"
          "event= data=second%20event id= retry=" NONE "\n"
          "event= data=%20third%20event id= retry=" NONE "\n");
    GIVES("data\n\ndata\ndata\n\ndata:",
          "event= data= id= retry=" NONE "\n"
          "event= data=%0a id= retry=" NONE "\n");
    GIVES("data:test\n\ndata: test\n\n",
          "event= data=test id= retry=" NONE "\n"
          "event= data=test id= retry=" NONE "\n");
    GIVES("event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n",
          "event=add data=73857293 id= retry=" NONE "\n"
          "event=remove data=2153 id= retry=" NONE "\n");
}

static void lines_end_with_cr_lf_or_both_wherever_they_are_cut(void **state)
{
    (void)state;
    GIVES("data: a\r\rdata: b\r\n\r\ndata: c\n\ndata: d\r\n\ndata: e\n\r",
          "event= data=a id= retry=" NONE "\n"
          "event= data=b id= retry=" NONE "\n"
          "event= data=c id= retry=" NONE "\n"
          "event= data=d id= retry=" NONE "\n"
          "event= data=e id= retry=" NONE "\n");
    /* CR LF LF is a line and an empty one, CR LF CR LF no more than that. */
    GIVES("data: a\r\n\nid: 1\r\n\r\n", "event= data=a id= retry=" NONE "\n"
                                        "event= data= id=1 retry=" NONE "\n");
}

static void one_byte_order_mark_at_the_start_is_passed_over(void **state)
{
    (void)state;
    GIVES("\xEF\xBB\xBF"
          "data: a\n\n",
          "event= data=a id= retry=" NONE "\n");
    GIVES("\xEF\xBB\xBF\n\xEF\xBB\xBF"
          "data: a\n\n",
          "");
    GIVES("\xEF\xBB\xBF\xEF\xBB\xBF"
          "data: a\n\n",
          "");
    GIVES("\xEF\xBB"
          "data: a\n\ndata: b\n\n",
          "event= data=b id= retry=" NONE "\n");
    GIVES("\xEF\xBB\xBF: a\n\xEF", "");
}

static void what_is_no_field_of_the_standard_means_nothing(void **state)
{
    (void)state;
    GIVES("Data: a\n data: b\ndata : c\ndatax: d\ndat: e\nevents: f\n"
          "retries: 1\n: comment\n:\nx\n\n",
          "");
    GIVES("event: alone\n\ndata: a\n\n", "event= data=a id= retry=" NONE "\n");
    GIVES("event: a\nevent: b\nevent\ndata: c\nevent: d\n\n",
          "event=d data=c id= retry=" NONE "\n");
}

static void
an_id_stays_until_another_one_and_with_a_nul_it_is_none(void **state)
{
    (void)state;
    GIVES("id: 1\ndata: a\n\ndata: b\n\nid: 2\0\ndata: c\n\nid:\ndata: d\n\n",
          "event= data=a id=1 retry=" NONE "\n"
          "event= data=b id=1 retry=" NONE "\n"
          "event= data=c id=1 retry=" NONE "\n"
          "event= data=d id= retry=" NONE "\n");
    GIVES("id: \0\n\nid: a\nid: b\0c\n\n",
          "event= data= id=a retry=" NONE "\n");
}

static void an_id_without_data_is_given_for_resumption(void **state)
{
    (void)state;
    GIVES("id: 7\ndata: \n\n", "event= data= id=7 retry=" NONE "\n");
    GIVES("id: 7\n\n", "event= data= id=7 retry=" NONE "\n");
    GIVES("id: 7\n", "");
}

static void retry_is_digits_only(void **state)
{
    static const char *const bad[] = {
        "retry: -1\n\n",  "retry: 1 \n\n",      "retry:  1\n\n",
        "retry: 1.5\n\n", "retry:\n\n",         "retry\n\n",
        "retry: 1e3\n\n", "retry: x\n\n",       "retry: +1\n\n",
        "retry: 1",       "retry: \xD9\xA1\n\n"};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        gives(bad[i], strlen(bad[i]), ROOM, "end retry=" NONE "\n");
    }
    gives("retry: 250\n\n", 12, ROOM,
          "event= data= id= retry=250000000\nend retry=250000000\n");
    gives("retry:0\n", 8, ROOM, "end retry=0\n");
    /* 2^64 - 1 ns is "none": the longest is just below, in milliseconds. */
    gives("retry: 99999999999999999999999999\n", 34, ROOM,
          "end retry=18446744073709000000\n");
}

static void bytes_that_are_no_utf_8_stay_as_they_are(void **state)
{
    (void)state;
    GIVES("data: \xFF\xC3\0\xED\xA0\x80\n\n",
          "event= data=%ff%c3%00%ed%a0%80 id= retry=" NONE "\n");
}

/* ---- limits ------------------------------------------------------------- */

static void
data_of_exactly_the_limit_is_given_and_a_byte_more_is_not(void **state)
{
    (void)state;
    gives("data: 12\ndata: 45\n\n", 19, 5,
          "event= data=12%0a45 id= retry=" NONE "\nend retry=" NONE "\n");
    gives("data: 12\ndata: 456\n\n", 20, 5,
          "limit=the%20data%20of%20an%20event"
          "\n");
    gives("data: 12345\ndata\n\n", 18, 5,
          "limit=the%20data%20of%20an%20event\n");
    gives("data: a\n\ndata: 123456", 21, 5,
          "event= data=a id= retry=" NONE "\n"
          "limit=the%20data%20of%20an%20event\n");
    /* The next event has all the room again. */
    gives("data: 12345\n\ndata: 12345\n\n", 26, 5,
          "event= data=12345 id= retry=" NONE "\n"
          "event= data=12345 id= retry=" NONE "\nend retry=" NONE "\n");
    gives("data\n\n", 6, 0,
          "event= data= id= retry=" NONE "\nend retry=" NONE "\n");
}

static void names_and_ids_have_limits_and_comments_have_none(void **state)
{
    static char line[5000];
    struct cut cut = {3, 0};

    (void)state;
    memset(line, 'x', sizeof line);
    line[0] = ':';
    gives_cut(line, sizeof line, 5, "end retry=" NONE "\n", cut_once, cut);
    line[0] = 'y';
    gives_cut(line, sizeof line, 5, "end retry=" NONE "\n", cut_once, cut);
    memcpy(line, "id: ", 4);
    line[4 + MCP_SSE_ID_BYTES_MAX] = '\n';
    gives_cut(line, 5 + MCP_SSE_ID_BYTES_MAX, 5, "end retry=" NONE "\n",
              cut_bytes, cut);
    line[4 + MCP_SSE_ID_BYTES_MAX] = 'x';
    gives_cut(line, 5 + MCP_SSE_ID_BYTES_MAX, 5,
              "limit=the%20id%20of%20an%20event\n", cut_bytes, cut);
    /* A NUL that comes too late does not help, however the stream is cut. */
    line[5 + MCP_SSE_ID_BYTES_MAX] = '\0';
    gives_cut(line, 6 + MCP_SSE_ID_BYTES_MAX, 5,
              "limit=the%20id%20of%20an%20event\n", cut_once, cut);
    memcpy(line, "event: ", 7);
    line[7 + MCP_SSE_EVENT_BYTES_MAX] = '\n';
    gives_cut(line, 8 + MCP_SSE_EVENT_BYTES_MAX, 5, "end retry=" NONE "\n",
              cut_bytes, cut);
    line[7 + MCP_SSE_EVENT_BYTES_MAX] = 'x';
    gives_cut(line, 8 + MCP_SSE_EVENT_BYTES_MAX, 5,
              "limit=the%20name%20of%20an%20event\n", cut_once, cut);
}

/* ---- against the model -------------------------------------------------- */

static void any_stream_cut_anyhow_gives_what_the_model_gives(void **state)
{
    static const char *const parts[] = {
        "data",     "event",  "id",   "retry",   ":",       ": ",
        ":  ",      "\n",     "\n",   "\r",      "\r\n",    "\n\n",
        "\r\n\r\n", "a",      "12",   "3456789", " ",       "\xEF\xBB\xBF",
        "\xEF",     "data: ", "id: ", "retry: ", "event: ", "data:{}\n\n"};
    uint64_t random = 20260728;

    (void)state;
    for (uint32_t round = 0; round < 20000; round++) {
        struct sse_text stream = {NULL, 0};
        struct sse_text expected = {NULL, 0};
        struct cut cut = {0, random};
        size_t room = (size_t)(draw(&random) % 40);
        size_t count = (size_t)(draw(&random) % 30);

        sse_add(&stream, "", 0);
        sse_add(&expected, "", 0);
        for (size_t i = 0; i < count; i++) {
            size_t part = (size_t)(draw(&random) %
                                   (sizeof parts / sizeof parts[0] + 1));

            if (part == sizeof parts / sizeof parts[0]) {
                sse_add(&stream, "\0", 1);
            } else {
                sse_add(&stream, parts[part], strlen(parts[part]));
            }
        }
        sse_model_run(stream.bytes, stream.count, room, &expected);
        gives_cut(stream.bytes, stream.count, room, expected.bytes, cut_bytes,
                  cut);
        gives_cut(stream.bytes, stream.count, room, expected.bytes,
                  cut_anywhere, cut);
        free(stream.bytes);
        free(expected.bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_examples_of_the_standard_give_what_it_says),
        cmocka_unit_test(lines_end_with_cr_lf_or_both_wherever_they_are_cut),
        cmocka_unit_test(one_byte_order_mark_at_the_start_is_passed_over),
        cmocka_unit_test(what_is_no_field_of_the_standard_means_nothing),
        cmocka_unit_test(
            an_id_stays_until_another_one_and_with_a_nul_it_is_none),
        cmocka_unit_test(an_id_without_data_is_given_for_resumption),
        cmocka_unit_test(retry_is_digits_only),
        cmocka_unit_test(bytes_that_are_no_utf_8_stay_as_they_are),
        cmocka_unit_test(
            data_of_exactly_the_limit_is_given_and_a_byte_more_is_not),
        cmocka_unit_test(names_and_ids_have_limits_and_comments_have_none),
        cmocka_unit_test(any_stream_cut_anyhow_gives_what_the_model_gives),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
