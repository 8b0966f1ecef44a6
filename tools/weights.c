/* Cleat: `cleat weights`. SPDX-License-Identifier: Apache-2.0
 *
 * `make` writes a checkpoint of the size asked for: the tensor table of a
 * decoder-only transformer, filled with seeded numbers that look like weights.
 * `show` prints a checkpoint's table. */
#include "weights.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleat/safetensors.h"
#include "options.h"

#define PARAMS_MIN UINT64_C(10000)
#define PARAMS_MAX UINT64_C(2000000000000)
#define BUFFER_BYTES ((size_t)4 << 20)

static const char usage[] =
    "usage: cleat weights make --params N --out FILE [OPTION]...\n"
    "Makes a checkpoint, safetensors, with a language model's tensors.\n"
    "\n"
    "  --params N          about how many parameters, as in 500M or 1.5B\n"
    "  --out FILE          to write; what is there is replaced\n"
    "  --dtype T           bf16 (default), f16 or f32\n"
    "  --seed S            of the values, which are random (1)\n"
    "\n"
    "usage: cleat weights show FILE|DIR\n"
    "Lists a checkpoint's tensors: name, type, shape, bytes.\n"
    "\n"
    "  FILE|DIR            safetensors, one file or a folder of shards\n"
    "\n"
    "Exit: 0 done, 2 bad input.\n";

/* ---- the model -------------------------------------------------------------
 */
#define LAYERS_MAX 126u
#define TENSORS_A_LAYER 9u
#define TENSORS_MAX (LAYERS_MAX * TENSORS_A_LAYER + 3u)
#define NAME_BYTES_MAX 96u
#define PREFIX_BYTES_MAX 32u

/* The sizes that a model's table follows from. Keys and values have a quarter
 * of the heads (grouped-query attention). */
struct model {
    uint64_t vocabulary;
    uint64_t hidden;
    uint64_t intermediate;
    uint64_t layers;
};

static uint64_t layer_params(const struct model *model)
{
    uint64_t attention = 2 * model->hidden * model->hidden +
                         2 * model->hidden * (model->hidden / 4);

    return attention + 3 * model->hidden * model->intermediate +
           2 * model->hidden;
}

static uint64_t model_params(const struct model *model)
{
    return 2 * model->vocabulary * model->hidden +
           model->layers * layer_params(model) + model->hidden;
}

/* Real models' vocabularies, smaller where they would be all of the model. */
static uint64_t vocabulary_for(uint64_t params)
{
    if (params >= UINT64_C(4000000000)) { return 128256; }
    if (params >= UINT64_C(100000000)) { return 32000; }
    if (params >= UINT64_C(10000000)) { return 8192; }
    if (params >= UINT64_C(1000000)) { return 2048; }
    return params >= UINT64_C(100000) ? 512 : 64;
}

/* Sets the intermediate size that comes closest to `params`, between twice and
 * four times the hidden size; false when none does. */
static bool fit_intermediate(struct model *model, uint64_t params,
                             uint64_t step)
{
    uint64_t without;

    model->intermediate = 0;
    without = model_params(model);
    if (without >= params) { return false; }
    model->intermediate = (params - without) /
                          (3 * model->hidden * model->layers);
    model->intermediate = (model->intermediate + step / 2) / step * step;
    return model->intermediate >= 2 * model->hidden &&
           model->intermediate <= 4 * model->hidden;
}

/* How far a model is from what is wanted: a percent off counts as much as being
 * twice as deep or as flat as 128 hidden a layer. */
static double badness(const struct model *model, uint64_t params)
{
    double off = (double)model_params(model) / (double)params - 1;
    double aspect = (double)model->hidden / (128.0 * (double)model->layers);

    return (off < 0 ? -off : off) * 100 + (aspect < 1 ? 1 / aspect : aspect) -
           1;
}

static struct model choose_model(uint64_t params)
{
    struct model best = {.layers = 0};

    for (uint64_t layers = 1; layers <= LAYERS_MAX; layers++) {
        uint64_t step = 8;

        for (uint64_t hidden = 16; hidden <= 65536; hidden += step) {
            struct model model = {.vocabulary = vocabulary_for(params),
                                  .hidden = hidden,
                                  .layers = layers};

            step = hidden >= 512 ? 64 : 8;
            if (2 * model.vocabulary * hidden >= params) { break; }
            if (!fit_intermediate(&model, params, step)) { continue; }
            if (best.layers == 0 ||
                badness(&model, params) < badness(&best, params)) {
                best = model;
            }
        }
    }
    return best;
}

