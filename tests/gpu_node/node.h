/* The node file: everything a simulated GPU node is and does, mapped by every process that looks at it.
 *
 * layout.py declares the same structures; a test compares every offset. All members are laid out without
 * implicit padding that could differ between compilers. Times are nanoseconds of the node's clock:
 * CLOCK_MONOTONIC, or the virtual clock when virtual_ns is not 0.
 */
#ifndef GPU_NODE_H
#define GPU_NODE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define GPU_NODE_MAGIC 0x45444f4e2d555047u /* "GPU-NODE" */
#define GPU_NODE_VERSION 1
#define GPU_NODE_DEFAULT "/run/gpu-node/node"

enum { MAX_GPUS = 16, MAX_POINTS = 4096, MAX_LOADS = 8192, MAX_INTERVALS = 16, MAX_FAULTS = 16, MAX_PROCESSES = 8 };

enum fault_kind {
    GPU_LOST = 1,
    COUNTER_UNSUPPORTED,
    COUNTER_BACKWARDS, /* value: mJ */
    COUNTER_STUCK,
    POWER_ZERO,
    POWER_ABSURD, /* value: mW */
    NO_PERMISSION,
    SLOW_CALL /* value: ns */
};

struct point {
    double offset_s;
    double watts;
};

struct load {
    int64_t time_ns;
    double watts;
};

struct interval {
    int64_t from_ns;
    int64_t to_ns;
    uint64_t reasons; /* nvmlClocksEventReasons mask */
    uint32_t sm_mhz;
    uint32_t reserved;
};

struct fault {
    int64_t from_ns;
    int64_t to_ns;
    int64_t value;
    uint32_t kind;
    uint32_t reserved;
};

struct process {
    uint64_t bytes;
    uint32_t pid;
    uint32_t graphics; /* 0: it computes */
};

struct gpu {
    _Atomic uint64_t sequence; /* odd while the curve is being rewritten */
    char uuid[48];
    char name[64];
    char pci_bus_id[32]; /* as in 00000000:1A:00.0 */
    uint32_t minor;
    uint32_t architecture;
    uint32_t capability_major;
    uint32_t capability_minor;
    uint64_t memory_total; /* bytes */
    uint64_t memory_reserved;
    uint64_t memory_used;
    uint32_t persistence;
    uint32_t ecc_supported;
    uint32_t ecc;
    uint32_t mig_supported;
    uint32_t mig;
    uint32_t compute_mode;
    uint32_t performance_state;
    uint32_t power_limit_mw;
    uint32_t sm_mhz;
    uint32_t mem_mhz;
    uint32_t max_sm_mhz;
    uint32_t max_mem_mhz;
    uint32_t utilisation; /* percent */
    uint32_t utilisation_follows_power;
    uint32_t field_api_supported;
    uint32_t power_supported;
    uint32_t instant_supported;
    uint32_t counter_supported;
    int64_t instant_step_ns; /* 0: continuous */
    int64_t counter_step_ns; /* 0: continuous */
    int64_t counter_phase_ns;
    int64_t counter_lag_ns;
    double counter_base_mj; /* at the node's epoch */
    int64_t temperature_start_ns;
    double temperature_base_c;
    double temperature_rate_c_per_s;
    double temperature_max_c;
    int64_t curve_start_ns;
    double curve_period_s; /* 0: no repetition */
    uint32_t point_count;
    _Atomic uint32_t load_count; /* stored last, with release */
    _Atomic uint32_t interval_count;
    _Atomic uint32_t fault_count;
    _Atomic uint32_t process_count;
    _Atomic uint32_t contexts_opened; /* CUDA contexts, ever */
    _Atomic int32_t contexts_open;
    uint32_t reserved;
    struct process processes[MAX_PROCESSES];
    struct interval intervals[MAX_INTERVALS];
    struct fault faults[MAX_FAULTS];
    struct point points[MAX_POINTS];
    struct load loads[MAX_LOADS];
};

struct node {
    uint64_t magic;
    uint32_t version;
    uint32_t gpu_count;
    uint64_t size;             /* of this structure, bytes */
    int64_t epoch_ns;          /* the energy counters are at their base here */
    _Atomic int64_t virtual_ns; /* 0: real time; written by Python only */
    _Atomic int64_t spent_ns;  /* virtual time that calls took; added to virtual_ns, written by the library only */
    int64_t call_cost_ns;
    int32_t init_error; /* what nvmlInit returns */
    int32_t cuda_version;
    char driver_version[64];
    struct gpu gpus[MAX_GPUS];
};

/* file.c: the file, who is visible in it, and its clock */
const char *node_path(void);
struct node *node_open(const char *path, int *mismatch);
void node_close(struct node *node);
int node_visible(const struct node *node, const char *path, int indices[MAX_GPUS]);
int64_t node_now(struct node *node);
int64_t node_spend(struct node *node, int64_t ns, int busy);

/* curve.c: what a GPU draws */
double gpu_power_w(struct gpu *gpu, int64_t at_ns);
double gpu_energy_j(struct gpu *gpu, int64_t from_ns, int64_t to_ns);
int64_t grid_floor(int64_t at_ns, int64_t step_ns, int64_t phase_ns);

#define EXPORT __attribute__((visibility("default")))

#endif
