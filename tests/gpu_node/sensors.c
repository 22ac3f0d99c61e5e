/* libnvidia-ml.so.1, the readings: energy, power, temperature, clocks, utilisation, memory, processes. */
#define _GNU_SOURCE
#include <time.h>

#include "nvml.h"

static uint64_t positive(double value) { return value > 0 ? (uint64_t)value : 0; }

static int read_counter(struct gpu *gpu, int64_t now, unsigned long long *millijoules) {
    if (nvml_fault(gpu, NO_PERMISSION, now)) return NO_PERMISSIONS;
    if (!gpu->counter_supported || nvml_fault(gpu, COUNTER_UNSUPPORTED, now)) return NOT_SUPPORTED;
    const struct fault *stuck = nvml_fault(gpu, COUNTER_STUCK, now), *backwards = nvml_fault(gpu, COUNTER_BACKWARDS, now);
    int64_t tick = grid_floor(stuck ? stuck->from_ns : now, gpu->counter_step_ns, gpu->counter_phase_ns);
    double value = gpu->counter_base_mj + 1e3 * gpu_energy_j(gpu, nvml_node->epoch_ns, tick - gpu->counter_lag_ns);
    if (backwards) value -= (double)backwards->value;
    /* The same energy summed along another path differs in the last bits; that must not cost a millijoule. */
    *millijoules = positive(value + 1e-3);
    return OK;
}

/* Exact mean over the last second, or the curve's value; both in mW. */
static int read_power(struct gpu *gpu, int64_t now, int instant, uint32_t *milliwatts) {
    if (nvml_fault(gpu, NO_PERMISSION, now)) return NO_PERMISSIONS;
    if (!gpu->power_supported || (instant && !gpu->instant_supported)) return NOT_SUPPORTED;
    const struct fault *absurd = nvml_fault(gpu, POWER_ABSURD, now);
    double watts = instant ? gpu_power_w(gpu, grid_floor(now, gpu->instant_step_ns, 0))
                           : gpu_energy_j(gpu, now - 1000000000, now);
    if (nvml_fault(gpu, POWER_ZERO, now)) watts = 0;
    *milliwatts = absurd ? (uint32_t)absurd->value : (uint32_t)positive(watts * 1e3 + 0.5);
    return OK;
}

EXPORT int nvmlDeviceGetTotalEnergyConsumption(nvml_device device, unsigned long long *millijoules) {
    BEGIN(1, millijoules)
    return nvml_end(read_counter(gpu, now, millijoules));
}

EXPORT int nvmlDeviceGetPowerUsage(nvml_device device, uint32_t *milliwatts) {
    BEGIN(1, milliwatts)
    return nvml_end(read_power(gpu, now, 0, milliwatts));
}

/* All fields of one call are of one moment. Scope 0 is the GPU; there is no module or memory sensor. */
EXPORT int nvmlDeviceGetFieldValues(nvml_device device, int count, struct nvml_field *fields) {
    BEGIN(1, fields && count > 0)
    if (!gpu->field_api_supported) return nvml_end(NOT_SUPPORTED);
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall);
    for (int i = 0; i < count; i++) {
        struct nvml_field *field = &fields[i];
        int known = field->field == FIELD_POWER_AVERAGE || field->field == FIELD_POWER_INSTANT;
        field->timestamp_us = atomic_load(&nvml_node->virtual_ns) ? now / 1000 : wall.tv_sec * 1000000 + wall.tv_nsec / 1000;
        field->latency_us = nvml_node->call_cost_ns / 1000;
        field->value.u64 = 0;
        field->type = field->field == FIELD_TOTAL_ENERGY ? VALUE_UNSIGNED_LONG_LONG : VALUE_UNSIGNED_INT;
        field->result = NOT_SUPPORTED;
        if (field->scope) continue;
        if (field->field == FIELD_TOTAL_ENERGY) field->result = read_counter(gpu, now, &field->value.u64);
        if (known) field->result = read_power(gpu, now, field->field == FIELD_POWER_INSTANT, &field->value.u32);
    }
    return nvml_end(OK);
}

static int32_t celsius(const struct gpu *gpu, int64_t now) {
    double since_s = (double)(now - gpu->temperature_start_ns) / 1e9;
    double value = gpu->temperature_base_c + gpu->temperature_rate_c_per_s * (since_s > 0 ? since_s : 0);
    return (int32_t)(positive((value < gpu->temperature_max_c ? value : gpu->temperature_max_c) + 0.5));
}

