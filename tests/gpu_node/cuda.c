/* libcuda.so.1 of a simulated GPU node: which devices this process may use, and the contexts it holds.
 *
 * There is nothing to compute with. CUDA_VISIBLE_DEVICES is read as CUDA reads it: a list of indices or of UUIDs
 * (or their beginnings), cut at the first entry that names nothing; a GPU named twice makes the list empty.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "node.h"

enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_CONTEXT = 201 };

static struct node *node;
static int devices[MAX_GPUS], device_count;
static atomic_int initialised, starting;
static pid_t owner;
static atomic_int retained[MAX_GPUS]; /* by device of this process */

static int find(const char *entry, const int *visible, int count) {
    char *rest;
    while (isspace((unsigned char)*entry)) entry++;
    if (!strncasecmp(entry, "GPU-", 4)) {
        size_t length = strcspn(entry, " \t");
        int match = -1;
        for (int i = 0; i < count; i++) {
            if (strncasecmp(entry, node->gpus[visible[i]].uuid, length)) continue;
            if (match >= 0) return -1; /* the beginning of more than one */
            match = visible[i];
        }
        return match;
    }
    long index = strtol(entry, &rest, 10);
    return rest != entry && index >= 0 && index < count ? visible[index] : -1;
}

static void choose(const int *visible, int count) {
    const char *named = getenv("CUDA_VISIBLE_DEVICES");
    char list[4096], *rest = list, *entry;
    device_count = 0;
    if (!named) {
        memcpy(devices, visible, sizeof devices);
        device_count = count;
        return;
    }
    snprintf(list, sizeof list, "%s", named);
    while ((entry = strsep(&rest, ","))) {
        int index = find(entry, visible, count);
        if (index < 0) return;
        for (int i = 0; i < device_count; i++)
            if (devices[i] == index) {
                device_count = 0;
                return;
            }
        devices[device_count++] = index;
    }
}

EXPORT int cuInit(unsigned int flags) {
    if (flags) return INVALID_VALUE;
    while (atomic_exchange(&starting, 1)) {}
    if (!initialised) {
        int mismatch, visible[MAX_GPUS];
        node = node_open(node_path(), &mismatch);
        if (node) choose(visible, node_visible(node, node_path(), visible));
        if (node && device_count) {
            owner = getpid();
            atomic_store(&initialised, 1);
        }
    }
    atomic_store(&starting, 0);
    return initialised ? SUCCESS : NO_DEVICE;
}

static struct gpu *gpu_of(int device) { return &node->gpus[devices[device]]; }

static int check(int device, const void *out) {
    if (!initialised) return NOT_INITIALIZED;
    if (device < 0 || device >= device_count) return INVALID_DEVICE;
    return out ? SUCCESS : INVALID_VALUE;
}

EXPORT int cuDriverGetVersion(int *version) {
    if (!version) return INVALID_VALUE;
    *version = node ? node->cuda_version : 13000;
    return SUCCESS;
}

EXPORT int cuDeviceGetCount(int *count) {
    if (!initialised) return NOT_INITIALIZED;
    if (!count) return INVALID_VALUE;
    *count = device_count;
    return SUCCESS;
}

EXPORT int cuDeviceGet(int *device, int ordinal) {
    int code = check(ordinal, device);
    if (!code) *device = ordinal;
    return code;
}

EXPORT int cuDeviceGetName(char *name, int length, int device) {
    int code = check(device, name);
    if (!code && length > 0) snprintf(name, (size_t)length, "%s", gpu_of(device)->name);
    return code;
}

EXPORT int cuDeviceGetUuid_v2(unsigned char uuid[16], int device) {
    int code = check(device, uuid), digits = 0;
    if (code) return code;
    memset(uuid, 0, 16);
    for (const char *at = gpu_of(device)->uuid + strlen("GPU-"); *at && digits < 32; at++)
        if (isxdigit((unsigned char)*at)) {
            int value = isdigit((unsigned char)*at) ? *at - '0' : tolower((unsigned char)*at) - 'a' + 10;
            uuid[digits / 2] = (unsigned char)(uuid[digits / 2] << 4 | value);
            digits++;
        }
    return SUCCESS;
}

EXPORT int cuDeviceGetUuid(unsigned char uuid[16], int device) { return cuDeviceGetUuid_v2(uuid, device); }

EXPORT int cuDevicePrimaryCtxRetain(void **context, int device) {
    int code = check(device, context);
    if (code) return code;
    if (atomic_fetch_add(&retained[device], 1) == 0) {
        atomic_fetch_add(&gpu_of(device)->contexts_opened, 1);
        atomic_fetch_add(&gpu_of(device)->contexts_open, 1);
    }
    *context = &retained[device];
    return SUCCESS;
}

EXPORT int cuDevicePrimaryCtxRelease_v2(int device) {
    int code = check(device, &retained), held;
    if (code) return code;
    held = atomic_load(&retained[device]);
    do
        if (held <= 0) return INVALID_CONTEXT;
    while (!atomic_compare_exchange_weak(&retained[device], &held, held - 1));
    if (held == 1) atomic_fetch_sub(&gpu_of(device)->contexts_open, 1);
    return SUCCESS;
}

EXPORT int cuCtxSetCurrent(void *context) {
    (void)context;
    return initialised ? SUCCESS : NOT_INITIALIZED;
}

EXPORT int cuGetErrorString(int code, const char **text) {
    if (!text) return INVALID_VALUE;
    *text = code == SUCCESS           ? "no error"
            : code == INVALID_VALUE   ? "invalid argument"
            : code == NOT_INITIALIZED ? "initialization error"
            : code == NO_DEVICE       ? "no CUDA-capable device is detected"
            : code == INVALID_DEVICE  ? "invalid device ordinal"
            : code == INVALID_CONTEXT ? "invalid device context"
                                      : NULL;
    return *text ? SUCCESS : INVALID_VALUE;
}

/* A driver takes a process's contexts back when it exits; a forked child holds none of its own. */
__attribute__((destructor)) static void release_all(void) {
    if (owner != getpid()) return;
    for (int device = 0; device < device_count; device++)
        if (atomic_exchange(&retained[device], 0) > 0) atomic_fetch_sub(&gpu_of(device)->contexts_open, 1);
}