/* ---- its table -------------------------------------------------------------
 */
struct generator {
    struct model model;
    enum cleat_dtype dtype;
    uint64_t seed;
    uint32_t count;
    struct cleat_tensor tensors[TENSORS_MAX];
    char names[TENSORS_MAX][NAME_BYTES_MAX];
};

/* rows × columns, or one dimension where columns is 0. */
static void add_tensor(struct generator *generator, uint64_t rows,
                       uint64_t columns, const char *prefix, const char *name)
{
    struct cleat_tensor *tensor = &generator->tensors[generator->count];
    char *full = generator->names[generator->count];

    snprintf(full, NAME_BYTES_MAX, "%s%s.weight", prefix, name);
    tensor->name = full;
    tensor->name_bytes = (uint32_t)strlen(full);
    tensor->dtype = generator->dtype;
    tensor->rank = columns == 0 ? 1 : 2;
    tensor->shape[0] = rows;
    tensor->shape[1] = columns;
    tensor->bytes = rows * (columns == 0 ? 1 : columns) *
                    cleat_dtype_bytes(generator->dtype);
    generator->count++;
}

static void add_layer(struct generator *generator, uint32_t layer)
{
    uint64_t hidden = generator->model.hidden;
    uint64_t intermediate = generator->model.intermediate;
    char prefix[PREFIX_BYTES_MAX];

    snprintf(prefix, sizeof prefix, "model.layers.%" PRIu32 ".", layer);
    add_tensor(generator, hidden, 0, prefix, "input_layernorm");
    add_tensor(generator, hidden, hidden, prefix, "self_attn.q_proj");
    add_tensor(generator, hidden / 4, hidden, prefix, "self_attn.k_proj");
    add_tensor(generator, hidden / 4, hidden, prefix, "self_attn.v_proj");
    add_tensor(generator, hidden, hidden, prefix, "self_attn.o_proj");
    add_tensor(generator, hidden, 0, prefix, "post_attention_layernorm");
    add_tensor(generator, intermediate, hidden, prefix, "mlp.gate_proj");
    add_tensor(generator, intermediate, hidden, prefix, "mlp.up_proj");
    add_tensor(generator, hidden, intermediate, prefix, "mlp.down_proj");
}

static void make_table(struct generator *generator)
{
    const struct model *model = &generator->model;

    add_tensor(generator, model->vocabulary, model->hidden, "model.",
               "embed_tokens");
    for (uint32_t i = 0; i < model->layers; i++) { add_layer(generator, i); }
    add_tensor(generator, model->hidden, 0, "model.", "norm");
    add_tensor(generator, model->vocabulary, model->hidden, "", "lm_head");
}

/* ---- its numbers -----------------------------------------------------------
 */
/* SplitMix64's output function (Steele, Lea, Flood 2014): any word of any
 * tensor is found from its number alone. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

/* Which bits of a word are drawn, and which are set: any sign and mantissa, and
 * an exponent that gives 2^-7 … 2^-3, where most weights are. */
struct number_bits {
    uint64_t drawn;
    uint64_t set;
};

static struct number_bits bits_of(enum cleat_dtype dtype)
{
    static const struct number_bits bf16 = {UINT64_C(0x81FF81FF81FF81FF),
                                            UINT64_C(0x3C003C003C003C00)};
    static const struct number_bits f16 = {UINT64_C(0x8FFF8FFF8FFF8FFF),
                                           UINT64_C(0x2000200020002000)};
    static const struct number_bits f32 = {UINT64_C(0x81FFFFFF81FFFFFF),
                                           UINT64_C(0x3C0000003C000000)};

    if (dtype == CLEAT_DTYPE_F32) { return f32; }
    return dtype == CLEAT_DTYPE_F16 ? f16 : bf16;
}

static uint64_t word_at(uint64_t stream, uint64_t offset)
{
    return mix(stream + offset / 8 * UINT64_C(0x9E3779B97F4A7C15));
}

static void put_word(unsigned char *to, uint64_t word)
{
    for (unsigned i = 0; i < 8; i++) {
        to[i] = (unsigned char)(word >> (8 * i));
    }
}

