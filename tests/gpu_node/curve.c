/* What a GPU draws: power at a time, and the exact integral between two.
 *
 * The curve is linear between its points, so each piece has a closed form; the load log is a step function
 * that replaces the curve from its first entry on. Nothing is stepped numerically.
 */
#define _GNU_SOURCE
#include <time.h>

#include "node.h"

static double seconds(int64_t ns) { return (double)ns / 1e9; }

/* floor() without libm */
static double whole(double value) {
    double cut = (double)(int64_t)value;
    return cut > value ? cut - 1 : cut;
}

/* The last multiple of the step, moved by the phase, that is not after at_ns. */
int64_t grid_floor(int64_t at_ns, int64_t step_ns, int64_t phase_ns) {
    if (step_ns <= 0) return at_ns;
    int64_t into = (at_ns - phase_ns) % step_ns;
    return at_ns - (into < 0 ? into + step_ns : into);
}

/* Watts of one linear piece; a share, not a slope, because points may lie denormally close. */
static double piece_w(struct point a, struct point b, double offset_s) {
    return a.watts + (b.watts - a.watts) * ((offset_s - a.offset_s) / (b.offset_s - a.offset_s));
}

/* Joules of one linear piece, cut to [from_s, to_s]. */
static double piece_j(struct point a, struct point b, double from_s, double to_s) {
    double low_s = a.offset_s > from_s ? a.offset_s : from_s, high_s = b.offset_s < to_s ? b.offset_s : to_s;
    if (high_s <= low_s) return 0;
    return piece_w(a, b, low_s + (high_s - low_s) / 2) * (high_s - low_s);
}

/* The curve's power at an offset, without repetition; at a jump the later point's. */
static double curve_w(const struct gpu *gpu, double offset_s) {
    const struct point *points = gpu->points;
    uint32_t count = gpu->point_count, next = 0;
    if (!count) return 0;
    while (next < count && points[next].offset_s <= offset_s) next++;
    if (next == 0) return points[0].watts;
    return next == count ? points[count - 1].watts : piece_w(points[next - 1], points[next], offset_s);
}

/* Joules of the curve between two offsets, without repetition. */
static double span_j(const struct gpu *gpu, double from_s, double to_s) {
    const struct point *points = gpu->points;
    uint32_t count = gpu->point_count;
    if (!count || to_s <= from_s) return 0;
    double total_j = 0, first_s = points[0].offset_s, last_s = points[count - 1].offset_s;
    if (from_s < first_s) total_j += points[0].watts * ((to_s < first_s ? to_s : first_s) - from_s);
    for (uint32_t i = 0; i + 1 < count; i++) total_j += piece_j(points[i], points[i + 1], from_s, to_s);
    if (to_s > last_s) total_j += points[count - 1].watts * (to_s - (from_s > last_s ? from_s : last_s));
    return total_j;
}

static double curve_j(const struct gpu *gpu, double from_s, double to_s) {
    double period_s = gpu->curve_period_s;
    if (period_s <= 0) return span_j(gpu, from_s, to_s);
    double first = whole(from_s / period_s), last = whole(to_s / period_s);
    double from_phase_s = from_s - first * period_s, to_phase_s = to_s - last * period_s;
    if (first == last) return span_j(gpu, from_phase_s, to_phase_s);
    double total_j = span_j(gpu, from_phase_s, period_s) + span_j(gpu, 0, to_phase_s);
    if (last - first > 1) total_j += (last - first - 1) * span_j(gpu, 0, period_s);
    return total_j;
}

static double power_now(const struct gpu *gpu, uint32_t loads, int64_t at_ns) {
    if (loads && at_ns >= gpu->loads[0].time_ns) {
        uint32_t last = loads - 1;
        while (gpu->loads[last].time_ns > at_ns) last--;
        return gpu->loads[last].watts;
    }
    double offset_s = seconds(at_ns - gpu->curve_start_ns), period_s = gpu->curve_period_s;
    if (period_s > 0) offset_s -= whole(offset_s / period_s) * period_s;
    return curve_w(gpu, offset_s);
}

static double energy_between(const struct gpu *gpu, uint32_t loads, int64_t from_ns, int64_t to_ns) {
    int64_t curve_end_ns = loads && gpu->loads[0].time_ns < to_ns ? gpu->loads[0].time_ns : to_ns;
    double total_j = 0;
    if (curve_end_ns > from_ns)
        total_j = curve_j(gpu, seconds(from_ns - gpu->curve_start_ns), seconds(curve_end_ns - gpu->curve_start_ns));
    for (uint32_t i = 0; i < loads; i++) {
        int64_t low = gpu->loads[i].time_ns, high = i + 1 < loads ? gpu->loads[i + 1].time_ns : to_ns;
        if (low < from_ns) low = from_ns;
        if (high > to_ns) high = to_ns;
        if (high > low) total_j += gpu->loads[i].watts * seconds(high - low);
    }
    return total_j;
}

/* Python rewrites a curve between two increments of the sequence: what was read meanwhile is read again. It may
 * be interrupted for a while, so a reader sleeps; it may have been killed, so a reader gives up after a while. */
enum { SPINS = 100, ATTEMPTS = 3000, NAP_NS = 20000 };

#define CONSISTENTLY(gpu, value)                                                              \
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {                                    \
        struct timespec nap = {0, NAP_NS};                                                    \
        uint64_t before = atomic_load_explicit(&(gpu)->sequence, memory_order_acquire);       \
        uint32_t loads = atomic_load_explicit(&(gpu)->load_count, memory_order_acquire);      \
        (value);                                                                              \
        atomic_thread_fence(memory_order_acquire);                                            \
        if (before % 2 == 0 && before == atomic_load(&(gpu)->sequence)) break;                \
        if (attempt > SPINS) nanosleep(&nap, NULL);                                           \
    }

double gpu_power_w(struct gpu *gpu, int64_t at_ns) {
    double watts = 0;
    CONSISTENTLY(gpu, watts = power_now(gpu, loads, at_ns))
    return watts > 0 ? watts : 0;
}

double gpu_energy_j(struct gpu *gpu, int64_t from_ns, int64_t to_ns) {
    double joules = 0;
    if (to_ns < from_ns) return -gpu_energy_j(gpu, to_ns, from_ns);
    CONSISTENTLY(gpu, joules = energy_between(gpu, loads, from_ns, to_ns))
    return joules;
}
