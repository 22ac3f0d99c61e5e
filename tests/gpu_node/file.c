/* Opens the node file, says which GPUs exist for this process, and keeps the node's time.
 *
 * Only functions that every glibc since 2.17 has are used: the hook copies the libraries into containers
 * whose C library may be much older than the one they were linked against.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "node.h"

static int default_allowed = 1;

/* After this only GPU_NODE_FILE names a node: a test process must never stumble over the host-wide one. */
EXPORT void gpu_node_no_default(void) { default_allowed = 0; }

EXPORT size_t gpu_node_sizeof(void) { return sizeof(struct node); }

const char *node_path(void) {
    const char *named = getenv("GPU_NODE_FILE");
    if (named && *named) return named;
    return default_allowed ? GPU_NODE_DEFAULT : "";
}

struct node *node_open(const char *path, int *mismatch) {
    *mismatch = 0;
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return NULL;
    off_t size = lseek(file, 0, SEEK_END);
    struct node *node = NULL;
    if (size == (off_t)sizeof(struct node)) {
        void *map = mmap(NULL, sizeof(struct node), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        node = map == MAP_FAILED ? NULL : map;
    }
    close(file);
    if (node && node->magic == GPU_NODE_MAGIC && node->version == GPU_NODE_VERSION && node->size == sizeof *node)
        return node;
    *mismatch = 1;
    node_close(node);
    return NULL;
}

void node_close(struct node *node) {
    if (node) munmap(node, sizeof *node);
}

/* Node indices of the GPUs that exist for this process, in node order; all without a file `visible` beside. */
int node_visible(const struct node *node, const char *path, int indices[MAX_GPUS]) {
    char beside[4096];
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash - path) + 1 : 0;
    int count = 0, listed[MAX_GPUS] = {0};
    if (snprintf(beside, sizeof beside, "%.*svisible", folder, path) >= (int)sizeof beside) return 0;
    FILE *list = fopen(beside, "re");
    if (list) {
        char line[128];
        while (fgets(line, sizeof line, list)) {
            line[strcspn(line, " \t\r\n")] = 0;
            for (uint32_t i = 0; i < node->gpu_count; i++)
                if (!strcasecmp(line, node->gpus[i].uuid)) listed[i] = 1;
        }
        fclose(list);
    }
    for (uint32_t i = 0; i < node->gpu_count && i < MAX_GPUS; i++)
        if (!list || listed[i]) indices[count++] = (int)i;
    return count;
}

static int64_t monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t node_now(struct node *node) {
    int64_t virtual_ns = atomic_load(&node->virtual_ns);
    return virtual_ns ? virtual_ns + atomic_load(&node->spent_ns) : monotonic();
}

/* Let a call take ns: of virtual time, or really (busy, as a driver call that polls, or asleep). */
int64_t node_spend(struct node *node, int64_t ns, int busy) {
    int64_t virtual_ns = atomic_load(&node->virtual_ns);
    if (virtual_ns) return virtual_ns + atomic_fetch_add(&node->spent_ns, ns > 0 ? ns : 0) + (ns > 0 ? ns : 0);
    int64_t start = monotonic(), now = start;
    if (ns > 0 && !busy) {
        struct timespec rest = {ns / 1000000000, ns % 1000000000};
        while (nanosleep(&rest, &rest) != 0) {}
        now = monotonic();
    }
    while (now - start < ns) now = monotonic();
    return now;
}

/* Append to a GPU's load log from any process, also in a container: watts from at_ns (0: now) on.
 * Returns 0, or -1 for no node, an unknown GPU, a full log, or a time before the last entry's. */
EXPORT int gpu_node_load(const char *uuid, double watts, int64_t at_ns) {
    const char *path = node_path();
    int mismatch, result = -1, visible[MAX_GPUS];
    /* A descriptor of its own per call, because flock does not keep threads with a common one apart. */
    int lock = open(path, O_RDWR | O_CLOEXEC);
    struct node *node = node_open(path, &mismatch);
    if (lock >= 0 && node && flock(lock, LOCK_EX) == 0) {
        int count = node_visible(node, path, visible);
        for (int i = 0; i < count; i++) {
            struct gpu *gpu = &node->gpus[visible[i]];
            if (strcasecmp(uuid, gpu->uuid)) continue;
            uint32_t entries = atomic_load(&gpu->load_count);
            if (!at_ns) at_ns = node_now(node);
            if (entries >= MAX_LOADS || (entries && gpu->loads[entries - 1].time_ns > at_ns)) break;
            gpu->loads[entries] = (struct load){at_ns, watts};
            atomic_store_explicit(&gpu->load_count, entries + 1, memory_order_release);
            result = 0;
        }
    }
    if (lock >= 0) close(lock);
    node_close(node);
    return result;
}