/* Bytes [offset, offset + bytes) of a tensor's stream of 8-byte words. */
static void generate(const struct generator *generator, uint32_t index,
                     uint64_t offset, size_t bytes, unsigned char *to)
{
    const struct number_bits bits = bits_of(generator->dtype);
    uint64_t stream = mix(mix(generator->seed) + index + 1);
    unsigned char word[8];

    for (; bytes > 0 && (offset % 8 != 0 || bytes < 8); offset++, bytes--) {
        put_word(word, (word_at(stream, offset) & bits.drawn) | bits.set);
        *to++ = word[offset % 8];
    }
    for (; bytes >= 8; offset += 8, bytes -= 8, to += 8) {
        put_word(to, (word_at(stream, offset) & bits.drawn) | bits.set);
    }
    if (bytes > 0) { /* less than a word, at the start of one */
        put_word(word, (word_at(stream, offset) & bits.drawn) | bits.set);
        memcpy(to, word, bytes);
    }
}

static uint32_t generator_count(struct cleat_tensors_context *context)
{
    return ((struct generator *)(void *)context)->count;
}

static enum cleat_status
generator_describe(struct cleat_tensors_context *context, uint32_t index,
                   struct cleat_tensor *out)
{
    const struct generator *generator = (struct generator *)(void *)context;

    if (index >= generator->count) { return CLEAT_INVALID; }
    *out = generator->tensors[index];
    return CLEAT_OK;
}

static enum cleat_status generator_read(struct cleat_tensors_context *context,
                                        uint32_t index, uint64_t offset,
                                        size_t bytes, void *to, uint32_t *crc)
{
    const struct generator *generator = (struct generator *)(void *)context;

    if (index >= generator->count || offset > generator->tensors[index].bytes ||
        bytes > generator->tensors[index].bytes - offset || to == NULL ||
        crc != NULL) {
        return CLEAT_INVALID; /* only ever asked for plain bytes */
    }
    generate(generator, index, offset, bytes, to);
    return CLEAT_OK;
}

/* ---- make ------------------------------------------------------------------
 */
static const char make_name[] = "cleat weights make";

static int write_model(struct generator *generator, const char *path)
{
    struct cleat_tensor_source source = {
        (struct cleat_tensors_context *)(void *)generator, generator_count,
        generator_describe, generator_read};
    size_t block_bytes = CLEAT_SAFETENSORS_WRITE_BYTES(TENSORS_MAX,
                                                       BUFFER_BYTES);
    void *block = malloc(block_bytes);
    struct cleat_error error;
    enum cleat_status status;

    if (block == NULL) {
        return options_fail(make_name, "no memory for %zu bytes", block_bytes);
    }
    status = cleat_safetensors_write(path, &source, block, block_bytes, &error);
    free(block);
    if (status != CLEAT_OK) {
        return options_fail(make_name, "%s", error.text);
    }
    return 0;
}

static int make(int argc, char **argv)
{
    static const enum cleat_dtype dtypes[] = {CLEAT_DTYPE_BF16, CLEAT_DTYPE_F16,
                                              CLEAT_DTYPE_F32};
    uint64_t params = 0;
    uint64_t seed = 1;
    uint32_t dtype = 0;
    const char *out = NULL;
    struct option table[] = {
        {.name = "params",
         .kind = OPTION_AMOUNT,
         .to = &params,
         .min = PARAMS_MIN,
         .max = PARAMS_MAX,
         .required = true},
        {.name = "dtype",
         .kind = OPTION_CHOICE,
         .to = &dtype,
         .choices = "bf16|f16|f32"},
        {.name = "seed", .kind = OPTION_COUNT, .to = &seed},
        {.name = "out", .kind = OPTION_TEXT, .to = &out, .required = true},
    };
    struct options options = {.command = make_name,
                              .table = table,
                              .count = sizeof table / sizeof table[0]};
    struct generator *generator;
    int result = options_parse(&options, argc, argv);

    if (result != 0) { return result; }
    generator = calloc(1, sizeof *generator);
    if (generator == NULL) { return options_fail(make_name, "no memory"); }
    generator->model = choose_model(params);
    generator->dtype = dtypes[dtype];
    generator->seed = seed;
    make_table(generator);
    result = write_model(generator, out);
    if (result == 0) {
        printf("%s: %" PRIu32 " tensors, %" PRIu64 " parameters (%" PRIu64
               " layers, hidden %" PRIu64 ", intermediate %" PRIu64
               ", vocabulary %" PRIu64 "), %" PRIu64 " bytes of %s\n",
               out, generator->count, model_params(&generator->model),
               generator->model.layers, generator->model.hidden,
               generator->model.intermediate, generator->model.vocabulary,
               model_params(&generator->model) *
                   cleat_dtype_bytes(generator->dtype),
               cleat_dtype_name(generator->dtype));
    }
    free(generator);
    return result;
}

