/* libnvidia-ml.so.1 of a simulated GPU node: the calls that nvidia-ml-py makes, answered from the node file.
 *
 * As the real one it ignores CUDA_VISIBLE_DEVICES, keeps handles valid between init and shutdown, and may be
 * called from several threads.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "node.h"
#include "nvml.h"

struct node *nvml_node;
static char path[4096];
static int visible[MAX_GPUS], visible_count, references;
static char table[MAX_GPUS]; /* the addresses of its elements are the handles */

/* A readers-writer lock of our own: pthread's would tie the library to a recent glibc. */
static atomic_int readers, writing;

static void leave(void) { atomic_fetch_sub(&readers, 1); }

static void enter(void) {
    for (;;) {
        atomic_fetch_add(&readers, 1);
        if (!atomic_load(&writing)) return;
        leave();
        while (atomic_load(&writing)) sched_yield();
    }
}

static void enter_alone(void) {
    while (atomic_exchange(&writing, 1)) sched_yield();
    while (atomic_load(&readers)) sched_yield();
}

int nvml_end(int code) {
    leave();
    return code;
}

static int end_alone(int code) {
    atomic_store(&writing, 0);
    return code;
}

/* --- the library and the system */

static void forget(void) {
    node_close(nvml_node);
    nvml_node = NULL;
    path[0] = 0;
    visible_count = references = 0;
}

EXPORT int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    enter_alone();
    const char *wanted = node_path();
    /* Another file while the last one is still in use: the process has moved on to another node. */
    if (!references || strcmp(wanted, path)) {
        int mismatch;
        struct node *opened = node_open(wanted, &mismatch);
        forget();
        if (!opened) return end_alone(mismatch ? LIB_RM_VERSION_MISMATCH : DRIVER_NOT_LOADED);
        nvml_node = opened;
        snprintf(path, sizeof path, "%s", wanted);
        visible_count = node_visible(nvml_node, path, visible);
    }
    int code = nvml_node->init_error;
    if (code && !references) forget();
    if (!code) references++;
    return end_alone(code);
}

EXPORT int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

EXPORT int nvmlShutdown(void) {
    enter_alone();
    if (!references) return end_alone(UNINITIALIZED);
    if (--references == 0) forget();
    return end_alone(OK);
}

EXPORT const char *nvmlErrorString(int code) {
    switch (code) {
        case OK: return "Success";
        case UNINITIALIZED: return "Uninitialized";
        case INVALID_ARGUMENT: return "Invalid Argument";
        case NOT_SUPPORTED: return "Not Supported";
        case NO_PERMISSIONS: return "Insufficient Permissions";
        case NOT_FOUND: return "Not Found";
        case INSUFFICIENT_SIZE: return "Insufficient Size";
        case DRIVER_NOT_LOADED: return "Driver Not Loaded";
        case GPU_IS_LOST: return "GPU is lost";
        case LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
        case ARGUMENT_VERSION_MISMATCH: return "Argument version mismatch";
        default: return "Unknown Error";
    }
}

static int copy(const char *text, char *buffer, unsigned int length) {
    if (!buffer) return INVALID_ARGUMENT;
    if (strlen(text) >= length) return INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return OK;
}

EXPORT int nvmlSystemGetNVMLVersion(char *buffer, unsigned int length) { return copy("13.999.00.01", buffer, length); }

EXPORT int nvmlSystemGetDriverVersion(char *buffer, unsigned int length) {
    enter();
    return nvml_end(references ? copy(nvml_node->driver_version, buffer, length) : UNINITIALIZED);
}

EXPORT int nvmlSystemGetCudaDriverVersion(int *version) {
    enter();
    if (!references) return nvml_end(UNINITIALIZED);
    if (!version) return nvml_end(INVALID_ARGUMENT);
    *version = nvml_node->cuda_version;
    return nvml_end(OK);
}

EXPORT int nvmlSystemGetCudaDriverVersion_v2(int *version) { return nvmlSystemGetCudaDriverVersion(version); }

/* --- devices */

const struct fault *nvml_fault(const struct gpu *gpu, enum fault_kind kind, int64_t now) {
    uint32_t count = atomic_load_explicit(&((struct gpu *)gpu)->fault_count, memory_order_acquire);
    for (uint32_t i = 0; i < count && i < MAX_FAULTS; i++) {
        const struct fault *one = &gpu->faults[i];
        if (one->kind == (uint32_t)kind && one->from_ns <= now && now < one->to_ns) return one;
    }
    return NULL;
}

static int visible_index(nvml_device device) {
    for (int i = 0; i < visible_count; i++)
        if (device == &table[visible[i]]) return i;
    return -1;
}

