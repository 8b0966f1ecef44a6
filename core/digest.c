/* Cleat: CRC32C by tables and by instructions. SPDX-License-Identifier:
 * Apache-2.0
 *
 * A CRC is the remainder of the message, taken as a polynomial over GF(2),
 * modulo P. In the reflected form used here bit 31 of a word stands for x^0
 * and bit 0 for x^31, so that multiplying by x is a shift to the right.
 *
 * No table is written out: a CRC table is linear, so each entry is the
 * exclusive or of the entries of its single bits, and those are powers of x
 * modulo P. The macros below do that sum at compile time. */
#include "cleat/digest.h"

#include "assert.h"

#if defined(CLEAT_SMALL) && CLEAT_SMALL
#define SMALL 1
#else
#define SMALL 0
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define FROM_LE64(x) __builtin_bswap64(x)
#define IS_BIG_ENDIAN 1
#else
#define FROM_LE64(x) (x)
#define IS_BIG_ENDIAN 0
#endif

/* What has been read is what is used, for the compiler too: it may not read
 * the memory again. So what is digested is what is stored, even where the
 * source is shared memory that a misbehaving peer is writing to. */
#define READ_ONCE(x) __asm__ volatile("" : "+r"(x))

/* Eight bytes at any alignment. The builtin, because a freestanding compiler
 * may take memcpy for somebody's function and call it. */
#define LOAD_64(word, from) ((void)__builtin_memcpy(&(word), (from), 8))
#define STORE_64(to, word) ((void)__builtin_memcpy((to), &(word), 8))

/* Which CRC instructions there are, and whether every CPU that this build may
 * run on has them (GUARANTEED) or the caller must say so. */
#if defined(__x86_64__) && (defined(__SSE4_2__) || !SMALL)
#define HARDWARE 1
#define HARDWARE_TARGET __attribute__((target("sse4.2")))
#define CRC_8(crc, x) __builtin_ia32_crc32qi((crc), (x))
#define CRC_64(crc, x) __builtin_ia32_crc32di((crc), (x))
/* MOVNTI in words: clang 14 turns its builtin into an ordinary store. */
#define STORE_COLD_64(to, x)                            \
    __asm__ volatile("movnti %1, %0"                    \
                     : "=m"(*(unsigned char(*)[8])(to)) \
                     : "r"(x))
#define STORE_COLD_END() __asm__ volatile("sfence" : : : "memory")
#elif defined(__aarch64__) && !IS_BIG_ENDIAN && \
    (defined(__ARM_FEATURE_CRC32) || !SMALL)
#define HARDWARE 1
#if defined(__clang__)
#define HARDWARE_TARGET __attribute__((target("crc")))
#define CRC_8(crc, x) __builtin_arm_crc32cb((crc), (x))
#define CRC_64(crc, x) __builtin_arm_crc32cd((uint32_t)(crc), (x))
#else
#define HARDWARE_TARGET __attribute__((target("+crc")))
#define CRC_8(crc, x) __builtin_aarch64_crc32cb((crc), (x))
#define CRC_64(crc, x) __builtin_aarch64_crc32cx((uint32_t)(crc), (x))
#endif
#else
#define HARDWARE 0
#endif

/* Eight carry-less multiplications at once, and stores of whole cache lines. */
#if HARDWARE && defined(__x86_64__) && !SMALL
#define WIDE 1
#define WIDE_TARGET __attribute__((target("sse4.2,avx512f,vpclmulqdq")))
#else
#define WIDE 0
#endif

#if defined(__SSE4_2__) || defined(__ARM_FEATURE_CRC32)
#define GUARANTEED HARDWARE
#else
#define GUARANTEED 0
#endif

/* ---- powers of x ------------------------------------------------------ */

#define POLYNOMIAL 0x82F63B78u /* 0x1EDC6F41 reflected */
#define X_POWER_0 0x80000000u

