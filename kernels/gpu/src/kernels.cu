// Flat-buffer kernels for GPUs: the arithmetic of the crate `swarmloom-kernels`, operation by operation in the same order.
//
// Compiled by NVRTC when a device is opened, without any header; by a C++ compiler over a shim in the tests, which run
// this very text on the processor. So: no fused multiply-add but where it is written, no approximate division or root, no
// flushing of subnormal numbers, and conversions to and from halves by integers.
//
// A kernel loops over what its grid does not cover, and any grid gives the same bits.

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;
typedef long long i64;

// Names a kernel for the tests' shim.
#ifndef REGISTER
#define REGISTER(name)
#endif

#define INLINE static __device__ __forceinline__

// Threads of a block, where a kernel's threads work together. A power of two.
#define THREADS 256
// Sources of a reduction: they travel as an argument.
#define MAX_SOURCES 64
// Elements of the largest block of a quantised buffer.
#define LARGEST_BLOCK 4096

struct Sources {
    const void *at[MAX_SOURCES];
};

struct Quantised {
    const u8 *codes[MAX_SOURCES];
    const float *scales[MAX_SOURCES];
};

INLINE u64 first_index() { return blockIdx.x * (u64)blockDim.x + threadIdx.x; }
INLINE u64 all_threads() { return gridDim.x * (u64)blockDim.x; }

// ---- Element types

INLINE float quiet_nan(float) { return __uint_as_float(0x7fc00000u); }
INLINE double quiet_nan(double) { return __longlong_as_double(0x7ff8000000000000ll); }
INLINE bool is_negative(float x) { return __float_as_uint(x) >> 31; }
INLINE bool is_negative(double x) { return __double_as_longlong(x) < 0; }

INLINE float bf16_to_f32(u16 half) { return __uint_as_float((u32)half << 16); }

INLINE u16 f32_to_bf16(float value) {
    u32 bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (u16)(bits >> 16) | 0x40;
    return (u16)((bits + (0x7fff + ((bits >> 16) & 1))) >> 16);
}

INLINE float f16_to_f32(u16 half) {
    u32 sign = ((u32)half & 0x8000) << 16, abs = half & 0x7fff, magnitude;
    if (abs > 0x7c00) {
        magnitude = 0x7fc00000u | abs << 13;
    } else if (abs == 0x7c00) {
        magnitude = 0x7f800000u;
    } else {
        // As an f32 the exponent is 112 too small; the product is exact, from subnormals too.
        magnitude = __float_as_uint(__uint_as_float(abs << 13) * __uint_as_float((127 + 112) << 23));
    }
    return __uint_as_float(sign | magnitude);
}

INLINE u16 f32_to_f16(float value) {
    u32 bits = __float_as_uint(value), abs = bits & 0x7fffffffu, magnitude;
    if (abs > 0x7f800000u) {
        magnitude = 0x7e00 | (abs >> 13 & 0x3ff);
    } else if (abs >= 0x477ff000u) {
        magnitude = 0x7c00;
    } else if (abs < 0x38800000u) {
        // The last place of 0.5 is that of a subnormal half: adding it rounds there.
        magnitude = __float_as_uint(__uint_as_float(abs) + 0.5f) - __float_as_uint(0.5f);
    } else {
        magnitude = (abs - (112u << 23) + 0xfff + (abs >> 13 & 1)) >> 13;
    }
    return (u16)((bits >> 16 & 0x8000) | magnitude);
}

struct F32 {
    typedef float Stored;
    typedef float Wide;
    INLINE Wide load(Stored x) { return x; }
    INLINE Stored store(Wide x) { return x; }
};
struct F64 {
    typedef double Stored;
    typedef double Wide;
    INLINE Wide load(Stored x) { return x; }
    INLINE Stored store(Wide x) { return x; }
};
struct Bf16 {
    typedef u16 Stored;
    typedef float Wide;
    INLINE Wide load(Stored x) { return bf16_to_f32(x); }
    INLINE Stored store(Wide x) { return f32_to_bf16(x); }
};
struct F16 {
    typedef u16 Stored;
    typedef float Wide;
    INLINE Wide load(Stored x) { return f16_to_f32(x); }
    INLINE Stored store(Wide x) { return f32_to_f16(x); }
};
template <class Int> struct Integer {
    typedef Int Stored;
    typedef Int Wide;
    INLINE Wide load(Stored x) { return x; }
    INLINE Stored store(Wide x) { return x; }
};
typedef Integer<i8> I8;
typedef Integer<i32> I32;
typedef Integer<i64> I64;
typedef Integer<u8> U8;

