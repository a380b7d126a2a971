/* One plain step of Anon (no refresh) over a list of tensors, in one pass over memory.
 *
 *     d = sign * g + coupling * p             gradient, climbing or not, with coupled decay
 *     m = m + (1 - beta1) * (d - m)
 *     s = beta2 * s + (1 - beta2) * d * d     not at gamma = 0, where s and v do not exist
 *     p = shrink * p - size * m * v           decoupled decay; v = 1 at gamma = 0
 *
 * The tensors are laid end to end in thought, and every thread takes an equal share of that line, so that
 * one large tensor and many small ones are spread alike.
 */
#include <stddef.h>
#include <stdint.h>

#define DEFINE_STEP(NAME, REAL)                                                                                \
    static void NAME##_adaptive(REAL *restrict p, const REAL *restrict g, REAL *restrict m, REAL *restrict s,  \
                                const REAL *restrict v, int64_t n, REAL shrink, REAL coupling, REAL sign,      \
                                REAL size, REAL new1, REAL beta2, REAL new2)                                   \
    {                                                                                                          \
        for (int64_t i = 0; i < n; i++) {                                                                      \
            const REAL d = sign * g[i] + coupling * p[i];                                                      \
            m[i] += new1 * (d - m[i]);                                                                         \
            s[i] = beta2 * s[i] + new2 * d * d;                                                                \
            p[i] = shrink * p[i] - size * m[i] * v[i];                                                         \
        }                                                                                                      \
    }                                                                                                          \
    static void NAME##_momentum(REAL *restrict p, const REAL *restrict g, REAL *restrict m, int64_t n,         \
                                REAL shrink, REAL coupling, REAL sign, REAL size, REAL new1)                   \
    {                                                                                                          \
        for (int64_t i = 0; i < n; i++) {                                                                      \
            m[i] += new1 * (sign * g[i] + coupling * p[i] - m[i]);                                             \
            p[i] = shrink * p[i] - size * m[i];                                                                \
        }                                                                                                      \
    }                                                                                                          \
    void NAME(int64_t count, const int64_t *sizes, REAL *const *p, const REAL *const *g, REAL *const *m,       \
              REAL *const *s, const REAL *const *v, int threads, double shrink, double coupling, double sign,  \
              double size, double beta1, double beta2)                                                         \
    {                                                                                                          \
        /* Subtracted before rounding: 1 - 0.999f is off by 1e-5. */                                           \
        const REAL new1 = (REAL)(1 - beta1), new2 = (REAL)(1 - beta2);                                         \
        int64_t total = 0;                                                                                     \
        for (int64_t k = 0; k < count; k++)                                                                    \
            total += sizes[k];                                                                                 \
        _Pragma("omp parallel for num_threads(threads) schedule(static)")                                      \
        for (int share = 0; share < threads; share++) {                                                        \
            const int64_t low = total * share / threads, high = total * (share + 1) / threads;                 \
            int64_t start = 0;                                                                                 \
            for (int64_t k = 0; k < count && start < high; start += sizes[k], k++) {                           \
                const int64_t a = low > start ? low - start : 0;                                               \
                const int64_t b = high - start < sizes[k] ? high - start : sizes[k];                           \
                if (a >= b)                                                                                    \
                    continue;                                                                                  \
                if (s != NULL)                                                                                 \
                    NAME##_adaptive(p[k] + a, g[k] + a, m[k] + a, s[k] + a, v[k] + a, b - a, shrink, coupling, \
                                    sign, size, new1, beta2, new2);                                            \
                else                                                                                           \
                    NAME##_momentum(p[k] + a, g[k] + a, m[k] + a, b - a, shrink, coupling, sign, size, new1);  \
            }                                                                                                  \
        }                                                                                                      \
    }

DEFINE_STEP(anon_step_f32, float)
DEFINE_STEP(anon_step_f64, double)