/* a * b modulo P. */
static uint32_t multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;

    for (uint32_t i = 0; i < 32; i++) {
        product ^= a & (0u - (b >> 31));
        b <<= 1;
        a = (a >> 1) ^ (POLYNOMIAL & (0u - (a & 1u)));
    }
    CLEAT_ASSERT(b == 0);
    CLEAT_ASSERT((X_POWER_0 >> 31) == 1);
    return product;
}

#if SMALL
/* x^(8 * bytes) modulo P: what `bytes` more bytes multiply a remainder by. */
static uint32_t power_of_bytes(uint64_t bytes)
{
    uint32_t power = X_POWER_0;
    uint32_t square = X_POWER_0 >> 8;

    CLEAT_ASSERT(multiply(square, power) == square);
    for (; bytes != 0; bytes >>= 1) {
        if (bytes & 1u) { power = multiply(power, square); }
        square = multiply(square, square);
    }
    CLEAT_ASSERT(power != 0);
    return power;
}
#else
/* x^(2^k) modulo P, k = 0 ... 30. P is (x + 1) times a primitive polynomial
 * of degree 31, so that the order of x is 2^31 - 1 and x^(2^31) is x again. */
#define SQUARINGS 31u
static const uint32_t x_power_2_power[SQUARINGS] = {
    0x40000000u, 0x20000000u, 0x08000000u, 0x00800000u, 0x00008000u,
    0x82F63B78u, 0x6EA2D55Cu, 0x18B8EA18u, 0x510AC59Au, 0xB82BE955u,
    0xB8FDB1E7u, 0x88E56F72u, 0x74C360A4u, 0xE4172B16u, 0x0D65762Au,
    0x35D73A62u, 0x28461564u, 0xBF455269u, 0xE2EA32DCu, 0xFE7740E6u,
    0xF946610Bu, 0x3C204F8Fu, 0x538586E3u, 0x59726915u, 0x734D5309u,
    0xBC1AC763u, 0x7D0722CCu, 0xD289CABEu, 0xE94CA9BCu, 0x05B74F3Fu,
    0xA51E1F42u};

/* x^(8 * bytes) modulo P: what `bytes` more bytes multiply a remainder by. */
static uint32_t power_of_bytes(uint64_t bytes)
{
    uint32_t power = X_POWER_0;

    CLEAT_ASSERT(x_power_2_power[3] == X_POWER_0 >> 8);
    /* Eight bits a byte: the exponent's bit k is the length's bit k - 3. */
    for (uint32_t k = 3; bytes != 0; bytes >>= 1, k++) {
        if (bytes & 1u) {
            power = multiply(power, x_power_2_power[k % SQUARINGS]);
        }
    }
    CLEAT_ASSERT(power != 0);
    return power;
}
#endif

uint32_t cleat_crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t bytes_b)
{
    CLEAT_ASSERT(multiply(X_POWER_0, POLYNOMIAL) == POLYNOMIAL);
    CLEAT_ASSERT(power_of_bytes(0) == X_POWER_0);
    return multiply(crc_a, power_of_bytes(bytes_b)) ^ crc_b;
}

/* ---- tables ------------------------------------------------------------ */

#define BIT(i, bit, power) ((((i) >> (bit)) & 1u) ? (power) : 0u)

/* The entry of i < 16 from those of 1, 2, 4 and 8. */
#define SUM4(i, p0, p1, p2, p3) \
    (BIT(i, 0, p0) ^ BIT(i, 1, p1) ^ BIT(i, 2, p2) ^ BIT(i, 3, p3))
