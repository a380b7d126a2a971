/* Included by kernel.c for each type of number.
 *
 * State of a parameter tensor p with the gradient g: the moments m and s, and the multiplier v. v > 0 is settled; v = 0
 * has had no gradient yet; v < 0 has had its first one since the last refresh, and -v is the weight of its gradients
 * in s. See rule.py.
 */

/* A step without a second moment, at gamma = 0. */
static void NAME(momentum)(REAL *restrict p, const REAL *restrict g, REAL *restrict m, int64_t n, numbers k)
{
    const REAL shrink = k.shrink, coupling = k.coupling, sign = k.sign, size = k.size, new1 = 1 - k.beta1;
    for (int64_t i = 0; i < n; i++) {
        m[i] += new1 * (sign * g[i] + coupling * p[i] - m[i]);
        p[i] = shrink * p[i] - size * m[i];
    }
}

/* Counts the coordinates with v < 0 after a step's gradient; returns whether there are any. */
static int NAME(count_new)(const REAL *restrict s, REAL *restrict v, int64_t n, numbers k)
{
    const REAL beta2 = k.beta2, new2 = 1 - k.beta2;
    int any_new = 0;
    for (int64_t i = 0; i < n; i++)
        if (v[i] <= 0) {
            v[i] = s[i] > 0 ? beta2 * v[i] - new2 : 0;
            any_new |= v[i] < 0;
        }
    return any_new;
}

/* The moments alone; p and v are read. Returns whether coordinates wait for a first gradient or a first refresh. */
static int NAME(moments)(const REAL *restrict p, const REAL *restrict g, REAL *restrict m, REAL *restrict s,
                         const REAL *restrict v, int64_t n, numbers k)
{
    /* Subtracted before rounding: 1 - 0.999f is off by 1e-5. */
    const REAL coupling = k.coupling, sign = k.sign, new1 = 1 - k.beta1, beta2 = k.beta2, new2 = 1 - k.beta2;
    int waiting = 0;
    for (int64_t i = 0; i < n; i++) {
        const REAL d = sign * g[i] + coupling * p[i];
        const REAL nonzero = g[i] == 0 ? 0 : d; /* decay alone is not a gradient */
        m[i] += new1 * (d - m[i]);
        s[i] = beta2 * s[i] + new2 * nonzero * nonzero;
        waiting |= v[i] <= 0;
    }
    return waiting;
}

/* The moments, decay, and the move of settled coordinates; returns as `moments`, whose lines are here again because a
 * loop of its own for the move takes longer. */
static int NAME(step)(REAL *restrict p, const REAL *restrict g, REAL *restrict m, REAL *restrict s,
                      const REAL *restrict v, int64_t n, numbers k)
{
    const REAL shrink = k.shrink, coupling = k.coupling, sign = k.sign, size = k.size;
    const REAL new1 = 1 - k.beta1, beta2 = k.beta2, new2 = 1 - k.beta2;
    int waiting = 0;
    for (int64_t i = 0; i < n; i++) {
        const REAL d = sign * g[i] + coupling * p[i];
        const REAL nonzero = g[i] == 0 ? 0 : d;
        m[i] += new1 * (d - m[i]);
        s[i] = beta2 * s[i] + new2 * nonzero * nonzero;
        waiting |= v[i] <= 0;
        p[i] = shrink * p[i] - size * m[i] * (v[i] < 0 ? 0 : v[i]);
    }
    return waiting;
}

/* sigma^(-gamma/2), between the smallest normal number and its inverse; `added` makes sigma of the mean square. */
static inline REAL NAME(multiplier)(REAL s, REAL v, REAL added, REAL power, REAL correction)
{
    const REAL u = POW(s / (v < 0 ? -v : correction) + added, power);
    return u < TINY ? TINY : u > 1 / TINY ? 1 / TINY : u;
}

/* The move of coordinates with v < 0, by the multiplier of their own gradients; decay has been done. */
static void NAME(move_new)(REAL *restrict p, const REAL *restrict m, const REAL *restrict s, const REAL *restrict v,
                           int64_t n, numbers k, REAL added)
{
    const REAL size = k.size, power = k.power, correction = k.correction;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const REAL u = NAME(multiplier)(s[i], v[i], added, power, correction);
        p[i] = v[i] < 0 ? p[i] - size * m[i] * u : p[i];
    }
}

