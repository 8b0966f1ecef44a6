/* Cleat: names, sentences, bands and classes. SPDX-License-Identifier:
 * Apache-2.0 */
#include "cleat/status.h"

#include "assert.h"

/* A switch, not a table: the values have gaps, and the compiler turns this
 * into something smaller than a table of pointers. */
const char *cleat_status_name(enum cleat_status status)
{
    switch (status) {
#define CLEAT_STATUS_NAME(name, value, band, class, sentence) \
    case CLEAT_##name: return #name;
        CLEAT_STATUS_LIST(CLEAT_STATUS_NAME)
#undef CLEAT_STATUS_NAME
    }
    return "UNKNOWN";
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
    switch (status) {
#define CLEAT_STATUS_BAND(name, value, band, class, sentence) \
    case CLEAT_##name: return CLEAT_BAND_##band;
        CLEAT_STATUS_LIST(CLEAT_STATUS_BAND)
#undef CLEAT_STATUS_BAND
    }
    return CLEAT_BAND_JOB;
}

enum cleat_class cleat_status_class(enum cleat_status status)
{
    switch (status) {
#define CLEAT_STATUS_CLASS(name, value, band, class, sentence) \
    case CLEAT_##name: return CLEAT_CLASS_##class;
        CLEAT_STATUS_LIST(CLEAT_STATUS_CLASS)
#undef CLEAT_STATUS_CLASS
    }
    return CLEAT_CLASS_PERMANENT;
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