// ---- Reductions

// Integers wrap around: they are added and multiplied without a sign.
INLINE float add(float a, float b) { return a + b; }
INLINE double add(double a, double b) { return a + b; }
INLINE i8 add(i8 a, i8 b) { return (i8)((u8)a + (u8)b); }
INLINE u8 add(u8 a, u8 b) { return (u8)(a + b); }
INLINE i32 add(i32 a, i32 b) { return (i32)((u32)a + (u32)b); }
INLINE i64 add(i64 a, i64 b) { return (i64)((u64)a + (u64)b); }

INLINE float multiply(float a, float b) { return a * b; }
INLINE double multiply(double a, double b) { return a * b; }
INLINE i8 multiply(i8 a, i8 b) { return (i8)((u8)a * (u8)b); }
INLINE u8 multiply(u8 a, u8 b) { return (u8)(a * b); }
INLINE i32 multiply(i32 a, i32 b) { return (i32)((u32)a * (u32)b); }
INLINE i64 multiply(i64 a, i64 b) { return (i64)((u64)a * (u64)b); }

template <class Int> INLINE Int smaller(Int a, Int b) { return a < b ? a : b; }
template <class Int> INLINE Int larger(Int a, Int b) { return a > b ? a : b; }
template <class Float> INLINE Float smaller_float(Float a, Float b) {
    if (a != a || b != b) return quiet_nan(a);
    return a < b || (a == b && is_negative(a)) ? a : b;
}
template <class Float> INLINE Float larger_float(Float a, Float b) {
    if (a != a || b != b) return quiet_nan(a);
    return a > b || (a == b && !is_negative(a)) ? a : b;
}
INLINE float smaller(float a, float b) { return smaller_float(a, b); }
INLINE double smaller(double a, double b) { return smaller_float(a, b); }
INLINE float larger(float a, float b) { return larger_float(a, b); }
INLINE double larger(double a, double b) { return larger_float(a, b); }

template <class Int> INLINE Int canonical(Int x) { return x; }
INLINE float canonical(float x) { return x != x ? quiet_nan(x) : x; }
INLINE double canonical(double x) { return x != x ? quiet_nan(x) : x; }

// Only a sum is divided, for a mean.
struct Sum {
    enum { DIVIDES = 1 };
    template <class W> INLINE W of(W a, W b) { return add(a, b); }
};
struct Product {
    enum { DIVIDES = 0 };
    template <class W> INLINE W of(W a, W b) { return multiply(a, b); }
};
struct Min {
    enum { DIVIDES = 0 };
    template <class W> INLINE W of(W a, W b) { return smaller(a, b); }
};
struct Max {
    enum { DIVIDES = 0 };
    template <class W> INLINE W of(W a, W b) { return larger(a, b); }
};

// Elements that are read and written at once.
template <class Stored, int N> struct alignas(sizeof(Stored) * N) Pack {
    Stored of[N];
};

template <class T, class Op, int N>
INLINE void reduce_at(const Sources &sources, u32 n, typename T::Stored *out, u64 at, u32 divisor) {
    typedef typename T::Stored Stored;
    typedef typename T::Wide Wide;
    typedef Pack<Stored, N> P;
    P pack = *(const P *)((const Stored *)sources.at[0] + at);
    if (n > 1) {
        Wide wide[N];
        for (int i = 0; i < N; i++) wide[i] = T::load(pack.of[i]);
        for (u32 k = 1; k < n; k++) {
            P next = *(const P *)((const Stored *)sources.at[k] + at);
            for (int i = 0; i < N; i++) wide[i] = Op::of(wide[i], T::load(next.of[i]));
        }
        for (int i = 0; i < N; i++) pack.of[i] = T::store(canonical(wide[i]));
    }
    // A mean: the sum is rounded to the element type before it is divided.
    if (Op::DIVIDES && divisor != 0) {
        for (int i = 0; i < N; i++) pack.of[i] = T::store(canonical((Wide)(T::load(pack.of[i]) / (Wide)divisor)));
    }
    *(P *)(out + at) = pack;
}