/* The end of a window: the new multiplier, an empty s, decay, and the move of all coordinates. */
static void NAME(refresh)(REAL *restrict p, const REAL *restrict m, REAL *restrict s, REAL *restrict v, int64_t n,
                          numbers k, REAL added)
{
    const REAL shrink = k.shrink, size = k.size, power = k.power, correction = k.correction;
    const REAL beta3 = k.beta3, new3 = 1 - k.beta3;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const REAL old = v[i], u = NAME(multiplier)(s[i], old, added, power, correction);
        /* (beta3 old^-2 + new3 u^-2)^(-1/2), with the smaller one drawn out so that nothing overflows */
        const REAL low = u < old ? u : old, high = u < old ? old : u, square = (low / high) * (low / high);
        const REAL blend = low / SQRT(beta3 * (u < old ? square : 1) + new3 * (u < old ? 1 : square));
        const REAL renewed = old > 0 && beta3 > 0 ? blend : u;
        const REAL kept = old < 0 ? 0 : old; /* a window without a gradient says nothing */
        v[i] = s[i] > 0 ? renewed : kept;
        s[i] = 0;
        p[i] = shrink * p[i] - size * m[i] * v[i];
    }
}

/* Makes one pass over the tensors. They are laid end to end in thought, and every thread takes an equal share of that
 * line, so that one large tensor and many small ones are spread alike.
 *
 * task: what to do, see kernel.c. s, v: NULL at gamma = 0.
 * added: for each tensor, what makes sigma of the mean square; read unless the task is STEP or MOMENTS.
 * any_new: for each tensor, set to 1 where STEP or MOMENTS leave some v < 0.
 */
void NAME(anon)(int task, int64_t count, const int64_t *sizes, REAL *const *p, const REAL *const *g, REAL *const *m,
                REAL *const *s, REAL *const *v, const double *added, uint8_t *any_new, int threads,
                const numbers *given)
{
    const numbers k = *given;
    int64_t total = 0;
    for (int64_t t = 0; t < count; t++)
        total += sizes[t];
    /* Not num_threads(threads): a smaller team than torch's would end threads that torch then has to make again. */
#pragma omp parallel if (threads > 1)
    {
        const int shares = threads < TEAM ? threads : TEAM, share = THREAD;
        const int64_t low = share < shares ? total * share / shares : total;
        const int64_t high = share < shares ? total * (share + 1) / shares : total;
        int64_t start = 0;
        for (int64_t t = 0; t < count && start < high; start += sizes[t], t++) {
            const int64_t end = high - start < sizes[t] ? high - start : sizes[t];
            for (int64_t a = low > start ? low - start : 0; a < end; a += BLOCK) {
                const int64_t n = end - a < BLOCK ? end - a : BLOCK;
                REAL *const p_a = p[t] + a, *const m_a = m[t] + a;
                if (s == NULL) {
                    NAME(momentum)(p_a, g[t] + a, m_a, n, k);
                    continue;
                }
                REAL *const s_a = s[t] + a, *const v_a = v[t] + a;
                int any = 0;
                if (task == STEP || task == WHOLE_STEP)
                    any = NAME(step)(p_a, g[t] + a, m_a, s_a, v_a, n, k);
                if (task == MOMENTS || task == WHOLE_REFRESH)
                    any = NAME(moments)(p_a, g[t] + a, m_a, s_a, v_a, n, k);
                any = any && NAME(count_new)(s_a, v_a, n, k);
                if (task == MOVE_NEW || (task == WHOLE_STEP && any))
                    NAME(move_new)(p_a, m_a, s_a, v_a, n, k, added[t]);
                if (task == REFRESH || task == WHOLE_REFRESH)
                    NAME(refresh)(p_a, m_a, s_a, v_a, n, k, added[t]);
                if (any) {
#pragma omp atomic write
                    any_new[t] = 1;
                }
            }
        }
    }
}
