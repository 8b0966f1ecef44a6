/* Cleat: names, sentences, bands and classes. SPDX-License-Identifier:
 * Apache-2.0 */
#include "cleat/status.h"

#include "assert.h"
#include "text.h"

/* One row a status; the names stand by themselves, in the same order. */
struct row {
    int8_t value;
    uint8_t band;
    uint8_t class_of_status;
};

#define ROW(name, value, band, class, sentence) \
    {(value), CLEAT_BAND_##band, CLEAT_CLASS_##class},
#define NAME(name, value, band, class, sentence) #name "\0"
#define ONE_MORE(name, value, band, class, sentence) +1

enum { LISTED = 0 CLEAT_STATUS_LIST(ONE_MORE) };

/* The last is for what is not in the list. */
/* clang-format off */
static const struct row rows[LISTED + 1] = {
    CLEAT_STATUS_LIST(ROW)
    {0, CLEAT_BAND_JOB, CLEAT_CLASS_PERMANENT}};
static const char names[] = CLEAT_STATUS_LIST(NAME) "UNKNOWN";
/* clang-format on */

#define FITS(status, value, band, class, sentence) \
    CLEAT_STATIC_ASSERT((value) >= INT8_MIN && (value) <= INT8_MAX, "value");
CLEAT_STATUS_LIST(FITS)
#undef ROW
#undef NAME
#undef ONE_MORE
#undef FITS

const char *cleat_text_at(const char *texts, uint32_t number)
{
    CLEAT_ASSERT(texts != NULL);
    CLEAT_ASSERT(number < LISTED + 1);
    for (; number > 0; number--) {
        while (*texts++ != '\0') {}
    }
    CLEAT_ASSERT(*texts != '\0');
    return texts;
}

static uint32_t row_of(enum cleat_status status)
{
    uint32_t i = 0;

    while (i < LISTED && rows[i].value != (int32_t)status) { i++; }
    CLEAT_ASSERT(rows[LISTED].class_of_status == CLEAT_CLASS_PERMANENT);
    CLEAT_ASSERT((rows[i].class_of_status == CLEAT_CLASS_DONE) ==
                 (status == CLEAT_OK));
    return i;
}

const char *cleat_status_name(enum cleat_status status)
{
    CLEAT_ASSERT(names[0] == 'O' && names[sizeof names - 2] == 'N');
    CLEAT_ASSERT(rows[0].value == CLEAT_OK);
    return cleat_text_at(names, row_of(status));
}

const char *cleat_status_sentence(enum cleat_status status)
{
#if defined(CLEAT_SMALL) && CLEAT_SMALL
    (void)status;
#else
    switch (status) {
#define CLEAT_STATUS_SENTENCE(name, value, band, class, sentence) \
    case CLEAT_##name:                                            \
        return sentence;
        CLEAT_STATUS_LIST(CLEAT_STATUS_SENTENCE)
#undef CLEAT_STATUS_SENTENCE
    }
#endif
    return "";
}

enum cleat_band cleat_status_band(enum cleat_status status)
{
    const struct row *row = &rows[row_of(status)];

    CLEAT_ASSERT(row->band <= CLEAT_BAND_JOB);
    return (enum cleat_band)row->band;
}

enum cleat_class cleat_status_class(enum cleat_status status)
{
    const struct row *row = &rows[row_of(status)];

    CLEAT_ASSERT(row->class_of_status <= CLEAT_CLASS_CANCELLED);
    return (enum cleat_class)row->class_of_status;
}

/* In the order of enum cleat_band and enum cleat_class. */
const char *cleat_band_name(enum cleat_band band)
{
    CLEAT_ASSERT(CLEAT_BAND_OPERATION == 0 && CLEAT_BAND_JOB == 4);
    return (uint32_t)band > CLEAT_BAND_JOB
               ? "unknown"
               : cleat_text_at("operation\0peer\0group\0device\0job", band);
}

const char *cleat_class_name(enum cleat_class class_of_status)
{
    CLEAT_ASSERT(CLEAT_CLASS_DONE == 0 && CLEAT_CLASS_CANCELLED == 6);
    return (uint32_t)class_of_status > CLEAT_CLASS_CANCELLED
               ? "unknown"
               : cleat_text_at("done\0pending\0transient\0ambiguous\0"
                               "capacity\0permanent\0cancelled",
                               class_of_status);
}

enum cleat_status cleat_error_set(struct cleat_error *error,
                                  enum cleat_status status, uint64_t index,
                                  uint64_t offset, const char *text)
{
    size_t i = 0;

    CLEAT_ASSERT(status < CLEAT_OK);
    CLEAT_ASSERT(text != NULL);
    if (error == NULL) { return status; }
    error->status = status;
    error->port_code = 0;
    error->index = index;
    error->offset = offset;
    for (; i + 1 < sizeof error->text && text[i] != '\0'; i++) {
        error->text[i] = text[i];
    }
    CLEAT_ASSERT(i < sizeof error->text);
    error->text[i] = '\0';
    return status;
}

#if defined(CLEAT_SMALL) && CLEAT_SMALL
enum cleat_status cleat_error_small(struct cleat_error *error,
                                    enum cleat_status status, uint32_t index,
                                    size_t offset)
{
    CLEAT_ASSERT(status < CLEAT_OK);
    CLEAT_ASSERT(sizeof index <= sizeof(uint64_t));
    return cleat_error_set(error, status, index, offset, "");
}
#endif

uint64_t cleat_time_add(uint64_t a_ns, uint64_t b_ns)
{
    CLEAT_ASSERT(CLEAT_NEVER + 1 == 0);
    CLEAT_ASSERT(CLEAT_NONE == CLEAT_NEVER);
    return a_ns + b_ns < a_ns ? CLEAT_NEVER : a_ns + b_ns;
}