#define NIBBLE(...)                                                          \
    {                                                                        \
        SUM4(0u, __VA_ARGS__), SUM4(1u, __VA_ARGS__), SUM4(2u, __VA_ARGS__), \
            SUM4(3u, __VA_ARGS__), SUM4(4u, __VA_ARGS__),                    \
            SUM4(5u, __VA_ARGS__), SUM4(6u, __VA_ARGS__),                    \
            SUM4(7u, __VA_ARGS__), SUM4(8u, __VA_ARGS__),                    \
            SUM4(9u, __VA_ARGS__), SUM4(10u, __VA_ARGS__),                   \
            SUM4(11u, __VA_ARGS__), SUM4(12u, __VA_ARGS__),                  \
            SUM4(13u, __VA_ARGS__), SUM4(14u, __VA_ARGS__),                  \
            SUM4(15u, __VA_ARGS__)                                           \
    }

#if SMALL
/* Four bits a step: bit j of the nibble stands for x^(35 - j). */
static const uint32_t nibble[16] = NIBBLE(0x105EC76Fu, 0x20BD8EDEu, 0x417B1DBCu,
                                          0x82F63B78u);

static uint32_t portable(uint32_t state, unsigned char *to,
                         const unsigned char *from, size_t bytes)
{
    CLEAT_ASSERT(from != NULL || bytes == 0);
    CLEAT_ASSERT(nibble[8] == POLYNOMIAL);
    for (size_t i = 0; i < bytes; i++) {
        uint32_t byte = from[i];

        READ_ONCE(byte);
        if (to != NULL) { to[i] = (unsigned char)byte; }
        state ^= byte;
        state = (state >> 4) ^ nibble[state & 15u];
        state = (state >> 4) ^ nibble[state & 15u];
    }
    return state;
}
#else
/* The entry of i < 256 from those of 1, 2, 4 ... 128. */
#define SUM8(i, p0, p1, p2, p3, p4, p5, p6, p7) \
    (SUM4(i, p0, p1, p2, p3) ^ SUM4((i) >> 4, p4, p5, p6, p7))
#define SUMS_4(i, ...)                                   \
    SUM8((i), __VA_ARGS__), SUM8((i) + 1u, __VA_ARGS__), \
        SUM8((i) + 2u, __VA_ARGS__), SUM8((i) + 3u, __VA_ARGS__)
#define SUMS_16(i, ...)                                      \
    SUMS_4((i), __VA_ARGS__), SUMS_4((i) + 4u, __VA_ARGS__), \
        SUMS_4((i) + 8u, __VA_ARGS__), SUMS_4((i) + 12u, __VA_ARGS__)
#define SUMS_64(i, ...)                                         \
    SUMS_16((i), __VA_ARGS__), SUMS_16((i) + 16u, __VA_ARGS__), \
        SUMS_16((i) + 32u, __VA_ARGS__), SUMS_16((i) + 48u, __VA_ARGS__)
#define SLICE(...)                                                 \
    {                                                              \
        SUMS_64(0u, __VA_ARGS__), SUMS_64(64u, __VA_ARGS__),       \
            SUMS_64(128u, __VA_ARGS__), SUMS_64(192u, __VA_ARGS__) \
    }

/* Slice k is for a byte that k more bytes follow: bit j of that byte stands
 * for x^(39 + 8 k - j). (Kounavis and Berry, "A systematic approach to
 * building high performance software-based CRC generators", 2005.) */