EXPORT int nvmlDeviceGetTemperature(nvml_device device, uint32_t sensor, uint32_t *value) {
    BEGIN(1, value && sensor == 0)
    *value = (uint32_t)celsius(gpu, now);
    return nvml_end(OK);
}

EXPORT int nvmlDeviceGetTemperatureV(nvml_device device, struct nvml_temperature *reading) {
    BEGIN(1, reading)
    if (reading->version != TEMPERATURE_V1) return nvml_end(ARGUMENT_VERSION_MISMATCH);
    if (reading->sensor) return nvml_end(INVALID_ARGUMENT);
    reading->celsius = celsius(gpu, now);
    return nvml_end(OK);
}

static const struct interval *interval_at(struct gpu *gpu, int64_t now) {
    uint32_t count = atomic_load_explicit(&gpu->interval_count, memory_order_acquire);
    for (uint32_t i = 0; i < count && i < MAX_INTERVALS; i++)
        if (gpu->intervals[i].from_ns <= now && now < gpu->intervals[i].to_ns) return &gpu->intervals[i];
    return NULL;
}

static uint64_t reasons(struct gpu *gpu, int64_t now) {
    const struct interval *interval = interval_at(gpu, now);
    return interval ? interval->reasons : 0;
}

static uint32_t busy_percent(struct gpu *gpu, int64_t now) {
    if (!gpu->utilisation_follows_power) return gpu->utilisation;
    return gpu_power_w(gpu, now) * 2e3 > gpu->power_limit_mw ? 100 : 0;
}

GET(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, 1, 1, reasons(gpu, now))
GET(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, 1, 1, reasons(gpu, now))

EXPORT int nvmlDeviceGetClockInfo(nvml_device device, uint32_t clock, uint32_t *mhz) {
    BEGIN(1, mhz && clock < CLOCK_COUNT)
    const struct interval *interval = interval_at(gpu, now);
    *mhz = clock == CLOCK_MEM ? gpu->mem_mhz : interval ? interval->sm_mhz : gpu->sm_mhz;
    return nvml_end(OK);
}

EXPORT int nvmlDeviceGetMaxClockInfo(nvml_device device, uint32_t clock, uint32_t *mhz) {
    BEGIN(0, mhz && clock < CLOCK_COUNT)
    *mhz = clock == CLOCK_MEM ? gpu->max_mem_mhz : gpu->max_sm_mhz;
    return nvml_end(OK);
}

EXPORT int nvmlDeviceGetUtilizationRates(nvml_device device, struct nvml_utilization *rates) {
    BEGIN(1, rates)
    *rates = (struct nvml_utilization){busy_percent(gpu, now), busy_percent(gpu, now) / 2};
    return nvml_end(OK);
}

/* Version 1 counts what the driver reserves as used; version 2 tells it apart. */
EXPORT int nvmlDeviceGetMemoryInfo(nvml_device device, struct nvml_memory *memory) {
    BEGIN(1, memory)
    uint64_t used = gpu->memory_used + gpu->memory_reserved;
    *memory = (struct nvml_memory){gpu->memory_total, gpu->memory_total - used, used};
    return nvml_end(OK);
}

EXPORT int nvmlDeviceGetMemoryInfo_v2(nvml_device device, struct nvml_memory_v2 *memory) {
    BEGIN(1, memory)
    if (memory->version != MEMORY_V2) return nvml_end(ARGUMENT_VERSION_MISMATCH);
    uint64_t free = gpu->memory_total - gpu->memory_used - gpu->memory_reserved;
    *memory = (struct nvml_memory_v2){MEMORY_V2, gpu->memory_total, gpu->memory_reserved, free, gpu->memory_used};
    return nvml_end(OK);
}

static int list_processes(nvml_device device, int graphics, uint32_t *count, struct nvml_process *list) {
    BEGIN(1, count)
    uint32_t stored = atomic_load_explicit(&gpu->process_count, memory_order_acquire), room = *count, matching = 0;
    for (uint32_t i = 0; i < stored && i < MAX_PROCESSES; i++) {
        const struct process *one = &gpu->processes[i];
        if ((int)one->graphics != graphics) continue;
        if (list && matching < room) list[matching] = (struct nvml_process){one->pid, one->bytes, ~0u, ~0u};
        matching++;
    }
    *count = matching;
    return nvml_end(matching > room ? INSUFFICIENT_SIZE : matching && !list ? INVALID_ARGUMENT : OK);
}

EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(nvml_device device, uint32_t *count, struct nvml_process *list) {
    return list_processes(device, 0, count, list);
}

EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v3(nvml_device device, uint32_t *count, struct nvml_process *list) {
    return list_processes(device, 1, count, list);
}