/* ---- show ------------------------------------------------------------------
 */
static const char show_name[] = "cleat weights show";

/* A name is whatever the file says: control characters stay off the
 * terminal. */
static void print_name(const struct cleat_tensor *tensor, uint32_t width)
{
    uint32_t bytes = tensor->name_bytes;
    uint32_t gap = 2 + (bytes < width ? width - bytes : 0);

    for (uint32_t i = 0; i < bytes; i++) {
        unsigned char letter = (unsigned char)tensor->name[i];

        putchar(letter < 0x20 || letter == 0x7F ? '?' : letter);
    }
    printf("%*s", (int)gap, "");
}

static void print_shape(const struct cleat_tensor *tensor)
{
    char text[CLEAT_TENSOR_RANK_MAX * 22 + 3] = "[";
    size_t at = 1;

    for (uint32_t i = 0; i < tensor->rank; i++) {
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%" PRIu64,
                               i == 0 ? "" : ", ", tensor->shape[i]);
    }
    snprintf(text + at, sizeof text - at, "]");
    printf("%-20s", text);
}

#define NAME_WIDTH_MAX 64u

static void print_table(const struct cleat_tensor_source *source,
                        uint32_t shards)
{
    uint32_t count = source->count(source->context);
    uint64_t bytes = 0;
    uint64_t params = 0;
    uint32_t width = 0;
    struct cleat_tensor tensor;

    for (uint32_t i = 0; i < count; i++) {
        (void)source->describe(source->context, i, &tensor);
        if (tensor.name_bytes > width) { width = tensor.name_bytes; }
    }
    if (width > NAME_WIDTH_MAX) { width = NAME_WIDTH_MAX; }
    for (uint32_t i = 0; i < count; i++) {
        (void)source->describe(source->context, i, &tensor);
        bytes += tensor.bytes;
        params += tensor.bytes / cleat_dtype_bytes(tensor.dtype);
        print_name(&tensor, width);
        printf("%-8s  ", cleat_dtype_name(tensor.dtype));
        print_shape(&tensor);
        printf("  %14" PRIu64 "\n", tensor.bytes);
    }
    printf("%" PRIu32 " tensors, %" PRIu64 " parameters, %" PRIu64
           " bytes, %" PRIu32 " file%s\n",
           count, params, bytes, shards, shards == 1 ? "" : "s");
}

static int show_file(const char *path, void *block, size_t bytes)
{
    struct cleat_safetensors file;
    struct cleat_tensor_source source;
    struct cleat_error error;

    if (cleat_safetensors_open(&file, path, block, bytes, &error) != CLEAT_OK) {
        return options_fail(show_name, "%s", error.text);
    }
    source = cleat_safetensors_source(&file);
    print_table(&source, cleat_safetensors_shards(&file));
    cleat_safetensors_close(&file);
    return 0;
}

static int show(int argc, char **argv)
{
    const char *path = NULL;
    struct options options = {.command = show_name,
                              .operands = &path,
                              .operands_min = 1,
                              .operands_max = 1,
                              .operands_name = "FILE|DIR"};
    struct cleat_error error;
    size_t bytes;
    void *block;
    int result = options_parse(&options, argc, argv);

    if (result != 0) { return result; }
    if (cleat_safetensors_bytes(path, &bytes, &error) != CLEAT_OK) {
        return options_fail(show_name, "%s", error.text);
    }
    block = malloc(bytes);
    if (block == NULL) {
        return options_fail(show_name, "no memory for %zu bytes", bytes);
    }
    result = show_file(path, block, bytes);
    free(block);
    return result;
}

/* Whether an argument asks for help. */
static bool wants_help(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) { return true; }
    }
    return false;
}

static int run(int argc, char **argv)
{
    if (wants_help(argc, argv)) {
        fputs(usage, stdout);
        return 0;
    }
    if (argc >= 2 && strcmp(argv[1], "make") == 0) {
        return make(argc - 1, argv + 1);
    }
    if (argc >= 2 && strcmp(argv[1], "show") == 0) {
        return show(argc - 1, argv + 1);
    }
    return options_fail("cleat weights", "%s: expected make or show",
                        argc >= 2 ? argv[1] : "nothing");
}

int cleat_tool_weights(int argc, char **argv)
{
    int result = run(argc, argv);

    if (fflush(stdout) == 0 && ferror(stdout) == 0) { return result; }
    return options_fail("cleat weights", "standard output: %s",
                        strerror(errno));
}
