/* Cleat: checkpoint files, good and bad. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleat/memory_tensors.h"
#include "cleat/safetensors.h"
#include "no_malloc.h"

/* ---- a folder for each test -----------------------------------------------
 */
static char folder[64];
static char path[256];
static _Alignas(64) unsigned char block[1 << 20];

static const char *in_folder(const char *name)
{
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/cleat-safetensors-XXXXXX");
    return mkdtemp(folder) == NULL;
}

static unsigned count_files(void)
{
    DIR *open_folder = opendir(folder);
    unsigned count = 0;
    struct dirent *entry;

    assert_non_null(open_folder);
    while ((entry = readdir(open_folder)) != NULL) {
        count += entry->d_name[0] != '.' || entry->d_name[1] == 'c';
    }
    closedir(open_folder);
    return count;
}

static int remove_folder(void **state)
{
    char command[128];

    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static void write_bytes(const char *name, const void *bytes, size_t count)
{
    FILE *file = fopen(in_folder(name), "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

/* Lines that /proc/self has of what must not leak. */
static unsigned descriptors_and_mappings(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    DIR *files = opendir("/proc/self/fd");
    char line[512];
    unsigned count = 0;

    assert_non_null(maps);
    assert_non_null(files);
    while (fgets(line, sizeof line, maps) != NULL) {
        count += strstr(line, folder) != NULL;
    }
    while (readdir(files) != NULL) { count++; }
    closedir(files);
    fclose(maps);
    return count;
}

/* ---- files made of text ---------------------------------------------------
 */
static unsigned char file_bytes[4096];

/* Length, header and `data_bytes` counted bytes. */
static size_t make_file(const char *header, size_t data_bytes)
{
    size_t header_bytes = strlen(header);

    assert_true(8 + header_bytes + data_bytes <= sizeof file_bytes);
    for (unsigned i = 0; i < 8; i++) {
        file_bytes[i] = (unsigned char)((uint64_t)header_bytes >> (8 * i));
    }
    memcpy(file_bytes + 8, header, header_bytes);
    for (size_t i = 0; i < data_bytes; i++) {
        file_bytes[8 + header_bytes + i] = (unsigned char)(i + 1);
    }
    return 8 + header_bytes + data_bytes;
}

static void write_file(const char *name, const char *header, size_t data_bytes)
{
    size_t bytes = make_file(header, data_bytes);

    write_bytes(name, file_bytes, bytes);
}

static enum cleat_status open_text(struct cleat_safetensors *file,
                                   const char *header, size_t data_bytes,
                                   struct cleat_error *error)
{
    size_t bytes = make_file(header, data_bytes);
    enum cleat_status status;

    cleat_test_forbid_malloc(true);
    status = cleat_safetensors_open_memory(file, "f", file_bytes, bytes, block,
                                           sizeof block, error);
    cleat_test_forbid_malloc(false);
    return status;
}

static enum cleat_status open_path(struct cleat_safetensors *file,
                                   const char *name, struct cleat_error *error)
{
    enum cleat_status status;

    cleat_test_forbid_malloc(true);
    status = cleat_safetensors_open(file, name, block, sizeof block, error);
    cleat_test_forbid_malloc(false);
    return status;
}

static void expect_tensor(const struct cleat_tensor_source *source,
                          uint32_t index, const char *name,
                          enum cleat_dtype dtype, uint64_t bytes,
                          unsigned char first)
{
    struct cleat_tensor tensor;
    unsigned char got;

    assert_int_equal(source->describe(source->context, index, &tensor),
                     CLEAT_OK);
    assert_int_equal(tensor.name_bytes, strlen(name));
    assert_memory_equal(tensor.name, name, strlen(name));
    assert_int_equal(tensor.dtype, dtype);
    assert_int_equal(tensor.bytes, bytes);
    if (bytes > 0) {
        assert_int_equal(source->read(source->context, index, 0, 1, &got, NULL),
                         CLEAT_OK);
        assert_int_equal(got, first);
    }
}

/* ---- good files -----------------------------------------------------------
 */
/* The vectors of the reference implementation's own tests
 * (huggingface/safetensors, safetensors/src/tensor.rs: test_serialization,
 * test_serialization_forced_alignement, test_empty): 0.0 … 5.0 as F32. */
static const unsigned char numbers[24] = {0, 0, 0,   0,  0, 0, 128, 63,
                                          0, 0, 0,   64, 0, 0, 64,  64,
                                          0, 0, 128, 64, 0, 0, 160, 64};
static const char vector_header[] =
    "\x40\0\0\0\0\0\0\0{\"attn.0\":{\"dtype\":\"F32\",\"shape\":[1,2,3],"
    "\"data_offsets\":[0,24]}}";
static const char vector_aligned_header[] =
    "\x48\0\0\0\0\0\0\0{\"attn0\":{\"dtype\":\"F32\",\"shape\":[1,1,2,3],"
    "\"data_offsets\":[0,24]}}       ";
static const char vector_empty[] = "\x08\0\0\0\0\0\0\0{}      ";
static const char vector_metadata[] =
    "\x28\0\0\0\0\0\0\0{\"__metadata__\":{\"framework\":\"pt\"}}     ";

static void the_reference_vectors_are_read(void **state)
{
    unsigned char bytes[128];
    struct cleat_safetensors file;
    struct cleat_tensor_source source;
    unsigned char got[24];

    (void)state;
    memcpy(bytes, vector_header, sizeof vector_header - 1);
    memcpy(bytes + sizeof vector_header - 1, numbers, sizeof numbers);
    assert_int_equal(
        cleat_safetensors_open_memory(&file, "v", bytes,
                                      sizeof vector_header - 1 + sizeof numbers,
                                      block, sizeof block, NULL),
        CLEAT_OK);
    source = cleat_safetensors_source(&file);
    assert_int_equal(source.count(source.context), 1);
    expect_tensor(&source, 0, "attn.0", CLEAT_DTYPE_F32, 24, 0);
    assert_int_equal(source.read(source.context, 0, 0, 24, got, NULL),
                     CLEAT_OK);
    assert_memory_equal(got, numbers, 24);
    cleat_safetensors_close(&file);
    assert_int_equal(cleat_safetensors_open_memory(&file, "v", vector_empty,
                                                   sizeof vector_empty - 1,
                                                   block, sizeof block, NULL),
                     CLEAT_OK);
    source = cleat_safetensors_source(&file);
    assert_int_equal(source.count(source.context), 0);
    assert_int_equal(cleat_safetensors_open_memory(&file, "v", vector_metadata,
                                                   sizeof vector_metadata - 1,
                                                   block, sizeof block, NULL),
                     CLEAT_OK);
    source = cleat_safetensors_source(&file);
    assert_int_equal(source.count(source.context), 0);
}

/* The data may be anything, and be more than any machine has. */
static void a_head_is_read_without_its_data(void **state)
{
    static const char large[] = "{\"t\":{\"dtype\":\"U8\",\"shape\":["
                                "18446744073709551000],"
                                "\"data_offsets\":[0,18446744073709551000]}}";
    const uint64_t large_bytes = UINT64_C(18446744073709551000);
    const size_t head_bytes = sizeof vector_header - 1;
    struct cleat_safetensors file;
    struct cleat_tensor_source source;
    struct cleat_tensor tensor;
    struct cleat_error error;
    unsigned char got[24];
    uint32_t crc = 7;
    size_t bytes;

    (void)state;
    assert_int_equal(cleat_safetensors_open_head(&file, "v", vector_header,
                                                 head_bytes, head_bytes + 24,
                                                 block, sizeof block, NULL),
                     CLEAT_OK);
    source = cleat_safetensors_source(&file);
    assert_int_equal(source.count(source.context), 1);
    assert_int_equal(source.describe(source.context, 0, &tensor), CLEAT_OK);
    assert_int_equal(tensor.name_bytes, 6);
    assert_memory_equal(tensor.name, "attn.0", 6);
    assert_int_equal(tensor.bytes, 24);
    assert_int_equal(source.read(source.context, 0, 0, 24, got, NULL),
                     CLEAT_STATE);
    cleat_safetensors_close(&file);
    for (uint64_t more = 23; more <= 25; more += 2) {
        assert_int_equal(cleat_safetensors_open_head(
                             &file, "v", vector_header, head_bytes,
                             head_bytes + more, block, sizeof block, &error),
                         CLEAT_MALFORMED);
    }
    assert_int_equal(cleat_safetensors_open_head(
                         &file, "v", vector_header, head_bytes - 1,
                         head_bytes + 24, block, sizeof block, &error),
                     CLEAT_MALFORMED);
    assert_non_null(strstr(error.text, "the head ends"));
    assert_int_equal(cleat_safetensors_open_head(&file, "v", vector_header,
                                                 head_bytes, head_bytes - 1,
                                                 block, sizeof block, &error),
                     CLEAT_INVALID);
    assert_int_equal(error.offset, head_bytes);
    assert_int_equal(cleat_safetensors_open_head(&file, "v", NULL, 0, 99, block,
                                                 sizeof block, &error),
                     CLEAT_MALFORMED);
    assert_non_null(strstr(error.text, "the head ends"));
    assert_int_equal(cleat_safetensors_open_head(&file, "v", NULL, 1, 99, block,
                                                 sizeof block, &error),
                     CLEAT_INVALID);
    assert_int_equal(cleat_safetensors_open_head(&file, "v", vector_header,
                                                 head_bytes, head_bytes + 24,
                                                 NULL, 0, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(cleat_safetensors_open_head(
                         &file, "v", vector_header, head_bytes, head_bytes + 24,
                         block, (size_t)error.offset, NULL),
                     CLEAT_OK);
    cleat_safetensors_close(&file);

    /* What of the data is here can be read, and nothing behind it. */
    bytes = make_file(large, 16);
    assert_int_equal(cleat_safetensors_open_head(&file, "v", file_bytes, bytes,
                                                 bytes - 16 + large_bytes,
                                                 block, sizeof block, NULL),
                     CLEAT_OK);
    source = cleat_safetensors_source(&file);
    expect_tensor(&source, 0, "t", CLEAT_DTYPE_U8, large_bytes, 1);
    assert_int_equal(source.read(source.context, 0, 0, 16, got, NULL),
                     CLEAT_OK);
    assert_memory_equal(got, file_bytes + bytes - 16, 16);
    assert_int_equal(source.read(source.context, 0, 1, 16, got, &crc),
                     CLEAT_STATE);
    assert_int_equal(
        source.read(source.context, 0, large_bytes - 1, 1, got, &crc),
        CLEAT_STATE);
    assert_int_equal(source.read(source.context, 0, large_bytes, 1, got, &crc),
                     CLEAT_INVALID);
    assert_int_equal(crc, 7);
    assert_int_equal(source.describe(source.context, 0, &tensor), CLEAT_OK);
    assert_int_equal(tensor.bytes, large_bytes);
    cleat_safetensors_close(&file);
}

static void expect_written(const struct cleat_memory_tensor *table,
                           uint32_t count, const char *header,
                           size_t header_bytes, const void *data,
                           size_t data_bytes)
{
    struct cleat_memory_tensors tensors;
    struct cleat_tensor_source source;
    unsigned char got[256];
    FILE *file;

    assert_int_equal(cleat_memory_tensors_init(&tensors, table, count, NULL),
                     CLEAT_OK);
    source = cleat_memory_tensors_source(&tensors);
    cleat_test_forbid_malloc(true);
    assert_int_equal(cleat_safetensors_write(in_folder("out"), &source, block,
                                             sizeof block, NULL),
                     CLEAT_OK);
    cleat_test_forbid_malloc(false);
    file = fopen(in_folder("out"), "rb");
    assert_non_null(file);
    assert_int_equal(fread(got, 1, sizeof got, file),
                     header_bytes + data_bytes);
    fclose(file);
    assert_memory_equal(got, header, header_bytes);
    if (data_bytes != 0) {
        assert_memory_equal(got + header_bytes, data, data_bytes);
    }
    assert_int_equal(count_files(), 1);
}

static void the_reference_vectors_are_written_byte_for_byte(void **state)
{
    unsigned char data[24];
    struct cleat_memory_tensor table[] = {
        {"attn.0", CLEAT_DTYPE_F32, 3, {1, 2, 3}, data}};

    (void)state;
    memcpy(data, numbers, sizeof data);
    expect_written(table, 1, vector_header, sizeof vector_header - 1, numbers,
                   24);
    table[0].name = "attn0";
    table[0].rank = 4;
    table[0].shape[1] = 1;
    table[0].shape[2] = 2;
    table[0].shape[3] = 3;
    expect_written(table, 1, vector_aligned_header,
                   sizeof vector_aligned_header - 1, numbers, 24);
    expect_written(NULL, 0, vector_empty, sizeof vector_empty - 1, NULL, 0);
}

static void tensors_come_in_the_order_of_their_data(void **state)
{
    static const char header[] =
        "{\"last\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[6,8]},"
        " \"__metadata__\" : {\"k\":\"v\", \"k2\":\"\"},\n"
        "\"first\":{\"data_offsets\":[0,4],\"shape\":[2,1],\"dtype\":"
        "\"BF16\"},"
        "\"none\":{\"dtype\":\"F64\",\"shape\":[3,0],\"data_offsets\":[4,4]},"
        "\"nil\":{\"dtype\":\"I8\",\"shape\":[0],\"data_offsets\":[4,4]},"
        "\"one\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[4,6]},"
        "\"late\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[4,4]}}  ";
    struct cleat_safetensors file;
    struct cleat_tensor_source source;
    struct cleat_tensor tensor;

    (void)state;
    assert_int_equal(open_text(&file, header, 8, NULL), CLEAT_OK);
    source = cleat_safetensors_source(&file);
    assert_int_equal(source.count(source.context), 6);
    assert_int_equal(cleat_safetensors_shards(&file), 1);
    expect_tensor(&source, 0, "first", CLEAT_DTYPE_BF16, 4, 1);
    expect_tensor(&source, 1, "none", CLEAT_DTYPE_F64, 0, 0);
    expect_tensor(&source, 2, "nil", CLEAT_DTYPE_I8, 0, 0);
    expect_tensor(&source, 3, "late", CLEAT_DTYPE_U8, 0, 0);
    expect_tensor(&source, 4, "one", CLEAT_DTYPE_F16, 2, 5);
    expect_tensor(&source, 5, "last", CLEAT_DTYPE_U8, 2, 7);
    assert_int_equal(source.describe(source.context, 0, &tensor), CLEAT_OK);
    assert_int_equal(tensor.rank, 2);
    assert_int_equal(tensor.shape[0], 2);
    assert_int_equal(tensor.shape[1], 1);
    assert_int_equal(source.describe(source.context, 6, &tensor),
                     CLEAT_INVALID);
    cleat_safetensors_close(&file);
    cleat_safetensors_close(&file);
}

static void a_range_is_read_and_digested_and_outside_is_refused(void **state)
{
    struct cleat_safetensors file;
    struct cleat_tensor_source source;
    unsigned char got[8] = {0};
    uint32_t crc = 0;
    uint32_t only = 0;

    (void)state;
    assert_int_equal(
        open_text(&file,
                  "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,"
                  "3]},\"b\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":["
                  "3,8]}}",
                  8, NULL),
        CLEAT_OK);
    source = cleat_safetensors_source(&file);
    assert_int_equal(source.read(source.context, 1, 1, 2, got, &crc), CLEAT_OK);
    assert_int_equal(source.read(source.context, 1, 3, 2, got + 2, &crc),
                     CLEAT_OK);
    assert_memory_equal(got, "\5\6\7\10", 4);
    assert_int_equal(crc, cleat_crc32c(0, "\5\6\7\10", 4));
    assert_int_equal(source.read(source.context, 1, 1, 4, NULL, &only),
                     CLEAT_OK);
    assert_int_equal(only, crc);
    assert_int_equal(source.read(source.context, 1, 5, 0, NULL, &crc),
                     CLEAT_OK);
    assert_int_equal(source.read(source.context, 0, 0, 4, got, &crc),
                     CLEAT_INVALID);
    assert_int_equal(source.read(source.context, 0, 4, 0, got, &crc),
                     CLEAT_INVALID);
    assert_int_equal(source.read(source.context, 0, UINT64_MAX, 2, got, &crc),
                     CLEAT_INVALID);
    assert_int_equal(source.read(source.context, 2, 0, 0, got, &crc),
                     CLEAT_INVALID);
    assert_int_equal(crc, only);
    cleat_safetensors_close(&file);
}

static void escaped_names_are_undone(void **state)
{
    struct cleat_safetensors file;
    struct cleat_tensor_source source;

    (void)state;
    assert_int_equal(
        open_text(&file,
                  "{\"\\u0061\\n\\\"\\ud83d\\ude00\":{\"dtype\":\"U8\","
                  "\"shape\":[1],\"data_offsets\":[0,1]},"
                  "\"\\u005f_metadata__\":{\"x\":\"y\"},"
                  "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]"
                  "}}",
                  2, NULL),
        CLEAT_OK);
    source = cleat_safetensors_source(&file);
    assert_int_equal(source.count(source.context), 2);
    expect_tensor(&source, 0, "a\n\"\xF0\x9F\x98\x80", CLEAT_DTYPE_U8, 1, 1);
    expect_tensor(&source, 1, "b", CLEAT_DTYPE_U8, 1, 2);
    cleat_safetensors_close(&file);
}

/* Whether a line is as expected. What the JSON reader says after "json: " is
 * its own, and tested there. */
static bool line_is(const char *line, const char *expected)
{
    size_t bytes = strlen(expected);

    if (bytes > 6 && strcmp(expected + bytes - 6, "json: ") == 0) {
        return strncmp(line, expected, bytes) == 0 && line[bytes] != '\0';
    }
    return strcmp(line, expected) == 0;
}

/* ---- bad files ------------------------------------------------------------
 */
/* One tensor of one byte, and with it what a case is about. */
#define A "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}"
#define WITH(members) "{\"a\":{" members "}}"

static const struct {
    const char *name;
    const char *header;
    size_t data_bytes;
    enum cleat_status status;
    const char *text;
} bad_headers[] = {
    {"not an object", "[1]", 0, CLEAT_MALFORMED,
     "f: byte 8: expected '{', the header's start"},
    {"a space first", " {" A "}", 1, CLEAT_MALFORMED,
     "f: byte 8: expected '{', the header's start"},
    {"an empty header", "", 3, CLEAT_MALFORMED,
     "f: byte 8: expected '{', the header's start"},
    {"JSON that ends", "{" A, 1, CLEAT_MALFORMED, "f: byte 60: json: "},
    {"garbage after the JSON", "{" A "}x", 1, CLEAT_MALFORMED,
     "f: byte 61: json: "},
    {"deeply nested", "{\"a\":{\"shape\":[[[[[[1]]]]]]}}", 0, CLEAT_LIMIT,
     "f: byte 23: nested too deeply; expected 3 levels at most"},
    {"metadata that is no object", "{\"__metadata__\":[]}", 0, CLEAT_MALFORMED,
     "f: byte 24: __metadata__: expected an object of texts"},
    {"metadata that is no text", "{\"__metadata__\":{\"a\":\"b\",\"c\":1}}", 0,
     CLEAT_MALFORMED, "f: byte 37: __metadata__: expected text"},
    {"metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}}", 0,
     CLEAT_EXISTS, "f: byte 27: __metadata__ comes twice"},
    {"a tensor that is no object", "{\"a\":3}", 0, CLEAT_MALFORMED,
     "f: byte 9: tensor 'a': expected an object"},
    {"no members", "{\"a\":{}}", 0, CLEAT_MALFORMED,
     "f: byte 9: tensor 'a': dtype is missing"},
    {"no shape", WITH("\"dtype\":\"U8\",\"data_offsets\":[0,1]"), 1,
     CLEAT_MALFORMED, "f: byte 9: tensor 'a': shape is missing"},
    {"no offsets", WITH("\"dtype\":\"U8\",\"shape\":[1]"), 1, CLEAT_MALFORMED,
     "f: byte 9: tensor 'a': data_offsets is missing"},
    {"an unknown member",
     WITH("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":0"), 1,
     CLEAT_MALFORMED, "f: byte 9: tensor 'a': 'x' is not expected"},
    {"a member twice",
     WITH("\"shape\":[1],\"dtype\":\"U8\",\"\\u0073hape\":[1]"), 1,
     CLEAT_MALFORMED, "f: byte 9: tensor 'a': '\\u0073hape' comes twice"},
    {"unknown dtype",
     WITH("\"dtype\":\"U9\",\"shape\":[1],\"data_offsets\":[0,1]"), 1,
     CLEAT_MALFORMED, "f: byte 9: tensor 'a': dtype 'U9' is not known"},
    {"a dtype in small letters", WITH("\"dtype\":\"u8\""), 1, CLEAT_MALFORMED,
     "f: byte 9: tensor 'a': dtype 'u8' is not known"},
    {"a dtype that is no dtype", WITH("\"dtype\":\"NONE\""), 1, CLEAT_MALFORMED,
     "f: byte 9: tensor 'a': dtype 'NONE' is not known"},
    {"a dtype that is no text", WITH("\"dtype\":8"), 1, CLEAT_MALFORMED,
     "f: byte 9: tensor 'a': dtype: expected text"},
    {"a shape that is no array", WITH("\"shape\":1"), 1, CLEAT_MALFORMED,
     "f: byte 9: tensor 'a': shape: expected an array"},
    {"a negative dimension", WITH("\"shape\":[-1]"), 1, CLEAT_MALFORMED,
     "f: byte 9: tensor 'a': shape: '-1': expected plain digits, below 2^64"},
    {"minus zero", WITH("\"shape\":[-0]"), 1, CLEAT_MALFORMED,
     "f: byte 9: tensor 'a': shape: '-0': expected plain digits, below 2^64"},
    {"a fraction", WITH("\"shape\":[1.0]"), 1, CLEAT_MALFORMED,
     "f: byte 9: tensor 'a': shape: '1.0': expected plain digits, below 2^64"},
    {"an exponent", WITH("\"shape\":[1e0]"), 1, CLEAT_MALFORMED,
     "f: byte 9: tensor 'a': shape: '1e0': expected plain digits, below 2^64"},
    {"a leading zero", WITH("\"shape\":[01]"), 1, CLEAT_MALFORMED,
     "f: byte 24: json: "},
    {"a dimension in quotes", WITH("\"shape\":[\"1\"]"), 1, CLEAT_MALFORMED,
     "f: byte 9: tensor 'a': shape: '\"1\"': expected plain digits, below "
     "2^64"},
    {"a dimension of 2^64", WITH("\"shape\":[18446744073709551616]"), 1,
     CLEAT_MALFORMED,
     "f: byte 9: tensor 'a': shape: '18446744073709551616': expected plain "
     "digits, below 2^64"},
    {"nine dimensions", WITH("\"shape\":[1,1,1,1,1,1,1,1,1]"), 1, CLEAT_LIMIT,
     "f: byte 9: tensor 'a': shape: expected at most 8 numbers"},
    {"one offset", WITH("\"data_offsets\":[0]"), 1, CLEAT_MALFORMED,
     "f: byte 9: tensor 'a': data_offsets: expected two numbers"},
    {"three offsets", WITH("\"data_offsets\":[0,1,2]"), 1, CLEAT_LIMIT,
     "f: byte 9: tensor 'a': data_offsets: expected at most 2 numbers"},
    {"offsets in floating point", WITH("\"data_offsets\":[0.0,1]"), 1,
     CLEAT_MALFORMED,
     "f: byte 9: tensor 'a': data_offsets: '0.0': expected plain digits, below "
     "2^64"},
    {"an end before its start",
     WITH("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,1]"), 3,
     CLEAT_MALFORMED, "f: byte 9: tensor 'a': data_offsets: 1 comes before 2"},
    {"wrong byte count",
     WITH("\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,23]"), 23,
     CLEAT_MALFORMED,
     "f: byte 9: tensor 'a': data_offsets: 23 bytes; dtype and shape need 24"},
    {"more bytes than the shape has",
     WITH("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,5]"), 5,
     CLEAT_MALFORMED,
     "f: byte 9: tensor 'a': data_offsets: 5 bytes; dtype and shape need 4"},
    {"a scalar of no bytes",
     WITH("\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,0]"), 0,
     CLEAT_MALFORMED,
     "f: byte 9: tensor 'a': data_offsets: 0 bytes; dtype and shape need 4"},
    {"oversized",
     WITH("\"dtype\":\"U16\",\"shape\":[4294967296,4294967296],"
          "\"data_offsets\":[0,0]"),
     0, CLEAT_LIMIT,
     "f: byte 9: tensor 'a': shape: its bytes do not fit 64 bits"},
    {"truncated data",
     WITH("\"dtype\":\"U8\",\"shape\":[9],\"data_offsets\":[0,9]"), 8,
     CLEAT_MALFORMED,
     "f: byte 9: tensor 'a': truncated: it ends at data byte 9, the file at 8"},
    {"trailing garbage", "{" A "}", 4, CLEAT_MALFORMED,
     "f: byte 62: 3 bytes that belong to no tensor; expected the end of the "
     "file"},
    {"bytes of no tensor", "{}", 1, CLEAT_MALFORMED,
     "f: byte 10: 1 bytes that belong to no tensor; expected the end of the "
     "file"},
    {"overlapping",
     "{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2,
     CLEAT_MALFORMED,
     "f: tensor 'b': overlap: it starts at data byte 0; expected 1"},
    {"not contiguous",
     "{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]}}", 3,
     CLEAT_MALFORMED,
     "f: tensor 'b': hole: it starts at data byte 2; expected 1"},
    {"a hole at the start",
     WITH("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]"), 2,
     CLEAT_MALFORMED,
     "f: tensor 'a': hole: it starts at data byte 1; expected 0"},
    {"nothing in the middle of another",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[1,1]}}",
     2, CLEAT_MALFORMED,
     "f: tensor 'b': overlap: it starts at data byte 1; expected 2"},
    {"a name twice",
     "{" A ",\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2,
     CLEAT_EXISTS, "f: tensor 'a': this name comes twice"},
    {"a name twice, once escaped",
     "{" A
     ",\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
     2, CLEAT_EXISTS, "f: tensor 'a': this name comes twice"},
    {"an empty name",
     "{\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
     CLEAT_MALFORMED, "f: byte 9: tensor '': this cannot be a tensor's name"},
    {"a name with a NUL",
     "{\"a\\u0000\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
     1, CLEAT_MALFORMED,
     "f: byte 9: tensor 'a\\u0000': this cannot be a tensor's name"},
    {"half a surrogate pair",
     "{\"\\ud83d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
     CLEAT_MALFORMED,
     "f: byte 9: tensor '\\ud83d': this cannot be a tensor's name"},
    {"a name that is not UTF-8", "{\"\xFF\":{}}", 0, CLEAT_MALFORMED,
     "f: byte 10: json: "},
    {"a long name is shown in part",
     "{\"0123456789012345678901234567890123456789012\xC3\xA9\":1}", 0,
     CLEAT_MALFORMED,
     "f: byte 9: tensor '0123456789012345678901234567890123456789012...': "
     "expected an object"},
};

static void each_bad_header_is_refused_in_one_clear_line(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_headers / sizeof bad_headers[0]; i++) {
        struct cleat_safetensors file;
        struct cleat_error error;
        enum cleat_status status = open_text(&file, bad_headers[i].header,
                                             bad_headers[i].data_bytes, &error);

        if (status != bad_headers[i].status ||
            error.status != bad_headers[i].status ||
            !line_is(error.text, bad_headers[i].text)) {
            print_error("%s: got %s: %s\n", bad_headers[i].name,
                        cleat_status_name(status),
                        status == CLEAT_OK ? "" : error.text);
            fail();
        }
        assert_int_equal(file.tensors_count, 0);
        assert_int_equal(open_text(&file, bad_headers[i].header,
                                   bad_headers[i].data_bytes, NULL),
                         status);
    }
}

static void expect_bad_bytes(const void *bytes, size_t count,
                             enum cleat_status status, const char *text)
{
    struct cleat_safetensors file;
    struct cleat_error error;

    assert_int_equal(cleat_safetensors_open_memory(&file, "f", bytes, count,
                                                   block, sizeof block, &error),
                     status);
    assert_string_equal(error.text, text);
}

static void a_header_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    expect_bad_bytes(NULL, 0, CLEAT_MALFORMED,
                     "f: byte 0: the file ends; expected 8 bytes of header "
                     "length");
    expect_bad_bytes("\2\0\0\0\0\0\0", 7, CLEAT_MALFORMED,
                     "f: byte 7: the file ends; expected 8 bytes of header "
                     "length");
    expect_bad_bytes("\3\0\0\0\0\0\0\0{}", 10, CLEAT_MALFORMED,
                     "f: byte 10: the file ends; expected 3 bytes of header");
    /* 100 000 000 may be, if only it were there; one more may not. */
    expect_bad_bytes("\x00\xE1\xF5\x05\0\0\0\0{}", 10, CLEAT_MALFORMED,
                     "f: byte 10: the file ends; expected 100000000 bytes of "
                     "header");
    expect_bad_bytes("\x01\xE1\xF5\x05\0\0\0\0{}", 10, CLEAT_LIMIT,
                     "f: byte 0: the header would have 100000001 bytes; "
                     "expected at most 100000000");
    expect_bad_bytes("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}", 10, CLEAT_LIMIT,
                     "f: byte 0: the header would have 18446744073709551615 "
                     "bytes; expected at most 100000000");
}

/* Cut anywhere, a good file is a bad one. */
static void every_truncation_is_refused(void **state)
{
    struct cleat_safetensors file;
    struct cleat_error error;
    size_t bytes = make_file("{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[2],"
                             "\"data_offsets\":[1,3]}}",
                             3);

    (void)state;
    for (size_t cut = 0; cut < bytes; cut++) {
        assert_int_equal(cleat_safetensors_open_memory(&file, "f", file_bytes,
                                                       cut, block, sizeof block,
                                                       &error),
                         CLEAT_MALFORMED);
    }
    assert_int_equal(cleat_safetensors_open_memory(&file, "f", file_bytes,
                                                   bytes, block, sizeof block,
                                                   &error),
                     CLEAT_OK);
}

/* ---- blocks ---------------------------------------------------------------
 */
static void a_block_of_the_bytes_told_is_enough_wherever_it_lies(void **state)
{
    struct cleat_safetensors file;
    struct cleat_error error;
    size_t told;

    (void)state;
    write_file("m",
               "{" A ",\"\\u0062\":{\"dtype\":\"U8\",\"shape\":[2],"
               "\"data_offsets\":[1,3]}}",
               3);
    assert_int_equal(cleat_safetensors_bytes(in_folder("m"), &told, &error),
                     CLEAT_OK);
    for (size_t shift = 0; shift < 64; shift++) {
        struct cleat_tensor_source source;

        memset(block, 0xEE, sizeof block);
        assert_int_equal(
            cleat_safetensors_open(&file, path, block + shift, told, &error),
            CLEAT_OK);
        for (size_t i = 0; i < 64; i++) {
            assert_int_equal(block[shift + told + i], 0xEE);
        }
        source = cleat_safetensors_source(&file);
        expect_tensor(&source, 1, "b", CLEAT_DTYPE_U8, 2, 2);
        cleat_safetensors_close(&file);
    }
}

static void a_block_too_small_tells_the_bytes_needed(void **state)
{
    struct cleat_safetensors file;
    struct cleat_error error;
    size_t told;
    size_t least;
    unsigned before;

    (void)state;
    write_file("m", "{" A "}", 1);
    assert_int_equal(cleat_safetensors_bytes(in_folder("m"), &told, &error),
                     CLEAT_OK);
    before = descriptors_and_mappings();
    /* The least that does, at this alignment: everything below does not. */
    for (least = 0; least < told; least++) {
        if (cleat_safetensors_open(&file, path, block, least, &error) ==
            CLEAT_OK) {
            cleat_safetensors_close(&file);
            break;
        }
        assert_int_equal(error.status, CLEAT_TOO_SMALL);
        assert_int_equal(error.offset, told);
    }
    assert_true(least + 64 > told - 64);
    assert_int_equal(
        cleat_safetensors_open(&file, path, block, least - 1, &error),
        CLEAT_TOO_SMALL);
    assert_non_null(strstr(error.text, "the block is too small; "));
    assert_int_equal(cleat_safetensors_open(&file, path, NULL, 0, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, told);
    assert_int_equal(descriptors_and_mappings(), before);
}

/* ---- paths ----------------------------------------------------------------
 */
static void expect_bad_path(const char *name, enum cleat_status status,
                            const char *end)
{
    struct cleat_safetensors file;
    struct cleat_error error;
    size_t bytes = 77;
    unsigned before = descriptors_and_mappings();
    const char *found;

    assert_int_equal(open_path(&file, in_folder(name), &error), status);
    assert_int_equal(error.status, status);
    found = strstr(error.text, end);
    if (found == NULL || !line_is(found, end)) {
        print_error("expected: %s\n     got: %s\n", end, error.text);
        fail();
    }
    assert_null(strchr(error.text, '\n'));
    assert_int_equal(descriptors_and_mappings(), before);
    /* Measuring finds the same where it looks, and says nothing else. */
    if (cleat_safetensors_bytes(path, &bytes, &error) != CLEAT_OK) {
        assert_int_equal(bytes, 77);
        assert_int_equal(error.status, status);
    }
    assert_int_equal(descriptors_and_mappings(), before);
}

static void a_path_that_cannot_be_opened_is_refused(void **state)
{
    (void)state;
    expect_bad_path("missing", CLEAT_NOT_FOUND,
                    "/missing: cannot open: No such file or directory");
    write_bytes("plain", "", 0);
    expect_bad_path("plain/x", CLEAT_NOT_FOUND,
                    "/plain/x: cannot open: Not a directory");
    expect_bad_path("plain", CLEAT_MALFORMED,
                    "/plain: byte 0: the file ends; expected 8 bytes of header "
                    "length");
    expect_bad_path("", CLEAT_NOT_FOUND,
                    ": neither model.safetensors.index.json nor "
                    "model.safetensors in this folder: No such file or "
                    "directory");
    assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
    expect_bad_path("pipe", CLEAT_MALFORMED, "/pipe: not a regular file");
}

static void
a_long_path_with_a_newline_is_shown_by_its_end_in_one_line(void **state)
{
    struct cleat_safetensors file;
    struct cleat_error error;
    char name[200];

    (void)state;
    memset(name, 'x', sizeof name);
    memcpy(name + 180, "\nend\033[1m", 9);
    assert_int_equal(open_path(&file, name, &error), CLEAT_NOT_FOUND);
    assert_string_equal(
        error.text, "...xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
                    "?end?[1m: cannot open: No such file or directory");
    assert_int_equal(error.port_code, ENOENT);
}

static void a_folder_with_a_single_file_is_that_file(void **state)
{
    struct cleat_safetensors file;
    struct cleat_tensor_source source;
    unsigned before = descriptors_and_mappings();

    (void)state;
    write_file("model.safetensors", "{" A "}", 1);
    assert_int_equal(open_path(&file, folder, NULL), CLEAT_OK);
    assert_true(descriptors_and_mappings() == before + 1); /* the mapping */
    source = cleat_safetensors_source(&file);
    expect_tensor(&source, 0, "a", CLEAT_DTYPE_U8, 1, 1);
    cleat_safetensors_close(&file);
    assert_int_equal(descriptors_and_mappings(), before);
}

/* ---- shards ---------------------------------------------------------------
 */
#define INDEX "model.safetensors.index.json"

static void write_text(const char *name, const char *text)
{
    write_bytes(name, text, strlen(text));
}

/* s1: a (1), b (2 3); s2: c (1 2 3). */
static void write_shards(void)
{
    write_file("s1",
               "{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":["
               "1,3]}}",
               3);
    write_file("s2",
               "{\"\\u0063\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":["
               "0,3]}}",
               3);
}

static void expect_shards(const char *name)
{
    struct cleat_safetensors file;
    struct cleat_tensor_source source;
    struct cleat_error error;
    unsigned before = descriptors_and_mappings();
    size_t told;

    error.text[0] = '\0';
    if (open_path(&file, name, &error) != CLEAT_OK) {
        print_error("%s\n", error.text);
        fail();
    }
    source = cleat_safetensors_source(&file);
    assert_int_equal(source.count(source.context), 3);
    assert_int_equal(cleat_safetensors_shards(&file), 2);
    expect_tensor(&source, 0, "a", CLEAT_DTYPE_U8, 1, 1);
    expect_tensor(&source, 1, "b", CLEAT_DTYPE_U8, 2, 2);
    expect_tensor(&source, 2, "c", CLEAT_DTYPE_U8, 3, 1);
    cleat_safetensors_close(&file);
    assert_int_equal(cleat_safetensors_bytes(name, &told, NULL), CLEAT_OK);
    assert_true(told <= sizeof block);
    assert_int_equal(cleat_safetensors_open(&file, name, block, told, NULL),
                     CLEAT_OK);
    cleat_safetensors_close(&file);
    assert_int_equal(descriptors_and_mappings(), before);
}

static void shards_are_one_table_in_the_order_of_their_names(void **state)
{
    (void)state;
    write_shards();
    write_text(INDEX, "{\"metadata\":{\"total_size\":6,\"deep\":[[[[1]]]]},"
                      "\"weight_map\":{\"c\":\"s2\",\"\\u0061\":\"s1\","
                      "\"b\":\"s\\u0031\"}}");
    expect_shards(folder);
    expect_shards(in_folder(INDEX));
}

static const struct {
    const char *name;
    const char *index;
    enum cleat_status status;
    const char *end;
} bad_indices[] = {
    {"no JSON", "{", CLEAT_MALFORMED,
     "/model.safetensors.index.json: byte 1: json: "},
    {"empty", "", CLEAT_MALFORMED,
     "/model.safetensors.index.json: byte 0: json: "},
    {"no object", "[]", CLEAT_MALFORMED,
     "byte 0: expected an object with an object 'weight_map'"},
    {"no map", "{\"metadata\":{}}", CLEAT_MALFORMED,
     "byte 0: expected an object with an object 'weight_map'"},
    {"a map that is none", "{\"weight_map\":[]}", CLEAT_MALFORMED,
     "byte 14: expected an object with an object 'weight_map'"},
    {"two maps", "{\"weight_map\":{},\"weight_map\":{}}", CLEAT_EXISTS,
     "byte 17: weight_map comes twice"},
    {"no file name", "{\"weight_map\":{\"a\":1}}", CLEAT_MALFORMED,
     "byte 19: weight_map: expected the name of a file"},
    {"a name twice",
     "{\"weight_map\":{\"a\":\"s1\",\"b\":\"s1\",\"\\u0061\":\"s2\"}}",
     CLEAT_EXISTS, "tensor 'a': comes twice in the weight_map"},
    {"an empty name", "{\"weight_map\":{\"\":\"s1\"}}", CLEAT_MALFORMED,
     "byte 15: weight_map: this cannot be a tensor's name"},
    {"an empty file name", "{\"weight_map\":{\"a\":\"\"}}", CLEAT_MALFORMED,
     "byte 19: weight_map: this cannot be the name of a file"},
    {"a file name with a NUL", "{\"weight_map\":{\"a\":\"s\\u0000\"}}",
     CLEAT_MALFORMED, "byte 19: weight_map: this cannot be the name of a file"},
    {"an absolute path", "{\"weight_map\":{\"a\":\"/etc/passwd\"}}",
     CLEAT_MALFORMED,
     "weight_map: '/etc/passwd': expected the name of a file in the same "
     "folder"},
    {"a path that climbs", "{\"weight_map\":{\"a\":\"../s1\"}}",
     CLEAT_MALFORMED,
     "weight_map: '../s1': expected the name of a file in the same folder"},
    {"a path that climbs, escaped", "{\"weight_map\":{\"a\":\"..\\/s1\"}}",
     CLEAT_MALFORMED,
     "weight_map: '../s1': expected the name of a file in the same folder"},
    {"a path down", "{\"weight_map\":{\"a\":\"sub/s1\"}}", CLEAT_MALFORMED,
     "weight_map: 'sub/s1': expected the name of a file in the same folder"},
    {"the folder above", "{\"weight_map\":{\"a\":\"..\"}}", CLEAT_MALFORMED,
     "weight_map: '..': expected the name of a file in the same folder"},
    {"the folder itself", "{\"weight_map\":{\"a\":\".\"}}", CLEAT_MALFORMED,
     "weight_map: '.': expected the name of a file in the same folder"},
    {"a missing shard",
     "{\"weight_map\":{\"a\":\"s1\",\"b\":\"s1\",\"c\":\"s9\"}}",
     CLEAT_NOT_FOUND,
     "s9: named by the index; cannot open: No such file or directory"},
    {"a tensor that is not there",
     "{\"weight_map\":{\"a\":\"s1\",\"b\":\"s1\",\"c\":\"s2\",\"d\":\"s1\"}}",
     CLEAT_MALFORMED,
     "s1: tensor 'd': the index puts it here; it is not in this file"},
    {"a tensor in another shard",
     "{\"weight_map\":{\"a\":\"s1\",\"b\":\"s2\",\"c\":\"s2\"}}",
     CLEAT_MALFORMED, "s1: byte 61: tensor 'b': the index puts it in 's2'"},
    {"a tensor that the index does not have",
     "{\"weight_map\":{\"a\":\"s1\",\"c\":\"s2\"}}", CLEAT_MALFORMED,
     "s1: byte 61: tensor 'b': it is not in the index"},
    {"a link out of the folder",
     "{\"weight_map\":{\"a\":\"s1\",\"b\":\"s1\",\"c\":\"out\"}}",
     CLEAT_MALFORMED,
     "out: a symbolic link that leaves its folder, which is not followed"},
    {"a link to a link",
     "{\"weight_map\":{\"a\":\"twice\",\"b\":\"twice\",\"c\":\"s2\"}}",
     CLEAT_MALFORMED,
     "twice: a symbolic link that leaves its folder, which is not followed"},
    {"a shard that is a folder",
     "{\"weight_map\":{\"a\":\"s1\",\"b\":\"s1\",\"c\":\"sub\"}}",
     CLEAT_MALFORMED, "sub: not a regular file"},
    {"a shard with a name twice", "{\"weight_map\":{\"a\":\"double\"}}",
     CLEAT_EXISTS, "double: byte 61: tensor 'a': this name comes twice"},
    {"a bad shard after a good one",
     "{\"weight_map\":{\"a\":\"s1\",\"b\":\"s1\",\"c\":\"z\"}}",
     CLEAT_MALFORMED, "z: byte 9: tensor 'c': dtype 'C64' is not known"},
};

static void each_bad_index_is_refused_in_one_clear_line(void **state)
{
    (void)state;
    write_shards();
    write_file("double",
               "{" A ",\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":["
               "1,2]}}",
               2);
    write_file("z", "{\"c\":{\"dtype\":\"C64\"}}", 0);
    assert_int_equal(symlink("/etc/passwd", in_folder("out")), 0);
    assert_int_equal(symlink("s1", in_folder("once")), 0);
    assert_int_equal(symlink("once", in_folder("twice")), 0);
    assert_int_equal(mkdir(in_folder("sub"), 0700), 0);
    for (size_t i = 0; i < sizeof bad_indices / sizeof bad_indices[0]; i++) {
        write_text(INDEX, bad_indices[i].index);
        expect_bad_path("", bad_indices[i].status, bad_indices[i].end);
        expect_bad_path(INDEX, bad_indices[i].status, bad_indices[i].end);
    }
}

static void a_link_in_the_folder_and_the_hub_s_cache_are_followed(void **state)
{
    (void)state;
    write_shards();
    assert_int_equal(symlink("s1", in_folder("l1")), 0);
    write_text(INDEX,
               "{\"weight_map\":{\"c\":\"s2\",\"a\":\"l1\",\"b\":\"l1\"}}");
    expect_shards(folder);
    /* models--x/{blobs/<digest>, snapshots/<revision>/<name> -> ../../blobs} */
    assert_int_equal(mkdir(in_folder("blobs"), 0700), 0);
    assert_int_equal(mkdir(in_folder("snapshots"), 0700), 0);
    assert_int_equal(mkdir(in_folder("snapshots/r"), 0700), 0);
    {
        char command[512];

        snprintf(command, sizeof command,
                 "cd '%s' && mv s1 blobs/0a1 && mv s2 blobs/0a2 && mv " INDEX
                 " blobs/0a3 && cd snapshots/r && ln -s ../../blobs/0a1 l1 && "
                 "ln -s ../../blobs/0a2 s2 && ln -s ../../blobs/0a3 " INDEX,
                 folder);
        assert_int_equal(system(command), 0);
    }
    expect_shards(in_folder("snapshots/r"));
    assert_int_equal(unlink(in_folder("snapshots/r/s2")), 0);
    assert_int_equal(
        symlink("../../blobs/../blobs/0a2", in_folder("snapshots/r/s2")), 0);
    expect_bad_path("snapshots/r", CLEAT_MALFORMED,
                    "s2: a symbolic link that leaves its folder, which is not "
                    "followed");
}

/* ---- many tensors ---------------------------------------------------------
 */
/* A hundred thousand names, in an order that is no order: what is quadratic
 * does not come back from this. The last name may be the first one again. */
#define MANY 100000u

static char *many_headers(uint32_t first_again, size_t *bytes)
{
    char *text = malloc((size_t)MANY * 120 + 16);
    size_t at = 8;

    assert_non_null(text);
    text[at++] = '{';
    for (uint32_t i = 0; i < MANY; i++) {
        uint32_t shuffled = (uint32_t)((uint64_t)i * 77777 % MANY);
        uint32_t name = i + 1 == MANY && first_again ? 0 : shuffled;

        at += (size_t)sprintf(text + at,
                              "%s\"t%" PRIu32
                              "\":{\"dtype\":\"U8\",\"shape\":[1]"
                              ",\"data_offsets\":[%" PRIu32 ",%" PRIu32 "]}",
                              i == 0 ? "" : ",", name, shuffled, shuffled + 1);
    }
    text[at++] = '}';
    for (unsigned i = 0; i < 8; i++) {
        text[i] = (char)(unsigned char)((uint64_t)(at - 8) >> (8 * i));
    }
    memset(text + at, 1, MANY);
    *bytes = at + MANY;
    return text;
}

static void
a_hundred_thousand_tensors_are_read_and_a_duplicate_found(void **state)
{
    struct cleat_safetensors file;
    struct cleat_tensor_source source;
    struct cleat_error error;
    size_t bytes;
    char *text = many_headers(0, &bytes);
    void *big;

    (void)state;
    assert_int_equal(
        cleat_safetensors_open_memory(&file, "f", text, bytes, NULL, 0, &error),
        CLEAT_TOO_SMALL);
    big = malloc((size_t)error.offset);
    assert_non_null(big);
    assert_int_equal(cleat_safetensors_open_memory(&file, "f", text, bytes, big,
                                                   (size_t)error.offset,
                                                   &error),
                     CLEAT_OK);
    source = cleat_safetensors_source(&file);
    assert_int_equal(source.count(source.context), MANY);
    expect_tensor(&source, 77777, "t77777", CLEAT_DTYPE_U8, 1, 1);
    free(text);
    text = many_headers(1, &bytes);
    assert_int_equal(cleat_safetensors_open_memory(&file, "f", text, bytes, big,
                                                   (size_t)MANY * 256, &error),
                     CLEAT_EXISTS);
    assert_string_equal(error.text, "f: tensor 't0': this name comes twice");
    free(big);
    free(text);
}

/* ---- writing --------------------------------------------------------------
 */
static unsigned char big_data[70000];

static void what_is_written_is_read_back_in_the_same_order(void **state)
{
    static const struct cleat_memory_tensor table[] = {
        {"z", CLEAT_DTYPE_U8, 2, {70, 1000}, big_data},
        {"none", CLEAT_DTYPE_F64, 1, {0}, NULL},
        {"\"q\\\n\xC3\xA9", CLEAT_DTYPE_BF16, 0, {0}, big_data},
        {"nil", CLEAT_DTYPE_I8, 3, {2, 0, 2}, NULL},
        {"a", CLEAT_DTYPE_F32, 8, {1, 1, 1, 1, 1, 1, 1, 3}, big_data},
        {"end", CLEAT_DTYPE_I64, 1, {0}, NULL},
    };
    struct cleat_memory_tensors tensors;
    struct cleat_tensor_source in;
    struct cleat_tensor_source out;
    struct cleat_safetensors file;
    uint32_t digests[2];
    uint64_t bytes[2];
    struct stat facts;

    (void)state;
    for (size_t i = 0; i < sizeof big_data; i++) {
        big_data[i] = (unsigned char)(i * i >> 3);
    }
    assert_int_equal(cleat_memory_tensors_init(&tensors, table, 6, NULL),
                     CLEAT_OK);
    in = cleat_memory_tensors_source(&tensors);
    /* The least block: its buffer is far smaller than the tensor. */
    assert_int_equal(
        cleat_safetensors_write(
            in_folder("w"), &in, block + 1,
            CLEAT_SAFETENSORS_WRITE_BYTES(6, CLEAT_SAFETENSORS_BUFFER_MIN),
            NULL),
        CLEAT_OK);
    assert_int_equal(stat(path, &facts), 0);
    assert_int_equal(facts.st_size % 2, 0);
    assert_int_equal(open_path(&file, path, NULL), CLEAT_OK);
    out = cleat_safetensors_source(&file);
    assert_int_equal(cleat_tensors_digest(&in, &digests[0], &bytes[0]),
                     CLEAT_OK);
    assert_int_equal(cleat_tensors_digest(&out, &digests[1], &bytes[1]),
                     CLEAT_OK);
    assert_int_equal(digests[0], digests[1]);
    assert_int_equal(bytes[0], 70014);
    assert_int_equal(bytes[1], 70014);
    for (uint32_t i = 0; i < 6; i++) {
        struct cleat_tensor tensor;
        uint32_t crc[2] = {0, 0};

        assert_int_equal(in.describe(in.context, i, &tensor), CLEAT_OK);
        assert_int_equal(
            in.read(in.context, i, 0, (size_t)tensor.bytes, NULL, &crc[0]),
            CLEAT_OK);
        assert_int_equal(
            out.read(out.context, i, 0, (size_t)tensor.bytes, NULL, &crc[1]),
            CLEAT_OK);
        assert_int_equal(crc[0], crc[1]);
    }
    cleat_safetensors_close(&file);
    assert_int_equal(count_files(), 1);
}

static void expect_not_written(const struct cleat_memory_tensor *table,
                               uint32_t count, const char *name,
                               enum cleat_status status, const char *end)
{
    struct cleat_memory_tensors tensors;
    struct cleat_tensor_source source;
    struct cleat_error error;
    unsigned files = count_files();
    unsigned before = descriptors_and_mappings();
    const char *found;

    assert_int_equal(cleat_memory_tensors_init(&tensors, table, count, NULL),
                     CLEAT_OK);
    source = cleat_memory_tensors_source(&tensors);
    cleat_test_forbid_malloc(true);
    assert_int_equal(
        cleat_safetensors_write(in_folder(name), &source, block, 65536, &error),
        status);
    cleat_test_forbid_malloc(false);
    found = strstr(error.text, end);
    if (found == NULL || strcmp(found, end) != 0) {
        print_error("expected: %s\n     got: %s\n", end, error.text);
        fail();
    }
    assert_int_equal(count_files(), files);
    assert_int_equal(descriptors_and_mappings(), before);
}

static void what_cannot_be_written_leaves_nothing(void **state)
{
    struct cleat_memory_tensor table[] = {
        {"a", CLEAT_DTYPE_U8, 1, {60000}, big_data},
        {"b", CLEAT_DTYPE_U8, 1, {60000}, big_data},
    };
    struct rlimit limit;
    struct rlimit small;
    char name[400];

    (void)state;
    expect_not_written(table, 2, "no/where", CLEAT_NOT_FOUND,
                       "/no/where: cannot create: No such file or directory");
    expect_not_written(table, 2, "", CLEAT_IO,
                       "/: cannot create: Is a directory");
    assert_int_equal(mkdir(in_folder("dir"), 0700), 0);
    expect_not_written(table, 2, "dir", CLEAT_IO,
                       "/dir: cannot create: Is a directory");
    expect_not_written(table, 2, "new/", CLEAT_INVALID,
                       "/new/: not the name of a file");
    assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
    expect_not_written(table, 2, "pipe", CLEAT_INVALID,
                       "/pipe: exists, and is not a regular file");
    memset(name, 'n', sizeof name);
    name[sizeof name - 1] = '\0';
    {
        char longer[512];
        struct cleat_memory_tensors tensors;
        struct cleat_tensor_source source;
        struct cleat_error error;

        snprintf(longer, sizeof longer, "%s/%s", folder, name);
        assert_int_equal(cleat_memory_tensors_init(&tensors, table, 2, NULL),
                         CLEAT_OK);
        source = cleat_memory_tensors_source(&tensors);
        assert_int_equal(
            cleat_safetensors_write(longer, &source, block, 65536, &error),
            CLEAT_IO);
        assert_int_equal(error.port_code, ENAMETOOLONG);
        assert_int_equal(count_files(), 2); /* "dir" and "pipe" */
    }
    /* A full disk, as a limit on what a file may hold. */
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = limit;
    small.rlim_cur = 100000;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    write_text("full", "what was there before");
    expect_not_written(table, 2, "full", CLEAT_IO, "bytes: File too large");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    {
        char got[32] = {0};
        FILE *file = fopen(in_folder("full"), "rb");

        assert_non_null(file);
        assert_int_equal(fread(got, 1, sizeof got, file), 21);
        assert_string_equal(got, "what was there before");
        fclose(file);
    }
}

static void a_name_that_cannot_be_written_is_refused(void **state)
{
    static const struct {
        const char *name;
        enum cleat_status status;
        const char *end;
    } cases[] = {
        {"__metadata__", CLEAT_INVALID,
         "/n: tensor '__metadata__': this cannot be a tensor's name"},
        {"\xC0\x80", CLEAT_INVALID, "': its name is not UTF-8"},
        {"\xED\xA0\x80", CLEAT_INVALID, "': its name is not UTF-8"},
        {"\xF4\x90\x80\x80", CLEAT_INVALID, "': its name is not UTF-8"},
        {"\xE2\x82", CLEAT_INVALID, "': its name is not UTF-8"},
        {"a", CLEAT_EXISTS, "/n: tensor 'a': two tensors have this name"},
    };
    struct cleat_memory_tensor table[] = {
        {"a", CLEAT_DTYPE_U8, 1, {3}, big_data},
        {"b", CLEAT_DTYPE_U8, 1, {3}, big_data},
        {"c", CLEAT_DTYPE_U8, 1, {3}, big_data},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        table[2].name = cases[i].name;
        expect_not_written(table, 3, "n", cases[i].status, cases[i].end);
    }
}

/* A source that fails half-way. */
static enum cleat_status read_fails(struct cleat_tensors_context *context,
                                    uint32_t index, uint64_t offset,
                                    size_t bytes, void *to, uint32_t *crc)
{
    (void)context;
    (void)bytes;
    (void)crc;
    if (index == 1 && offset > 0) { return CLEAT_DEVICE_LOST; }
    memset(to, 0, bytes);
    return CLEAT_OK;
}

static void a_source_that_fails_leaves_nothing_and_its_status(void **state)
{
    static const struct cleat_memory_tensor table[] = {
        {"a", CLEAT_DTYPE_U8, 1, {60000}, big_data},
        {"b", CLEAT_DTYPE_U8, 1, {60000}, big_data},
    };
    struct cleat_memory_tensors tensors;
    struct cleat_tensor_source source;
    struct cleat_error error;

    (void)state;
    assert_int_equal(cleat_memory_tensors_init(&tensors, table, 2, NULL),
                     CLEAT_OK);
    source = cleat_memory_tensors_source(&tensors);
    source.read = read_fails;
    assert_int_equal(
        cleat_safetensors_write(in_folder("s"), &source, block, 20000, &error),
        CLEAT_DEVICE_LOST);
    assert_int_equal(error.index, 1);
    assert_non_null(
        strstr(error.text, "/s: tensor 'b': its source cannot read it"));
    assert_int_equal(count_files(), 0);
}

static void a_block_too_small_for_writing_tells_the_bytes(void **state)
{
    static const struct cleat_memory_tensor table[] = {
        {"a", CLEAT_DTYPE_U8, 1, {60000}, big_data},
    };
    struct cleat_memory_tensors tensors;
    struct cleat_tensor_source source;
    struct cleat_error error;
    size_t least = CLEAT_SAFETENSORS_WRITE_BYTES(1,
                                                 CLEAT_SAFETENSORS_BUFFER_MIN);

    (void)state;
    assert_int_equal(cleat_memory_tensors_init(&tensors, table, 1, NULL),
                     CLEAT_OK);
    source = cleat_memory_tensors_source(&tensors);
    assert_int_equal(cleat_safetensors_write(in_folder("s"), &source, block,
                                             least - 1, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, least);
    assert_int_equal(count_files(), 0);
    assert_int_equal(
        cleat_safetensors_write(in_folder("s"), &source, block, least, &error),
        CLEAT_OK);
}

#define TEST(name) \
    cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_reference_vectors_are_read),
        TEST(the_reference_vectors_are_written_byte_for_byte),
        TEST(a_head_is_read_without_its_data),
        TEST(tensors_come_in_the_order_of_their_data),
        TEST(a_range_is_read_and_digested_and_outside_is_refused),
        TEST(escaped_names_are_undone),
        TEST(each_bad_header_is_refused_in_one_clear_line),
        TEST(a_header_that_does_not_fit_is_refused),
        TEST(every_truncation_is_refused),
        TEST(a_block_of_the_bytes_told_is_enough_wherever_it_lies),
        TEST(a_block_too_small_tells_the_bytes_needed),
        TEST(a_path_that_cannot_be_opened_is_refused),
        TEST(a_long_path_with_a_newline_is_shown_by_its_end_in_one_line),
        TEST(a_folder_with_a_single_file_is_that_file),
        TEST(shards_are_one_table_in_the_order_of_their_names),
        TEST(each_bad_index_is_refused_in_one_clear_line),
        TEST(a_link_in_the_folder_and_the_hub_s_cache_are_followed),
        TEST(a_hundred_thousand_tensors_are_read_and_a_duplicate_found),
        TEST(what_is_written_is_read_back_in_the_same_order),
        TEST(what_cannot_be_written_leaves_nothing),
        TEST(a_name_that_cannot_be_written_is_refused),
        TEST(a_source_that_fails_leaves_nothing_and_its_status),
        TEST(a_block_too_small_for_writing_tells_the_bytes),
    };

    return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