static const uint32_t slice[8][256] = {
    SLICE(0xF26B8303u, 0xE13B70F7u, 0xC79A971Fu, 0x8AD958CFu, 0x105EC76Fu,
          0x20BD8EDEu, 0x417B1DBCu, 0x82F63B78u),
    SLICE(0x13A29877u, 0x274530EEu, 0x4E8A61DCu, 0x9D14C3B8u, 0x3FC5F181u,
          0x7F8BE302u, 0xFF17C604u, 0xFBC3FAF9u),
    SLICE(0xA541927Eu, 0x4F6F520Du, 0x9EDEA41Au, 0x38513EC5u, 0x70A27D8Au,
          0xE144FB14u, 0xC76580D9u, 0x8B277743u),
    SLICE(0xDD45AAB8u, 0xBF672381u, 0x7B2231F3u, 0xF64463E6u, 0xE964B13Du,
          0xD725148Bu, 0xABA65FE7u, 0x52A0C93Fu),
    SLICE(0x38116FACu, 0x7022DF58u, 0xE045BEB0u, 0xC5670B91u, 0x8F2261D3u,
          0x1BA8B557u, 0x37516AAEu, 0x6EA2D55Cu),
    SLICE(0xEF306B19u, 0xDB8CA0C3u, 0xB2F53777u, 0x6006181Fu, 0xC00C303Eu,
          0x85F4168Du, 0x0E045BEBu, 0x1C08B7D6u),
    SLICE(0x68032CC8u, 0xD0065990u, 0xA5E0C5D1u, 0x4E2DFD53u, 0x9C5BFAA6u,
          0x3D5B83BDu, 0x7AB7077Au, 0xF56E0EF4u),
    SLICE(0x493C7D27u, 0x9278FA4Eu, 0x211D826Du, 0x423B04DAu, 0x847609B4u,
          0x0D006599u, 0x1A00CB32u, 0x34019664u)};

static uint32_t portable_byte(uint32_t state, uint32_t byte)
{
    CLEAT_ASSERT(byte <= 0xFF);
    CLEAT_ASSERT(slice[0][0] == 0);
    return (state >> 8) ^ slice[0][(state ^ byte) & 255u];
}

static uint32_t portable(uint32_t state, unsigned char *to,
                         const unsigned char *from, size_t bytes)
{
    size_t i = 0;

    CLEAT_ASSERT(from != NULL || bytes == 0);
    CLEAT_ASSERT(slice[0][128] == POLYNOMIAL);
    for (; bytes - i >= 8; i += 8) {
        uint64_t word;
        uint32_t low;
        uint32_t high;

        LOAD_64(word, from + i);
        READ_ONCE(word);
        if (to != NULL) { STORE_64(to + i, word); }
        word = FROM_LE64(word);
        low = (uint32_t)word ^ state;
        high = (uint32_t)(word >> 32);
        state = slice[7][low & 255u] ^ slice[6][(low >> 8) & 255u] ^
                slice[5][(low >> 16) & 255u] ^ slice[4][low >> 24] ^
                slice[3][high & 255u] ^ slice[2][(high >> 8) & 255u] ^
                slice[1][(high >> 16) & 255u] ^ slice[0][high >> 24];
    }
    for (; i < bytes; i++) {
        uint32_t byte = from[i];

        READ_ONCE(byte);
        if (to != NULL) { to[i] = (unsigned char)byte; }
        state = portable_byte(state, byte);
    }
    return state;
}
#endif

/* ---- instructions ------------------------------------------------------- */

#if HARDWARE

/* What becomes of the bytes besides being digested. */
enum store { STORE_NOTHING, STORE_WARM, STORE_COLD };

#if !defined(STORE_COLD_64)
#define STORE_COLD_64(to, x) STORE_64(to, x)
#define STORE_COLD_END() ((void)0)
#endif

/* One CRC instruction takes three cycles, and a new one can start in each, on
 * every x86-64 since Nehalem and on most Armv8 cores: so the input is cut in
 * three lanes of equal length, digested side by side and joined,
 *     state = (a * x^(8 lane) + b) * x^(8 lane) + c.
 *
 * Short inputs take lanes of 256 bytes, for which x^(8 * 256) is in a table.
 * Long ones take lanes as long as they can be: memory is read fastest in few
 * long runs. Joining those costs some hundred cycles. */
#define LANE_SHORT ((size_t)256)
#define BYTES_LONG ((size_t)48 * 1024)

/* Row r is for bits 4 r ... 4 r + 3 of the state times x^(8 * 256): bit j of
 * a state stands for x^(31 - j), hence x^(2079 - j). */
