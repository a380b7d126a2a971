/* The steps of Anon over lists of tensors, on CPU. kernel.h holds the loops, and is included once for each type. */
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* glibc has these for whole vectors on x86-64 (libmvec), but its header declares that under -ffast-math alone, which
 * would lose NaN and inf. Elsewhere they are called for each entry: as right, and slower. */
#if defined __x86_64__ && defined __GLIBC__ && defined _OPENMP && !defined __clang__
#pragma omp declare simd notinbranch
float logf(float);
#pragma omp declare simd notinbranch
float expf(float);
#pragma omp declare simd notinbranch
double pow(double, double);
#endif

#ifdef _OPENMP
#include <omp.h>
#define TEAM omp_get_num_threads()
#define THREAD omp_get_thread_num()
#else
#define TEAM 1
#define THREAD 0
#endif

/* Entries that are looked at together: few enough for the caches, and enough that starting on them costs nothing. */
#define BLOCK 8192

/* What a pass does. A floor needs the mean of s over the tensor, and so a pass before it. */
enum {
    STEP,          /* moments, decay, and the move of settled coordinates; MOVE_NEW follows where any are new */
    MOMENTS,       /* moments alone; REFRESH follows */
    MOVE_NEW,      /* the move of new coordinates */
    REFRESH,       /* a refresh, decay, and the move of all coordinates */
    WHOLE_STEP,    /* STEP and MOVE_NEW */
    WHOLE_REFRESH, /* MOMENTS and REFRESH */
};

/* The numbers of a step; native.py has the same structure. */
typedef struct {
    double shrink;      /* decoupled decay: what p is multiplied with */
    double coupling;    /* coupled decay: the share of p in the gradient */
    double sign;        /* -1 to climb */
    double size;        /* what m * v is multiplied with */
    double beta1, beta2, beta3;
    double power;       /* -gamma / 2 */
    double correction;  /* the weight of the window in s, 1 - beta2^elapsed */
} numbers;

#define REAL float
/* Half of powf's time, and 5e-6 off at most for sigma from 1e-38 to 1e16 and gamma from -3 to 3. */
#define POW(x, y) expf((y) * logf(x))
#define SQRT sqrtf
#define TINY FLT_MIN
#define NAME(name) name##_f32
#include "kernel.h"

#undef REAL
#undef POW
#undef SQRT
#undef TINY
#undef NAME
#define REAL double
#define POW pow
#define SQRT sqrt
#define TINY DBL_MIN
#define NAME(name) name##_f64
#include "kernel.h"