/* Every call on a device starts here and ends with nvml_end(). A call that reads a sensor takes the node's call cost. */
int nvml_begin(nvml_device device, int reads, struct gpu **gpu, int64_t *now) {
    enter();
    if (!references) return nvml_end(UNINITIALIZED);
    if (visible_index(device) < 0) return nvml_end(INVALID_ARGUMENT);
    *gpu = &nvml_node->gpus[device - table];
    *now = node_spend(nvml_node, reads ? nvml_node->call_cost_ns : 0, 1);
    const struct fault *slow = nvml_fault(*gpu, SLOW_CALL, *now);
    if (slow) *now = node_spend(nvml_node, slow->value, 0);
    return nvml_fault(*gpu, GPU_LOST, *now) ? nvml_end(GPU_IS_LOST) : OK;
}

#define GET_TEXT(name, text)                                                        \
    EXPORT int name(nvml_device device, char *buffer, unsigned int length) {        \
        BEGIN(0, buffer)                                                            \
        return nvml_end(copy(text, buffer, length));                                     \
    }

#define GET_MODE(name, supported, expression)                                       \
    EXPORT int name(nvml_device device, uint32_t *current, uint32_t *pending) {     \
        BEGIN(0, current && pending)                                                \
        if (!(supported)) return nvml_end(NOT_SUPPORTED);                                \
        *current = *pending = (expression);                                         \
        return nvml_end(OK);                                                             \
    }

EXPORT int nvmlDeviceGetCount_v2(unsigned int *count) {
    enter();
    if (!references) return nvml_end(UNINITIALIZED);
    if (!count) return nvml_end(INVALID_ARGUMENT);
    *count = (unsigned int)visible_count;
    return nvml_end(OK);
}

static int found(int index, nvml_device *device, int otherwise) {
    if (!references) return nvml_end(UNINITIALIZED);
    if (index < 0 || !device) return nvml_end(otherwise);
    *device = &table[visible[index]];
    struct gpu *gpu = &nvml_node->gpus[visible[index]];
    return nvml_end(nvml_fault(gpu, GPU_LOST, node_now(nvml_node)) ? GPU_IS_LOST : OK);
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvml_device *device) {
    enter();
    return found(index < (unsigned int)visible_count ? (int)index : -1, device, INVALID_ARGUMENT);
}

EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, nvml_device *device) {
    enter();
    int match = -1;
    for (int i = 0; uuid && i < visible_count; i++)
        if (!strcmp(uuid, nvml_node->gpus[visible[i]].uuid)) match = i;
    return found(match, device, uuid && device ? NOT_FOUND : INVALID_ARGUMENT);
}

EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvml_device *device) {
    enter();
    int match = -1;
    for (int i = 0; bus_id && i < visible_count; i++) {
        const char *own = nvml_node->gpus[visible[i]].pci_bus_id;
        /* The legacy form has four digits less of domain. */
        if (!strcasecmp(bus_id, own) || !strcasecmp(bus_id, own + 4)) match = i;
    }
    return found(match, device, bus_id && device ? NOT_FOUND : INVALID_ARGUMENT);
}

GET_TEXT(nvmlDeviceGetUUID, gpu->uuid)
GET_TEXT(nvmlDeviceGetName, gpu->name)
GET(nvmlDeviceGetIndex, uint32_t, 0, 1, visible_index(device))
GET(nvmlDeviceGetMinorNumber, uint32_t, 0, 1, gpu->minor)
GET(nvmlDeviceGetArchitecture, uint32_t, 0, 1, gpu->architecture)
GET(nvmlDeviceGetPersistenceMode, uint32_t, 0, 1, gpu->persistence)
GET(nvmlDeviceGetComputeMode, uint32_t, 0, 1, gpu->compute_mode)
GET(nvmlDeviceGetEnforcedPowerLimit, uint32_t, 0, gpu->power_limit_mw, gpu->power_limit_mw)
GET(nvmlDeviceGetPowerManagementLimit, uint32_t, 0, gpu->power_limit_mw, gpu->power_limit_mw)
GET(nvmlDeviceGetPerformanceState, uint32_t, 1, 1, gpu->performance_state)
GET_MODE(nvmlDeviceGetEccMode, gpu->ecc_supported, gpu->ecc)
GET_MODE(nvmlDeviceGetMigMode, gpu->mig_supported, gpu->mig)

EXPORT int nvmlDeviceGetCudaComputeCapability(nvml_device device, int *major, int *minor) {
    BEGIN(0, major && minor)
    *major = (int)gpu->capability_major;
    *minor = (int)gpu->capability_minor;
    return nvml_end(OK);
}

EXPORT int nvmlDeviceGetPciInfo_v3(nvml_device device, struct nvml_pci *pci) {
    BEGIN(0, pci)
    memset(pci, 0, sizeof *pci);
    snprintf(pci->bus_id, sizeof pci->bus_id, "%s", gpu->pci_bus_id);
    snprintf(pci->legacy_bus_id, sizeof pci->legacy_bus_id, "%.12s", gpu->pci_bus_id + 4);
    sscanf(gpu->pci_bus_id, "%x:%x:%x", &pci->domain, &pci->bus, &pci->device);
    return nvml_end(OK);
}