static const uint32_t lane_short[8][16] = {
    NIBBLE(0xDCB17AA4u, 0xBC8E83B9u, 0x7CF17183u, 0xF9E2E306u),
    NIBBLE(0xF629B0FDu, 0xE9BF170Bu, 0xD69258E7u, 0xA8C8C73Fu),
    NIBBLE(0x547DF88Fu, 0xA8FBF11Eu, 0x541B94CDu, 0xA837299Au),
    NIBBLE(0x558225C5u, 0xAB044B8Au, 0x53E4E1E5u, 0xA7C9C3CAu),
    NIBBLE(0x4A7FF165u, 0x94FFE2CAu, 0x2C13B365u, 0x582766CAu),
    NIBBLE(0xB04ECD94u, 0x6571EDD9u, 0xCAE3DBB2u, 0x902BC195u),
    NIBBLE(0x25BBF5DBu, 0x4B77EBB6u, 0x96EFD76Cu, 0x2833D829u),
    NIBBLE(0x5067B052u, 0xA0CF60A4u, 0x4472B7B9u, 0x88E56F72u)};

static uint64_t shift_lane_short(uint64_t state)
{
    uint32_t shifted = 0;

    CLEAT_ASSERT(state <= UINT32_MAX);
    CLEAT_ASSERT(lane_short[7][8] == power_of_bytes(LANE_SHORT));
    for (uint32_t row = 0; row < 8; row++) {
        shifted ^= lane_short[row][(state >> (4 * row)) & 15u];
    }
    return shifted;
}

/* The longest lane of which three fit, cut to its four leading bits so that
 * its power of x is a product of four. */
static size_t lane_long(size_t bytes)
{
    size_t lane = bytes / 3;
    size_t cut = 64;

    CLEAT_ASSERT(bytes >= BYTES_LONG);
    while (lane / cut >= 16) { cut *= 2; }
    CLEAT_ASSERT(lane / cut >= 8);
    return lane / cut * cut;
}

#define INLINE_HARDWARE \
    static inline HARDWARE_TARGET __attribute__((always_inline))

/* Digests eight bytes; `store` is a constant wherever this is inlined. */
INLINE_HARDWARE uint64_t word_8(enum store store, uint64_t state,
                                unsigned char *to, const unsigned char *from)
{
    uint64_t word;

    CLEAT_ASSERT(state <= UINT32_MAX);
    CLEAT_ASSERT(to != NULL || store == STORE_NOTHING);
    LOAD_64(word, from);
    READ_ONCE(word);
    if (store == STORE_WARM) { STORE_64(to, word); }
    if (store == STORE_COLD) { STORE_COLD_64(to, word); }
    return CRC_64(state, word);
}

/* Digests three lanes side by side; states[0] goes on, the others start. */
INLINE_HARDWARE void lanes(enum store store, uint64_t states[3],
                           unsigned char *to, const unsigned char *from,
                           size_t lane)
{
    uint64_t a = states[0];
    uint64_t b = 0;
    uint64_t c = 0;

    CLEAT_ASSERT(lane % 64 == 0 && lane != 0);
    CLEAT_ASSERT(store <= STORE_COLD);
    for (size_t i = 0; i < lane; i += 64) {
        for (size_t k = i; k < i + 64; k += 8) {
            a = word_8(store, a, to + k, from + k);
            b = word_8(store, b, to + k + lane, from + k + lane);
            c = word_8(store, c, to + k + 2 * lane, from + k + 2 * lane);
        }
    }
    states[0] = a;
    states[1] = b;
    states[2] = c;
}

