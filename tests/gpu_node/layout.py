"""The node file as ctypes structures: the same members in the same order as node.h (a test compares offsets)."""

from __future__ import annotations

import ctypes
from ctypes import c_char, c_double, c_int32, c_int64, c_uint32, c_uint64

MAGIC = 0x45444F4E2D555047
VERSION = 1
MAX_GPUS, MAX_POINTS, MAX_LOADS = 16, 4096, 8192
MAX_INTERVALS, MAX_FAULTS, MAX_PROCESSES = 16, 16, 8
FOREVER_NS = 2**63 - 1


class PointStruct(ctypes.Structure):
    """struct point."""

    _fields_ = (("offset_s", c_double), ("watts", c_double))


class LoadStruct(ctypes.Structure):
    """struct load."""

    _fields_ = (("time_ns", c_int64), ("watts", c_double))


class IntervalStruct(ctypes.Structure):
    """struct interval."""

    _fields_ = (
        ("from_ns", c_int64),
        ("to_ns", c_int64),
        ("reasons", c_uint64),
        ("sm_mhz", c_uint32),
        ("reserved", c_uint32),
    )


class FaultStruct(ctypes.Structure):
    """struct fault."""

    _fields_ = (
        ("from_ns", c_int64),
        ("to_ns", c_int64),
        ("value", c_int64),
        ("kind", c_uint32),
        ("reserved", c_uint32),
    )


class ProcessStruct(ctypes.Structure):
    """struct process."""

    _fields_ = (("bytes", c_uint64), ("pid", c_uint32), ("graphics", c_uint32))


class GpuStruct(ctypes.Structure):
    """struct gpu."""

    _fields_ = (
        ("sequence", c_uint64),
        ("uuid", c_char * 48),
        ("name", c_char * 64),
        ("pci_bus_id", c_char * 32),
        ("minor", c_uint32),
        ("architecture", c_uint32),
        ("capability_major", c_uint32),
        ("capability_minor", c_uint32),
        ("memory_total", c_uint64),
        ("memory_reserved", c_uint64),
        ("memory_used", c_uint64),
        ("persistence", c_uint32),
        ("ecc_supported", c_uint32),
        ("ecc", c_uint32),
        ("mig_supported", c_uint32),
        ("mig", c_uint32),
        ("compute_mode", c_uint32),
        ("performance_state", c_uint32),
        ("power_limit_mw", c_uint32),
        ("sm_mhz", c_uint32),
        ("mem_mhz", c_uint32),
        ("max_sm_mhz", c_uint32),
        ("max_mem_mhz", c_uint32),
        ("utilisation", c_uint32),
        ("utilisation_follows_power", c_uint32),
        ("field_api_supported", c_uint32),
        ("power_supported", c_uint32),
        ("instant_supported", c_uint32),
        ("counter_supported", c_uint32),
        ("instant_step_ns", c_int64),
        ("counter_step_ns", c_int64),
        ("counter_phase_ns", c_int64),
        ("counter_lag_ns", c_int64),
        ("counter_base_mj", c_double),
        ("temperature_start_ns", c_int64),
        ("temperature_base_c", c_double),
        ("temperature_rate_c_per_s", c_double),
        ("temperature_max_c", c_double),
        ("curve_start_ns", c_int64),
        ("curve_period_s", c_double),
        ("point_count", c_uint32),
        ("load_count", c_uint32),
        ("interval_count", c_uint32),
        ("fault_count", c_uint32),
        ("process_count", c_uint32),
        ("contexts_opened", c_uint32),
        ("contexts_open", c_int32),
        ("reserved", c_uint32),
        ("processes", ProcessStruct * MAX_PROCESSES),
        ("intervals", IntervalStruct * MAX_INTERVALS),
        ("faults", FaultStruct * MAX_FAULTS),
        ("points", PointStruct * MAX_POINTS),
        ("loads", LoadStruct * MAX_LOADS),
    )


class NodeStruct(ctypes.Structure):
    """struct node."""

    _fields_ = (
        ("magic", c_uint64),
        ("version", c_uint32),
        ("gpu_count", c_uint32),
        ("size", c_uint64),
        ("epoch_ns", c_int64),
        ("virtual_ns", c_int64),
        ("spent_ns", c_int64),
        ("call_cost_ns", c_int64),
        ("init_error", c_int32),
        ("cuda_version", c_int32),
        ("driver_version", c_char * 64),
        ("gpus", GpuStruct * MAX_GPUS),
    )


def to_ns(seconds: float) -> int:
    """Nanoseconds from seconds."""
    return round(seconds * 1e9)