// `wide`: all buffers are aligned to 16 bytes. `divisor`: 0 for none. `out` may be one of the sources.
template <class T, class Op>
INLINE void reduce(const Sources &sources, u32 n, void *out, u64 count, u32 divisor, u32 wide) {
    typedef typename T::Stored Stored;
    const int N = 16 / sizeof(Stored);
    u64 packs = wide ? count / N : 0;
    for (u64 i = first_index(); i < packs; i += all_threads())
        reduce_at<T, Op, N>(sources, n, (Stored *)out, i * N, divisor);
    for (u64 i = packs * N + first_index(); i < count; i += all_threads())
        reduce_at<T, Op, 1>(sources, n, (Stored *)out, i, divisor);
}

#define REDUCE(name, T, Op)                                                                              \
    extern "C" __global__ void name(Sources sources, u32 n, void *out, u64 count, u32 divisor, u32 wide) { \
        reduce<T, Op>(sources, n, out, count, divisor, wide);                                            \
    }                                                                                                    \
    REGISTER(name)
#define REDUCE_ALL(T, t)             \
    REDUCE(reduce_##t##_sum, T, Sum) \
    REDUCE(reduce_##t##_product, T, Product) \
    REDUCE(reduce_##t##_min, T, Min) \
    REDUCE(reduce_##t##_max, T, Max)
REDUCE_ALL(F32, f32)
REDUCE_ALL(F64, f64)
REDUCE_ALL(Bf16, bf16)
REDUCE_ALL(F16, f16)
REDUCE_ALL(I8, i8)
REDUCE_ALL(I32, i32)
REDUCE_ALL(I64, i64)
REDUCE_ALL(U8, u8)

// ---- Floats of eight bits; SHIFT leads from their mantissa to that of an f32

template <int SHIFT> INLINE float largest_fp8() { return SHIFT == 20 ? 448.0f : 57344.0f; }
template <int SHIFT> INLINE u32 bias_difference() { return 127 - ((1u << (SHIFT - 17)) - 1); }

template <int SHIFT> INLINE u32 fp8_magnitude(u32 abs) {
    u32 smallest_normal = (bias_difference<SHIFT>() + 1) << 23;
    u32 exponent = abs & 0x7f800000u;
    if (exponent < smallest_normal) exponent = smallest_normal;
    // A power of two whose last place is that of the result: adding it rounds there.
    u32 unit = exponent + ((u32)SHIFT << 23);
    u32 mantissa = __float_as_uint(__uint_as_float(abs) + __uint_as_float(unit)) - unit;
    return (exponent >> SHIFT) - (smallest_normal >> SHIFT) + mantissa;
}

// For numbers that are less than half a step above the largest value.
template <int SHIFT> INLINE u8 fp8_in_range(float x) {
    u32 bits = __float_as_uint(x);
    return (u8)((bits >> 24 & 0x80) | fp8_magnitude<SHIFT>(bits & 0x7fffffffu));
}

template <int SHIFT> INLINE u8 f32_to_fp8(float x) {
    u32 bits = __float_as_uint(x), abs = bits & 0x7fffffffu, largest = __float_as_uint(largest_fp8<SHIFT>());
    u32 code = abs > 0x7f800000u ? 0x7f : fp8_magnitude<SHIFT>(abs < largest ? abs : largest);
    return (u8)((bits >> 24 & 0x80) | code);
}

template <int SHIFT> INLINE float fp8_to_f32(u8 code) {
    u32 magnitude = code & 0x7f, sign = (u32)(code & 0x80) << 24;
    if (magnitude > (SHIFT == 20 ? 0x7e : 0x7c)) return __uint_as_float(0x7fc00000u);
    if (SHIFT == 21 && magnitude == 0x7c) return __uint_as_float(sign | 0x7f800000u);
    // With the bias of an f32 the value is too small by a power of two; the product is exact.
    return __uint_as_float(sign | magnitude << SHIFT) * __uint_as_float((127 + bias_difference<SHIFT>()) << 23);
}

template <class T, int SHIFT> INLINE void narrow(const void *x, u8 *out, u64 count) {
    for (u64 i = first_index(); i < count; i += all_threads())
        out[i] = f32_to_fp8<SHIFT>(T::load(((const typename T::Stored *)x)[i]));
}
template <class T, int SHIFT> INLINE void widen(const u8 *x, void *out, u64 count) {
    for (u64 i = first_index(); i < count; i += all_threads())
        ((typename T::Stored *)out)[i] = T::store(fp8_to_f32<SHIFT>(x[i]));
}

#define FP8(T, t, f, SHIFT)                                                               \
    extern "C" __global__ void narrow_##f##_##t(const void *x, u8 *out, u64 count) {      \
        narrow<T, SHIFT>(x, out, count);                                                  \
    }                                                                                     \
    REGISTER(narrow_##f##_##t)                                                            \
    extern "C" __global__ void widen_##f##_##t(const u8 *x, void *out, u64 count) {       \
        widen<T, SHIFT>(x, out, count);                                                   \
    }                                                                                     \
    REGISTER(widen_##f##_##t)
#define FP8_ALL(T, t)      \
    FP8(T, t, e4m3, 20)    \
    FP8(T, t, e5m2, 21)
FP8_ALL(F32, f32)
FP8_ALL(Bf16, bf16)
FP8_ALL(F16, f16)

// ---- Block-wise quantisation

struct Int8 {
    enum { PER_BYTE = 1, MEAN = 0 };
    INLINE float largest() { return 127.0f; }
    INLINE u32 encode(float x) { return (u32)__float2int_rn(x) & 0xff; }
    INLINE float decode(const u8 *codes, u64 i) { return (float)(i8)codes[i]; }
};
struct Int4 {
    enum { PER_BYTE = 2, MEAN = 0 };
    INLINE float largest() { return 7.0f; }
    INLINE u32 encode(float x) { return (u32)__float2int_rn(x) & 0xf; }
    INLINE float decode(const u8 *codes, u64 i) {
        i32 code = codes[i / 2] >> (4 * (i & 1)) & 0xf;
        return (float)(code < 8 ? code : code - 16);
    }
};
struct Sign {
    enum { PER_BYTE = 8, MEAN = 1 };
    INLINE float largest() { return 1.0f; }
    INLINE u32 encode(float x) { return __float_as_uint(x) >> 31; }
    INLINE float decode(const u8 *codes, u64 i) { return codes[i / 8] >> (i & 7) & 1 ? -1.0f : 1.0f; }
};
template <int SHIFT> struct Fp8 {
    enum { PER_BYTE = 1, MEAN = 0 };
    INLINE float largest() { return largest_fp8<SHIFT>(); }
    INLINE u32 encode(float x) { return fp8_in_range<SHIFT>(x); }
    INLINE float decode(const u8 *codes, u64 i) { return fp8_to_f32<SHIFT>(codes[i]); }
};
typedef Fp8<20> E4m3;
typedef Fp8<21> E5m2;

INLINE bool is_finite(float x) { return (__float_as_uint(x) & 0x7fffffffu) < 0x7f800000u; }
INLINE float normal_or_zero(float scale) { return scale < __uint_as_float(0x00800000u) ? 0.0f : scale; }

// `largest / code`, rounded up to 17 significant bits.
INLINE float scale_of(float largest, float code) {
    if (!is_finite(largest)) return quiet_nan(0.0f);
    u32 quotient = __float_as_uint(normal_or_zero(largest / code));
    float up = __uint_as_float((quotient + 0x7f) & ~0x7fu);
    return is_finite(up * code) ? up : __uint_as_float(quotient & ~0x7fu);
}

// The scale of a block whose values all threads have put into shared memory. All threads get it.
template <class Format> INLINE float block_scale(const float *values, u32 len) {
    __shared__ u32 largest[THREADS];
    __shared__ double chains[8];
    __shared__ float scale;
    u32 thread = threadIdx.x;
    __syncthreads();
    if (Format::MEAN) {
        // In eight chains, element i in chain i mod 8: the order is part of the result.
        if (thread < 8) {
            double sum = 0.0;
            for (u32 i = thread; i < len; i += 8) sum = sum + (double)__uint_as_float(__float_as_uint(values[i]) & 0x7fffffffu);
            chains[thread] = sum;
        }
        __syncthreads();
        if (thread == 0) {
            double sum = ((chains[0] + chains[4]) + (chains[2] + chains[6])) + ((chains[1] + chains[5]) + (chains[3] + chains[7]));
            float mean = (float)(sum / (double)len);
            scale = is_finite(mean) ? normal_or_zero(mean) : quiet_nan(0.0f);
        }
    } else {
        // The bits of magnitudes are in the order of their values, those of NaNs above all.
        u32 most = 0;
        for (u32 i = thread; i < len; i += THREADS) most = larger(most, __float_as_uint(values[i]) & 0x7fffffffu);
        largest[thread] = most;
        for (u32 half = THREADS / 2; half > 0; half /= 2) {
            __syncthreads();
            if (thread < half) largest[thread] = larger(largest[thread], largest[thread + half]);
        }
        if (thread == 0) scale = scale_of(__uint_as_float(largest[0]), Format::largest());
    }
    __syncthreads();
    return scale;
}

// Writes the codes and the scale of a block in shared memory. Returns when the values may be overwritten.
template <class Format> INLINE void quantise_block(const float *values, u32 len, u8 *codes, float *scale_out) {
    const u32 PER_BYTE = Format::PER_BYTE;
    float scale = block_scale<Format>(values, len);
    bool empty = scale != scale || scale == 0.0f;
    float reciprocal = empty ? 0.0f : 1.0f / scale;
    u32 bytes = (len + PER_BYTE - 1) / PER_BYTE;
    for (u32 byte = threadIdx.x; byte < bytes; byte += THREADS) {
        u32 code = 0;
        for (u32 j = 0; j < PER_BYTE; j++) {
            u32 i = byte * PER_BYTE + j;
            if (!empty && i < len) code |= Format::encode(values[i] * reciprocal) << (j * (8 / PER_BYTE));
        }
        codes[byte] = (u8)code;
    }
    if (threadIdx.x == 0) *scale_out = scale;
    __syncthreads();
}

INLINE u32 block_length(u64 count, u32 block, u64 b) {
    u64 left = count - b * block;
    return left < block ? (u32)left : block;
}

template <class T, class Format>
INLINE void quantise(const void *x, u64 count, u32 block, u8 *codes, float *scales) {
    __shared__ float values[LARGEST_BLOCK];
    u64 blocks = (count + block - 1) / block;
    for (u64 b = blockIdx.x; b < blocks; b += gridDim.x) {
        u32 len = block_length(count, block, b);
        for (u32 i = threadIdx.x; i < len; i += THREADS)
            values[i] = T::load(((const typename T::Stored *)x)[b * block + i]);
        quantise_block<Format>(values, len, codes + b * (block / Format::PER_BYTE), scales + b);
    }
}

template <class T, class Format>
INLINE void dequantise(const u8 *codes, const float *scales, u64 count, u32 block, void *out) {
    for (u64 i = first_index(); i < count; i += all_threads())
        ((typename T::Stored *)out)[i] = T::store(Format::decode(codes, i) * scales[i / block]);
}

// The mean of element i, which is in block b.
template <class Format> INLINE float reduced(const Quantised &sources, u32 n, u64 i, u64 b, u32 divisor) {
    float sum = Format::decode(sources.codes[0], i) * sources.scales[0][b];
    for (u32 k = 1; k < n; k++) sum = sum + Format::decode(sources.codes[k], i) * sources.scales[k][b];
    return divisor == 1 ? sum : sum / (float)divisor;
}

template <class Format>
INLINE void requantise(const Quantised &sources, u32 n, u64 count, u32 block, u32 divisor, u8 *codes, float *scales) {
    __shared__ float values[LARGEST_BLOCK];
    u64 blocks = (count + block - 1) / block;
    for (u64 b = blockIdx.x; b < blocks; b += gridDim.x) {
        u32 len = block_length(count, block, b);
        for (u32 i = threadIdx.x; i < len; i += THREADS) values[i] = reduced<Format>(sources, n, b * block + i, b, divisor);
        quantise_block<Format>(values, len, codes + b * (block / Format::PER_BYTE), scales + b);
    }
}

template <class Format>
INLINE void reduce_dequantised(const Quantised &sources, u32 n, u64 count, u32 block, u32 divisor, float *out) {
    for (u64 i = first_index(); i < count; i += all_threads()) out[i] = reduced<Format>(sources, n, i, i / block, divisor);
}

#define QUANTISE(T, t, Format, f)                                                                                 \
    extern "C" __global__ void quantise_##f##_##t(const void *x, u64 count, u32 block, u8 *codes, float *scales) { \
        quantise<T, Format>(x, count, block, codes, scales);                                                      \
    }                                                                                                             \
    REGISTER(quantise_##f##_##t)                                                                                  \
    extern "C" __global__ void dequantise_##f##_##t(const u8 *codes, const float *scales, u64 count, u32 block,   \
                                                    void *out) {                                                  \
        dequantise<T, Format>(codes, scales, count, block, out);                                                  \
    }                                                                                                             \
    REGISTER(dequantise_##f##_##t)
#define QUANTISE_ALL(Format, f)                                                                                   \
    QUANTISE(F32, f32, Format, f)                                                                                 \
    QUANTISE(Bf16, bf16, Format, f)                                                                               \
    QUANTISE(F16, f16, Format, f)                                                                                 \
    extern "C" __global__ void reduce_quantised_##f(Quantised sources, u32 n, u64 count, u32 block, u32 divisor,  \
                                                    u8 *codes, float *scales) {                                   \
        requantise<Format>(sources, n, count, block, divisor, codes, scales);                                     \
    }                                                                                                             \
    REGISTER(reduce_quantised_##f)                                                                                \
    extern "C" __global__ void reduce_dequantised_##f(Quantised sources, u32 n, u64 count, u32 block, u32 divisor, \
                                                      float *out) {                                               \
        reduce_dequantised<Format>(sources, n, count, block, divisor, out);                                       \
    }                                                                                                             \
    REGISTER(reduce_dequantised_##f)
QUANTISE_ALL(Int8, int8)
QUANTISE_ALL(Int4, int4)
QUANTISE_ALL(Sign, sign)
QUANTISE_ALL(E4m3, e4m3)
QUANTISE_ALL(E5m2, e5m2)

// ---- Optimizer steps: `p`, `m`, `v` are the parameters and the two states

// What a rule needs; each uses some.
struct Constants {
    float rate, beta1, beta2, eps, root, keep;
};

INLINE float average(float beta, float old, float fresh) { return __fmaf_rn(beta, old, (1.0f - beta) * fresh); }
INLINE float scaled_step(const Constants &c, float p, float m, float v) {
    return __fmaf_rn(-c.rate, m / (__fsqrt_rn(v) + c.eps), p);
}

template <int NESTEROV> struct Sgd {
    enum { SECOND = 0 };
    INLINE void apply(const Constants &c, float g, float &p, float &m, float &) {
        m = __fmaf_rn(c.beta1, m, g);
        p = __fmaf_rn(-c.rate, NESTEROV ? __fmaf_rn(c.beta1, m, g) : m, p);
    }
};
struct Adam {
    enum { SECOND = 1 };
    INLINE void apply(const Constants &c, float g, float &p, float &m, float &v) {
        m = average(c.beta1, m, g);
        v = average(c.beta2, v, g * g);
        float direction = m / __fmaf_rn(__fsqrt_rn(v), c.root, c.eps);
        p = __fmaf_rn(-c.rate, direction, p * c.keep);
    }
};
struct Adagrad {
    enum { SECOND = 1 };
    INLINE void apply(const Constants &c, float g, float &p, float &m, float &v) {
        m = average(c.beta1, m, g);
        v = __fmaf_rn(g, g, v);
        p = scaled_step(c, p, m, v);
    }
};
struct Yogi {
    enum { SECOND = 1 };
    INLINE void apply(const Constants &c, float g, float &p, float &m, float &v) {
        m = average(c.beta1, m, g);
        float square = g * g;
        u32 change = __float_as_uint((1.0f - c.beta2) * square);
        // The change gets the sign of the difference, and is zero where that is zero.
        u32 difference = __float_as_uint(v - square);
        change = difference & 0x7fffffffu ? change ^ (difference & 0x80000000u) : 0;
        v = v - __uint_as_float(change);
        p = scaled_step(c, p, m, v);
    }
};

template <class Rule>
INLINE void step(const Sources &sources, u32 n, u32 divisor, u64 count, const Constants &c, float *p, float *m, float *v) {
    for (u64 i = first_index(); i < count; i += all_threads()) {
        float g = ((const float *)sources.at[0])[i];
        for (u32 k = 1; k < n; k++) g = g + ((const float *)sources.at[k])[i];
        if (divisor != 1) g = g / (float)divisor;
        float parameter = p[i], first = m[i], second = Rule::SECOND ? v[i] : 0.0f;
        Rule::apply(c, g, parameter, first, second);
        p[i] = parameter;
        m[i] = first;
        if (Rule::SECOND) v[i] = second;
    }
}

#define STEP(name, Rule)                                                                                    \
    extern "C" __global__ void step_##name(Sources sources, u32 n, u32 divisor, u64 count, Constants c, float *p, \
                                           float *m, float *v) {                                            \
        step<Rule>(sources, n, divisor, count, c, p, m, v);                                                 \
    }                                                                                                       \
    REGISTER(step_##name)
STEP(sgd, Sgd<0>)
STEP(nesterov, Sgd<1>)
STEP(adam, Adam)
STEP(adagrad, Adagrad)
STEP(yogi, Yogi)

// ---- Norms

// Elements whose squares become one sum; the sums are added in their order by the caller.
#define NORM_BLOCK 65536
#define CHAINS 16

// In a block, element i belongs to chain i mod 16: one thread a chain, sixteen blocks a block of threads.
template <class T> INLINE void sum_of_squares(const void *x, u64 count, double *sums) {
    __shared__ double chains[THREADS];
    u64 blocks = (count + NORM_BLOCK - 1) / NORM_BLOCK;
    u32 chain = threadIdx.x % CHAINS;
    for (u64 first = blockIdx.x * (u64)(THREADS / CHAINS); first < blocks; first += gridDim.x * (u64)(THREADS / CHAINS)) {
        u64 b = first + threadIdx.x / CHAINS, end = (b + 1) * NORM_BLOCK;
        double sum = 0.0;
        for (u64 i = b * NORM_BLOCK + chain; i < (end < count ? end : count); i += CHAINS) {
            double value = (double)T::load(((const typename T::Stored *)x)[i]);
            // The product of two numbers that were f32 is exact.
            sum = sum + value * value;
        }
        chains[threadIdx.x] = sum;
        __syncthreads();
        if (chain == 0 && b < blocks) {
            const double *c = chains + threadIdx.x;
            double l[8];
            for (int i = 0; i < 8; i++) l[i] = c[i] + c[i + 8];
            sums[b] = ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
        }
        __syncthreads();
    }
}

// The bits of the largest magnitude, into a number that was zero.
template <class T> INLINE void max_abs(const void *x, u64 count, u32 *bits) {
    u32 most = 0;
    for (u64 i = first_index(); i < count; i += all_threads())
        most = larger(most, __float_as_uint(T::load(((const typename T::Stored *)x)[i])) & 0x7fffffffu);
    if (most != 0) atomicMax(bits, most);
}

#define NORMS(T, t)                                                                               \
    extern "C" __global__ void sum_of_squares_##t(const void *x, u64 count, double *sums) {       \
        sum_of_squares<T>(x, count, sums);                                                        \
    }                                                                                             \
    REGISTER(sum_of_squares_##t)                                                                  \
    extern "C" __global__ void max_abs_##t(const void *x, u64 count, u32 *bits) {                 \
        max_abs<T>(x, count, bits);                                                               \
    }                                                                                             \
    REGISTER(max_abs_##t)
NORMS(F32, f32)
NORMS(Bf16, bf16)
NORMS(F16, f16)