INLINE_HARDWARE uint32_t hardware(enum store store, uint32_t state_32,
                                  unsigned char *to, const unsigned char *from,
                                  size_t bytes)
{
    uint64_t states[3] = {state_32, 0, 0};
    size_t i = 0;

    CLEAT_ASSERT(from != NULL || bytes == 0);
    CLEAT_ASSERT(to != NULL || bytes == 0 || store == STORE_NOTHING);
    while (bytes - i >= BYTES_LONG) {
        size_t lane = lane_long(bytes - i);
        uint32_t power = power_of_bytes(lane);

        lanes(store, states, to + i, from + i, lane);
        states[0] = multiply((uint32_t)states[0], power) ^ states[1];
        states[0] = multiply((uint32_t)states[0], power) ^ states[2];
        i += 3 * lane;
    }
    while (bytes - i >= 3 * LANE_SHORT) {
        lanes(store, states, to + i, from + i, LANE_SHORT);
        states[0] = shift_lane_short(states[0]) ^ states[1];
        states[0] = shift_lane_short(states[0]) ^ states[2];
        i += 3 * LANE_SHORT;
    }
    for (; bytes - i >= 8; i += 8) {
        states[0] = word_8(store, states[0], to + i, from + i);
    }
    state_32 = (uint32_t)states[0];
    for (; i < bytes; i++) {
        unsigned char byte = from[i];

        READ_ONCE(byte);
        if (store != STORE_NOTHING) { to[i] = byte; }
        state_32 = CRC_8(state_32, byte);
    }
    return state_32;
}

#if WIDE

/* Folding (Gopal and others, "Fast CRC computation for generic polynomials
 * using PCLMULQDQ", 2009). Four registers hold a message of WIDE_STEP bytes
 * that has the same remainder as all bytes so far. To go on by WIDE_STEP bytes
 * is to multiply it by x^(8 * 256), and to add what comes. A lane of 16 bytes
 * is a(x) * x^64 + b(x), so its product modulo P is a * x^(2048 + 64) + b *
 * x^2048, each of less than 128 bits again. A product of two reflected words is
 * off by one, hence the exponents. */
#define WIDE_STEP ((size_t)256)
#define X_POWER_2111 0xE9A5D8BEu
#define X_POWER_2047 0x1426A815u

typedef long long wide_vector __attribute__((vector_size(64)));

#define WIDE_MULTIPLY(product, a, b, which)     \
    __asm__("vpclmulqdq $" which ", %2, %1, %0" \
            : "=v"(product)                     \
            : "v"(a), "v"(b))
#define WIDE_STORE_COLD(to, x) \
    __asm__ volatile("vmovntdq %1, (%0)" : : "r"(to), "v"(x) : "memory")
#define WIDE_READ_ONCE(x) __asm__ volatile("" : "+v"(x))

/* Reads a register's bytes, and stores them as `store` says. */
static inline WIDE_TARGET __attribute__((always_inline)) void
wide_move(enum store store, wide_vector *x, unsigned char *to,
          const unsigned char *from)
{
    __builtin_memcpy(x, from, 64);
    WIDE_READ_ONCE(*x);
    if (store == STORE_WARM) { __builtin_memcpy(to, x, 64); }
    if (store == STORE_COLD) { WIDE_STORE_COLD(to, *x); }
}

/* Digests `bytes` bytes, two steps or more and nothing besides. */
static inline WIDE_TARGET __attribute__((always_inline)) uint32_t
wide(enum store store, uint32_t state, unsigned char *to,
     const unsigned char *from, size_t bytes)
{
    const long long high = (long long)((uint64_t)X_POWER_2111 << 32);
    const long long low = (long long)((uint64_t)X_POWER_2047 << 32);
    const wide_vector power = {high, low, high, low, high, low, high, low};
    wide_vector folded[4];
    uint64_t words[WIDE_STEP / 8];
    uint64_t rest = 0;

    CLEAT_ASSERT(bytes >= 2 * WIDE_STEP && bytes % WIDE_STEP == 0);
    CLEAT_ASSERT(store != STORE_COLD || (uintptr_t)to % 64 == 0);
    CLEAT_ASSERT(multiply(X_POWER_2111, X_POWER_0 >> 1) == power_of_bytes(264));
    CLEAT_ASSERT(multiply(X_POWER_2047, X_POWER_0 >> 1) == power_of_bytes(256));
    for (size_t k = 0; k < 4; k++) {
        wide_move(store, &folded[k], to + 64 * k, from + 64 * k);
    }
    folded[0] ^= (wide_vector){(long long)state};
    for (size_t i = WIDE_STEP; i < bytes; i += WIDE_STEP) {
        for (size_t k = 0; k < 4; k++) {
            wide_vector a;
            wide_vector b;
            wide_vector x;

            wide_move(store, &x, to + i + 64 * k, from + i + 64 * k);
            WIDE_MULTIPLY(a, folded[k], power, "0x00");
            WIDE_MULTIPLY(b, folded[k], power, "0x11");
            folded[k] = a ^ b ^ x;
        }
    }
    __builtin_memcpy(words, folded, sizeof words);
    for (size_t i = 0; i < WIDE_STEP / 8; i++) {
        rest = CRC_64(rest, words[i]);
    }
    return (uint32_t)rest;
}

