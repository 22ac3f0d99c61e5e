/* The parts of NVIDIA's interface that the library answers: codes and layouts as in nvml.h. */
#ifndef GPU_NODE_NVML_H
#define GPU_NODE_NVML_H

#include <stdint.h>

#include "node.h"

enum {
    OK = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NO_PERMISSIONS = 4,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    GPU_IS_LOST = 15,
    LIB_RM_VERSION_MISMATCH = 18,
    ARGUMENT_VERSION_MISMATCH = 25
};

enum { CLOCK_GRAPHICS, CLOCK_SM, CLOCK_MEM, CLOCK_VIDEO, CLOCK_COUNT };
enum { FIELD_TOTAL_ENERGY = 83, FIELD_POWER_AVERAGE = 185, FIELD_POWER_INSTANT = 186 };
enum { VALUE_UNSIGNED_INT = 1, VALUE_UNSIGNED_LONG_LONG = 3 };

#define TEMPERATURE_V1 0x0100000Cu
#define MEMORY_V2 0x02000028u

typedef const char *nvml_device; /* a place in the table of GPUs; opaque to callers */

struct nvml_pci {
    char legacy_bus_id[16];
    uint32_t domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
};

struct nvml_memory {
    unsigned long long total, free, used;
};

struct nvml_memory_v2 {
    uint32_t version;
    unsigned long long total, reserved, free, used;
};

struct nvml_utilization {
    uint32_t gpu, memory;
};

struct nvml_process {
    uint32_t pid;
    unsigned long long bytes;
    uint32_t gpu_instance, compute_instance;
};

struct nvml_temperature {
    uint32_t version, sensor;
    int32_t celsius;
};

struct nvml_field {
    uint32_t field, scope;
    int64_t timestamp_us, latency_us;
    uint32_t type;
    int32_t result;
    union {
        uint32_t u32;
        unsigned long long u64;
    } value;
};

/* nvml.c, for sensors.c */
extern struct node *nvml_node;
int nvml_end(int code);
const struct fault *nvml_fault(const struct gpu *gpu, enum fault_kind kind, int64_t now);
int nvml_begin(nvml_device device, int reads, struct gpu **gpu, int64_t *now);

#define BEGIN(reads, valid)                               \
    struct gpu *gpu;                                      \
    int64_t now;                                          \
    int refused = nvml_begin(device, reads, &gpu, &now);            \
    if (refused) return refused;                          \
    if (!(valid)) return nvml_end(INVALID_ARGUMENT);

#define GET(name, type, reads, supported, expression)     \
    EXPORT int name(nvml_device device, type *value) {    \
        BEGIN(reads, value)                               \
        if (!(supported)) return nvml_end(NOT_SUPPORTED);     \
        *value = (type)(expression);                      \
        return nvml_end(OK);                              \
    }

#endif
