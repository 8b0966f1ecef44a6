/* Cleat: names, sentences, bands and classes. SPDX-License-Identifier:
 * Apache-2.0 */
#include "cleat/status.h"

#include "assert.h"

/* One flat row a status: no pointers, hence no relocations. */
struct row {
    char name[15]; /* NUL-terminated; the longest name has 14 letters */
    int8_t value;
    uint8_t band;
    uint8_t class_of_status;
};

#define ROW(name, value, band, class, sentence) \
    {#name, (value), CLEAT_BAND_##band, CLEAT_CLASS_##class},
#define ONE_MORE(name, value, band, class, sentence) +1

enum { LISTED = 0 CLEAT_STATUS_LIST(ONE_MORE) };

/* The last is for what is not in the list. */
/* clang-format off */
static const struct row rows[LISTED + 1] = {
    CLEAT_STATUS_LIST(ROW)
    {"UNKNOWN", 0, CLEAT_BAND_JOB, CLEAT_CLASS_PERMANENT}};
/* clang-format on */

#define FITS(status, value, band, class, sentence)                           \
    CLEAT_STATIC_ASSERT(sizeof(#status) <= sizeof rows[0].name, "too long"); \
    CLEAT_STATIC_ASSERT((value) >= INT8_MIN && (value) <= INT8_MAX, "value");
CLEAT_STATUS_LIST(FITS)
#undef ROW
#undef ONE_MORE
#undef FITS

static const struct row *row_of(enum cleat_status status)
{
    uint32_t i = 0;

    while (i < LISTED && rows[i].value != (int32_t)status) { i++; }
    CLEAT_ASSERT(rows[LISTED].class_of_status == CLEAT_CLASS_PERMANENT);
    CLEAT_ASSERT((rows[i].class_of_status == CLEAT_CLASS_DONE) ==
                 (status == CLEAT_OK));
    return &rows[i];
}

const char *cleat_status_name(enum cleat_status status)
{
    const struct row *row = row_of(status);

    CLEAT_ASSERT(row->name[0] != '\0');
    CLEAT_ASSERT(row->name[sizeof row->name - 1] == '\0');
    return row->name;
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
    const struct row *row = row_of(status);

    CLEAT_ASSERT(row->band <= CLEAT_BAND_JOB);
    return (enum cleat_band)row->band;
}

enum cleat_class cleat_status_class(enum cleat_status status)
{
    const struct row *row = row_of(status);

    CLEAT_ASSERT(row->class_of_status <= CLEAT_CLASS_CANCELLED);
    return (enum cleat_class)row->class_of_status;
}

const char *cleat_band_name(enum cleat_band band)
{
    switch (band) {
    case CLEAT_BAND_OPERATION: return "operation";
    case CLEAT_BAND_PEER: return "peer";
    case CLEAT_BAND_GROUP: return "group";
    case CLEAT_BAND_DEVICE: return "device";
    case CLEAT_BAND_JOB: return "job";
    }
    return "unknown";
}

const char *cleat_class_name(enum cleat_class class_of_status)
{
    switch (class_of_status) {
    case CLEAT_CLASS_DONE: return "done";
    case CLEAT_CLASS_PENDING: return "pending";
    case CLEAT_CLASS_TRANSIENT: return "transient";
    case CLEAT_CLASS_AMBIGUOUS: return "ambiguous";
    case CLEAT_CLASS_CAPACITY: return "capacity";
    case CLEAT_CLASS_PERMANENT: return "permanent";
    case CLEAT_CLASS_CANCELLED: return "cancelled";
    }
    return "unknown";
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