static WIDE_TARGET uint32_t wide_digest(uint32_t state,
                                        const unsigned char *from, size_t bytes)
{
    CLEAT_ASSERT(bytes >= 4 * WIDE_STEP);
    CLEAT_ASSERT(bytes % WIDE_STEP == 0);
    return wide(STORE_NOTHING, state, (unsigned char *)(uintptr_t)from, from,
                bytes);
}

static WIDE_TARGET uint32_t wide_copy(uint32_t state, unsigned char *to,
                                      const unsigned char *from, size_t bytes)
{
    CLEAT_ASSERT(bytes >= 4 * WIDE_STEP);
    CLEAT_ASSERT(bytes % WIDE_STEP == 0);
    return wide(STORE_WARM, state, to, from, bytes);
}

static WIDE_TARGET uint32_t wide_copy_cold(uint32_t state, unsigned char *to,
                                           const unsigned char *from,
                                           size_t bytes)
{
    CLEAT_ASSERT(bytes >= 4 * WIDE_STEP);
    CLEAT_ASSERT(bytes % WIDE_STEP == 0);
    return wide(STORE_COLD, state, to, from, bytes);
}
#endif

/* How many of the leading bytes are for wide_…: whole steps, if the caller
 * knows that there are the instructions and if they are worth it. */
static size_t wide_bytes(enum cleat_digest_kind kind, size_t bytes)
{
#if WIDE
    if (kind == CLEAT_DIGEST_WIDE && bytes >= 4 * WIDE_STEP) {
        return bytes - bytes % WIDE_STEP;
    }
#endif
    (void)kind;
    (void)bytes;
    return 0;
}

static HARDWARE_TARGET uint32_t hardware_digest(enum cleat_digest_kind kind,
                                                uint32_t state,
                                                const unsigned char *from,
                                                size_t bytes)
{
    size_t some = wide_bytes(kind, bytes);

    CLEAT_ASSERT(from != NULL || bytes == 0);
    CLEAT_ASSERT(power_of_bytes(LANE_SHORT) == lane_short[7][8]);
#if WIDE
    if (some != 0) { state = wide_digest(state, from, some); }
#endif
    if (some != 0) { from += some; }
    bytes -= some;
    /* Nothing is stored; but no offset may be added to a null pointer. */
    return hardware(STORE_NOTHING, state, (unsigned char *)(uintptr_t)from,
                    from, bytes);
}

static HARDWARE_TARGET uint32_t hardware_copy(enum cleat_digest_kind kind,
                                              uint32_t state, unsigned char *to,
                                              const unsigned char *from,
                                              size_t bytes)
{
    size_t some = wide_bytes(kind, bytes);

    CLEAT_ASSERT(from != NULL || bytes == 0);
    CLEAT_ASSERT(to != from || bytes == 0);
    if (bytes == 0) { return state; } /* then both may be null */
#if WIDE
    if (some != 0) { state = wide_copy(state, to, from, some); }
#endif
    return hardware(STORE_WARM, state, to + some, from + some, bytes - some);
}

/* Stores that go past the caches are slow unless aligned, and are not ordered
 * with other stores: hence the head, and the fence before anybody is told. */
static HARDWARE_TARGET uint32_t hardware_copy_cold(enum cleat_digest_kind kind,
                                                   uint32_t state,
                                                   unsigned char *to,
                                                   const unsigned char *from,
                                                   size_t bytes)
{
    size_t head = (size_t)(0u - (uintptr_t)to) & 63u;
    size_t some;

    CLEAT_ASSERT(((uintptr_t)to + head) % 64 == 0);
    CLEAT_ASSERT(to != from || bytes == 0);
    if (bytes == 0) { return state; } /* then both may be null */
    if (head > bytes) { head = bytes; }
    state = hardware(STORE_WARM, state, to, from, head);
    to += head;
    from += head;
    bytes -= head;
    some = wide_bytes(kind, bytes);
#if WIDE
    if (some != 0) { state = wide_copy_cold(state, to, from, some); }
#endif
    state = hardware(STORE_COLD, state, to + some, from + some, bytes - some);
    STORE_COLD_END();
    return state;
}

static bool use_hardware(enum cleat_digest_kind kind)
{
    CLEAT_ASSERT((uint32_t)kind <= CLEAT_DIGEST_WIDE);
    CLEAT_ASSERT(HARDWARE);
    return kind == CLEAT_DIGEST_HARDWARE || kind == CLEAT_DIGEST_WIDE ||
           (GUARANTEED && kind != CLEAT_DIGEST_PORTABLE);
}
#endif

/* ---- the calls ---------------------------------------------------------- */

uint32_t cleat_crc32c_with(enum cleat_digest_kind kind, uint32_t crc,
                           const void *data, size_t bytes)
{
    CLEAT_ASSERT(data != NULL || bytes == 0);
    CLEAT_ASSERT(multiply(crc, X_POWER_0) == crc);
    (void)kind;
#if HARDWARE
    if (use_hardware(kind)) {
        return ~hardware_digest(kind, ~crc, data, bytes);
    }
#endif
    return ~portable(~crc, NULL, data, bytes);
}

uint32_t cleat_crc32c_copy_with(enum cleat_digest_kind kind, uint32_t crc,
                                void *dst, const void *src, size_t bytes)
{
    CLEAT_ASSERT(dst != NULL || bytes == 0);
    CLEAT_ASSERT(src != NULL || bytes == 0);
    (void)kind;
#if HARDWARE
    if (use_hardware(kind)) {
        if (bytes >= CLEAT_DIGEST_COLD_BYTES) {
            return ~hardware_copy_cold(kind, ~crc, dst, src, bytes);
        }
        return ~hardware_copy(kind, ~crc, dst, src, bytes);
    }
#endif
    return ~portable(~crc, dst, src, bytes);
}

uint32_t cleat_crc32c_copy_cold_with(enum cleat_digest_kind kind, uint32_t crc,
                                     void *dst, const void *src, size_t bytes)
{
    CLEAT_ASSERT(dst != NULL || bytes == 0);
    CLEAT_ASSERT(src != NULL || bytes == 0);
    (void)kind;
#if HARDWARE
    if (use_hardware(kind)) {
        return ~hardware_copy_cold(kind, ~crc, dst, src, bytes);
    }
#endif
    return ~portable(~crc, dst, src, bytes);
}

uint32_t cleat_crc32c(uint32_t crc, const void *data, size_t bytes)
{
    CLEAT_ASSERT(data != NULL || bytes == 0);
    CLEAT_ASSERT(multiply(crc, X_POWER_0) == crc);
    return cleat_crc32c_with(CLEAT_DIGEST_BUILD, crc, data, bytes);
}

uint32_t cleat_crc32c_copy(uint32_t crc, void *dst, const void *src,
                           size_t bytes)
{
    CLEAT_ASSERT(dst != NULL || bytes == 0);
    CLEAT_ASSERT(src != NULL || bytes == 0);
    return cleat_crc32c_copy_with(CLEAT_DIGEST_BUILD, crc, dst, src, bytes);
}
